//! `users`: one row per (provider, issuer, subject), written by one guarded upsert whatever road the news
//! came by.

mod apply;
mod search;

use super::{Db, Note, StoreError, Writer, sessions};
use crate::domain::{Email, Profile, Status, User};

pub use apply::{Applied, ApplyError, Outcome, Road, apply, bury};
pub use search::search;

/// The columns of [`UserRow`], from `users u`.
macro_rules! user_columns {
    () => {
        "u.id, u.provider, u.issuer, u.subject, u.email, u.email_verified, u.username, u.first_name, \
         u.last_name, u.display_name, u.nickname, u.picture_url, u.usertag, u.locale, u.tenant_id, \
         u.roles, u.groups, u.local_roles, u.is_active, u.status, u.has_app_access, u.created_at, \
         u.updated_at, u.last_login_at, u.login_count, u.provider_updated_at, u.synced_at, u.deleted_at, \
         u.app_data"
    };
}
pub(super) use user_columns;

#[derive(sqlx::FromRow)]
pub(super) struct UserRow {
    id: String,
    provider: String,
    issuer: String,
    subject: String,
    email: Option<String>,
    email_verified: bool,
    username: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    display_name: Option<String>,
    nickname: Option<String>,
    picture_url: Option<String>,
    usertag: String,
    locale: Option<String>,
    tenant_id: Option<String>,
    roles: String,
    groups: String,
    local_roles: String,
    is_active: bool,
    status: String,
    has_app_access: bool,
    created_at: i64,
    updated_at: i64,
    last_login_at: Option<i64>,
    login_count: i64,
    provider_updated_at: Option<i64>,
    synced_at: i64,
    deleted_at: Option<i64>,
    app_data: String,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        Self {
            id: row.id,
            provider: row.provider,
            issuer: row.issuer,
            subject: row.subject,
            profile: Profile {
                email: row.email.as_deref().and_then(Email::parse),
                email_verified: row.email_verified,
                username: row.username,
                first_name: row.first_name,
                last_name: row.last_name,
                display_name: row.display_name,
                nickname: row.nickname,
                picture_url: row.picture_url,
                locale: row.locale,
                tenant_id: row.tenant_id,
            },
            usertag: row.usertag,
            roles: read_list(&row.roles),
            groups: read_list(&row.groups),
            local_roles: read_list(&row.local_roles),
            is_active: row.is_active,
            status: Status::parse(&row.status),
            has_app_access: row.has_app_access,
            created_at_ms: row.created_at,
            updated_at_ms: row.updated_at,
            last_login_at_ms: row.last_login_at,
            login_count: row.login_count,
            provider_updated_at_ms: row.provider_updated_at,
            synced_at_ms: row.synced_at,
            deleted_at_ms: row.deleted_at,
            app_data: row.app_data,
        }
    }
}

/// An unreadable list is an empty one: damage must not grant a role.
fn read_list(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_default()
}

/// By primary key, tombstones too.
///
/// # Errors
/// The database's.
pub async fn find(db: &mut impl Db, id: &str) -> Result<Option<User>, StoreError> {
    // PostgreSQL takes no NUL, not even to look for it.
    if id.contains('\0') {
        return Ok(None);
    }
    let row: Option<UserRow> =
        sql!(fetch_optional in db, concat!("SELECT ", user_columns!(), " FROM users u WHERE u.id = $1"), id)?;
    Ok(row.map(User::from))
}

/// By identity, compared exactly (security.md ID-03).
///
/// # Errors
/// The database's.
pub async fn find_by_identity(
    db: &mut impl Db,
    provider: &str,
    issuer: &str,
    subject: &str,
) -> Result<Option<User>, StoreError> {
    let row: Option<UserRow> = sql!(fetch_optional in db,
        concat!("SELECT ", user_columns!(),
            " FROM users u WHERE u.provider = $1 AND u.issuer = $2 AND u.subject = $3"),
        provider, issuer, subject)?;
    Ok(row.map(User::from))
}

/// What stands before the subject in the ids of a provider's rows; `None` while it has none.
/// A configured prefix that differs must stop the start: the same people would become strangers.
///
/// # Errors
/// The database's.
pub async fn id_prefix_in_use(db: &mut impl Db, provider: &str) -> Result<Option<String>, StoreError> {
    let row: Option<(String, String)> =
        sql!(fetch_optional in db, "SELECT id, subject FROM users WHERE provider = $1 LIMIT 1", provider)?;
    Ok(row.map(|(id, subject)| id.strip_suffix(&subject).unwrap_or(&id).to_owned()))
}

/// Issuers under which a provider's users are stored.
///
/// # Errors
/// The database's.
pub async fn issuers_in_use(db: &mut impl Db, provider: &str) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> =
        sql!(fetch_all in db, "SELECT DISTINCT issuer FROM users WHERE provider = $1", provider)?;
    Ok(rows.into_iter().map(|(issuer,)| issuer).collect())
}

/// The operator's word. Suspending ends all sessions at once; returns
/// their ids, or `None` when there is no such user.
///
/// # Errors
/// The database's.
pub async fn set_status(
    w: &mut Writer,
    id: &str,
    status: Status,
    now_ms: i64,
) -> Result<Option<Vec<String>>, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE users SET status = $2, updated_at = $3 WHERE id = $1", id, status.as_str(), now_ms)?;
    ended(w, id, rows, status == Status::Suspended, now_ms).await
}

/// Writes the app's own data of a user, a JSON object; nothing that a provider says ever touches it.
///
/// # Errors
/// The database's.
pub async fn set_app_data(w: &mut Writer, id: &str, app_data: &str) -> Result<(), StoreError> {
    sql!(execute in w, "UPDATE users SET app_data = $2 WHERE id = $1", id, app_data)?;
    Ok(())
}

/// Whether the user may use this app. Taking that away ends all sessions; returns
/// their ids, or `None` when there is no such user.
///
/// # Errors
/// The database's.
pub async fn set_app_access(
    w: &mut Writer,
    id: &str,
    access: bool,
    now_ms: i64,
) -> Result<Option<Vec<String>>, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE users SET has_app_access = $2, updated_at = $3 WHERE id = $1", id, access, now_ms)?;
    ended(w, id, rows, !access, now_ms).await
}

/// The provider says, in passing, that this account is switched off. Ends all sessions; returns their ids, or `None`
/// when there is no such user. A login that the provider lets through switches it on again.
///
/// # Errors
/// The database's.
pub async fn deactivate(w: &mut Writer, id: &str, now_ms: i64) -> Result<Option<Vec<String>>, StoreError> {
    let rows = sql!(execute in w,
        "UPDATE users SET is_active = $2, updated_at = $3 WHERE id = $1", id, false, now_ms)?;
    ended(w, id, rows, true, now_ms).await
}

async fn ended(
    w: &mut Writer,
    id: &str,
    rows: u64,
    end: bool,
    now_ms: i64,
) -> Result<Option<Vec<String>>, StoreError> {
    if rows > 0 {
        w.note(Note::User(id.to_owned()));
    }
    Ok(match (rows, end) {
        (0, _) => None,
        (_, false) => Some(Vec::new()),
        (_, true) => Some(sessions::end_of_user(w, id, None, now_ms).await?),
    })
}
