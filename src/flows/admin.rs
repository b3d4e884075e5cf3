//! What whoever runs this door does to its users and sessions: by API key, as a person with the role, or at the command line.

use super::Visitor;
use super::again::again;
use super::audit::{self, AdminDeed};
use super::session::Guest;
use crate::app::App;
use crate::domain::{Session, Status, User};
use crate::error::{Error, Result};
use crate::store::{sessions, users};

/// The effective role of people who may administer.
const ROLE: &str = "admin";
/// Users a search shows.
pub const USERS_MAX: u32 = 200;
/// Users whose sessions end in one transaction: a login must not wait long for the writer.
const BATCH: u32 = 100;

/// Who administers, as the audit log names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A program, by the public id of its key.
    Key {
        id: String,
    },
    Person {
        user_id: String,
    },
    /// Whoever may read this door's secrets; the system's name of the account, as far as it is known.
    CommandLine {
        account: String,
    },
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key { id } => write!(f, "apikey:{id}"),
            Self::Person { user_id } => write!(f, "user:{user_id}"),
            Self::CommandLine { account } => write!(f, "cli:{account}"),
        }
    }
}

/// An administrator at work.
#[derive(Debug, Clone)]
pub struct Administrator {
    pub actor: Actor,
    pub visitor: Visitor,
}

fn deed<'a>(event: &'static str, user_id: Option<&'a str>, by: &'a str) -> AdminDeed<'a> {
    AdminDeed { event, user_id, session_id: None, by, fact: None }
}

/// Lets a signed-in person administer, if they have the role.
///
/// # Errors
/// [`Error::NotAllowed`], which is recorded.
pub async fn person(app: &App, guest: &Guest, visitor: &Visitor) -> Result<Actor> {
    if guest.user.effective_roles().iter().any(|role| role == ROLE) {
        return Ok(Actor::Person { user_id: guest.user.id.clone() });
    }
    let provider = Some(guest.user.provider.as_str());
    audit::refusal(app, &audit::Refusal { event: "admin.refused", reason: "not_allowed", provider }, visitor)
        .await;
    Err(Error::NotAllowed)
}

/// Live sessions with their users, of everybody or of one.
///
/// # Errors
/// [`Error::NotFound`] for a user who is not there, or the database's.
pub async fn sessions(app: &App, user_id: Option<&str>) -> Result<Vec<(Session, User)>> {
    let idle_ms = app.setup().config.session.idle_ms;
    let mut reader = app.store.reader().await?;
    if let Some(id) = user_id {
        users::find(&mut reader, id).await?.ok_or(Error::NotFound)?;
    }
    Ok(sessions::list_live(&mut reader, user_id, app.now_ms(), idle_ms).await?)
}

/// Users whose names or addresses hold this text, the newest first, at most [`USERS_MAX`].
///
/// # Errors
/// The database's.
pub async fn users(app: &App, text: &str) -> Result<Vec<User>> {
    let mut reader = app.store.reader().await?;
    Ok(users::search(&mut reader, text, USERS_MAX).await?)
}

/// One user and their live sessions.
///
/// # Errors
/// [`Error::NotFound`], or the database's.
pub async fn user(app: &App, id: &str) -> Result<(User, Vec<Session>)> {
    let idle_ms = app.setup().config.session.idle_ms;
    let mut reader = app.store.reader().await?;
    let user = users::find(&mut reader, id).await?.ok_or(Error::NotFound)?;
    let live = sessions::list_live_of_user(&mut reader, id, app.now_ms(), idle_ms).await?;
    Ok((user, live))
}

/// Ends one session.
///
/// # Errors
/// [`Error::NotFound`] for one that is unknown or ended before, or the database's.
pub async fn end_session(app: &App, id: &str, by: &Administrator) -> Result<()> {
    let who = by.actor.to_string();
    again(app, async || {
        let mut writer = app.store.writer().await?;
        let session = sessions::find(&mut writer, id).await?.ok_or(Error::NotFound)?;
        if !sessions::end(&mut writer, id, app.now_ms()).await? {
            return Err(Error::NotFound);
        }
        let mut done = deed("admin.session_ended", Some(&session.user_id), &who);
        done.session_id = Some(id);
        audit::admin(app, &mut writer, &done, &by.visitor).await?;
        Ok(writer.commit().await?)
    })
    .await?;
    count(app, 1);
    Ok(())
}

/// Ends all sessions of a user; returns how many.
///
/// # Errors
/// [`Error::NotFound`] for a user who is not there, or the database's.
pub async fn end_sessions_of_user(app: &App, user_id: &str, by: &Administrator) -> Result<usize> {
    let who = by.actor.to_string();
    let ended = again(app, async || {
        let mut writer = app.store.writer().await?;
        users::find(&mut writer, user_id).await?.ok_or(Error::NotFound)?;
        let ended = sessions::end_of_user(&mut writer, user_id, None, app.now_ms()).await?;
        let mut done = deed("admin.sessions_ended", Some(user_id), &who);
        done.fact = Some(("count", ended.len().into()));
        audit::admin(app, &mut writer, &done, &by.visitor).await?;
        writer.commit().await?;
        Ok(ended.len())
    })
    .await?;
    count(app, ended);
    Ok(ended)
}

/// Ends every session of everybody; returns how many. Who signs in meanwhile may keep theirs.
///
/// # Errors
/// The database's; what was ended before stays ended.
pub async fn end_all(app: &App, by: &Administrator) -> Result<usize> {
    let who = by.actor.to_string();
    let mut ended = 0;
    loop {
        let batch = again(app, async || {
            let mut writer = app.store.writer().await?;
            let mut ended = 0;
            let users = sessions::users_with_sessions(&mut writer, BATCH).await?;
            for user in &users {
                ended += sessions::end_of_user(&mut writer, user, None, app.now_ms()).await?.len();
            }
            if ended > 0 {
                let mut done = deed("admin.sessions_ended", None, &who);
                done.fact = Some(("count", ended.into()));
                audit::admin(app, &mut writer, &done, &by.visitor).await?;
            }
            writer.commit().await?;
            Ok(ended)
        })
        .await?;
        count(app, batch);
        ended += batch;
        if batch == 0 {
            return Ok(ended);
        }
    }
}

/// The operator's word on a user. Suspending ends all their sessions in the same transaction; returns how many.
///
/// # Errors
/// [`Error::NotFound`], or the database's.
pub async fn set_status(app: &App, user_id: &str, status: Status, by: &Administrator) -> Result<usize> {
    let who = by.actor.to_string();
    let event = if status == Status::Suspended { "admin.user_suspended" } else { "admin.user_restored" };
    let ended = again(app, async || {
        let mut writer = app.store.writer().await?;
        let ended = users::set_status(&mut writer, user_id, status, app.now_ms()).await?;
        let ended = ended.ok_or(Error::NotFound)?.len();
        let mut done = deed(event, Some(user_id), &who);
        done.fact = Some(("count", ended.into()));
        audit::admin(app, &mut writer, &done, &by.visitor).await?;
        writer.commit().await?;
        Ok(ended)
    })
    .await?;
    count(app, ended);
    Ok(ended)
}

fn count(app: &App, ended: usize) {
    app.metrics.session_ended("admin", ended as u64);
    app.metrics.logout("admin", "ok");
}
