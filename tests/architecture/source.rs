//! Rust source as far as the architecture test reads it: words and signs without comments and texts, and the paths among them.
//!
//! A lexer of sixty lines instead of a parser crate: all that is asked is which room a path leads to, and on which line.

/// A word or a sign of the code. Comments, texts and characters leave none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A path from the root of the crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub segments: Vec<String>,
    pub line: usize,
}

pub fn tokens(source: &str) -> Vec<Token> {
    let (mut rest, mut line, mut found) = (source, 1, Vec::new());
    while let Some(first) = rest.chars().next() {
        let (length, is_code) = piece(rest, first);
        let (piece, tail) = rest.split_at(length);
        if is_code {
            found.push(Token { text: piece.to_owned(), line });
        }
        line += piece.matches('\n').count();
        rest = tail;
    }
    found
}

/// Length of the next piece, and whether it is code.
fn piece(rest: &str, first: char) -> (usize, bool) {
    if first.is_whitespace() {
        return (rest.len() - rest.trim_start().len(), false);
    }
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if let Some(length) = text(rest).or_else(|| character(rest)) {
        return (length, false);
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if is_word(first) {
        return (rest.find(|c| !is_word(c)).unwrap_or(rest.len()), true);
    }
    if rest.starts_with("::") {
        return (2, true);
    }
    (first.len_utf8(), true)
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if tail.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `"…"`, also with `b`, `c`, `r` and hashes before it.
fn text(rest: &str) -> Option<usize> {
    let bare = rest.trim_start_matches(['b', 'c', 'r']);
    let prefix = rest.len() - bare.len();
    let is_raw = rest[..prefix].contains('r');
    let hashes = if is_raw { bare.len() - bare.trim_start_matches('#').len() } else { 0 };
    let start = prefix + hashes + 1;
    if prefix > 2 || !bare[hashes..].starts_with('"') {
        return None;
    }
    if is_raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()));
    }
    let mut escaped = false;
    for (at, c) in rest[start..].char_indices() {
        match c {
            '"' if !escaped => return Some(start + at + 1),
            _ => escaped = c == '\\' && !escaped,
        }
    }
    Some(rest.len())
}

/// `'a'` and `'\n'`, and not the lifetime `'a`.
fn character(rest: &str) -> Option<usize> {
    let quoted = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('\'')?;
    let start = rest.len() - quoted.len();
    let mut inside = quoted.char_indices();
    let (_, first) = inside.next()?;
    let closing = if first == '\\' {
        let (escape, _) = inside.next()?;
        quoted.get(escape + 1..)?.find('\'')? + escape + 1
    } else {
        inside.next().filter(|(_, c)| *c == '\'')?.0
    };
    Some(start + closing + 1)
}

/// Every path that begins at the root: `crate::…`, and `super::…` where it climbs that far. `home` is the module path of the file.
pub fn crate_paths(tokens: &[Token], home: &[String]) -> Vec<Path> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let (mut scopes, mut found) = (Vec::new(), Vec::new());
    for at in 0..tokens.len() {
        let continues = at > 0 && text(at - 1) == "::";
        match text(at) {
            "{" => scopes.push(at >= 2 && text(at - 2) == "mod"),
            "}" => drop(scopes.pop()),
            "crate" if text(at + 1) == "::" && !continues => {
                tree(tokens, at + 2, &[], &mut found);
            }
            "super" if text(at + 1) == "::" && !continues => {
                let climbed = (0..tokens.len()).take_while(|n| text(at + 2 * n) == "super").count();
                let depth = home.len() + scopes.iter().filter(|is_module| **is_module).count();
                if climbed >= depth {
                    tree(tokens, at + 2 * climbed, &[], &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

/// Unfolds `a::{b, c::d}` into `a::b` and `a::c::d`; returns what comes after.
fn tree(tokens: &[Token], at: usize, before: &[String], found: &mut Vec<Path>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("}", |token| token.text.as_str());
    if text(at) == "{" {
        let mut next = at + 1;
        while text(next) != "}" {
            next = if text(next) == "," { next + 1 } else { tree(tokens, next, before, found) };
        }
        return next + 1;
    }
    let mut segments = before.to_vec();
    segments.push(text(at).to_owned());
    let goes_on = text(at + 2).starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '{' | '*'));
    if text(at + 1) == "::" && goes_on {
        return tree(tokens, at + 2, &segments, found);
    }
    let line = tokens.get(at).map_or(0, |token| token.line);
    found.push(Path { segments, line });
    if text(at + 1) == "as" { at + 3 } else { at + 1 }
}

/// Whether these words and signs follow one another somewhere; the line of the first of them each time.
pub fn lines_with(tokens: &[Token], wanted: &[&str]) -> Vec<usize> {
    let fits = |window: &&[Token]| window.iter().zip(wanted).all(|(token, word)| token.text == *word);
    tokens.windows(wanted.len()).filter(fits).map(|window| window[0].line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        let home = ["store".to_owned(), "users".to_owned()];
        crate_paths(&tokens(source), &home)
            .into_iter()
            .map(|path| format!("{}:{}", path.segments.join("::"), path.line))
            .collect()
    }

    #[test]
    fn nested_and_inline_paths_are_found_with_their_lines() {
        assert_eq!(paths("use crate::web;"), ["web:1"]);
        assert_eq!(
            paths("use crate::{a, b::{self, c as d},\n e::*};"),
            ["a:1", "b::self:1", "b::c:1", "e::*:2"]
        );
        assert_eq!(paths("fn f() ->\n crate::x::Y<crate::z::W> {}"), ["x::Y:2", "z::W:2"]);
        assert_eq!(paths("macro!($crate::store::Db::conn(x))"), ["store::Db::conn:1"]);
        assert_eq!(paths("crate::a::f::<u8>()"), ["a::f:1"]);
    }

    #[test]
    fn super_counts_only_where_it_climbs_to_the_root() {
        assert_eq!(paths("use super::super::web::x;"), ["web::x:1"]);
        assert!(paths("use super::web;").is_empty());
        assert!(paths("mod tests { use super::super::web; }").is_empty());
        assert_eq!(
            paths("mod tests { use super::super::super::web; } use super::super::a;"),
            ["web:1", "a:1"]
        );
    }

    #[test]
    fn comments_and_texts_are_no_code() {
        for source in [
            "// crate::web\n",
            "/* crate::web /* crate::a */ crate::b */",
            "/// [`crate::web`]",
            r#"let x = "crate::web \" crate::a";"#,
            r##"let x = r#"crate::web " crate::a"#;"##,
            r#"let x = b"crate::web";"#,
            r#"let x = ('"', "crate::web", '\'', b'"', "crate::a");"#,
            "pub(crate) fn f<'a>(x: &'a str) {}",
        ] {
            assert!(paths(source).is_empty(), "{source}");
        }
        assert_eq!(paths("let x = '\\''; crate::web::f(); // 'x"), ["web::f:1"]);
    }

    #[test]
    fn words_in_sequence_are_found() {
        let read = tokens("std::time::SystemTime::now();\n#[allow(x)]\ntodo!()");
        assert_eq!(lines_with(&read, &["SystemTime", "::", "now"]), [1]);
        assert_eq!(lines_with(&read, &["[", "allow"]), [2]);
        assert_eq!(lines_with(&read, &["todo", "!"]), [3]);
        assert!(lines_with(&tokens("\"todo!()\""), &["todo", "!"]).is_empty());
    }
}
