//! `doorward users list|show|suspend`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Common;
use super::house::{moment, operator, readable, table, with_house};
use super::sessions;
use crate::domain::{Session, Status, User};
use crate::error::Error;
use crate::flows::admin;

#[derive(Subcommand)]
pub enum UsersCommand {
    /// Users, the newest first.
    List {
        /// A part of the id, usertag, e-mail, username or name.
        #[arg(long, value_name = "TEXT", default_value = "")]
        search: String,
    },
    /// One user and their live sessions.
    Show {
        /// users.id
        id: String,
    },
    /// Keeps a user out and ends all their sessions, whatever the provider says of them.
    Suspend {
        /// users.id
        id: String,
        /// Lets them in again.
        #[arg(long)]
        undo: bool,
    },
}

#[must_use]
pub fn run(common: &Common, command: UsersCommand) -> ExitCode {
    match command {
        UsersCommand::List { search } => list(common, &search),
        UsersCommand::Show { id } => show(common, &id),
        UsersCommand::Suspend { id, undo } => suspend(common, &id, undo),
    }
}

/// The one sentence for an id that nobody has.
pub(super) fn unknown(id: &str) -> anyhow::Error {
    anyhow::anyhow!("there is no user {id:?}; `doorward users list --search …` finds them by name or e-mail")
}

/// Whether the person may come in, in a word.
fn standing(user: &User) -> &'static str {
    match (user.deleted_at_ms, user.is_active, user.status) {
        (Some(_), ..) => "deleted",
        (None, false, _) => "disabled",
        (None, true, Status::Suspended) => "suspended",
        (None, true, Status::Active) if !user.has_app_access => "no access",
        (None, true, Status::Active) => "active",
    }
}

fn shown(user: &User) -> Value {
    let profile = &user.profile;
    json!({
        "id": user.id,
        "provider": user.provider,
        "subject": user.subject,
        "email": profile.email.as_ref().map(crate::domain::Email::as_str),
        "emailVerified": profile.email_verified,
        "username": profile.username,
        "displayName": profile.display_name,
        "usertag": user.usertag,
        "tenantId": profile.tenant_id,
        "roles": user.effective_roles(),
        "groups": user.groups,
        "isActive": user.is_active,
        "status": user.status.as_str(),
        "hasAppAccess": user.has_app_access,
        "createdAt": moment(user.created_at_ms),
        "lastLoginAt": user.last_login_at_ms.map(moment),
        "loginCount": user.login_count,
        "deletedAt": user.deleted_at_ms.map(moment),
    })
}

fn list(common: &Common, search: &str) -> ExitCode {
    with_house(common, async |app| {
        let users = admin::users(app, search).await?;
        if common.json {
            let rows: Vec<Value> = users.iter().map(shown).collect();
            say!("{}", json!({ "users": rows }));
            return Ok(());
        }
        let rows: Vec<[String; 6]> = users
            .iter()
            .map(|user| {
                [
                    user.id.clone(),
                    standing(user).to_owned(),
                    user.display().to_owned(),
                    email(user),
                    user.provider.clone(),
                    readable(user.last_login_at_ms),
                ]
            })
            .collect();
        table(["USER", "STATE", "NAME", "E-MAIL", "PROVIDER", "LAST LOGIN (UTC)"], &rows);
        if users.len() >= admin::USERS_MAX as usize {
            eprintln!("These are the newest {}; narrow them with --search.", admin::USERS_MAX);
        }
        Ok(())
    })
}

fn email(user: &User) -> String {
    user.profile.email.as_ref().map_or_else(|| "-".to_owned(), |email| email.as_str().to_owned())
}

fn show(common: &Common, id: &str) -> ExitCode {
    with_house(common, async |app| {
        let (user, live) = match admin::user(app, id).await {
            Err(Error::NotFound) => return Err(unknown(id)),
            found => found?,
        };
        if common.json {
            let rows: Vec<Value> = live.iter().map(sessions::shown).collect();
            say!("{}", json!({ "user": shown(&user), "sessions": rows }));
        } else {
            print(&user, &live);
        }
        Ok(())
    })
}

fn print(user: &User, live: &[Session]) {
    let facts = [
        ("id", user.id.clone()),
        ("state", standing(user).to_owned()),
        ("name", user.display().to_owned()),
        ("e-mail", email(user)),
        ("usertag", user.usertag.clone()),
        ("provider", user.provider.clone()),
        ("roles", user.effective_roles().join(", ")),
        ("groups", user.groups.join(", ")),
        ("created", readable(Some(user.created_at_ms))),
        ("last login", format!("{} ({} in all)", readable(user.last_login_at_ms), user.login_count)),
    ];
    let rows: Vec<[String; 2]> = facts.into_iter().map(|(name, fact)| [name.to_owned(), fact]).collect();
    table(["USER", ""], &rows);
    say!("");
    let rows: Vec<[String; 4]> = live
        .iter()
        .map(|session| {
            [
                session.id.clone(),
                session.kind.as_str().to_owned(),
                session.ip.clone().unwrap_or_else(|| "-".to_owned()),
                readable(Some(session.last_active_at_ms)),
            ]
        })
        .collect();
    table(["SESSION", "KIND", "ADDRESS", "LAST ACTIVE (UTC)"], &rows);
}

fn suspend(common: &Common, id: &str, undo: bool) -> ExitCode {
    with_house(common, async |app| {
        let status = if undo { Status::Active } else { Status::Suspended };
        let ended = match admin::set_status(app, id, status, &operator()).await {
            Err(Error::NotFound) => return Err(unknown(id)),
            ended => ended?,
        };
        if common.json {
            say!("{}", json!({ "id": id, "status": status.as_str(), "ended": ended }));
        } else if undo {
            say!("{id} may sign in again");
        } else {
            say!("{id} is suspended; {ended} {} ended", if ended == 1 { "session" } else { "sessions" });
        }
        Ok(())
    })
}
