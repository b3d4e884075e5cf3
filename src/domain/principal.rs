//! Who a request comes from, as the door and the app behind it need to know: a few facts of a person and their session, packed into one
//! text, so that a hundred thousand of them fit into memory.
//!
//! Every fact stands in the spelling of the identity headers; it can be sent without being copied, and no list can be misread.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytestring::ByteString;
use percent_encoding::percent_decode_str;

use super::{Session, User};

/// One fact; see [`Principal::spelled`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// The session's public handle.
    Session,
    UserId,
    Provider,
    Subject,
    /// What to call the person.
    Name,
    Email,
    /// Provider's and local roles together, by commas.
    Roles,
    /// By commas.
    Groups,
    Tenant,
    Acr,
}

const FACTS: usize = 10;

/// The facts of one reading of the rows; immutable.
#[derive(Debug, PartialEq, Eq)]
pub struct Principal {
    text: ByteString,
    /// Where each fact ends in the text, in the order of [`Fact`].
    ends: [u32; FACTS],
    /// The session row's when it was read.
    pub generation: i64,
    /// When the person proved who they are, Unix ms.
    pub auth_time_ms: Option<i64>,
}

impl Principal {
    #[must_use]
    pub fn of(user: &User, session: &Session) -> Self {
        let profile = &user.profile;
        let mut text = String::with_capacity(256);
        let mut ends = [0; FACTS];
        let email = profile.email.as_ref().map(super::Email::as_str);
        let roles = user.effective_roles();
        let facts: [&[&str]; FACTS] = [
            &[&session.id],
            &[&user.id],
            &[&user.provider],
            &[&user.subject],
            &[user.display()],
            &[email.unwrap_or_default()],
            &roles.iter().map(String::as_str).collect::<Vec<_>>(),
            &user.groups.iter().map(String::as_str).collect::<Vec<_>>(),
            &[profile.tenant_id.as_deref().unwrap_or_default()],
            &[session.acr.as_deref().unwrap_or_default()],
        ];
        for (fact, end) in facts.iter().zip(&mut ends) {
            // An empty name in a list names nothing.
            for (n, item) in fact.iter().filter(|item| !item.is_empty()).enumerate() {
                if n > 0 {
                    text.push(',');
                }
                spell(item, &mut text);
            }
            *end = u32::try_from(text.len()).unwrap_or(u32::MAX);
        }
        Self {
            text: text.into_boxed_str().into(),
            ends,
            generation: session.generation,
            auth_time_ms: session.auth_time_ms,
        }
    }

    /// Visible ASCII: `%` and `,` within a value, and everything else, percent-encoded as UTF-8. `None` when nothing is known.
    #[must_use]
    pub fn spelled(&self, fact: Fact) -> Option<&str> {
        let at = fact as usize;
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(at).copied()?;
        let range = usize::try_from(start).ok()?..usize::try_from(end).ok()?;
        self.text.get(range).filter(|text| !text.is_empty())
    }

    /// The same for longer than this is held: a share, not a copy.
    #[must_use]
    pub fn shared(&self, fact: Fact) -> Option<ByteString> {
        self.spelled(fact).map(|text| self.text.slice_ref(text))
    }

    /// A single fact as it is; empty when nothing is known.
    #[must_use]
    pub fn plain(&self, fact: Fact) -> Cow<'_, str> {
        plain(self.spelled(fact).unwrap_or_default())
    }

    /// The items of a list as they are.
    pub fn items(&self, fact: Fact) -> impl Iterator<Item = Cow<'_, str>> {
        self.spelled(fact).into_iter().flat_map(|list| list.split(',')).map(plain)
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_size(&self) -> usize {
        self.text.len()
    }
}

fn plain(spelled: &str) -> Cow<'_, str> {
    // What was spelled from a text is a text again.
    percent_decode_str(spelled).decode_utf8_lossy()
}

/// Visible ASCII except `%` and `,` goes as it is, everything else as percent-encoded UTF-8.
fn spell(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' && byte != b',' {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::domain::session::tests::session;
    use crate::domain::{Email, Profile, Status};

    pub fn user() -> User {
        User {
            id: "u".into(),
            provider: "p".into(),
            issuer: "i".into(),
            subject: "sub".into(),
            profile: Profile::default(),
            usertag: "tag".into(),
            roles: Vec::new(),
            groups: Vec::new(),
            local_roles: Vec::new(),
            is_active: true,
            status: Status::Active,
            has_app_access: true,
            created_at_ms: 0,
            updated_at_ms: 0,
            last_login_at_ms: None,
            login_count: 1,
            provider_updated_at_ms: None,
            synced_at_ms: 0,
            deleted_at_ms: None,
            app_data: "{}".into(),
        }
    }

    pub fn principal() -> Principal {
        Principal::of(&user(), &session())
    }

    #[test]
    fn values_are_visible_ascii_whatever_the_name() {
        let mut user = user();
        user.profile.display_name = Some("Zoë, 50%".into());
        user.subject = "a\r\nb\0".into();
        user.profile.email = Email::parse("ada@example.test");
        let principal = Principal::of(&user, &session());
        assert_eq!(principal.spelled(Fact::Name), Some("Zo%C3%AB%2C%2050%25"));
        assert_eq!(principal.plain(Fact::Name), "Zoë, 50%");
        assert_eq!(principal.spelled(Fact::Subject), Some("a%0D%0Ab%00"));
        assert_eq!(principal.spelled(Fact::Email), Some("ada@example.test"));
        assert_eq!((principal.spelled(Fact::Tenant), principal.plain(Fact::Tenant)), (None, "".into()));
        assert_eq!(
            (principal.spelled(Fact::Session), principal.spelled(Fact::UserId)),
            (Some("s"), Some("u"))
        );
    }

    #[test]
    fn usual_facts_take_less_than_400_bytes() {
        let mut user = user();
        user.id = "3f1c9d5e-6a5f-4a63-9f0e-1d2c3b4a5968".into();
        user.subject = user.id.clone();
        user.provider = "keycloak".into();
        user.profile.display_name = Some("Ada Lovelace".into());
        user.profile.email = Email::parse("ada.lovelace@example.test");
        user.roles = vec!["editor".into(), "offline_access".into(), "uma_authorization".into()];
        user.groups = vec!["/engines".into(), "/engines/analytical".into()];
        let mut session = session();
        session.id = "AAAAAAAAAAAAAAAAAAAAAA".into();
        let principal = Principal::of(&user, &session);
        assert!(size_of::<Principal>() + principal.heap_size() <= 400, "{}", principal.heap_size());
    }

    proptest::proptest! {
        #[test]
        fn no_role_and_no_group_can_be_read_as_another(
            roles in proptest::collection::btree_set("[a,%\\n\u{0}é ]{0,4}", 0..4),
            groups in proptest::collection::vec("[a,%2Cé]{0,5}", 0..4),
            name in "\\PC{0,12}",
        ) {
            let mut user = user();
            user.roles = roles.iter().cloned().collect();
            user.groups.clone_from(&groups);
            user.profile.display_name = Some(name.clone());
            let principal = Principal::of(&user, &session());
            let named = |list: Vec<String>| list.into_iter().filter(|item| !item.is_empty()).collect::<Vec<_>>();
            let items = |fact| principal.items(fact).map(Cow::into_owned).collect::<Vec<_>>();
            assert_eq!(items(Fact::Roles), named(roles.into_iter().collect()));
            assert_eq!(items(Fact::Groups), named(groups));
            assert_eq!(principal.plain(Fact::Name), name);
            assert!(principal.text.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
