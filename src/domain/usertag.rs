//! The short public name of a user: `[a-z0-9_]`, 3–24 characters, made once and never changed.

use super::Change;

const MIN: usize = 3;
const MAX: usize = 24;

/// The tag a new user would like: local part of the e-mail, else username, else subject.
#[must_use]
pub fn wish(change: &Change) -> String {
    let local = change.profile.email.as_ref().map(|email| email.local_part().to_owned());
    let source = local.or_else(|| change.profile.username.clone()).unwrap_or_else(|| change.subject.clone());
    spell(&source)
}

/// The `n`th try after collisions: `ada`, `ada-2`, `ada-3` …, still at most 24 characters.
#[must_use]
pub fn nth(wish: &str, n: u32) -> String {
    if n < 2 {
        return wish.to_owned();
    }
    let suffix = format!("-{n}");
    let room = MAX - suffix.len();
    let head: String = wish.chars().take(room).collect();
    format!("{head}{suffix}")
}

fn spell(source: &str) -> String {
    let mut tag: String = source
        .chars()
        .flat_map(char::to_lowercase)
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' })
        .take(MAX)
        .collect();
    while tag.len() < MIN {
        tag.push('_');
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_lower_case_ascii_of_three_to_twenty_four_characters() {
        assert_eq!(spell("Ada.Lovelace+x"), "ada_lovelace_x");
        assert_eq!(spell("ü"), "___");
        assert_eq!(spell("a".repeat(40).as_str()), "a".repeat(24));
    }

    #[test]
    fn a_collision_gets_a_number_and_stays_within_the_length() {
        assert_eq!(nth("ada", 1), "ada");
        assert_eq!(nth("ada", 2), "ada-2");
        assert_eq!(nth(&"a".repeat(24), 12).len(), 24);
    }
}
