//! The development issuer's people, by its small directory over HTTP like everything else of it.

use async_trait::async_trait;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use url::Url;

use super::ProviderError;
use super::dev::Dev;
use super::directory::{CreatedUser, Directory, Found, NotCreated};
use super::http::{Answer, Credentials};
use super::oidc::Oidc;
use crate::domain::{FieldFault, NewUser};

#[async_trait]
impl Directory for Dev {
    async fn create_user(&self, user: &NewUser, mark: &str) -> Result<CreatedUser, NotCreated> {
        let url = self.users(None).map_err(NotCreated::Refused)?;
        let body = json!({
            "username": user.username,
            "email": user.email.as_str(),
            "given_name": user.person.first_name,
            "family_name": user.person.last_name,
            "password": user.password.expose_secret(),
            "mark": mark,
        });
        let sent = self.0.http().post_json(&url, self.credentials(), body.to_string().into_bytes()).await;
        let (answer, _) = sent.map_err(NotCreated::Unknown)?;
        match answer.status {
            201 => subject(&answer).ok_or_else(|| {
                NotCreated::Unknown(ProviderError::protocol("provider_error", "the new user has no id"))
            }),
            500..=599 => Err(NotCreated::Unknown(refusal(&answer))),
            _ => Err(NotCreated::Refused(refusal(&answer))),
        }
    }

    async fn find_by_mark(&self, mark: &str, _username: &str) -> Result<Found, ProviderError> {
        let mut url = self.users(None)?;
        url.query_pairs_mut().append_pair("mark", mark);
        let answer = self.0.http().read(&url, self.credentials()).await?;
        match answer.status {
            200 => subject(&answer)
                .map(Found::Ours)
                .ok_or_else(|| ProviderError::protocol("provider_error", "the found user has no id")),
            404 => Ok(Found::Nobody),
            _ => Err(refusal(&answer)),
        }
    }

    async fn delete_user(&self, subject: &str) -> Result<(), ProviderError> {
        let url = self.users(Some(subject))?;
        let answer = self.0.http().delete(&url, self.credentials()).await?;
        match answer.status {
            200..=299 | 404 => Ok(()),
            _ => Err(refusal(&answer)),
        }
    }
}

impl Dev {
    fn users(&self, subject: Option<&str>) -> Result<Url, ProviderError> {
        let odd = || ProviderError::Misconfigured("the issuer is no address".to_owned());
        let mut url = Url::parse(&self.0.config().issuer).map_err(|_| odd())?;
        let mut path = url.path_segments_mut().map_err(|()| odd())?;
        path.pop_if_empty().extend(["directory", "users"]).extend(subject);
        drop(path);
        Ok(url)
    }

    /// The issuer knows no secrets; the header alone keeps pages of other sites out, whose scripts may not send it.
    fn credentials(&self) -> Credentials<'_> {
        let config = self.0.config();
        let secret = config.client_secret.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
        Credentials::Basic(&config.client_id, secret)
    }
}

fn subject(answer: &Answer) -> Option<CreatedUser> {
    let body = Oidc::object(answer)?;
    Some(CreatedUser { subject: body.get("id")?.as_str()?.to_owned() })
}

fn refusal(answer: &Answer) -> ProviderError {
    let body = Oidc::object(answer).unwrap_or_default();
    match (answer.status, body.get("error").and_then(Value::as_str)) {
        (409, _) => ProviderError::Taken,
        (400, Some("password_policy")) => {
            let detail = "At least 8 characters, and not the user name.";
            ProviderError::PasswordPolicy(vec![FieldFault::new("password", "policy", detail)])
        }
        (400, Some("invalid_username")) => {
            let detail = "The sign-in service does not accept this user name.";
            ProviderError::Rejected(vec![FieldFault::new("username", "invalid", detail)])
        }
        (429 | 500..=599, _) => ProviderError::Unavailable(format!("status {}", answer.status)),
        (401 | 403, _) => ProviderError::Misconfigured("the directory refuses this client".to_owned()),
        (status, _) => ProviderError::protocol("provider_error", format!("status {status}")),
    }
}
