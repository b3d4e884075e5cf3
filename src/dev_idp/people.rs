//! The people of the development issuer. Everybody's subject and password are the name itself.

use serde_json::{Map, Value, json};

/// One person who can be chosen on the sign-in page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Person {
    /// Subject, user name and password at once.
    pub(super) name: &'static str,
    pub(super) given_name: &'static str,
    pub(super) family_name: &'static str,
    pub(super) role: &'static str,
    pub(super) groups: &'static [&'static str],
    pub(super) tenant: Option<&'static str>,
    /// The issuer's own word: this person may not sign in anywhere.
    pub(super) suspended: bool,
}

const PERSON: Person = Person {
    name: "",
    given_name: "",
    family_name: "",
    role: "user",
    groups: &["staff"],
    tenant: None,
    suspended: false,
};

pub(super) static PEOPLE: [Person; 4] = [
    Person { name: "alice", given_name: "Alice", family_name: "Archer", ..PERSON },
    Person {
        name: "bob",
        given_name: "Bob",
        family_name: "Baker",
        groups: &["partners"],
        tenant: Some("acme"),
        ..PERSON
    },
    Person {
        name: "ada",
        given_name: "Ada",
        family_name: "Quinn",
        role: "admin",
        groups: &["staff", "operators"],
        ..PERSON
    },
    Person { name: "sam", given_name: "Sam", family_name: "Sutton", suspended: true, ..PERSON },
];

impl Person {
    /// By user name or e-mail address.
    pub(super) fn find(text: &str) -> Option<&'static Self> {
        PEOPLE.iter().find(|person| person.name == text || person.email() == text)
    }

    pub(super) fn email(&self) -> String {
        format!("{}@example.test", self.name)
    }

    pub(super) fn full_name(&self) -> String {
        format!("{} {}", self.given_name, self.family_name)
    }

    pub(super) fn initials(&self) -> String {
        self.given_name.chars().take(1).chain(self.family_name.chars().take(1)).collect()
    }

    /// The claims a scope opens (OpenID Connect Core 1.0, section 5.4). Roles, groups and the
    /// tenant come with every scope, because there is no standard scope for them.
    pub(super) fn claims(&self, scope: &str) -> Map<String, Value> {
        let asked = |wanted: &str| scope.split(' ').any(|word| word == wanted);
        let mut claims = Map::new();
        let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        put("sub", json!(self.name));
        put("roles", json!([self.role]));
        put("groups", json!(self.groups));
        if let Some(tenant) = self.tenant {
            put("org_id", json!(tenant));
        }
        if asked("email") {
            put("email", json!(self.email()));
            put("email_verified", json!(true));
        }
        if asked("profile") {
            put("name", json!(self.full_name()));
            put("given_name", json!(self.given_name));
            put("family_name", json!(self.family_name));
            put("preferred_username", json!(self.name));
            put("locale", json!("en"));
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_found_by_name_or_e_mail_and_by_nothing_else() {
        assert_eq!(Person::find("ada@example.test").map(|person| person.role), Some("admin"));
        assert_eq!(Person::find("bob").and_then(|person| person.tenant), Some("acme"));
        assert!(Person::find("Alice").is_none() && Person::find("").is_none());
    }

    #[test]
    fn claims_follow_the_scope() {
        let alice = Person::find("alice").unwrap();
        let narrow = alice.claims("openid");
        assert!(narrow.contains_key("roles") && !narrow.contains_key("email"));
        let wide = alice.claims("openid email profile");
        assert_eq!(wide["email"], "alice@example.test");
        assert_eq!(wide["name"], "Alice Archer");
    }
}
