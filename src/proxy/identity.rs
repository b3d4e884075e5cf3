//! What an upstream learns of the person: the identity headers, in the one spelling that every upstream can read.

use std::fmt::Write as _;

use crate::domain::User;

/// Names and values for a signed-in user; an absent fact has no header.
#[must_use]
pub fn headers(user: &User) -> Vec<(&'static str, String)> {
    let profile = &user.profile;
    let mut headers = vec![
        ("X-Auth-User", spell(&user.id)),
        ("X-Auth-Provider", spell(&user.provider)),
        ("X-Auth-Subject", spell(&user.subject)),
        ("X-Auth-Name", spell(user.display())),
    ];
    headers.extend(profile.email.as_ref().map(|email| ("X-Auth-Email", spell(email.as_str()))));
    headers.extend(list(&user.effective_roles()).map(|roles| ("X-Auth-Roles", roles)));
    headers.extend(list(&user.groups).map(|groups| ("X-Auth-Groups", groups)));
    headers.extend(profile.tenant_id.as_ref().map(|tenant| ("X-Auth-Tenant", spell(tenant))));
    headers
}

fn list(items: &[String]) -> Option<String> {
    let spelled: Vec<String> = items.iter().map(|item| spell(item)).collect();
    (!spelled.is_empty()).then(|| spelled.join(","))
}

/// Visible ASCII except `%` and `,` goes as it is, everything else as percent-encoded UTF-8.
fn spell(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' && byte != b',' {
            spelled.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(spelled, "%{byte:02X}");
        }
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_visible_ascii_whatever_the_name() {
        assert_eq!(spell("ada@example.test"), "ada@example.test");
        assert_eq!(spell("Zoë, 50%"), "Zo%C3%AB%2C%2050%25");
        assert_eq!(spell("a\r\nb\0"), "a%0D%0Ab%00");
        assert_eq!(list(&["a,b".into(), "c".into()]).unwrap(), "a%2Cb,c");
        assert_eq!(list(&[]), None);
    }
}
