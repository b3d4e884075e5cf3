//! `doorward apikey create|list|revoke`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Common;
use super::house::{moment, operator, readable, table, with_house};
use crate::config;
use crate::domain::KnownKey;
use crate::error::Error;
use crate::flows::api_keys;

#[derive(Subcommand)]
pub enum ApiKeyCommand {
    /// Makes a key for the admin API and prints it, this once.
    Create {
        /// What the key is for, as lists and the audit log show it.
        #[arg(long)]
        name: String,
        /// How long it counts, such as 90d; without it until it is revoked.
        #[arg(long, value_name = "DURATION", value_parser = life_ms)]
        expires: Option<i64>,
    },
    /// Every key: its id, who made it, when it was last used, and whether it still counts.
    List,
    /// Ends a key for good; its next use is refused.
    Revoke {
        /// The twelve digits after `dw_`.
        id: String,
    },
}

fn life_ms(text: &str) -> Result<i64, String> {
    let life_ms = config::duration_ms(text).filter(|ms| *ms > 0);
    life_ms.ok_or_else(|| config::DURATION_ADVICE.to_owned())
}

#[must_use]
pub fn run(common: &Common, command: ApiKeyCommand) -> ExitCode {
    match command {
        ApiKeyCommand::Create { name, expires } => create(common, &name, expires),
        ApiKeyCommand::List => list(common),
        ApiKeyCommand::Revoke { id } => revoke(common, &id),
    }
}

fn create(common: &Common, name: &str, life_ms: Option<i64>) -> ExitCode {
    with_house(common, async |app| {
        let made = api_keys::create(app, name, life_ms, &operator()).await?;
        if common.json {
            let mut row = shown(&made.known, app.now_ms());
            if let Some(members) = row.as_object_mut() {
                members.insert("key".to_owned(), made.key.expose().into());
            }
            say!("{row}");
        } else {
            say!("{}", made.key.expose());
            eprintln!("Keep it now: it is shown this once. Send it as \"Authorization: Bearer …\".");
        }
        Ok(())
    })
}

fn list(common: &Common) -> ExitCode {
    with_house(common, async |app| {
        let now_ms = app.now_ms();
        let keys = api_keys::list(app).await?;
        if common.json {
            let rows: Vec<Value> = keys.iter().map(|key| shown(key, now_ms)).collect();
            say!("{}", json!({ "apiKeys": rows }));
            return Ok(());
        }
        let rows: Vec<[String; 7]> = keys
            .iter()
            .map(|key| {
                [
                    key.id.clone(),
                    key.standing(now_ms).as_str().to_owned(),
                    key.name.clone(),
                    readable(Some(key.created_at_ms)),
                    key.created_by.clone(),
                    readable(key.expires_at_ms),
                    readable(key.last_used_at_ms),
                ]
            })
            .collect();
        table(["ID", "STATE", "NAME", "CREATED (UTC)", "BY", "EXPIRES", "LAST USED"], &rows);
        Ok(())
    })
}

fn shown(key: &KnownKey, now_ms: i64) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "state": key.standing(now_ms).as_str(),
        "createdAt": moment(key.created_at_ms),
        "createdBy": key.created_by,
        "expiresAt": key.expires_at_ms.map(moment),
        "lastUsedAt": key.last_used_at_ms.map(moment),
        "revokedAt": key.revoked_at_ms.map(moment),
    })
}

fn revoke(common: &Common, id: &str) -> ExitCode {
    with_house(common, async |app| {
        let revoked = match api_keys::revoke(app, id, &operator()).await {
            Err(Error::NotFound) => {
                anyhow::bail!("there is no API key {id:?}; `doorward apikey list` shows all")
            }
            done => done?,
        };
        if common.json {
            say!("{}", json!({ "id": id, "revoked": revoked }));
        } else {
            say!("{}", if revoked { "revoked" } else { "it was revoked before" });
        }
        Ok(())
    })
}
