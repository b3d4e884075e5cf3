//! One strict spelling of an e-mail address.

use serde::{Deserialize, Serialize};

/// An address with exactly one `@`, no spaces or controls, and a plausible domain; kept as it was written, compared case-folded.
///
/// Strict because a sibling's domain rule was passed by `a@evil.example@corp.example` (CVE-2026-40574, security.md ID-06).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Email(String);

impl Email {
    /// `None` when the text is not one plain address of at most 254 bytes (RFC 5321 4.5.3.1.3).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.split_once('@')?;
        let plain = |c: char| !c.is_control() && !c.is_whitespace() && !is_invisible(c);
        let sound = text.len() <= 254
            && !local.is_empty()
            && local.len() <= 64
            && text.chars().all(plain)
            && !local.contains(['"', '<', '>', '(', ')', ',', ';', ':', '\\', '[', ']'])
            && is_domain(domain);
        sound.then(|| Self(text.to_owned()))
    }

    /// The address as the provider spelled it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `@`.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.0.split_once('@').map_or("", |(local, _)| local)
    }

    /// The domain in its ASCII form (IDNA, lower case), for exact comparison.
    #[must_use]
    pub fn domain_ascii(&self) -> Option<String> {
        let (_, domain) = self.0.split_once('@')?;
        ascii_domain(domain)
    }
}

fn is_domain(domain: &str) -> bool {
    !domain.contains('@')
        && ascii_domain(domain).is_some_and(|ascii| {
            ascii.len() <= 253
                && ascii.split('.').all(|label| {
                    !label.is_empty()
                        && label.len() <= 63
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                })
        })
}

fn ascii_domain(domain: &str) -> Option<String> {
    match url::Host::parse(domain).ok()? {
        url::Host::Domain(name) => Some(name),
        // An address literal is no domain that anybody's rule could mean.
        url::Host::Ipv4(_) | url::Host::Ipv6(_) => None,
    }
}

/// Characters that show nothing, or reorder what is shown.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_addresses_are_kept_as_written() {
        for text in [
            "a@b.example",
            "Ada.Lovelace+tag@Example.COM",
            "o'neil@mail.example",
            "ü@münchen.example",
            "root@localhost",
        ] {
            assert_eq!(Email::parse(text).as_ref().map(Email::as_str), Some(text));
        }
        assert_eq!(
            Email::parse("a@MÜNCHEN.example").unwrap().domain_ascii().unwrap(),
            "xn--mnchen-3ya.example"
        );
    }

    #[test]
    fn id_06_odd_addresses_are_no_addresses() {
        let long = format!("{}@b.example", "a".repeat(65));
        let corpus = [
            "",
            "@",
            "a",
            "a@",
            "@b.example",
            "a@evil.example@corp.example",
            "a@b@c",
            "\"a@evil\"@corp.example",
            "a b@c.example",
            "a@b c.example",
            "a@b.example ",
            " a@b.example",
            "a\n@b.example",
            "a@b.example\r\nBcc: x",
            "a\0@b.example",
            "a\u{202e}@b.example",
            "a@b\u{200b}.example",
            "a@.example",
            "a@b..example",
            "a@-b.example",
            "a@b-.example",
            "a@127.0.0.1",
            "a@[::1]",
            "a@b/c.example",
            "a@b.example?x",
            "a@b.example#x",
            "a@b:80",
            "<a@b.example>",
            "a,b@c.example",
            "a@b.example,c@d.example",
            "a@b%2eexample\u{0}",
            long.as_str(),
        ];
        for text in corpus {
            assert_eq!(Email::parse(text), None, "{text:?}");
        }
    }
}
