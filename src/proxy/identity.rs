//! What an upstream learns of the person: the identity headers, in the one spelling that every upstream can read.

use crate::domain::{Fact, Principal};

const HEADERS: [(&str, Fact); 8] = [
    ("X-Auth-User", Fact::UserId),
    ("X-Auth-Provider", Fact::Provider),
    ("X-Auth-Subject", Fact::Subject),
    ("X-Auth-Name", Fact::Name),
    ("X-Auth-Email", Fact::Email),
    ("X-Auth-Roles", Fact::Roles),
    ("X-Auth-Groups", Fact::Groups),
    ("X-Auth-Tenant", Fact::Tenant),
];

/// Names and spelled values for a signed-in user; an absent fact has no header.
#[must_use]
pub fn headers(who: &Principal) -> Vec<(&'static str, &str)> {
    let known = HEADERS.iter().filter_map(|(name, fact)| Some((*name, who.spelled(*fact)?)));
    let mut headers = Vec::with_capacity(HEADERS.len());
    headers.extend(known);
    headers
}
