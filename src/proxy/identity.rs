//! What an upstream learns of the person: the identity headers, in the one spelling that every upstream can read.

use actix_web::http::header::HeaderName;
use bytestring::ByteString;

use crate::domain::{Fact, Principal};

/// A header's name, in the spellings that are needed at each request.
#[derive(Debug)]
pub struct Name {
    /// As people write it.
    pub written: &'static str,
    /// The same and what stands before the value.
    pub start: &'static str,
    /// As a map takes it.
    pub header: HeaderName,
}

macro_rules! name {
    ($written:literal, $header:literal) => {
        Name { written: $written, start: concat!($written, ": "), header: HeaderName::from_static($header) }
    };
}

static HEADERS: [(Name, Fact); 8] = [
    (name!("X-Auth-User", "x-auth-user"), Fact::UserId),
    (name!("X-Auth-Provider", "x-auth-provider"), Fact::Provider),
    (name!("X-Auth-Subject", "x-auth-subject"), Fact::Subject),
    (name!("X-Auth-Name", "x-auth-name"), Fact::Name),
    (name!("X-Auth-Email", "x-auth-email"), Fact::Email),
    (name!("X-Auth-Roles", "x-auth-roles"), Fact::Roles),
    (name!("X-Auth-Groups", "x-auth-groups"), Fact::Groups),
    (name!("X-Auth-Tenant", "x-auth-tenant"), Fact::Tenant),
];

/// As [`headers`], to be put into an answer.
pub fn shared(who: &Principal) -> impl Iterator<Item = (HeaderName, ByteString)> {
    HEADERS.iter().filter_map(|(name, fact)| Some((name.header.clone(), who.shared(*fact)?)))
}

/// Names and spelled values for a signed-in user; an absent fact has no header.
pub fn headers(who: &Principal) -> impl Iterator<Item = (&'static Name, &str)> {
    HEADERS.iter().filter_map(|(name, fact)| Some((name, who.spelled(*fact)?)))
}

/// How long all of them are in a head, in bytes.
#[must_use]
pub fn size(who: &Principal) -> usize {
    headers(who).map(|(name, value)| name.start.len() + value.len() + 2).sum()
}
