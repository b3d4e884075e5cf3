//! The memory of what was done and refused.
//!
//! What succeeds is written in the transaction it tells of; a refusal gets a row of its own. Strangers can cause refusals at will, so each
//! address has sixty rows a minute; what is beyond is counted and written as one row when the minute is over (security.md LG-04).

use serde_json::{Value, json};

use super::Visitor;
use crate::app::App;
use crate::domain::clock;
use crate::error::Result;
use crate::store::Writer;
use crate::store::audit_log::{self, AuditEvent};

/// [`crate::error::Error::reason`] of a database that does not answer.
const DATABASE_DOWN: &str = "database_unavailable";

/// Something that was done, by whom.
#[derive(Debug, Clone, Copy)]
pub struct Deed<'a> {
    pub event: &'static str,
    pub provider: Option<&'a str>,
    pub user_id: Option<&'a str>,
    pub session_id: Option<&'a str>,
}

/// Something that was refused, and why.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    pub event: &'static str,
    pub reason: &'static str,
    pub provider: Option<&'a str>,
}

/// Writes a deed in the transaction that does it.
///
/// # Errors
/// The database's.
pub async fn deed(app: &App, writer: &mut Writer, deed: &Deed<'_>, visitor: &Visitor) -> Result<()> {
    let mut event = blank(app, deed.event, "success", visitor);
    event.provider = deed.provider.map(str::to_owned);
    event.user_id = deed.user_id.map(str::to_owned);
    event.session_ref = deed.session_id.map(str::to_owned);
    Ok(audit_log::insert(writer, &event).await?)
}

/// Something that an administrator did, whether a person, a program or whoever is at the command line.
#[derive(Debug, Clone)]
pub struct AdminDeed<'a> {
    pub event: &'static str,
    pub user_id: Option<&'a str>,
    pub session_id: Option<&'a str>,
    /// `user:…`, `apikey:…` or `cli:…`.
    pub by: &'a str,
    /// One more fact: how many sessions ended, which key it was about.
    pub fact: Option<(&'static str, Value)>,
}

/// Writes what an administrator does in the transaction that does it.
///
/// # Errors
/// The database's.
pub async fn admin(app: &App, writer: &mut Writer, deed: &AdminDeed<'_>, visitor: &Visitor) -> Result<()> {
    let mut event = blank(app, deed.event, "success", visitor);
    event.user_id = deed.user_id.map(str::to_owned);
    event.session_ref = deed.session_id.map(str::to_owned);
    event.detail = json!({ "by": deed.by });
    if let (Some((name, fact)), Some(detail)) = (&deed.fact, event.detail.as_object_mut()) {
        detail.insert((*name).to_owned(), fact.clone());
    }
    Ok(audit_log::insert(writer, &event).await?)
}

/// As [`deed`], of something that happened to somebody, with the reason why.
///
/// # Errors
/// The database's.
pub async fn consequence(
    app: &App,
    writer: &mut Writer,
    deed: &Deed<'_>,
    reason: &'static str,
    visitor: &Visitor,
) -> Result<()> {
    let mut event = blank(app, deed.event, "success", visitor);
    event.provider = deed.provider.map(str::to_owned);
    event.user_id = deed.user_id.map(str::to_owned);
    event.session_ref = deed.session_id.map(str::to_owned);
    event.reason = Some(reason);
    Ok(audit_log::insert(writer, &event).await?)
}

/// Writes an event of the house itself (start, stop, reload), best effort: a full disk must not keep a door from closing.
pub async fn milestone(app: &App, event: &'static str) {
    let written = async {
        let mut writer = app.store.writer().await?;
        deed(
            app,
            &mut writer,
            &Deed { event, provider: None, user_id: None, session_id: None },
            &Visitor::default(),
        )
        .await?;
        Ok::<_, crate::error::Error>(writer.commit().await?)
    };
    if let Err(error) = written.await {
        app.metrics.audit_dropped(1);
        tracing::warn!(event, %error, "an audit event could not be stored");
    }
}

/// Writes a refusal, as far as its address still has rows this minute. A database that cannot take it leaves a log line and a count.
pub async fn refusal(app: &App, refusal: &Refusal<'_>, visitor: &Visitor) {
    // The visitor has waited for the database once, and a second wait would end no better (security.md DS-03).
    if refusal.reason == DATABASE_DOWN {
        app.metrics.audit_dropped(1);
        tracing::warn!(
            event = refusal.event,
            reason = refusal.reason,
            "the database could not take an audit event"
        );
        return;
    }
    let address = visitor.address.clone().unwrap_or_default();
    let (may_write, uncounted) = app.refusals.admit(&address, app.now_ms());
    if !may_write && uncounted.is_none() {
        return;
    }
    let written = async {
        let mut writer = app.store.writer().await?;
        if let Some((address, count)) = uncounted {
            let mut event = blank(app, "refusals.counted", "refused", &Visitor::default());
            event.address = Some(address);
            event.detail = json!({ "count": count });
            audit_log::insert(&mut writer, &event).await?;
        }
        if may_write {
            let mut event = blank(app, refusal.event, "refused", visitor);
            event.provider = refusal.provider.map(str::to_owned);
            event.reason = Some(refusal.reason);
            audit_log::insert(&mut writer, &event).await?;
        }
        writer.commit().await
    };
    if let Err(error) = written.await {
        app.metrics.audit_dropped(1);
        tracing::warn!(event = refusal.event, reason = refusal.reason, %error, "an audit event could not be stored");
    }
}

fn blank(app: &App, event: &'static str, outcome: &'static str, visitor: &Visitor) -> AuditEvent {
    AuditEvent {
        at_ms: app.now_ms(),
        id: clock::token_128(&*app.random),
        request_id: Some(visitor.request_id.clone()).filter(|id| !id.is_empty()),
        address: visitor.address.clone(),
        provider: None,
        user_id: None,
        session_ref: None,
        event,
        outcome,
        reason: None,
        detail: Value::Object(serde_json::Map::new()),
    }
}
