//! Corpora of addresses. Files hold one entry a line; `\t \n \r \0 \s \\ \u{hex}` are escapes
//! (`\s` is a space, so that no editor trims it), and a line that starts with `\;` is a remark.

/// Return addresses that a Doorward at `http://localhost:8080` must refuse (security.md RD-02).
pub fn hostile_return_addresses() -> Vec<String> {
    let mut all = decode(include_str!("corpus/return_to.txt"));
    let long = 10 * 1024;
    all.push(format!("/{}", "a".repeat(long)));
    all.push(format!("//evil.example/{}", "a".repeat(long)));
    all.push(format!("/{}/evil.example", "./".repeat(long / 2)));
    all.push(format!("{}evil.example", "/".repeat(long)));
    all.push(format!("/?{}", "x=%2f&".repeat(long / 6)));
    all.push(format!("https://{}@evil.example/", "a".repeat(long)));
    all.push(format!("/{}evil.example", "\\".repeat(long)));
    all.push(format!("/%{}2fevil.example", "25".repeat(long / 2)));
    all
}

/// Our own routes in many spellings: never a return address (RD-05), with the prefix `/auth`.
pub fn own_routes() -> Vec<String> {
    decode(include_str!("corpus/own_routes.txt"))
}

/// Must be accepted: a browser sent there arrives at that very address.
pub fn friendly_return_addresses() -> Vec<String> {
    decode(include_str!("corpus/friendly_return_to.txt"))
}

/// Request targets, sent as they are, that try to be read in two ways (PX-08).
pub fn request_paths() -> Vec<String> {
    decode(include_str!("corpus/request_paths.txt"))
}

fn decode(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with("\\;")).map(unescape).collect()
}

fn unescape(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut tail = after.chars();
        let c = match tail.next() {
            Some('t') => '\t',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('0') => '\0',
            Some('s') => ' ',
            Some('\\') => '\\',
            Some('u') => {
                let (hex, after) = tail.as_str().split_once('}').unwrap_or_default();
                tail = after.chars();
                let code = hex.strip_prefix('{').map(|hex| u32::from_str_radix(hex, 16));
                code.and_then(|code| char::from_u32(code.ok()?))
                    .unwrap_or_else(|| panic!("bad \\u in {line}"))
            }
            other => panic!("unknown escape {other:?} in {line}"),
        };
        out.push(c);
        rest = tail.as_str();
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_corpus_is_large_and_without_repetition() {
        let hostile = hostile_return_addresses();
        let distinct: HashSet<_> = hostile.iter().collect();
        assert_eq!(distinct.len(), hostile.len());
        assert!(hostile.len() >= 320, "only {}", hostile.len());
    }

    #[test]
    fn the_request_paths_are_many_and_distinct() {
        let paths = request_paths();
        assert_eq!(paths.iter().collect::<HashSet<_>>().len(), paths.len());
        assert!(paths.len() >= 200, "only {}", paths.len());
    }

    #[test]
    fn friend_foe_and_our_own_routes_do_not_overlap() {
        let hostile: HashSet<_> = hostile_return_addresses().into_iter().collect();
        let own: HashSet<_> = own_routes().into_iter().collect();
        for friend in friendly_return_addresses() {
            assert!(!hostile.contains(&friend) && !own.contains(&friend), "{friend}");
            assert!(friend.starts_with('/'), "{friend}");
        }
        assert!(own.is_disjoint(&hostile));
    }

    #[test]
    fn escapes_become_the_bytes_they_name() {
        assert_eq!(unescape(r"\s/\t\\\0\u{2f}e"), " /\t\\\0/e");
    }
}
