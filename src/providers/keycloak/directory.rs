//! Keycloak's people, by its Admin REST API (26.x). The client's service account needs the role `manage-users` of `realm-management`.
//!
//! The mark is the attribute `doorward_ref`. A realm whose user profile neither declares it nor keeps unmanaged attributes drops it without
//! a word; then only the answer to the creation itself proves that a user is ours.

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use url::Url;
use zeroize::Zeroizing;

use super::Keycloak;
use crate::domain::{FieldFault, NewUser};
use crate::providers::ProviderError;
use crate::providers::directory::{CreatedUser, Directory, Found, NotCreated};
use crate::providers::http::{Answer, Credentials};
use crate::providers::oidc::Oidc;

const MARK: &str = "doorward_ref";
/// A user without names cannot use a password login while the realm's profile asks for them, so a name is always sent.
const NO_NAME: &str = "-";
/// Two deletes at once: one of them is answered by 500.
const DELETE_TRIES: u32 = 3;
const SENTENCE_MAX: usize = 200;

#[async_trait]
impl Directory for Keycloak {
    async fn create_user(&self, user: &NewUser, mark: &str) -> Result<CreatedUser, NotCreated> {
        let url = self.users(&[]).map_err(NotCreated::Refused)?;
        let body = representation(user, mark);
        let mut token = self.own.current(&self.oidc).await.map_err(NotCreated::Refused)?;
        for fresh in [false, true] {
            let bearer = Credentials::Bearer(token.expose_secret());
            let sent = self.oidc.http().post_json(&url, bearer, body.as_bytes().to_vec()).await;
            let (answer, location) = sent.map_err(NotCreated::Unknown)?;
            if answer.status == 401 && !fresh {
                token = self.another(&token).await.map_err(NotCreated::Refused)?;
                continue;
            }
            return read_created(&answer, location.as_deref());
        }
        Err(NotCreated::Refused(ProviderError::Misconfigured("the directory refuses our token".to_owned())))
    }

    async fn find_by_mark(&self, mark: &str, username: &str) -> Result<Found, ProviderError> {
        let by_name = [("username", username), ("exact", "true")];
        match self.found(&by_name, mark).await? {
            // A realm may replace user names by addresses; marks it leaves alone.
            Found::Nobody => match self.found(&[("q", &format!("{MARK}:{mark}"))], mark).await? {
                Found::Unproven => Ok(Found::Nobody),
                found => Ok(found),
            },
            found => Ok(found),
        }
    }

    async fn delete_user(&self, subject: &str) -> Result<(), ProviderError> {
        let url = self.users(&[subject])?;
        let mut last = ProviderError::Unavailable("nothing was tried".to_owned());
        let mut token = self.own.current(&self.oidc).await?;
        for _ in 0..DELETE_TRIES {
            let answer = self.oidc.http().delete(&url, Credentials::Bearer(token.expose_secret())).await?;
            match answer.status {
                200..=299 => return Ok(()),
                404 if is_gone(&answer) => return Ok(()),
                401 => token = self.another(&token).await?,
                _ => {}
            }
            last = refusal(&answer);
            if !(answer.status == 401 || answer.status >= 500) {
                break;
            }
        }
        Err(last)
    }

    async fn keeps_marks(&self) -> Result<bool, ProviderError> {
        let answer = self.asked(&self.users(&["profile"])?).await?;
        if answer.status != 200 {
            return Err(refusal(&answer));
        }
        let profile = Oidc::object(&answer)
            .ok_or_else(|| ProviderError::protocol("provider_error", "the user profile is not one"))?;
        Ok(keeps(&profile))
    }
}

impl Keycloak {
    /// `{server}/admin/realms/{realm}/users` and further segments, each encoded.
    fn users(&self, more: &[&str]) -> Result<Url, ProviderError> {
        let config = self.oidc.config();
        let odd = || ProviderError::Misconfigured("the issuer is not {server}/realms/{realm}".to_owned());
        let (server, realm) = config.issuer.trim_end_matches('/').rsplit_once("/realms/").ok_or_else(odd)?;
        let mut base = match config.admin.as_ref().and_then(|admin| admin.base_url.clone()) {
            Some(base) => base,
            None => Url::parse(server).map_err(|_| odd())?,
        };
        // Our own calls may have a way of their own to the same server.
        if let (None, Some(inside)) =
            (config.admin.as_ref().and_then(|a| a.base_url.as_ref()), &config.internal_base_url)
        {
            let path = base.path().to_owned();
            base = inside.clone();
            base.set_path(&path);
        }
        let text = format!("{}/admin/realms/{realm}/users", base.as_str().trim_end_matches('/'));
        let mut url = Url::parse(&text).map_err(|_| odd())?;
        // A dot segment would lead elsewhere; no id is one.
        if more.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
            return Err(ProviderError::protocol("provider_error", "a user id that is none"));
        }
        url.path_segments_mut().map_err(|()| odd())?.extend(more);
        Ok(url)
    }

    /// The first of a list of users, and whose they are.
    async fn found(&self, query: &[(&str, &str)], mark: &str) -> Result<Found, ProviderError> {
        let mut url = self.users(&[])?;
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.asked(&url).await?;
        if answer.status != 200 {
            return Err(refusal(&answer));
        }
        let users: Vec<Value> = serde_json::from_slice(&answer.body)
            .map_err(|_| ProviderError::protocol("provider_error", "the list of users is not one"))?;
        let Some(user) = users.first() else { return Ok(Found::Nobody) };
        let marks = user.pointer(&format!("/attributes/{MARK}")).and_then(Value::as_array);
        let subject = user.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
        Ok(match (marks, subject) {
            (Some(marks), Some(subject)) if marks.iter().any(|known| known == mark) => {
                Found::Ours(CreatedUser { subject: subject.to_owned() })
            }
            (Some(_), _) => Found::Nobody,
            (None, _) => Found::Unproven,
        })
    }

    async fn asked(&self, url: &Url) -> Result<Answer, ProviderError> {
        let token = self.own.current(&self.oidc).await?;
        let answer = self.oidc.http().read(url, Credentials::Bearer(token.expose_secret())).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        let token = self.another(&token).await?;
        self.oidc.http().read(url, Credentials::Bearer(token.expose_secret())).await
    }

    async fn another(&self, refused: &SecretString) -> Result<SecretString, ProviderError> {
        self.own.forget(refused).await;
        self.own.current(&self.oidc).await
    }
}

/// A realm's user profile drops, without a word, an attribute that it neither declares nor lets administrators add.
fn keeps(profile: &Map<String, Value>) -> bool {
    let policy = profile.get("unmanagedAttributePolicy").and_then(Value::as_str);
    let declared = profile.get("attributes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    matches!(policy, Some("ENABLED" | "ADMIN_EDIT"))
        || declared.iter().any(|attribute| attribute.get("name").is_some_and(|name| name == MARK))
}

/// A realm that is not there, or a proxy that knows no such path, answers 404 as well; that proves nothing.
fn is_gone(answer: &Answer) -> bool {
    Oidc::object(answer).is_some_and(|body| body.get("error").is_some_and(|error| error == "User not found"))
}

/// Only members that Keycloak knows: it refuses any other.
fn representation(user: &NewUser, mark: &str) -> Zeroizing<String> {
    let name = |name: &Option<String>| name.as_deref().unwrap_or(NO_NAME).to_owned();
    let mut body = json!({
        "username": user.username,
        "email": user.email.as_str(),
        "emailVerified": false,
        "firstName": name(&user.person.first_name),
        "lastName": name(&user.person.last_name),
        "enabled": true,
        "requiredActions": [],
        "attributes": { MARK: [mark] },
        "credentials": [{ "type": "password", "value": user.password.expose_secret(), "temporary": false }],
    });
    let text = Zeroizing::new(body.to_string());
    if let Some(Value::String(password)) = body.pointer_mut("/credentials/0/value") {
        drop(Zeroizing::new(std::mem::take(password)));
    }
    text
}

fn read_created(answer: &Answer, location: Option<&str>) -> Result<CreatedUser, NotCreated> {
    match answer.status {
        // The host in it may be another one behind a proxy; the id is the last segment.
        201 => {
            let id = location.and_then(|at| at.rsplit('/').next()).filter(|id| !id.is_empty());
            let missing = || NotCreated::Unknown(ProviderError::protocol("provider_error", "no Location"));
            Ok(CreatedUser { subject: id.ok_or_else(missing)?.to_owned() })
        }
        500..=599 | 200..=399 => Err(NotCreated::Unknown(refusal(answer))),
        _ => Err(NotCreated::Refused(refusal(answer))),
    }
}

/// What an answer means that is no success.
fn refusal(answer: &Answer) -> ProviderError {
    let body = Oidc::object(answer).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    match answer.status {
        409 => ProviderError::Taken,
        400 => faults(&body)
            .or_else(|| password_policy(text("error")?, text("error_description")))
            .unwrap_or_else(|| ProviderError::protocol("provider_error", "the directory refuses the user")),
        401 => ProviderError::Misconfigured("the directory refuses our token".to_owned()),
        403 => ProviderError::Misconfigured("the service account lacks the role manage-users".to_owned()),
        404 => ProviderError::Misconfigured("the realm has no such place".to_owned()),
        429 | 500..=599 => ProviderError::Unavailable(format!("status {}", answer.status)),
        status => ProviderError::protocol("provider_error", format!("status {status}")),
    }
}

/// Violations of the user profile: one at the top, or a list. `params` may repeat what was typed and are not looked at.
fn faults(body: &Map<String, Value>) -> Option<ProviderError> {
    let one = [Value::Object(body.clone())];
    let several = body.get("errors").and_then(Value::as_array).map_or(&one[..], Vec::as_slice);
    let found: Vec<FieldFault> = several.iter().filter_map(fault).collect();
    (!found.is_empty()).then_some(ProviderError::Rejected(found))
}

fn fault(violation: &Value) -> Option<FieldFault> {
    let message = violation.get("errorMessage")?.as_str()?;
    let field = violation.get("field").and_then(Value::as_str);
    let field = field.or_else(|| (message == "User name is missing").then_some("username"))?;
    // An attribute of the realm's own is not a field of ours, and its name is foreign text.
    let ours = ["username", "email", "firstName", "lastName"].into_iter().find(|ours| *ours == field)?;
    let (code, detail) = match message {
        m if m.contains("too-long") => ("too_long", "This is too long."),
        m if m.contains("too-short") => ("too_short", "This is too short."),
        m if m.contains("required") || m.contains("missing") => ("required", "This is needed."),
        m if m.contains("length") => ("invalid", "This is too short or too long."),
        m if m.contains("invalid-character") => ("invalid", "Some of these characters are not accepted."),
        _ => ("invalid", "The sign-in service does not accept this."),
    };
    Some(FieldFault::new(ours, code, detail))
}

/// The password policy speaks another dialect: an OAuth error whose code begins with `invalidPassword`.
fn password_policy(error: &str, sentence: Option<&str>) -> Option<ProviderError> {
    if !error.starts_with("invalidPassword") {
        return None;
    }
    let sentence: String =
        sentence.unwrap_or_default().chars().filter(|c| !c.is_control()).take(SENTENCE_MAX).collect();
    let detail = if sentence.is_empty() { "This password is not accepted.".to_owned() } else { sentence };
    Some(ProviderError::PasswordPolicy(vec![FieldFault::new("password", "policy", detail)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, content_type: "application/json".into(), body: body.into(), ..Answer::default() }
    }

    #[test]
    fn a_realm_keeps_marks_when_it_declares_them_or_lets_administrators_add_any() {
        for (profile, kept) in [
            (json!({ "attributes": [{ "name": "email" }] }), false),
            (json!({ "attributes": [], "unmanagedAttributePolicy": "ADMIN_VIEW" }), false),
            (json!({}), false),
            (json!({ "attributes": [], "unmanagedAttributePolicy": "ADMIN_EDIT" }), true),
            (json!({ "attributes": [], "unmanagedAttributePolicy": "ENABLED" }), true),
            (json!({ "attributes": [{ "name": "email" }, { "name": MARK }] }), true),
        ] {
            assert_eq!(keeps(profile.as_object().unwrap()), kept, "{profile}");
        }
    }

    #[test]
    fn keycloaks_answers_mean_what_they_mean() {
        for body in [
            r#"{"errorMessage":"User exists with same email"}"#,
            r#"{"error":"conflict","error_description":"Duplicate resource error"}"#,
        ] {
            let made = read_created(&answer(409, body), None);
            assert!(matches!(made, Err(NotCreated::Refused(ProviderError::Taken))), "{made:?}");
        }
        let two = r#"{"errors":[{"field":"firstName","errorMessage":"error-invalid-length-too-long","params":["firstName",null,255]},{"field":"email","errorMessage":"error-invalid-email","params":["email","secret"]}]}"#;
        let Err(NotCreated::Refused(ProviderError::Rejected(faults))) = read_created(&answer(400, two), None)
        else {
            panic!("not rejected")
        };
        let named: Vec<_> = faults.iter().map(|f| (f.field.as_str(), f.code)).collect();
        assert_eq!(named, [("firstName", "too_long"), ("email", "invalid")]);
        assert!(faults.iter().all(|f| !f.detail.contains("secret")));
        let policy = r#"{"error":"invalidPasswordMinLengthMessage","error_description":"Invalid password: minimum length 8."}"#;
        let made = read_created(&answer(400, policy), None);
        assert!(matches!(made, Err(NotCreated::Refused(ProviderError::PasswordPolicy(_)))), "{made:?}");
        let made = read_created(&answer(403, "{}"), None);
        assert!(matches!(made, Err(NotCreated::Refused(ProviderError::Misconfigured(_)))), "{made:?}");
        for status in [500, 502, 201, 302] {
            let made = read_created(&answer(status, "{}"), None);
            assert!(matches!(made, Err(NotCreated::Unknown(_))), "{status}: {made:?}");
        }
        let made = read_created(&answer(201, ""), Some("https://other.example/admin/realms/r/users/4-5"));
        assert_eq!(made.unwrap().subject, "4-5");
    }
}
