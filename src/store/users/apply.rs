//! The one guarded upsert: identity decides who, time decides what, a tombstone decides everything.

use super::{UserRow, user_columns};
use crate::domain::{Change, Profile, Status, User, usertag};
use crate::store::{Note, StoreError, Writer, sessions};

/// Tries against replicas that create or move the same row at the same
/// moment; each lost race is settled by the next look.
const TRIES: u32 = 8;

/// How a change came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// The person is signing in: the login is counted.
    Login,
    /// Webhook, poll or bulk sync.
    Sync,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Updated,
    /// The row says so already.
    Unchanged,
    /// Older than what is stored: the profile stays as it is (security.md WH-06).
    Stale,
    /// The person was deleted; late news changes nothing (security.md ID-11).
    Tombstone,
}

/// The row after a change.
#[derive(Debug, Clone)]
pub struct Applied {
    pub user: User,
    pub outcome: Outcome,
    /// The row came over from a former issuer of its provider.
    pub moved_issuer: bool,
    /// The new or changed e-mail is also another user's: worth an audit event,
    /// never a merge or a lock-out (ID-07, ID-08).
    pub email_shared: bool,
    /// Sessions that ended because the user is no longer active.
    pub ended_sessions: Vec<String>,
}

/// Why a change was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The id that this subject would have belongs to another identity. Never merged.
    #[error("the user id {id:?} belongs to another identity")]
    IdentityConflict { id: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Brings one provider's news about one subject into `users`.
///
/// `usertag` and `local_roles` are given at creation and never again; `app_data`, `status` and
/// `has_app_access` are never touched.
/// A user who is not active afterwards has no session left.
///
/// # Errors
/// [`ApplyError::IdentityConflict`], or the database's.
pub async fn apply(w: &mut Writer, change: &Change, road: Road, now_ms: i64) -> Result<Applied, ApplyError> {
    let change = &clean(change);
    for _ in 0..TRIES {
        if let Some((user, moved_issuer)) = locate(w, change).await? {
            let mut applied = renew(w, user, change, road, now_ms).await?;
            applied.moved_issuer = moved_issuer;
            return Ok(applied);
        }
        if let Some(user) = create(w, change, road, now_ms).await? {
            let email_shared = is_email_shared(w, &user).await?;
            return Ok(Applied {
                user,
                outcome: Outcome::Created,
                moved_issuer: false,
                email_shared,
                ended_sessions: Vec::new(),
            });
        }
    }
    Err(StoreError::slow().into())
}

/// Leaves a tombstone, also for a person never seen, so that news overtaken
/// by the deletion finds it. Ends all sessions.
///
/// # Errors
/// [`ApplyError::IdentityConflict`], or the database's.
pub async fn bury(w: &mut Writer, change: &Change, now_ms: i64) -> Result<Applied, ApplyError> {
    let Applied { mut user, moved_issuer, mut ended_sessions, .. } =
        apply(w, change, Road::Sync, now_ms).await?;
    if user.deleted_at_ms.is_none() {
        user.deleted_at_ms = Some(now_ms);
        user.is_active = false;
        user.updated_at_ms = now_ms;
        sql!(execute in w,
            "UPDATE users SET deleted_at = $2, is_active = $3, updated_at = $2 WHERE id = $1",
            &user.id, now_ms, false)?;
        w.note(Note::User(user.id.clone()));
        ended_sessions.extend(sessions::end_of_user(w, &user.id, None, now_ms).await?);
    }
    Ok(Applied { user, outcome: Outcome::Tombstone, moved_issuer, email_shared: false, ended_sessions })
}

/// PostgreSQL stores no NUL, and nobody's name has one; lists are
/// sorted, so that a provider's mood is no news.
fn clean(change: &Change) -> Change {
    let mut change = change.clone();
    let profile = &mut change.profile;
    for text in [
        &mut profile.username,
        &mut profile.first_name,
        &mut profile.last_name,
        &mut profile.display_name,
        &mut profile.nickname,
        &mut profile.picture_url,
        &mut profile.locale,
        &mut profile.tenant_id,
    ] {
        if let Some(text) = text.as_mut().filter(|text| text.contains('\0')) {
            text.retain(|c| c != '\0');
        }
    }
    for list in [&mut change.roles, &mut change.groups, &mut change.default_roles] {
        list.sort_unstable();
        list.dedup();
    }
    change
}

/// The row of this identity, locked until the end of the transaction;
/// a row under a former issuer moves over first.
async fn locate(w: &mut Writer, change: &Change) -> Result<Option<(User, bool)>, ApplyError> {
    if let Some(user) = lock(w, change, &change.issuer).await? {
        return Ok(Some((user, false)));
    }
    for former in &change.former_issuers {
        if let Some(mut user) = lock(w, change, former).await? {
            sql!(execute in w, "UPDATE users SET issuer = $2 WHERE id = $1", &user.id, &change.issuer)?;
            sql!(execute in w,
                "UPDATE sessions SET issuer = $2 WHERE user_id = $1 AND issuer = $3",
                &user.id, &change.issuer, former)?;
            w.note(Note::User(user.id.clone()));
            user.issuer.clone_from(&change.issuer);
            return Ok(Some((user, true)));
        }
    }
    let id = change.user_id();
    let holder: Option<(String, String, String)> =
        sql!(fetch_optional in w, "SELECT provider, issuer, subject FROM users WHERE id = $1", &id)?;
    let is_ours = |(provider, issuer, subject): &(String, String, String)| {
        *provider == change.provider
            && *subject == change.subject
            && (*issuer == change.issuer || change.former_issuers.contains(issuer))
    };
    match holder {
        // Made or moved by another replica since the look above: the next round finds it.
        Some(holder) if is_ours(&holder) => Ok(None),
        Some(_) => Err(ApplyError::IdentityConflict { id }),
        None => Ok(None),
    }
}

async fn lock(w: &mut Writer, change: &Change, issuer: &str) -> Result<Option<User>, StoreError> {
    let row: Option<UserRow> = sql!(fetch_optional in w,
        concat!("SELECT ", user_columns!(),
            " FROM users u WHERE u.provider = $1 AND u.issuer = $2 AND u.subject = $3")
        => concat!("SELECT ", user_columns!(),
            " FROM users u WHERE u.provider = $1 AND u.issuer = $2 AND u.subject = $3 FOR UPDATE"),
        &change.provider, issuer, &change.subject)?;
    Ok(row.map(User::from))
}

/// `None` when another replica was faster with the identity, the id or the tag.
async fn create(
    w: &mut Writer,
    change: &Change,
    road: Road,
    now_ms: i64,
) -> Result<Option<User>, StoreError> {
    let user = User {
        id: change.user_id(),
        provider: change.provider.clone(),
        issuer: change.issuer.clone(),
        subject: change.subject.clone(),
        profile: change.profile.clone(),
        usertag: free_tag(w, &usertag::wish(change)).await?,
        roles: change.roles.clone(),
        groups: change.groups.clone(),
        local_roles: change.default_roles.clone(),
        is_active: change.is_active.unwrap_or(true),
        status: Status::Active,
        has_app_access: true,
        created_at_ms: now_ms,
        updated_at_ms: now_ms,
        last_login_at_ms: (road == Road::Login).then_some(now_ms),
        login_count: i64::from(road == Road::Login),
        provider_updated_at_ms: change.provider_updated_at_ms,
        synced_at_ms: change.observed_at_ms,
        deleted_at_ms: None,
        app_data: "{}".to_owned(),
    };
    let Texts { email, email_folded, roles, groups } = Texts::of(&user);
    let profile = &user.profile;
    let rows = sql!(execute in w,
        "INSERT INTO users (id, provider, issuer, subject, email, email_folded, email_verified, username, \
         first_name, last_name, display_name, nickname, picture_url, usertag, locale, tenant_id, roles, \
         groups, local_roles, is_active, status, has_app_access, created_at, updated_at, last_login_at, \
         login_count, provider_updated_at, synced_at, app_data) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, \
         $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, \
         $28, $29) ON CONFLICT DO NOTHING",
        &user.id, &user.provider, &user.issuer, &user.subject, email, email_folded.as_deref(),
        profile.email_verified, profile.username.as_deref(), profile.first_name.as_deref(),
        profile.last_name.as_deref(), profile.display_name.as_deref(), profile.nickname.as_deref(),
        profile.picture_url.as_deref(), &user.usertag, profile.locale.as_deref(),
        profile.tenant_id.as_deref(), &roles, &groups, write_list(&user.local_roles), user.is_active,
        user.status.as_str(), user.has_app_access, user.created_at_ms, user.updated_at_ms,
        user.last_login_at_ms, user.login_count, user.provider_updated_at_ms, user.synced_at_ms,
        &user.app_data)?;
    Ok((rows == 1).then_some(user))
}

async fn renew(
    w: &mut Writer,
    old: User,
    change: &Change,
    road: Road,
    now_ms: i64,
) -> Result<Applied, StoreError> {
    if old.deleted_at_ms.is_some() {
        return Ok(untouched(old, Outcome::Tombstone));
    }
    let (mut user, outcome) = merge(&old, change);
    if outcome == Outcome::Updated {
        user.updated_at_ms = now_ms;
    }
    if road == Road::Login {
        user.last_login_at_ms = user.last_login_at_ms.max(Some(now_ms));
        user.login_count = user.login_count.saturating_add(1);
    }
    if outcome == Outcome::Updated {
        save(w, &user).await?;
    } else if user != old {
        save_visit(w, &user).await?;
    }
    // A login that only counts itself is no news to other tabs.
    if outcome == Outcome::Updated {
        w.note(Note::User(user.id.clone()));
    }
    let mut applied = untouched(user, outcome);
    if !applied.user.is_active {
        applied.ended_sessions = sessions::end_of_user(w, &applied.user.id, None, now_ms).await?;
    }
    applied.email_shared =
        applied.user.profile.email != old.profile.email && is_email_shared(w, &applied.user).await?;
    Ok(applied)
}

fn untouched(user: User, outcome: Outcome) -> Applied {
    Applied { user, outcome, moved_issuer: false, email_shared: false, ended_sessions: Vec::new() }
}

fn merge(old: &User, change: &Change) -> (User, Outcome) {
    let is_stale = match (change.provider_updated_at_ms, old.provider_updated_at_ms) {
        (Some(news), Some(stored)) => news < stored,
        _ => change.observed_at_ms < old.synced_at_ms,
    };
    if is_stale {
        return (old.clone(), Outcome::Stale);
    }
    let is_active = change.is_active.unwrap_or(old.is_active);
    let is_same = change.profile == old.profile
        && change.roles == old.roles
        && change.groups == old.groups
        && is_active == old.is_active;
    let user = User {
        profile: change.profile.clone(),
        roles: change.roles.clone(),
        groups: change.groups.clone(),
        is_active,
        provider_updated_at_ms: change.provider_updated_at_ms.or(old.provider_updated_at_ms),
        synced_at_ms: old.synced_at_ms.max(change.observed_at_ms),
        ..old.clone()
    };
    (user, if is_same { Outcome::Unchanged } else { Outcome::Updated })
}

async fn save(w: &mut Writer, user: &User) -> Result<(), StoreError> {
    let Texts { email, email_folded, roles, groups } = Texts::of(user);
    let profile: &Profile = &user.profile;
    sql!(execute in w,
        "UPDATE users SET email = $2, email_folded = $3, email_verified = $4, username = $5, \
         first_name = $6, last_name = $7, display_name = $8, nickname = $9, picture_url = $10, \
         locale = $11, tenant_id = $12, roles = $13, groups = $14, is_active = $15, updated_at = $16, \
         last_login_at = $17, login_count = $18, provider_updated_at = $19, synced_at = $20 WHERE id = $1",
        &user.id, email, email_folded.as_deref(), profile.email_verified, profile.username.as_deref(),
        profile.first_name.as_deref(), profile.last_name.as_deref(), profile.display_name.as_deref(),
        profile.nickname.as_deref(), profile.picture_url.as_deref(), profile.locale.as_deref(),
        profile.tenant_id.as_deref(), &roles, &groups, user.is_active, user.updated_at_ms,
        user.last_login_at_ms, user.login_count, user.provider_updated_at_ms, user.synced_at_ms)?;
    Ok(())
}

/// What changes about a person of whom there is no news. Naming the e-mail here would rewrite its index with what it holds.
async fn save_visit(w: &mut Writer, user: &User) -> Result<(), StoreError> {
    sql!(later in w,
        "UPDATE users SET last_login_at = $2, login_count = $3, provider_updated_at = $4, synced_at = $5 \
         WHERE id = $1",
        &user.id, user.last_login_at_ms, user.login_count, user.provider_updated_at_ms, user.synced_at_ms)?;
    Ok(())
}

/// The columns that are spelled otherwise than the fields.
struct Texts<'a> {
    email: Option<&'a str>,
    email_folded: Option<String>,
    roles: String,
    groups: String,
}

impl<'a> Texts<'a> {
    fn of(user: &'a User) -> Self {
        let email = user.profile.email.as_ref().map(crate::domain::Email::as_str);
        Self {
            email,
            email_folded: email.map(str::to_lowercase),
            roles: write_list(&user.roles),
            groups: write_list(&user.groups),
        }
    }
}

fn write_list(list: &[String]) -> String {
    serde_json::Value::from(list).to_string()
}

async fn is_email_shared(w: &mut Writer, user: &User) -> Result<bool, StoreError> {
    let Some(folded) = Texts::of(user).email_folded else { return Ok(false) };
    let other: Option<(String,)> = sql!(fetch_optional in w,
        "SELECT id FROM users WHERE email_folded = $1 AND id <> $2 AND deleted_at IS NULL LIMIT 1",
        &folded, &user.id)?;
    Ok(other.is_some())
}

/// The wish, or the first free of `-2`, `-3` …: doubling and halving,
/// so that the ten-thousandth `info` costs 27 looks.
async fn free_tag(w: &mut Writer, wish: &str) -> Result<String, StoreError> {
    let (mut taken, mut free) = (1, 1);
    while is_tag_taken(w, &usertag::nth(wish, free)).await? {
        taken = free;
        free = free.saturating_mul(2);
    }
    while free > taken + 1 {
        let middle = taken.midpoint(free);
        if is_tag_taken(w, &usertag::nth(wish, middle)).await? {
            taken = middle;
        } else {
            free = middle;
        }
    }
    Ok(usertag::nth(wish, free))
}

async fn is_tag_taken(w: &mut Writer, tag: &str) -> Result<bool, StoreError> {
    let row: Option<(String,)> = sql!(fetch_optional in w, "SELECT id FROM users WHERE usertag = $1", tag)?;
    Ok(row.is_some())
}
