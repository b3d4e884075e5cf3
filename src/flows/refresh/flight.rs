//! One renewal, from the claim to what becomes of the session.

use std::time::Duration;

use secrecy::SecretString;
use tokio::time::{Instant, sleep, timeout_at};

use super::super::login::timed;
use super::super::session::{self, Guest};
use super::super::{Visitor, audit};
use crate::app::{App, Setup};
use crate::domain::{Held, Session, SessionKind, Tokens, clock};
use crate::error::Result;
use crate::providers::{Provider, ProviderError};
use crate::store::sessions::refresh::{self, Bid, Claim, Fresh};
use crate::store::{sessions, users};

/// How long a claim stands. Longer than one call to a provider may take, and short enough for people to wait when its owner has died.
const LEASE: Duration = Duration::from_secs(15);
/// What of the lease is kept back for storing the answer.
const TO_STORE: Duration = Duration::from_secs(2);
/// Who found another's claim looks again until its lease is over, and then some.
const PATIENCE: Duration = Duration::from_secs(20);
const NAP_MIN: Duration = Duration::from_millis(25);
const NAP_MAX: Duration = Duration::from_millis(500);
/// Before a call that failed is made again with the same token; the last failure stands.
const RETRIES: [Option<Duration>; 3] = [Some(Duration::from_millis(250)), Some(Duration::from_secs(1)), None];
const PAUSE_MAX_MS: i64 = 30_000;

/// A claim that was won, for as long as it stands.
#[derive(Clone, Copy)]
struct Won<'a> {
    quest: &'a Quest,
    claim: &'a Claim,
    until: Instant,
}

/// Whose tokens are to be renewed, as they were read.
#[derive(Debug)]
pub struct Quest {
    pub session: Session,
    subject: String,
    /// Whether to wait for a claim of another replica: the token at hand will not do.
    waits: bool,
}

impl Quest {
    pub fn new(guest: &Guest, waits: bool) -> Self {
        Self { session: guest.session.clone(), subject: guest.user.subject.clone(), waits }
    }
}

/// Renews, or finds that somebody else does and waits for that where it must. What came of it is in the row.
pub async fn run(app: &App, quest: &Quest) {
    let over = Instant::now() + PATIENCE;
    let mut nap = NAP_MIN;
    loop {
        match step(app, quest).await {
            Ok(true) => return,
            Ok(false) if Instant::now() >= over => return,
            Ok(false) => sleep(nap).await,
            Err(error) => {
                tracing::warn!(%error, "tokens could not be renewed");
                return;
            }
        }
        nap = (nap * 2).min(NAP_MAX);
    }
}

/// One look at the row; `false` while another's claim stands and this renewal waits for it.
async fn step(app: &App, quest: &Quest) -> Result<bool> {
    let until = Instant::now() + LEASE;
    let now_ms = app.now_ms();
    let owner = clock::token_128(&*app.random);
    let bid = Bid {
        session_id: &quest.session.id,
        generation: quest.session.generation,
        owner: &owner,
        now_ms,
        until_ms: now_ms.saturating_add(i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)),
    };
    let mut single = app.store.single().await?;
    let claim = refresh::claim(&mut single, bid).await?;
    drop(single);
    if let Some(claim) = claim {
        renew(app, quest, &claim, until).await?;
        return Ok(true);
    }
    let mut reader = app.store.reader().await?;
    let row = sessions::find(&mut reader, &quest.session.id).await?;
    let is_others = row.is_some_and(|row| {
        row.revoked_at_ms.is_none()
            && row.generation == quest.session.generation
            && row.renewal.is_claimed(app.now_ms())
    });
    Ok(!(is_others && quest.waits))
}

/// The claim is ours: ask, and do what the answer says.
async fn renew(app: &App, quest: &Quest, claim: &Claim, until: Instant) -> Result<()> {
    let setup = app.setup();
    let tokens = match claim.sealed.open(&setup.ring) {
        Ok(tokens) => tokens,
        // A row that does not open is no session (security.md CR-08).
        Err(error) => {
            session::undecryptable(app, &error, &Visitor::default()).await;
            return end(app, quest, claim, "tokens_unreadable").await;
        }
    };
    let Some(provider) = setup.provider(&quest.session.provider) else {
        tracing::warn!(provider = quest.session.provider, "a session's provider is not configured any more");
        return pause(app, quest, claim).await;
    };
    let held = Held {
        tokens,
        subject: quest.subject.clone(),
        issuer: quest.session.issuer.clone(),
        auth_time_ms: claim.auth_time_ms,
    };
    if held.tokens.refresh.is_none() {
        let answer = vouch(app, provider.as_ref(), &held).await;
        return match answer {
            Ok(()) => vouched(app, quest, claim).await,
            Err(error) => refused(app, quest, claim, (error, false)).await,
        };
    }
    let (answer, lost) = ask(app, provider.as_ref(), &held, until - TO_STORE).await;
    let outcome = answer.as_ref().map_or_else(ProviderError::outcome, |_| "ok");
    app.metrics.refreshed(&quest.session.provider, outcome);
    match answer {
        Ok(fresh) => store(app, &setup, Won { quest, claim, until }, &held.tokens, fresh).await,
        Err(error) => refused(app, quest, claim, (error, lost)).await,
    }
}

/// The provider's answer, asked for up to three times; the flag says that an earlier answer may have been lost on the way.
async fn ask(
    app: &App,
    provider: &dyn Provider,
    held: &Held,
    until: Instant,
) -> (Result<Tokens, ProviderError>, bool) {
    let mut lost = false;
    for pause in RETRIES {
        let call = timed(app, provider, "refresh", provider.refresh(held));
        // Beyond the lease another replica may send the same token: better no answer than two callers.
        let late = || Err(ProviderError::Unavailable("no answer while the claim stood".to_owned()));
        let answer = timeout_at(until, call).await.unwrap_or_else(|_| late());
        match (&answer, pause.map(|pause| jittered(app, pause))) {
            (Err(ProviderError::Unavailable(why)), Some(pause)) if Instant::now() + pause < until => {
                tracing::info!(why, "a refresh failed; it is tried again with the same token");
                lost = true;
                sleep(pause).await;
            }
            _ => return (answer, lost),
        }
    }
    (Err(ProviderError::Unavailable("no try was left".to_owned())), lost)
}

/// Up to a tenth longer, so that sessions that failed together do not come back together.
fn jittered(app: &App, pause: Duration) -> Duration {
    let mut byte = [0_u8];
    app.random.fill(&mut byte);
    pause + pause / 10 * u32::from(byte[0]) / 255
}

async fn vouch(app: &App, provider: &dyn Provider, held: &Held) -> Result<(), ProviderError> {
    let Some(access) = &held.tokens.access else { return Err(ProviderError::Revoked) };
    timed(app, provider, "userinfo", provider.vouch(access, &held.subject)).await
}

async fn vouched(app: &App, quest: &Quest, claim: &Claim) -> Result<()> {
    let mut writer = app.store.writer().await?;
    refresh::vouched(&mut writer, &quest.session.id, &claim.owner, claim.changed_at_ms).await?;
    Ok(writer.commit().await?)
}

/// Stores the new tokens before anybody uses them. A database that is away for a moment must not cost the person their session:
/// the provider may honour the old refresh token no more.
async fn store(app: &App, setup: &Setup, won: Won<'_>, old: &Tokens, new: Tokens) -> Result<()> {
    let Won { quest, claim, until } = won;
    let is_api = quest.session.kind == SessionKind::Api;
    let previous_hash = old.refresh.as_ref().filter(|_| is_api).map(Tokens::hash);
    let fresh = Fresh {
        session_id: &quest.session.id,
        owner: &claim.owner,
        tokens: &new,
        previous_hash: previous_hash.as_deref(),
        proves: claim.must_prove.then_some(claim.changed_at_ms),
    };
    let saved = loop {
        match save(app, setup, &fresh, is_api).await {
            Err(error) if Instant::now() + NAP_MAX < until => {
                tracing::warn!(%error, "new tokens could not be stored yet");
                sleep(NAP_MAX).await;
            }
            done => break done?,
        }
    };
    if !saved {
        // The session ended meanwhile, or the claim was lost: what was just handed out belongs to nobody.
        app.metrics.refreshed(&quest.session.provider, "lost_claim");
        if let Some(token) = new.refresh.or(new.access) {
            withdraw(app, setup, &quest.session.id, token).await;
        }
    }
    Ok(())
}

async fn save(app: &App, setup: &Setup, fresh: &Fresh<'_>, is_api: bool) -> Result<bool> {
    let now_ms = app.now_ms();
    let mut writer = app.store.writer().await?;
    let saved = refresh::save(&mut writer, fresh, &setup.ring, now_ms).await?;
    if saved && is_api {
        // For an API client, renewing is using.
        sessions::touch(&mut writer, fresh.session_id, now_ms).await?;
    }
    writer.commit().await?;
    Ok(saved)
}

/// Withdraws tokens of a session that is over, so that the provider does not honour what nobody holds; best effort.
/// A session that still lives has other tokens of the same grant, which must not die with these.
async fn withdraw(app: &App, setup: &Setup, session_id: &str, token: SecretString) {
    let row = async { sessions::find(&mut app.store.reader().await?, session_id).await };
    let Ok(Some(row)) = row.await else { return };
    let Some(provider) = setup.provider(&row.provider).filter(|_| row.revoked_at_ms.is_some()) else {
        return;
    };
    if let Err(error) = provider.revoke(&token).await {
        tracing::info!(%error, "tokens could not be revoked at the provider");
    }
}

/// No new tokens. Only the provider's own refusal ends the session; everything else is an incident that passes.
async fn refused(
    app: &App,
    quest: &Quest,
    claim: &Claim,
    (error, lost): (ProviderError, bool),
) -> Result<()> {
    match error {
        ProviderError::Revoked if lost => end(app, quest, claim, "refresh_lost_response").await,
        ProviderError::Revoked => end(app, quest, claim, "refresh_refused").await,
        // The answer speaks of another person or login (security.md RT-04).
        ProviderError::Protocol { reason, .. } => end(app, quest, claim, reason).await,
        ProviderError::Denied(_) => switch_off(app, quest, claim).await,
        ProviderError::Misconfigured(_) => {
            tracing::error!(provider = quest.session.provider, %error, "an operator must act: sessions cannot be renewed");
            pause(app, quest, claim).await
        }
        _ => {
            tracing::warn!(provider = quest.session.provider, %error, "tokens could not be renewed");
            pause(app, quest, claim).await
        }
    }
}

async fn pause(app: &App, quest: &Quest, claim: &Claim) -> Result<()> {
    let doublings = u32::try_from(claim.failures.clamp(0, 10)).unwrap_or_default();
    let pause_ms = (1_000 << doublings).min(PAUSE_MAX_MS);
    let mut single = app.store.single().await?;
    let not_before_ms = app.now_ms().saturating_add(pause_ms);
    refresh::fail(&mut single, &quest.session.id, &claim.owner, not_before_ms).await?;
    Ok(())
}

/// Ends this session, if the claim still stands: who lost it cannot know what its successor was told.
async fn end(app: &App, quest: &Quest, claim: &Claim, reason: &'static str) -> Result<()> {
    let mut writer = app.store.writer().await?;
    if !refresh::release(&mut writer, &quest.session.id, &claim.owner).await? {
        return Ok(());
    }
    sessions::end(&mut writer, &quest.session.id, app.now_ms()).await?;
    let session = &quest.session;
    let deed = audit::Deed {
        event: "session.ended",
        provider: Some(&session.provider),
        user_id: Some(&session.user_id),
        session_id: Some(&session.id),
    };
    audit::consequence(app, &mut writer, &deed, reason, &Visitor::default()).await?;
    writer.commit().await?;
    tracing::info!(reason, "the provider ended a session");
    app.metrics.session_ended(reason, 1);
    Ok(())
}

/// The provider has switched the account off: the person is out here too, with every session.
async fn switch_off(app: &App, quest: &Quest, claim: &Claim) -> Result<()> {
    let session = &quest.session;
    let mut writer = app.store.writer().await?;
    if !refresh::release(&mut writer, &session.id, &claim.owner).await? {
        return Ok(());
    }
    let ended = users::deactivate(&mut writer, &session.user_id, app.now_ms()).await?.unwrap_or_default();
    let mut deed = audit::Deed {
        event: "user.deactivated",
        provider: Some(&session.provider),
        user_id: Some(&session.user_id),
        session_id: None,
    };
    audit::consequence(app, &mut writer, &deed, "account_disabled", &Visitor::default()).await?;
    deed.event = "session.ended";
    for id in &ended {
        let deed = audit::Deed { session_id: Some(id), ..deed };
        audit::consequence(app, &mut writer, &deed, "account_disabled", &Visitor::default()).await?;
    }
    writer.commit().await?;
    app.metrics.session_ended("account_disabled", ended.len() as u64);
    Ok(())
}
