//! `doorward sessions list|revoke|cleanup`. They work beside a running server, which learns of it at once.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Common;
use super::house::{moment, operator, readable, table, with_house};
use crate::domain::{Session, User};
use crate::error::Error;
use crate::flows::{admin, sweep};

#[derive(Subcommand)]
pub enum SessionsCommand {
    /// Who is signed in, the most recently active first.
    List {
        /// Only this user's (users.id).
        #[arg(long, value_name = "ID")]
        user: Option<String>,
    },
    /// Ends sessions; their next request finds nobody signed in.
    Revoke(Which),
    /// Removes now what the timer removes: old attempts, sessions that are long over, audit rows past their time.
    Cleanup,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// One session, by its id.
    // Ids are random base64url, and one in sixty-four begins with a hyphen.
    #[arg(allow_hyphen_values = true)]
    id: Option<String>,
    /// All sessions of a user (users.id).
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Everybody's.
    #[arg(long)]
    all: bool,
}

#[must_use]
pub fn run(common: &Common, command: SessionsCommand) -> ExitCode {
    match command {
        SessionsCommand::List { user } => list(common, user.as_deref()),
        SessionsCommand::Revoke(which) => revoke(common, &which),
        SessionsCommand::Cleanup => cleanup(common),
    }
}

fn list(common: &Common, user: Option<&str>) -> ExitCode {
    with_house(common, async |app| {
        let live = match (admin::sessions(app, user).await, user) {
            (Err(Error::NotFound), Some(id)) => return Err(super::users::unknown(id)),
            (live, _) => live?,
        };
        print(common, &live);
        Ok(())
    })
}

fn print(common: &Common, live: &[(Session, User)]) {
    if common.json {
        let rows: Vec<Value> = live.iter().map(|(session, _)| shown(session)).collect();
        say!("{}", json!({ "sessions": rows }));
        return;
    }
    let rows: Vec<[String; 7]> = live
        .iter()
        .map(|(session, user)| {
            [
                session.id.clone(),
                user.display().to_owned(),
                user.id.clone(),
                session.kind.as_str().to_owned(),
                session.ip.clone().unwrap_or_else(|| "-".to_owned()),
                readable(Some(session.last_active_at_ms)),
                readable(Some(session.expires_at_ms)),
            ]
        })
        .collect();
    table(["SESSION", "NAME", "USER", "KIND", "ADDRESS", "LAST ACTIVE (UTC)", "EXPIRES"], &rows);
}

/// A session for scripts.
pub(super) fn shown(session: &Session) -> Value {
    json!({
        "id": session.id,
        "userId": session.user_id,
        "provider": session.provider,
        "kind": session.kind.as_str(),
        "ip": session.ip,
        "userAgent": session.user_agent,
        "createdAt": moment(session.created_at_ms),
        "lastActiveAt": moment(session.last_active_at_ms),
        "expiresAt": moment(session.expires_at_ms),
    })
}

fn revoke(common: &Common, which: &Which) -> ExitCode {
    with_house(common, async |app| {
        let by = operator();
        let ended = match (&which.id, &which.user) {
            (Some(id), _) => match admin::end_session(app, id, &by).await {
                Err(Error::NotFound) => {
                    anyhow::bail!("no session {id:?} is live; `doorward sessions list` shows all that are")
                }
                ended => ended.map(|()| 1)?,
            },
            (None, Some(id)) => match admin::end_sessions_of_user(app, id, &by).await {
                Err(Error::NotFound) => return Err(super::users::unknown(id)),
                ended => ended?,
            },
            (None, None) => admin::end_all(app, &by).await?,
        };
        if common.json {
            say!("{}", json!({ "ended": ended }));
        } else {
            say!("{ended} {} ended", if ended == 1 { "session" } else { "sessions" });
        }
        Ok(())
    })
}

fn cleanup(common: &Common) -> ExitCode {
    with_house(common, async |app| {
        let swept = sweep::run(app).await?;
        if common.json {
            say!(
                "{}",
                json!({ "attempts": swept.attempts, "sessions": swept.sessions, "auditRows": swept.audit })
            );
        } else {
            say!(
                "removed {} attempts, {} sessions, {} audit rows",
                swept.attempts,
                swept.sessions,
                swept.audit
            );
        }
        Ok(())
    })
}
