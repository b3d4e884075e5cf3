//! What an upstream learns of the person: the identity headers, in the one spelling that every upstream can read.

use actix_web::http::header::HeaderName;

use crate::domain::{Fact, Principal};

/// The name as people write it, and as a map takes it.
#[derive(Debug)]
pub struct Name {
    pub written: &'static str,
    pub header: HeaderName,
}

const fn name(written: &'static str, header: &'static str) -> Name {
    Name { written, header: HeaderName::from_static(header) }
}

static HEADERS: [(Name, Fact); 8] = [
    (name("X-Auth-User", "x-auth-user"), Fact::UserId),
    (name("X-Auth-Provider", "x-auth-provider"), Fact::Provider),
    (name("X-Auth-Subject", "x-auth-subject"), Fact::Subject),
    (name("X-Auth-Name", "x-auth-name"), Fact::Name),
    (name("X-Auth-Email", "x-auth-email"), Fact::Email),
    (name("X-Auth-Roles", "x-auth-roles"), Fact::Roles),
    (name("X-Auth-Groups", "x-auth-groups"), Fact::Groups),
    (name("X-Auth-Tenant", "x-auth-tenant"), Fact::Tenant),
];

/// Names and spelled values for a signed-in user; an absent fact has no header.
#[must_use]
pub fn headers(who: &Principal) -> Vec<(&'static Name, &str)> {
    let known = HEADERS.iter().filter_map(|(name, fact)| Some((name, who.spelled(*fact)?)));
    let mut headers = Vec::with_capacity(HEADERS.len());
    headers.extend(known);
    headers
}
