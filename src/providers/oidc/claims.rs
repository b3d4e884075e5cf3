//! From a provider's claims to a [`Change`]: what is kept, and what is dropped for being odd.

use serde_json::{Map, Value};
use url::Url;

use super::id_token::Verified;
use crate::config;
use crate::domain::{Change, Email, Profile};

const TEXT_MAX: usize = 255;
const URL_MAX: usize = 2048;
/// More roles or groups than this is no list anybody meant; a cut list would be a wrong authorization, so it counts as none.
const LIST_MAX: usize = 2000;

/// Builds the change; `claims` is the merged set of ID token and userinfo.
pub fn change(claims: &Map<String, Value>, verified: &Verified, config: &config::Provider) -> Change {
    Change {
        provider: config.id.clone(),
        issuer: verified.issuer.clone(),
        former_issuers: config.former_issuers.clone(),
        subject: verified.subject.clone(),
        id_prefix: config.id_prefix.clone(),
        profile: profile(claims, config),
        roles: list(at(claims, config.claims.roles.as_deref())),
        groups: list(at(claims, config.claims.groups.as_deref())),
        // The provider has just let this person in.
        is_active: Some(true),
        default_roles: config.default_roles.clone(),
        provider_updated_at_ms: claims.get("updated_at").and_then(updated_at_ms),
        observed_at_ms: verified.issued_at_ms,
    }
}

fn profile(claims: &Map<String, Value>, config: &config::Provider) -> Profile {
    let email = text(claims.get("email")).as_deref().and_then(Email::parse);
    let verified = matches!(claims.get("email_verified"), Some(Value::Bool(true)))
        || claims.get("email_verified").is_some_and(|v| v == "true");
    Profile {
        email_verified: email.is_some() && verified,
        email,
        username: text(claims.get("preferred_username")),
        first_name: text(claims.get("given_name")),
        last_name: text(claims.get("family_name")),
        display_name: text(claims.get("name")),
        nickname: text(claims.get("nickname")),
        picture_url: claims
            .get("picture")
            .and_then(Value::as_str)
            .filter(|url| is_web_address(url))
            .map(str::to_owned),
        locale: text(claims.get("locale")),
        tenant_id: text(at(claims, config.claims.tenant.as_deref())),
    }
}

/// The claim at a dotted path (`realm_access.roles`); a name that itself holds dots or slashes is tried as it stands first.
pub fn at<'c>(claims: &'c Map<String, Value>, path: Option<&str>) -> Option<&'c Value> {
    let path = path?;
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
}

/// A short text without controls; anything else is as good as absent (security.md PX-15).
fn text(value: Option<&Value>) -> Option<String> {
    let text = value?.as_str()?;
    let sound = !text.is_empty() && text.len() <= TEXT_MAX && !text.chars().any(char::is_control);
    sound.then(|| text.to_owned())
}

/// A string or a list of strings; any other type, or one odd member, means none (security.md ID-09).
fn list(value: Option<&Value>) -> Vec<String> {
    let members: Option<Vec<String>> = match value {
        Some(Value::String(_)) => text(value).map(|one| vec![one]),
        Some(Value::Array(many)) if many.len() <= LIST_MAX => {
            many.iter().map(|member| text(Some(member))).collect()
        }
        _ => None,
    };
    let mut members = members.unwrap_or_default();
    members.sort_unstable();
    members.dedup();
    members
}

fn is_web_address(text: &str) -> bool {
    // The parser drops line breaks silently; what we keep is the text.
    text.len() <= URL_MAX
        && !text.chars().any(char::is_control)
        && Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http"))
}

/// Seconds (Core 5.1) or, from providers that write it so, RFC 3339.
fn updated_at_ms(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().filter(|s| (0..=253_402_300_799).contains(s)).map(|s| s * 1000),
        Value::String(text) => {
            let moment =
                time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
            i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn id_09_roles_are_a_string_or_a_list_of_strings_and_nothing_else() {
        assert_eq!(list(Some(&json!("admin"))), ["admin"]);
        assert_eq!(list(Some(&json!(["b", "a", "a"]))), ["a", "b"]);
        for odd in [
            json!({"admin": true}),
            json!(7),
            json!(true),
            json!(null),
            json!([["admin"]]),
            json!(["admin", 7]),
            json!(["a\r\nb"]),
            json!(vec!["x"; 10_000]),
        ] {
            assert!(list(Some(&odd)).is_empty(), "{odd}");
        }
        assert!(list(None).is_empty());
    }

    #[test]
    fn a_claim_is_found_by_its_path_or_its_whole_name() {
        let claims = json!({"realm_access": {"roles": ["a"]}, "https://app.example/roles": ["b"]});
        let claims = claims.as_object().unwrap();
        assert_eq!(at(claims, Some("realm_access.roles")), Some(&json!(["a"])));
        assert_eq!(at(claims, Some("https://app.example/roles")), Some(&json!(["b"])));
        assert_eq!(at(claims, Some("realm_access.roles.x")), None);
        assert_eq!(at(claims, None), None);
    }

    #[test]
    fn px_15_a_text_with_controls_is_dropped() {
        for odd in ["a\r\nSet-Cookie: x", "a\0", "\u{7f}", "", &"x".repeat(256)] {
            assert_eq!(text(Some(&json!(odd))), None);
        }
    }
}
