//! One attempt in the hands of whoever holds its lease: carried out, completed, or taken back.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::app::App;
use crate::domain::{Change, NewUser, User};
use crate::error::{Error, Result};
use crate::flows::{Visitor, audit, login};
use crate::providers::directory::{CreatedUser, Directory, Found, NotCreated};
use crate::providers::{Provider, ProviderError};
use crate::store::registrations::{self, Registration, State};
use crate::store::users::{self, Outcome, Road};

/// The provider's whole answer to a creation, with the token that it may need first.
const CREATE_PATIENCE: Duration = Duration::from_secs(20);
/// Tries to write what a database in trouble did not take, while the visitor waits.
const WRITES: u32 = 3;
const WRITE_PAUSE: Duration = Duration::from_millis(200);
/// A failed undo waits 1, 2, 4 … seconds, and then a minute each time.
const BACK_OFF_MAX_MS: i64 = 60_000;

pub(super) struct Work<'a> {
    pub app: &'a App,
    pub provider: &'a dyn Provider,
    pub directory: &'a dyn Directory,
    pub row: Registration,
    pub visitor: &'a Visitor,
}

impl Work<'_> {
    /// Creates the user at the provider and then here.
    pub async fn carry_out(&self, user: &NewUser) -> Result<User> {
        match self.create(user).await {
            Ok(created) => self.complete(&created).await,
            Err(NotCreated::Refused(refused)) => {
                let error = Error::from(refused);
                self.settled(State::Failed, error.reason()).await;
                Err(error)
            }
            // It may have happened all the same: only the mark can tell (security.md RG-04).
            Err(NotCreated::Unknown(error)) => {
                if let Ok(Found::Ours(created)) = self.look().await {
                    return self.complete(&created).await;
                }
                self.give_up(None, "unknown").await;
                Err(error.into())
            }
        }
    }

    async fn create(&self, user: &NewUser) -> Result<CreatedUser, NotCreated> {
        let mut outcome =
            Err(NotCreated::Unknown(ProviderError::Unavailable("no answer in time".to_owned())));
        let call = async {
            let call = self.directory.create_user(user, &self.row.id);
            if let Ok(answer) = tokio::time::timeout(CREATE_PATIENCE, call).await {
                outcome = answer;
            }
            match &outcome {
                Ok(_) => Ok(()),
                Err(NotCreated::Refused(error) | NotCreated::Unknown(error)) => {
                    Err(ProviderError::Unavailable(error.outcome().to_owned()))
                }
            }
        };
        // The detail is in the outcome; the measure needs no more than that it failed.
        let _ = login::timed(self.app, self.provider, "create_user", call).await;
        outcome
    }

    pub async fn look(&self) -> Result<Found, ProviderError> {
        let call = self.directory.find_by_mark(&self.row.id, &self.row.username);
        login::timed(self.app, self.provider, "find_user", call).await
    }

    /// Our side of it: user, intent and audit in one transaction; when that cannot be, the provider's side goes too.
    pub async fn complete(&self, created: &CreatedUser) -> Result<User> {
        let mut last = Error::Internal(String::new());
        for attempt in 0..WRITES {
            if attempt > 0 {
                tokio::time::sleep(WRITE_PAUSE).await;
            }
            match self.write(created).await {
                Ok(Some(user)) => return Ok(user),
                Ok(None) => return self.not_ours(created).await,
                // Whether a commit without an answer happened is unknown as well: the next look at the row tells.
                Err(error @ (Error::DatabaseDown(_) | Error::Interrupted(_))) => last = error,
                Err(error) => {
                    tracing::warn!(registration = self.row.id, %error, "the user cannot be written here; undoing");
                    self.give_up(Some(created), error.reason()).await;
                    return Err(error);
                }
            }
        }
        // The intent stays open: when the database is back, it is finished without us.
        Err(last)
    }

    /// `None` when the attempt is no longer ours to finish.
    async fn write(&self, created: &CreatedUser) -> Result<Option<User>> {
        let now_ms = self.app.now_ms();
        let row = &self.row;
        // Known from here on even where the provider keeps no marks.
        if !registrations::created(&mut self.app.store.single().await?, row, &created.subject, now_ms).await?
        {
            return Ok(None);
        }
        let mut writer = self.app.store.writer().await?;
        let applied = users::apply(&mut writer, &self.change(created), Road::Sync, now_ms).await?;
        let mut user = applied.user;
        if let Some(app_data) = with_attributes(&user.app_data, &row.person.attributes) {
            users::set_app_data(&mut writer, &user.id, &app_data).await?;
            user.app_data = app_data;
        }
        if !registrations::finish(&mut writer, row, (&created.subject, &user.id), now_ms).await? {
            return Ok(None);
        }
        let news = [
            (true, "registration"),
            (applied.outcome == Outcome::Created, "user.created"),
            (applied.email_shared, "user.email_shared"),
        ];
        for (_, event) in news.into_iter().filter(|(happened, _)| *happened) {
            let deed = audit::Deed {
                event,
                provider: Some(&row.provider),
                user_id: Some(&user.id),
                session_id: None,
            };
            audit::deed(self.app, &mut writer, &deed, self.visitor).await?;
        }
        writer.commit().await?;
        Ok(Some(user))
    }

    fn change(&self, created: &CreatedUser) -> Change {
        let config = self.provider.config();
        Change {
            provider: config.id.clone(),
            issuer: config.issuer.clone(),
            former_issuers: config.former_issuers.clone(),
            subject: created.subject.clone(),
            id_prefix: config.id_prefix.clone(),
            profile: self.row.person.profile(&self.row.username, &self.row.email),
            roles: Vec::new(),
            groups: Vec::new(),
            is_active: None,
            default_roles: config.default_roles.clone(),
            provider_updated_at_ms: None,
            // What was typed here is older than anything that the provider will ever say, whatever its clock shows.
            observed_at_ms: self.row.created_at_ms.saturating_sub(config.clock_skew_ms),
        }
    }

    /// Somebody else took the attempt over while we slept. If they finished it, it is finished; if they saw nobody and closed it, our
    /// creation came too late and must go.
    async fn not_ours(&self, created: &CreatedUser) -> Result<User> {
        let mut reader = self.app.store.reader().await?;
        let now = registrations::find(&mut reader, &self.row.id).await?;
        match now.as_ref().map(|row| (row.state, row.user_id.as_deref())) {
            Some((State::Finished, Some(id))) => users::find(&mut reader, id).await?.ok_or(Error::NotFound),
            Some((State::Undone | State::Failed, _)) | None => {
                drop(reader);
                self.delete(created).await?;
                Err(Error::Overloaded("the registration took too long and was undone"))
            }
            Some(_) => Err(Error::Overloaded("the registration is still under way")),
        }
    }

    /// From now on the attempt is taken back, at once where the provider lets us, else by [`super::resume`].
    pub async fn give_up(&self, created: Option<&CreatedUser>, reason: &'static str) {
        let noted = async {
            let subject = created.map(|created| created.subject.as_str());
            let mut single = self.app.store.single().await?;
            registrations::undo(&mut single, &self.row, subject, reason, self.app.now_ms()).await
        };
        match noted.await {
            Ok(true) => {}
            // Not ours any more, or not to be written now: the row says what is to be done, to whoever takes it up.
            Ok(false) => return,
            Err(error) => {
                return tracing::warn!(registration = self.row.id, %error, "an undo could not be noted");
            }
        }
        match created {
            Some(created) => self.take_back(created).await,
            None => self.postpone(0, self.back_off_ms()).await,
        }
    }

    /// Removes the user whom this attempt created; a provider that refuses is asked again later.
    pub async fn take_back(&self, created: &CreatedUser) {
        match self.delete(created).await {
            Ok(()) => self.settled(State::Undone, "rolled_back").await,
            Err(error) => {
                tracing::warn!(
                    registration = self.row.id,
                    provider = self.row.provider,
                    attempts = self.row.attempts,
                    %error,
                    "a user at the provider could not be taken back yet"
                );
                self.postpone(0, self.back_off_ms()).await;
            }
        }
    }

    async fn delete(&self, created: &CreatedUser) -> Result<(), ProviderError> {
        let call = self.directory.delete_user(&created.subject);
        login::timed(self.app, self.provider, "delete_user", call).await
    }

    pub fn back_off_ms(&self) -> i64 {
        let doublings = u32::try_from(self.row.attempts.clamp(1, 10)).unwrap_or(1) - 1;
        (1_000_i64 << doublings).min(BACK_OFF_MAX_MS)
    }

    /// Leaves the attempt alone for a while.
    pub async fn postpone(&self, absences: i64, by_ms: i64) {
        let next_ms = self.app.now_ms().saturating_add(by_ms);
        let written = async {
            let mut single = self.app.store.single().await?;
            registrations::postpone(&mut single, &self.row, absences, next_ms).await
        };
        if let Err(error) = written.await {
            // Then its lease has to run out first.
            tracing::warn!(registration = self.row.id, %error, "a registration could not be postponed");
        }
    }

    /// Closes the attempt with nothing left of it. A database that cannot take it leaves the attempt to [`super::resume`].
    pub async fn settled(&self, state: State, reason: &'static str) {
        let written = async {
            let mut writer = self.app.store.writer().await?;
            let own = registrations::close(&mut writer, &self.row, state, reason, self.app.now_ms()).await?;
            if own && state == State::Undone {
                let deed = audit::Deed {
                    event: "registration.rolled_back",
                    provider: Some(&self.row.provider),
                    user_id: None,
                    session_id: None,
                };
                audit::deed(self.app, &mut writer, &deed, self.visitor).await?;
            }
            writer.commit().await?;
            Ok::<_, Error>(own)
        };
        match written.await {
            Ok(true) if state == State::Undone => {
                self.app.metrics.registration(&self.row.provider, "rolled_back");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(registration = self.row.id, %error, "a registration could not be closed");
            }
        }
    }
}

/// The app's data with what was said at registration; `None` when nothing has to be written.
fn with_attributes(app_data: &str, attributes: &Map<String, Value>) -> Option<String> {
    if attributes.is_empty() {
        return None;
    }
    let mut data: Map<String, Value> = serde_json::from_str(app_data).unwrap_or_default();
    data.insert("registration".to_owned(), Value::Object(attributes.clone()));
    Some(Value::Object(data).to_string())
}
