//! The people of the development issuer: the named ones, whose subject and password are the name itself, and those who registered.

use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};

use super::keys::sha256;

/// One person who can be chosen on the sign-in page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) subject: String,
    /// The user name.
    pub(super) name: String,
    email: String,
    email_verified: bool,
    /// SHA-256: this process alone ever sees it, for as long as it runs.
    password_hash: String,
    pub(super) given_name: String,
    pub(super) family_name: String,
    pub(super) role: &'static str,
    groups: Vec<&'static str>,
    pub(super) tenant: Option<&'static str>,
    /// The issuer's own word: this person may not sign in anywhere.
    pub(super) suspended: bool,
    /// The mark that whoever created them left; the named people have none.
    pub(super) mark: Option<String>,
}

/// The named people, always there.
pub(super) static PEOPLE: LazyLock<[Arc<Person>; 4]> = LazyLock::new(|| {
    [
        named("alice", "Alice", "Archer"),
        Person { groups: vec!["partners"], tenant: Some("acme"), ..named("bob", "Bob", "Baker") },
        Person { role: "admin", groups: vec!["staff", "operators"], ..named("ada", "Ada", "Quinn") },
        Person { suspended: true, ..named("sam", "Sam", "Sutton") },
    ]
    .map(Arc::new)
});

fn named(name: &str, given_name: &str, family_name: &str) -> Person {
    Person {
        subject: name.to_owned(),
        name: name.to_owned(),
        email: format!("{name}@example.test"),
        email_verified: true,
        password_hash: sha256(name),
        given_name: given_name.to_owned(),
        family_name: family_name.to_owned(),
        role: "user",
        groups: vec!["staff"],
        tenant: None,
        suspended: false,
        mark: None,
    }
}

/// What a client says of somebody whom it registers.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Newcomer {
    pub(super) username: String,
    pub(super) email: String,
    pub(super) given_name: Option<String>,
    pub(super) family_name: Option<String>,
    pub(super) password: String,
    pub(super) mark: String,
}

impl Person {
    /// Somebody who registered, under a subject that nobody had before.
    pub(super) fn registered(newcomer: Newcomer, subject: String) -> Self {
        Self {
            subject,
            email: newcomer.email,
            email_verified: false,
            password_hash: sha256(&newcomer.password),
            groups: Vec::new(),
            mark: Some(newcomer.mark),
            ..named(
                &newcomer.username,
                &newcomer.given_name.unwrap_or_default(),
                &newcomer.family_name.unwrap_or_default(),
            )
        }
    }

    /// By user name or e-mail address, as they were written.
    pub(super) fn answers_to(&self, text: &str) -> bool {
        self.name == text || self.email == text
    }

    /// Whether the two would be mistaken for each other.
    pub(super) fn collides_with(&self, newcomer: &Newcomer) -> bool {
        self.name.to_lowercase() == newcomer.username.to_lowercase()
            || self.email.to_lowercase() == newcomer.email.to_lowercase()
    }

    pub(super) fn has_password(&self, password: &str) -> bool {
        self.password_hash == sha256(password)
    }

    pub(super) fn email(&self) -> &str {
        &self.email
    }

    pub(super) fn full_name(&self) -> String {
        let full = format!("{} {}", self.given_name, self.family_name);
        if full.trim().is_empty() { self.name.clone() } else { full.trim().to_owned() }
    }

    pub(super) fn initials(&self) -> String {
        let full = self.full_name();
        let mut words = full.split(' ').filter_map(|word| word.chars().next());
        words.next().into_iter().chain(words.next_back()).collect()
    }

    /// The claims a scope opens (OpenID Connect Core 1.0, section 5.4). Roles, groups and the
    /// tenant come with every scope, because there is no standard scope for them.
    pub(super) fn claims(&self, scope: &str) -> Map<String, Value> {
        let asked = |wanted: &str| scope.split(' ').any(|word| word == wanted);
        let mut claims = Map::new();
        let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        put("sub", json!(self.subject));
        put("roles", json!([self.role]));
        put("groups", json!(self.groups));
        if let Some(tenant) = self.tenant {
            put("org_id", json!(tenant));
        }
        if asked("email") {
            put("email", json!(self.email()));
            put("email_verified", json!(self.email_verified));
        }
        if asked("profile") {
            put("name", json!(self.full_name()));
            for (name, value) in [("given_name", &self.given_name), ("family_name", &self.family_name)] {
                if !value.is_empty() {
                    put(name, json!(value));
                }
            }
            put("preferred_username", json!(self.name));
            put("locale", json!("en"));
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Option<&'static Arc<Person>> {
        PEOPLE.iter().find(|person| person.answers_to(text))
    }

    #[test]
    fn a_person_is_found_by_name_or_e_mail_and_by_nothing_else() {
        assert_eq!(find("ada@example.test").map(|person| person.role), Some("admin"));
        assert_eq!(find("bob").and_then(|person| person.tenant), Some("acme"));
        assert!(find("Alice").is_none() && find("").is_none());
        assert!(find("bob").unwrap().has_password("bob") && !find("bob").unwrap().has_password("Bob"));
    }

    #[test]
    fn claims_follow_the_scope() {
        let alice = find("alice").unwrap();
        let narrow = alice.claims("openid");
        assert!(narrow.contains_key("roles") && !narrow.contains_key("email"));
        let wide = alice.claims("openid email profile");
        assert_eq!(wide["email"], "alice@example.test");
        assert_eq!(wide["name"], "Alice Archer");
    }
}
