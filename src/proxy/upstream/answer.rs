//! The head of an app's answer: parsed, its framing settled, and rid of what concerned our connection alone.

use std::mem::MaybeUninit;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::{Bytes, BytesMut};

use super::Fault;
use crate::proxy::headers;

/// More than any app needs; the same bounds as common proxies have.
const HEAD_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 128;

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Sized(u64),
    Chunked,
    /// Until the app closes the connection.
    UntilEnd,
}

/// The head of an answer, fit to be handed on.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// Without hop-by-hop fields and without cookies of our names.
    pub fields: Fields,
    pub framing: Framing,
    /// What the app announced for HEAD and 304, where no body follows.
    pub announced: Option<u64>,
    /// Whether the connection can be used again.
    pub keeps: bool,
    /// Whether it speaks the protocol that was asked for (101 alone).
    pub upgrades_to_websocket: bool,
}

/// The fields of an answer in the order in which they came. A map of them would be as large as a page, for one walk through it.
#[derive(Debug, Default)]
pub struct Fields(Vec<(HeaderName, HeaderValue)>);

impl Fields {
    /// Every value of a field.
    pub fn all(&self, name: &HeaderName) -> impl Iterator<Item = &HeaderValue> {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| value)
    }
}

impl IntoIterator for Fields {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// What the request says of the answer to come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    pub is_head: bool,
    pub is_upgrade: bool,
}

/// Takes the head off `read` once it is whole; informational answers are passed over (RFC 9110 15.2).
///
/// # Errors
/// [`Fault::Broken`] for what cannot be trusted to be one answer.
pub fn parse(read: &mut BytesMut, expected: Expected) -> Result<Option<Answer>, Fault> {
    loop {
        let Some(end) = end_of_head(read) else {
            return if read.len() > HEAD_MAX {
                Err(Fault::Broken("its head is too large"))
            } else {
                Ok(None)
            };
        };
        if end > HEAD_MAX {
            return Err(Fault::Broken("its head is too large"));
        }
        let head = read.split_to(end).freeze();
        let answer = parse_head(&head, expected)?;
        if answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        if answer.status == StatusCode::SWITCHING_PROTOCOLS && !expected.is_upgrade {
            return Err(Fault::Broken("it switches protocols unasked"));
        }
        return Ok(Some(answer));
    }
}

fn end_of_head(read: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', read).find_map(|at| match (read.get(at + 1), read.get(at + 2)) {
        (Some(b'\n'), _) => Some(at + 2),
        (Some(b'\r'), Some(b'\n')) => Some(at + 3),
        _ => None,
    })
}

/// The connection's own fields of an answer.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent word of the head")]
struct Hop<'h> {
    /// Fields that `Connection` names besides its known words.
    nominated: Vec<&'h str>,
    closes: bool,
    stays: bool,
    length: Option<u64>,
    is_chunked: bool,
    upgrade_named: bool,
    to_websocket: bool,
}

impl<'h> Hop<'h> {
    fn read(fields: &[httparse::Header<'h>]) -> Result<Self, Fault> {
        let mut hop = Self::default();
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("connection") {
                for word in words(field.value) {
                    match word {
                        word if word.eq_ignore_ascii_case("close") => hop.closes = true,
                        word if word.eq_ignore_ascii_case("keep-alive") => hop.stays = true,
                        word if word.eq_ignore_ascii_case("upgrade") => hop.upgrade_named = true,
                        word => hop.nominated.push(word),
                    }
                }
            } else if is("content-length") {
                let length = content_length(field.value)?;
                if hop.length.is_some_and(|earlier| earlier != length) {
                    return Err(Fault::Broken("its lengths differ"));
                }
                hop.length = Some(length);
            } else if is("transfer-encoding") {
                if hop.is_chunked || !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Broken("its transfer coding is unknown"));
                }
                hop.is_chunked = true;
            } else if is("upgrade") {
                hop.to_websocket = field.value.trim_ascii().eq_ignore_ascii_case(b"websocket");
            }
        }
        if hop.is_chunked && hop.length.is_some() {
            return Err(Fault::Broken("it has two lengths"));
        }
        Ok(hop)
    }
}

fn parse_head(head: &Bytes, expected: Expected) -> Result<Answer, Fault> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut parsed, head, &mut room) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err(Fault::Broken("its head is malformed")),
    }
    let fields: &[httparse::Header<'_>] = parsed.headers;
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Fault::Broken("its status is no number"))?;
    let is_http_11 = parsed.version == Some(1);
    let hop = Hop::read(fields)?;
    if hop.is_chunked && !is_http_11 {
        return Err(Fault::Broken("an HTTP/1.0 answer cannot be chunked"));
    }
    let is_bodiless = expected.is_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match hop.length {
        _ if is_bodiless => Framing::None,
        _ if hop.is_chunked => Framing::Chunked,
        Some(length) => Framing::Sized(length),
        None => Framing::UntilEnd,
    };
    let keeps = framing != Framing::UntilEnd
        && status != StatusCode::SWITCHING_PROTOCOLS
        && if is_http_11 { !hop.closes } else { hop.stays && !hop.closes };
    Ok(Answer {
        status,
        fields: handed_on(head, fields, &hop.nominated)?,
        framing,
        announced: hop.length.filter(|_| is_bodiless && status != StatusCode::NO_CONTENT),
        keeps,
        upgrades_to_websocket: hop.upgrade_named && hop.to_websocket,
    })
}

fn handed_on(head: &Bytes, fields: &[httparse::Header<'_>], nominated: &[&str]) -> Result<Fields, Fault> {
    let odd = Fault::Broken("a field of its head is malformed");
    let mut kept = Vec::with_capacity(fields.len());
    for field in fields {
        // Nearly every answer has these, and they never go on.
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") || is("connection") {
            continue;
        }
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| odd.clone())?;
        let is_nominated = nominated.iter().any(|word| word.eq_ignore_ascii_case(field.name));
        if is_nominated || headers::stays_behind(name.as_str(), field.value) {
            continue;
        }
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| odd.clone())?;
        kept.push((name, value));
    }
    Ok(Fields(kept))
}

fn content_length(value: &[u8]) -> Result<u64, Fault> {
    let fault = Fault::Broken("its length is no number");
    let text = std::str::from_utf8(value.trim_ascii()).map_err(|_| fault.clone())?;
    let sound = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| sound).ok_or(fault)
}

/// The members of a comma-separated list.
fn words(value: &[u8]) -> impl Iterator<Item = &str> {
    let texts = value.split(|byte| *byte == b',').filter_map(|word| std::str::from_utf8(word).ok());
    texts.map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, expected: Expected) -> Result<Option<Answer>, Fault> {
        parse(&mut BytesMut::from(text), expected)
    }

    fn framing(head: &str) -> Option<(Framing, bool)> {
        let answer = read(&format!("{head}\r\n\r\n"), Expected::default()).ok()??;
        Some((answer.framing, answer.keeps))
    }

    #[test]
    fn the_body_ends_where_the_head_says() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5", (Framing::Sized(5), true)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5", (Framing::Sized(5), true)),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked", (Framing::Chunked, true)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: a, CLOSE", (Framing::Sized(5), false)),
            ("HTTP/1.1 200 OK", (Framing::UntilEnd, false)),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5", (Framing::Sized(5), false)),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive", (Framing::Sized(5), true)),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 5", (Framing::None, true)),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5", (Framing::None, true)),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\ncontent-length: 0", (Framing::Sized(0), true)),
        ] {
            assert_eq!(framing(head), Some(expected), "{head}");
        }
    }

    #[test]
    fn ambiguous_answers_are_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 5",
            "HTTP/1.1 200 OK\r\ncontent-length: +5",
            "HTTP/1.1 200 OK\r\ncontent-length: 0x5",
            "HTTP/1.1 200 OK\r\ncontent-length:",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade",
            "HTTP/2 200 OK",
            "ICY 200 OK",
            "HTTP/1.1 2x0 OK",
            "HTTP/1.1 200 OK\r\nna me: 1",
            "HTTP/1.1 200 OK\r\nname : 1",
            "HTTP/1.1 200 OK\r\nname: a\0b",
            "HTTP/1.1 200 OK\r\nname: a\r\n folded",
        ] {
            assert_eq!(framing(head), None, "{head}");
        }
    }

    #[test]
    fn px_04_fields_of_the_connection_and_cookies_of_ours_stay_behind() {
        let text = "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-private\r\nx-private: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Authenticate: Basic\r\ntrailer: x\r\nset-cookie: a=1\r\nSet-Cookie: __HOST-Doorward=x\r\n\
             set-cookie:  doorward = y\r\nset-cookie: doorward-login-12345678=z\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n";
        let answer = read(text, Expected::default()).unwrap().unwrap();
        let kept = answer.fields.into_iter();
        let kept: Vec<_> = kept.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(kept, ["set-cookie: a=1", "set-cookie: b=2"]);
    }

    #[test]
    fn a_head_is_taken_only_when_it_is_whole_and_is_bounded() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        for cut in 0..whole.len() - 2 {
            assert!(read(&whole[..cut], Expected::default()).unwrap().is_none(), "{cut}");
        }
        let mut buffer = BytesMut::from(whole);
        assert!(parse(&mut buffer, Expected::default()).unwrap().is_some());
        assert_eq!(&buffer[..], b"ok");
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(70_000));
        assert!(read(&endless, Expected::default()).is_err());
    }
}
