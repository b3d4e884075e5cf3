//! Somebody gets an account: at the provider and here, or at neither, whatever dies when.
//!
//! The order: everything asked is checked; a durable intent is committed; the provider creates the user under the intent's mark; one
//! transaction writes our user and finishes the intent. What cannot be finished is undone, but only a user whom this very attempt created
//! (security.md RG-03). [`resume`] takes up what a dead process or a silent provider left behind.

mod marks;
mod resume;
mod work;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

pub use self::marks::{UNMARKED, check_marks};
pub use self::resume::{Resumed, resume};
use self::work::Work;
use super::{Visitor, audit};
use crate::app::{App, Setup};
use crate::domain::{FieldFault, NewUser, RegistrationRules, User, address, clock};
use crate::error::{Error, Result};
use crate::providers::Provider;
use crate::store::registrations::{self, Registration, State};
use crate::store::users;

/// Until when nobody else touches an attempt: longer than all its calls together may take.
const LEASE_MS: i64 = 45_000;
/// How long a repeated request waits for the answer of the first one.
const REPEAT_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// With `hide_existing` every answer leaves on a full step, so that the clock tells no more than the words do.
const HIDING_STEP: Duration = Duration::from_secs(1);
const KEY_MAX: usize = 255;

/// A registration as it arrived.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The members of a JSON object, or the fields of a form.
    pub fields: Map<String, Value>,
    /// The client's `Idempotency-Key`.
    pub key: Option<&'a str>,
    pub visitor: &'a Visitor,
}

/// How a registration ended well.
#[derive(Debug)]
pub enum Registered {
    /// Complete on both sides, by this request or by an earlier one with the same key.
    Complete(Box<User>),
    /// With `hide_existing`: it is not told whether there was anything to create.
    Hidden,
}

/// Where people may register: id and label, in the order of the configuration.
#[must_use]
pub fn offered(setup: &Setup) -> Vec<(String, String)> {
    offering(setup).map(|p| (p.config().id.clone(), p.config().label.clone())).collect()
}

fn offering(setup: &Setup) -> impl Iterator<Item = &Arc<dyn Provider>> {
    setup.providers().iter().filter(|p| p.config().registration && p.directory().is_some())
}

/// Registers somebody.
///
/// # Errors
/// Faults of fields, all at once; a name or address that is taken; a provider or database that does not answer. Nothing stays half done.
pub async fn register(app: &App, asked: Asked<'_>) -> Result<Registered> {
    let setup = app.setup();
    let began = Instant::now();
    let Asked { fields, key, visitor } = asked;
    let (provider, user, key) = match check(&setup, fields, key) {
        Ok(checked) => checked,
        Err(error) => {
            refused(app, None, &error, visitor).await;
            return Err(error);
        }
    };
    let id = &provider.config().id;
    let done = attempt(app, &setup, provider.as_ref(), &user, (key, visitor)).await;
    match &done {
        Ok(_) => app.metrics.registration(id, "ok"),
        Err(error) => refused(app, Some(id), error, visitor).await,
    }
    if setup.config.registration.hide_existing {
        return hide(done, began).await;
    }
    done.map(|user| Registered::Complete(Box::new(user)))
}

async fn refused(app: &App, provider: Option<&str>, error: &Error, visitor: &Visitor) {
    app.metrics.registration(provider.unwrap_or_default(), error.reason());
    tracing::info!(provider, reason = error.reason(), %error, "registration refused");
    let refusal = audit::Refusal { event: "registration.failed", reason: error.reason(), provider };
    audit::refusal(app, &refusal, visitor).await;
}

type Checked<'s, 'k> = (&'s Arc<dyn Provider>, NewUser, Option<&'k str>);

/// All that can be said of a request without asking anybody.
fn check<'s, 'k>(
    setup: &'s Setup,
    fields: Map<String, Value>,
    key: Option<&'k str>,
) -> Result<Checked<'s, 'k>> {
    let offering: Vec<_> = offering(setup).collect();
    let named = fields.get("provider").and_then(Value::as_str).filter(|id| !id.is_empty());
    let chosen = match (named, offering.as_slice()) {
        (_, []) => return Err(Error::NotOffered),
        (Some(id), all) => Some(*all.iter().find(|p| p.config().id == id).ok_or(Error::NotOffered)?),
        (None, [only]) => Some(*only),
        (None, _) => None,
    };
    let rules = RegistrationRules {
        attributes: &setup.config.registration.attributes,
        names_provider: chosen.is_none(),
    };
    let parsed = NewUser::parse(fields, rules);
    let bad_key = key.is_some_and(|key| {
        !(1..=KEY_MAX).contains(&key.len()) || !key.bytes().all(|b| (0x20..0x7f).contains(&b))
    });
    match (parsed, chosen, bad_key) {
        (Ok(user), Some(provider), false) => Ok((provider, user, key)),
        (parsed, _, bad_key) => {
            let mut faults = parsed.err().unwrap_or_default();
            faults.extend(bad_key.then(|| key_fault("invalid", "A key has 1 to 255 visible characters.")));
            Err(Error::InvalidFields(faults))
        }
    }
}

fn key_fault(code: &'static str, detail: &str) -> FieldFault {
    FieldFault::new("Idempotency-Key", code, detail)
}

async fn attempt(
    app: &App,
    setup: &Setup,
    provider: &dyn Provider,
    user: &NewUser,
    (key, visitor): (Option<&str>, &Visitor),
) -> Result<User> {
    let directory = provider.directory().ok_or(Error::NotOffered)?;
    let new = intent(app, provider, user, (key, visitor));
    let row = match begin(app, setup, new).await? {
        Begun::Answered(user) => return Ok(*user),
        Begun::New(row) => *row,
    };
    Work { app, provider, directory, row, visitor }.carry_out(user).await
}

fn intent(
    app: &App,
    provider: &dyn Provider,
    user: &NewUser,
    (key, visitor): (Option<&str>, &Visitor),
) -> Registration {
    let now_ms = app.now_ms();
    Registration {
        id: clock::token_128(&*app.random),
        idempotency_hash: key.map(|key| Sha256::digest(key).to_vec()),
        fingerprint: key.map(|key| user.fingerprint(key)),
        provider: provider.config().id.clone(),
        issuer: provider.config().issuer.clone(),
        username: user.username.clone(),
        email: user.email.as_str().to_owned(),
        person: user.person.clone(),
        state: State::Pending,
        subject: None,
        user_id: None,
        owner: clock::token_128(&*app.random),
        next_try_at_ms: now_ms.saturating_add(LEASE_MS),
        attempts: 1,
        absences: 0,
        network: address::network(visitor.address.as_deref().unwrap_or_default()),
        created_at_ms: now_ms,
    }
}

enum Begun {
    /// Committed: from here on a crash leaves something to resume.
    New(Box<Registration>),
    /// An earlier request with the same key has done it.
    Answered(Box<User>),
}

/// Commits the intent, or waits for the answer that an earlier request with the same key is about to get.
async fn begin(app: &App, setup: &Setup, new: Registration) -> Result<Begun> {
    let give_up = Instant::now() + REPEAT_PATIENCE;
    loop {
        let earlier = match &new.idempotency_hash {
            Some(hash) => registrations::find_by_key(&mut app.store.reader().await?, hash).await?,
            None => None,
        };
        let Some(earlier) = earlier else {
            limit(app, setup, &new.network).await?;
            if registrations::insert(&mut app.store.single().await?, &new).await? {
                return Ok(Begun::New(Box::new(new)));
            }
            // A request with the same key was faster by a moment.
            continue;
        };
        if earlier.fingerprint != new.fingerprint {
            let fault = key_fault("reused", "This key came with another registration before.");
            return Err(Error::InvalidFields(vec![fault]));
        }
        if let (State::Finished, Some(id)) = (earlier.state, &earlier.user_id) {
            let user = users::find(&mut app.store.reader().await?, id).await?;
            return user.map(|user| Begun::Answered(Box::new(user))).ok_or(Error::NotFound);
        }
        if Instant::now() >= give_up {
            return Err(Error::Overloaded("an earlier request with this key is still under way"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Attempts per network, counted in the database and so for all replicas together, before anything is written (security.md RG-01, RG-09).
async fn limit(app: &App, setup: &Setup, network: &str) -> Result<()> {
    let Some(rate) = setup.config.limits.register else { return Ok(()) };
    let now_ms = app.now_ms();
    let since_ms = now_ms.saturating_sub(rate.window_ms);
    let (count, first_ms) =
        registrations::count_from(&mut app.store.reader().await?, network, since_ms).await?;
    if count < i64::from(rate.count) {
        return Ok(());
    }
    let free_at_ms = first_ms.unwrap_or(now_ms).saturating_add(rate.window_ms);
    let wait_s = free_at_ms.saturating_sub(now_ms).div_euclid(1000).saturating_add(1);
    Err(Error::TooMany { retry_after_s: u32::try_from(wait_s).unwrap_or(1) })
}

/// Makes one answer of all that depend on who exists already. The provider's word on the password is among them: it is given only after the
/// name was found free, and would tell that it was.
async fn hide(done: Result<User>, began: Instant) -> Result<Registered> {
    let steps = began.elapsed().as_millis() / HIDING_STEP.as_millis() + 1;
    tokio::time::sleep_until(began + HIDING_STEP * u32::try_from(steps).unwrap_or(1)).await;
    match done {
        Ok(_) | Err(Error::Taken | Error::InvalidFields(_) | Error::PasswordPolicy(_)) => {
            Ok(Registered::Hidden)
        }
        Err(error) => Err(error),
    }
}
