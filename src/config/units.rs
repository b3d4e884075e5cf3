//! The spellings of durations, sizes, rates and percentages.

/// At most `count` events per address (or identifier) within `window_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many are allowed in one window.
    pub count: u32,
    /// The length of the window in milliseconds.
    pub window_ms: i64,
}

pub(super) const SECOND_MS: i64 = 1_000;
pub(super) const MINUTE_MS: i64 = 60 * SECOND_MS;
pub(super) const HOUR_MS: i64 = 60 * MINUTE_MS;
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;
/// Sums of a few durations and a present time must stay far inside 64 bits.
const LONGEST_MS: i64 = 3_650 * DAY_MS;

pub const DURATION_ADVICE: &str = "write a whole number and a unit: ms, s, m, h or d, such as \"90s\"";
pub(super) const SIZE_ADVICE: &str = "write a whole number and a unit: B, KiB, MiB or GiB, such as \"10MiB\"";
pub(super) const RATE_ADVICE: &str = "write count/window, such as \"600/1m\", or \"off\"";
pub(super) const PERCENT_ADVICE: &str = "write a percentage from \"0%\" to \"100%\"";

/// Milliseconds of `500ms`, `90s`, `15m`, `24h` or `30d`.
#[must_use]
pub fn duration_ms(text: &str) -> Option<i64> {
    let (number, unit) = split(text)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => SECOND_MS,
        "m" => MINUTE_MS,
        "h" => HOUR_MS,
        "d" => DAY_MS,
        _ => return None,
    };
    let total_ms = i64::try_from(number).ok()?.checked_mul(unit_ms)?;
    (total_ms <= LONGEST_MS).then_some(total_ms)
}

/// Bytes of `512B`, `64KiB`, `10MiB` or `1GiB`.
pub(super) fn size_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit_bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit_bytes)
}

/// `600/1m`; the outer `None` is a spelling error, the inner one `off`.
#[expect(clippy::option_option, reason = "the two absences differ: a fault and a choice")]
pub(super) fn rate(text: &str) -> Option<Option<Rate>> {
    if text == "off" {
        return Some(None);
    }
    let (count, window) = text.split_once('/')?;
    let count = digits(count)?.try_into().ok()?;
    let window_ms = duration_ms(window)?;
    (count > 0 && window_ms > 0).then_some(Some(Rate { count, window_ms }))
}

pub(super) fn percent(text: &str) -> Option<u8> {
    let number = digits(text.strip_suffix('%')?)?;
    u8::try_from(number).ok().filter(|number| *number <= 100)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    Some((digits(number)?, unit))
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The spelling of a duration that people use (24h, 60s) and [`duration_ms`] reads back.
pub(super) fn duration_text(duration_ms: i64) -> String {
    let units = [("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS)];
    // One day is written 24h, as the lives of sessions are.
    let fits = |unit_ms: i64| {
        duration_ms > 0 && duration_ms % unit_ms == 0 && (unit_ms, duration_ms) != (DAY_MS, DAY_MS)
    };
    units.iter().find(|(_, unit_ms)| fits(*unit_ms)).map_or_else(
        || format!("{duration_ms}ms"),
        |(name, unit_ms)| format!("{}{name}", duration_ms / unit_ms),
    )
}

/// The shortest spelling of a size that [`size_bytes`] reads back.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    units
        .iter()
        .find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

pub(super) fn rate_text(rate: Option<Rate>) -> String {
    rate.map_or_else(|| "off".to_owned(), |rate| format!("{}/{}", rate.count, duration_text(rate.window_ms)))
}
