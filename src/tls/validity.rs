//! From when to when a certificate is good (RFC 5280 4.1.2.5). The TLS library judges other people's certificates but tells nothing about our own.

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, Month, PrimitiveDateTime, Time};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const DAY: &[BorrowedFormatItem<'static>] = format_description!("[year]-[month]-[day]");

/// First and last moment in unix milliseconds; `None` for what is no X.509 certificate.
#[must_use]
pub fn of(der: &[u8]) -> Option<(i64, i64)> {
    let (certificate, _) = tagged(der, SEQUENCE)?;
    let (mut body, _) = tagged(certificate, SEQUENCE)?;
    // Version 1 leaves its number out.
    if let Some((_, rest)) = tagged(body, VERSION) {
        body = rest;
    }
    let (_serial, body) = tagged(body, INTEGER)?;
    let (_algorithm, body) = tagged(body, SEQUENCE)?;
    let (_issuer, body) = tagged(body, SEQUENCE)?;
    let (validity, _) = tagged(body, SEQUENCE)?;
    let (from, rest) = moment(validity)?;
    let (until, _) = moment(rest)?;
    Some((from, until))
}

/// The day of a moment, for people.
#[must_use]
pub fn day(ms: i64) -> String {
    let moment = time::OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000)).ok();
    moment.and_then(|moment| moment.format(DAY).ok()).unwrap_or_default()
}

/// The content of the element that the bytes begin with, and what follows (X.690 8.1).
fn tagged(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first().filter(|(first, _)| **first == tag)?;
    debug_assert_eq!(first, tag);
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| (sum << 8) | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// A time and what follows it. Two-digit years count from 1950 to 2049.
fn moment(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, years) = match der.first()? {
        &UTC_TIME => tagged(der, UTC_TIME).map(|(text, rest)| (text, rest, 2))?,
        _ => tagged(der, GENERALIZED_TIME).map(|(text, rest)| (text, rest, 4))?,
    };
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if digits.len() != years + 10 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest_of_it) = digits.split_at_checked(years)?;
    let year: i32 = year.parse().ok()?;
    let year = match years {
        2 if year < 50 => 2000 + year,
        2 => 1900 + year,
        _ => year,
    };
    let part = |at: usize| rest_of_it.get(at..at + 2)?.parse::<u8>().ok();
    let date = Date::from_calendar_date(year, Month::try_from(part(0)?).ok()?, part(2)?).ok()?;
    let time = Time::from_hms(part(4)?, part(6)?, part(8)?).ok()?;
    Some((PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp() * 1000, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element of up to 127 bytes.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn certificate(version: &[u8], from: &[u8], until: &[u8]) -> Vec<u8> {
        let validity = element(SEQUENCE, &[from, until].concat());
        let (serial, nothing) = (element(INTEGER, &[7]), element(SEQUENCE, &[]));
        let body = [version, &serial, &nothing, &nothing, &validity, &nothing].concat();
        element(SEQUENCE, &element(SEQUENCE, &body))
    }

    #[test]
    fn both_spellings_of_a_moment_are_read() {
        let short = element(UTC_TIME, b"991231235959Z");
        let long = element(GENERALIZED_TIME, b"20500101000000Z");
        let expected = Some((946_684_799_000, 2_524_608_000_000));
        assert_eq!(of(&certificate(&element(VERSION, &element(INTEGER, &[2])), &short, &long)), expected);
        assert_eq!(of(&certificate(&[], &short, &long)), expected);
        assert_eq!(day(946_684_799_000), "1999-12-31");
        let young = element(UTC_TIME, b"490101000000Z");
        assert_eq!(of(&certificate(&[], &short, &young)).unwrap().1, 2_493_072_000_000);
    }

    #[test]
    fn what_is_cut_or_odd_is_no_certificate() {
        let good =
            certificate(&[], &element(UTC_TIME, b"991231235959Z"), &element(UTC_TIME, b"301231235959Z"));
        assert!(of(&good).is_some());
        for length in 0..good.len() - 2 {
            assert_eq!(of(&good[..length]), None, "{length}");
        }
        for odd in [b"991331235959Z".as_slice(), b"991231235959+", b"9912312359Z", b"99123123595xZ"] {
            assert_eq!(of(&certificate(&[], &element(UTC_TIME, odd), &element(UTC_TIME, odd))), None);
        }
    }
}
