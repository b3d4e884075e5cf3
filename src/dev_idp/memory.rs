//! What the development issuer remembers, in memory and bounded: a restart forgets everybody.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::keys::sha256;
use super::params::Params;
use super::people::{Newcomer, PEOPLE, Person};

/// Entries per table. More sign-ins than this at once are no development any more, and a flood
/// must not eat the machine.
const ENTRIES: usize = 8192;

/// A map that drops its oldest entry when it is full.
pub(super) struct Table<V> {
    entries: HashMap<String, V>,
    order: VecDeque<String>,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<V> Table<V> {
    pub(super) fn insert(&mut self, key: String, value: V) {
        // Keys of removed entries stay in `order` until they are the oldest, which bounds it too.
        while self.order.len() >= ENTRIES {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
        self.order.push_back(key.clone());
        self.entries.insert(key, value);
    }

    pub(super) fn find(&self, key: &str) -> Option<&V> {
        self.entries.get(key)
    }

    pub(super) fn find_mut(&mut self, key: &str) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<V> {
        self.entries.remove(key)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.entries.retain(|_, value| keep(value));
    }
}

/// What one sign-in has granted to one client. Its tokens live as long as it is remembered.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) client_id: String,
    pub(super) person: Arc<Person>,
    pub(super) scope: String,
    pub(super) nonce: Option<String>,
    pub(super) acr: Option<String>,
    /// The audience of the access token, when the client named one (RFC 8707).
    pub(super) resource: Option<String>,
    pub(super) sid: String,
    /// Unix seconds.
    pub(super) auth_time: i64,
}

pub(super) struct Code {
    pub(super) grant: Grant,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    pub(super) expires_ms: i64,
    /// The grant made from it, once it is spent: coming back with the code ends that grant.
    pub(super) spent_for: Option<String>,
}

pub(super) struct RefreshToken {
    pub(super) grant_id: String,
    pub(super) expires_ms: i64,
    pub(super) spent: bool,
}

pub(super) struct AccessToken {
    pub(super) grant_id: String,
    pub(super) scope: String,
    pub(super) expires_ms: i64,
}

/// Who is signed in at the issuer itself, by the browser's cookie.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) person: Arc<Person>,
    pub(super) sid: String,
    /// Unix seconds.
    pub(super) auth_time: i64,
    pub(super) expires_ms: i64,
}

pub(super) struct PushedRequest {
    pub(super) params: Params,
    pub(super) client_id: String,
    pub(super) expires_ms: i64,
}

/// People who can have registered at once.
const REGISTERED_MAX: usize = 1000;

/// All tables. Bearer secrets are keys by their hash, so that a look-up leaks no timing of theirs.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) codes: Table<Code>,
    pub(super) grants: Table<Grant>,
    pub(super) refresh_tokens: Table<RefreshToken>,
    pub(super) access_tokens: Table<AccessToken>,
    pub(super) sessions: Table<Session>,
    pub(super) pushed: Table<PushedRequest>,
    /// In the order they came.
    registered: Vec<Arc<Person>>,
}

impl Memory {
    /// The grant and scope behind a live access token.
    pub(super) fn grant_of_access_token(&self, token: &str, now_ms: i64) -> Option<(&Grant, &str)> {
        let entry = self.access_tokens.find(&sha256(token))?;
        let grant = self.grants.find(&entry.grant_id)?;
        (now_ms < entry.expires_ms).then_some((grant, entry.scope.as_str()))
    }

    /// Everybody, the named people first.
    pub(super) fn people(&self) -> impl Iterator<Item = &Arc<Person>> {
        PEOPLE.iter().chain(&self.registered)
    }

    /// By user name or e-mail address.
    pub(super) fn find_person(&self, text: &str) -> Option<Arc<Person>> {
        self.people().find(|person| person.answers_to(text)).cloned()
    }

    /// `None` when somebody has the name or the address already, or nobody more fits in.
    pub(super) fn register(&mut self, newcomer: Newcomer, subject: String) -> Option<Arc<Person>> {
        if self.registered.len() >= REGISTERED_MAX
            || self.people().any(|known| known.collides_with(&newcomer))
        {
            return None;
        }
        let person = Arc::new(Person::registered(newcomer, subject));
        self.registered.push(Arc::clone(&person));
        Some(person)
    }

    /// Removes somebody who registered, with everything they were signed in to.
    pub(super) fn remove_person(&mut self, subject: &str) -> bool {
        let before = self.registered.len();
        self.registered.retain(|person| person.subject != subject);
        self.sessions.retain(|session| session.person.subject != subject);
        self.grants.retain(|grant| grant.person.subject != subject);
        self.codes.retain(|code| code.grant.person.subject != subject);
        self.registered.len() < before
    }

    /// Ends one sign-in everywhere: the issuer's session and every grant that came from it.
    pub(super) fn end_sid(&mut self, sid: &str) {
        self.sessions.retain(|session| session.sid != sid);
        self.grants.retain(|grant| grant.sid != sid);
        self.codes.retain(|code| code.grant.sid != sid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_drops_its_oldest_entry() {
        let mut table = Table::default();
        for number in 0..=ENTRIES {
            table.insert(number.to_string(), number);
        }
        assert!(table.find("0").is_none());
        assert_eq!(table.find("1"), Some(&1));
        assert_eq!(table.entries.len(), ENTRIES);
    }
}
