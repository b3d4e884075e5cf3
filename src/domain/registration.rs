//! Somebody who wants an account, as they described themselves.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::email::is_invisible;
use super::{Email, FieldFault, Profile};

/// Bytes of the longest password that is taken (security.md PW-05): longer ones only cost the provider's hash function.
pub const PASSWORD_MAX: usize = 1024;
/// Characters of the longest user name or name that providers agree on.
const NAME_MAX: usize = 255;
const ATTRIBUTE_MAX: usize = 1024;
const ATTRIBUTES_MAX: usize = 64;
const FIELDS: [&str; 7] =
    ["username", "email", "password", "firstName", "lastName", "attributes", "provider"];

/// What the operator allows to be said.
#[derive(Debug, Clone, Copy)]
pub struct RegistrationRules<'a> {
    /// Names of attributes that may pass.
    pub attributes: &'a [String],
    /// Whether several providers offer registration, so that one has to be named.
    pub names_provider: bool,
}

/// A person about to be created, every field of it checked.
#[derive(Debug)]
pub struct NewUser {
    pub username: String,
    pub email: Email,
    /// Byte for byte as it was typed.
    pub password: SecretString,
    pub person: Person,
    /// Id of the provider that shall create them, where one was named.
    pub provider: Option<String>,
}

/// What is remembered of them beside name and address until the attempt is over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    /// For the app alone; never sent to the provider.
    pub attributes: Map<String, Value>,
}

impl Person {
    /// The profile that the local row begins with; the provider's own word replaces it at the first login.
    #[must_use]
    pub fn profile(&self, username: &str, email: &str) -> Profile {
        let names: Vec<&str> =
            [&self.first_name, &self.last_name].into_iter().flatten().map(String::as_str).collect();
        Profile {
            email: Email::parse(email),
            username: Some(username.to_owned()),
            first_name: self.first_name.clone(),
            last_name: self.last_name.clone(),
            display_name: (!names.is_empty()).then(|| names.join(" ")),
            ..Profile::default()
        }
    }
}

impl NewUser {
    /// Reads the members of a JSON object or the fields of a form.
    ///
    /// Nothing passes that is not named here or listed by the operator: a role, an id or `email_verified` is refused in the open rather than
    /// dropped, so that nobody believes it was taken (security.md RG-07).
    ///
    /// # Errors
    /// Every fault at once.
    pub fn parse(
        mut fields: Map<String, Value>,
        rules: RegistrationRules<'_>,
    ) -> Result<Self, Vec<FieldFault>> {
        let mut faults = Vec::new();
        let username = username(&fields, &mut faults);
        let email = email(&fields, &mut faults);
        let password = password(&mut fields, &mut faults);
        let first_name = name(&fields, "firstName", &mut faults);
        let last_name = name(&fields, "lastName", &mut faults);
        let attributes = attributes(fields.remove("attributes"), rules.attributes, &mut faults);
        let provider = provider(&fields, rules.names_provider, &mut faults);
        for unknown in fields.keys().filter(|name| !FIELDS.contains(&name.as_str())) {
            faults.push(FieldFault::new(&shown(unknown), "unknown", "This field is not known here."));
        }
        match (username, email, password) {
            (Some(username), Some(email), Some(password)) if faults.is_empty() => Ok(Self {
                username,
                email,
                password,
                person: Person { first_name, last_name, attributes },
                provider,
            }),
            _ => Err(faults),
        }
    }

    /// What an `Idempotency-Key` stands for: the same key with another person is another request. The client's key is part of the
    /// hash, so that a stolen row cannot be searched for people; the password is not, so that nobody can try passwords on it.
    #[must_use]
    pub fn fingerprint(&self, idempotency_key: &str) -> Vec<u8> {
        let person = serde_json::to_string(&self.person).unwrap_or_default();
        let provider = self.provider.as_deref().unwrap_or_default();
        let mut hash = Sha256::new();
        for part in [idempotency_key, provider, &self.username, self.email.as_str(), &person] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().to_vec()
    }
}

/// A text member; an empty one is as good as none.
fn text<'f>(fields: &'f Map<String, Value>, field: &str, faults: &mut Vec<FieldFault>) -> Option<&'f str> {
    match fields.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.as_str()).filter(|text| !text.is_empty()),
        Some(_) => {
            faults.push(FieldFault::new(field, "invalid", "This has to be text."));
            None
        }
    }
}

fn required<'f>(
    fields: &'f Map<String, Value>,
    field: &str,
    faults: &mut Vec<FieldFault>,
) -> Option<&'f str> {
    let before = faults.len();
    let found = text(fields, field, faults);
    if found.is_none() && faults.len() == before {
        faults.push(FieldFault::new(field, "required", "This is needed."));
    }
    found
}

fn username(fields: &Map<String, Value>, faults: &mut Vec<FieldFault>) -> Option<String> {
    let text = required(fields, "username", faults)?.trim();
    let fault = if text.chars().count() > NAME_MAX {
        FieldFault::new("username", "too_long", format!("At most {NAME_MAX} characters."))
    } else if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace() || is_invisible(c))
    {
        FieldFault::new("username", "invalid", "A user name has no spaces and no invisible characters.")
    } else {
        return Some(text.to_owned());
    };
    faults.push(fault);
    None
}

fn email(fields: &Map<String, Value>, faults: &mut Vec<FieldFault>) -> Option<Email> {
    let text = required(fields, "email", faults)?.trim();
    let email = Email::parse(text);
    if email.is_none() {
        faults.push(FieldFault::new("email", "invalid", "This is not an e-mail address."));
    }
    email
}

fn password(fields: &mut Map<String, Value>, faults: &mut Vec<FieldFault>) -> Option<SecretString> {
    required(fields, "password", faults)?;
    // Moved, not copied: the secret wipes this very text.
    let Some(Value::String(text)) = fields.remove("password") else { return None };
    if text.len() > PASSWORD_MAX {
        let _wiped = SecretString::from(text);
        faults.push(FieldFault::new("password", "too_long", format!("At most {PASSWORD_MAX} bytes.")));
        return None;
    }
    Some(SecretString::from(text))
}

fn name(fields: &Map<String, Value>, field: &str, faults: &mut Vec<FieldFault>) -> Option<String> {
    let text = text(fields, field, faults)?.trim();
    if text.chars().count() > NAME_MAX {
        faults.push(FieldFault::new(field, "too_long", format!("At most {NAME_MAX} characters.")));
        return None;
    }
    if text.chars().any(char::is_control) {
        faults.push(FieldFault::new(field, "invalid", "Control characters cannot be part of a name."));
        return None;
    }
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn attributes(given: Option<Value>, allowed: &[String], faults: &mut Vec<FieldFault>) -> Map<String, Value> {
    let given = match given {
        None | Some(Value::Null) => return Map::new(),
        Some(Value::Object(given)) if given.len() <= ATTRIBUTES_MAX => given,
        Some(_) => {
            faults.push(FieldFault::new(
                "attributes",
                "invalid",
                "This has to be an object of a few members.",
            ));
            return Map::new();
        }
    };
    let mut taken = Map::new();
    for (name, value) in given {
        let field = format!("attributes.{}", shown(&name));
        let fits = match &value {
            Value::String(text) => text.len() <= ATTRIBUTE_MAX && !text.contains('\0'),
            Value::Bool(_) | Value::Number(_) => true,
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
        if !allowed.contains(&name) {
            faults.push(FieldFault::new(&field, "unknown", "This attribute is not known here."));
        } else if fits {
            taken.insert(name, value);
        } else {
            let detail = format!("A text of at most {ATTRIBUTE_MAX} bytes, a number, or true or false.");
            faults.push(FieldFault::new(&field, "invalid", detail));
        }
    }
    taken
}

fn provider(fields: &Map<String, Value>, needed: bool, faults: &mut Vec<FieldFault>) -> Option<String> {
    let found = text(fields, "provider", faults).map(str::to_owned);
    if found.is_none() && needed {
        faults.push(FieldFault::new("provider", "required", "Say where the account shall be."));
    }
    found
}

/// A foreign name as far as an answer may repeat it.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control() && !is_invisible(*c)).take(64).collect()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;

    const RULES: RegistrationRules<'_> = RegistrationRules { attributes: &[], names_provider: false };

    fn parse(fields: Value) -> Result<NewUser, Vec<FieldFault>> {
        let Value::Object(fields) = fields else { panic!("an object") };
        NewUser::parse(fields, RULES)
    }

    fn faults(fields: Value) -> Vec<(String, &'static str)> {
        parse(fields).unwrap_err().into_iter().map(|fault| (fault.field, fault.code)).collect()
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let named = faults(
            json!({ "username": "a b", "email": "no", "firstName": 7, "attributes": { "plan": "x" }, "role": "admin" }),
        );
        let expected = [
            ("username", "invalid"),
            ("email", "invalid"),
            ("password", "required"),
            ("firstName", "invalid"),
            ("attributes.plan", "unknown"),
            ("role", "unknown"),
        ];
        assert_eq!(named, expected.map(|(field, code)| (field.to_owned(), code)));
    }

    #[test]
    fn pw_05_a_password_passes_unchanged_up_to_1024_bytes() {
        for password in
            ["  spaced  ", "ÄÖ\u{1f511}é\u{301}", "nul\0inside", &"x".repeat(64), &"ü".repeat(512)]
        {
            let user =
                parse(json!({ "username": "ann", "email": "a@b.example", "password": password })).unwrap();
            assert_eq!(user.password.expose_secret(), password);
        }
        let long = json!({ "username": "ann", "email": "a@b.example", "password": "x".repeat(1025) });
        assert_eq!(faults(long), [("password".to_owned(), "too_long")]);
    }

    #[test]
    fn rg_07_nothing_passes_that_is_not_listed() {
        for extra in [
            "id",
            "sub",
            "roles",
            "role",
            "email_verified",
            "emailVerified",
            "tenantId",
            "enabled",
            "__proto__",
        ] {
            let named =
                faults(json!({ "username": "ann", "email": "a@b.example", "password": "p", extra: true }));
            assert_eq!(named, [(extra.to_owned(), "unknown")]);
            let inner = json!({ "username": "ann", "email": "a@b.example", "password": "p", "attributes": { extra: true } });
            assert_eq!(faults(inner), [(format!("attributes.{extra}"), "unknown")]);
        }
    }

    #[test]
    fn a_key_stands_for_one_person() {
        let ann = json!({ "username": "ann", "email": "a@b.example", "password": "p" });
        let one = parse(ann.clone()).unwrap().fingerprint("k");
        assert_eq!(one, parse(ann.clone()).unwrap().fingerprint("k"));
        assert_ne!(one, parse(ann).unwrap().fingerprint("other"));
        let bea = json!({ "username": "bea", "email": "a@b.example", "password": "p" });
        assert_ne!(one, parse(bea).unwrap().fingerprint("k"));
    }

    proptest::proptest! {
        #[test]
        fn sc_03_no_fields_make_the_reader_panic(username in ".{0,300}", email in ".{0,80}", extra in ".{0,80}") {
            let _ = parse(json!({ "username": username, "email": email, "password": extra, extra.clone(): { extra.clone(): extra } }));
        }
    }
}
