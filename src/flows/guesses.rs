//! Wrong passwords, counted in the database for all replicas: before the provider is asked, and taken back when the password was right.
//!
//! Three tallies bear each try: the network's, the typed name's, and the account's (all names of one user together). The first two answer
//! 429. The account's is silent, as a wrong password looks: else a second name of the same person would tell that the two belong together.
//! Networks from which an account signed in well have tallies of their own, so that strangers can shut nobody out (security.md PW-03).

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::{Visitor, limits};
use crate::app::App;
use crate::config::Rate;
use crate::crypto::mac::keyed_hash;
use crate::domain::address;
use crate::domain::guesses::{Barred, Rule, Tally};
use crate::domain::{Random, User};
use crate::error::{Error, Result};
use crate::store::{Writer, own_keys, password_failures as rows};

/// Failures in a row on one account: strangers together, and known networks together. At most 100 (NIST SP 800-63B 3.2.2).
const STRANGERS_IN_A_ROW: u32 = 80;
const KNOWN_IN_A_ROW: u32 = 20;
/// Failures of everybody, in as many windows' worth of one network's allowance.
const OVERALL_TIMES: u32 = 30;
const KEY: &str = "password-failures-mac";
const KEY_BYTES: usize = 32;

/// A typed name, as it is counted: upper case and spaces around it make no other name. The provider gets it unchanged.
fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

/// One row of a tally: its key, and what it allows.
struct Counter {
    scope: &'static str,
    key: Vec<u8>,
    rule: Rule,
}

/// A try that has been let through and counted; settle it.
pub struct Try {
    counters: Vec<Counter>,
    person: Person,
    known: Vec<u8>,
    overall: Option<(Vec<u8>, Rule)>,
}

/// Whether a try may be made.
pub enum Verdict {
    Go(Try),
    /// The account is closed to this network: nobody asks the provider, and the answer is a wrong password's.
    Silent,
}

/// What the operator allows.
struct Rules {
    address: Option<Rule>,
    name: Option<Rule>,
}

impl Rules {
    fn of(app: &App) -> Self {
        let setup = app.setup();
        let limits = &setup.config.limits;
        let rule =
            |rate: Rate, slows| Rule { count: rate.count, window_ms: rate.window_ms, slows, in_a_row: None };
        Self {
            address: limits.password_failures_address.map(|rate| rule(rate, false)),
            name: limits.password_failures_identifier.map(|rate| rule(rate, true)),
        }
    }

    fn overall(&self) -> Option<Rule> {
        self.address.map(|rule| Rule { count: rule.count.saturating_mul(OVERALL_TIMES), ..rule })
    }
}

/// The keys of one person's tallies.
struct Keys<'k> {
    mac: &'k [u8],
    provider: &'k str,
}

impl Keys<'_> {
    fn of(&self, scope: &str, parts: [&str; 2]) -> Vec<u8> {
        let [first, second] = parts.map(str::as_bytes);
        keyed_hash(self.mac, &[scope.as_bytes(), self.provider.as_bytes(), first, second])
    }
}

/// Counts a try as a failure for now, unless a limit holds it back.
///
/// # Errors
/// [`Error::TooMany`], or the database's.
pub async fn admit(app: &App, provider: &str, name: &str, visitor: &Visitor) -> Result<Verdict> {
    let rules = Rules::of(app);
    let mac = mac(app).await?;
    let keys = Keys { mac: mac.as_slice(), provider };
    let network = address::network(visitor.address.as_deref().unwrap_or_default());
    let (name, now_ms) = (folded(name), app.now_ms());
    let mut writer = app.store.writer().await?;
    // Whoever nobody knows is an account too, so that the steps are the same for all.
    let account = rows::whom(&mut writer, provider, &name).await?.unwrap_or_else(|| format!("? {name}"));
    let known = keys.of(KNOWN, [&account, &network]);
    let is_known = rows::find(&mut writer, &known).await?.is_some();
    let overall_key = keyed_hash(keys.mac, &[b"overall"]);
    let spent = rows::find(&mut writer, &overall_key).await?.unwrap_or_default();
    let overall = rules.overall().map(|rule| (overall_key, rule));
    if let Some((_, rule)) = overall.as_ref().filter(|(_, rule)| !is_known && spent.is_spent(rule, now_ms)) {
        let wait_ms = spent.since_ms.saturating_add(rule.window_ms) - now_ms;
        drop(writer);
        return Err(limits::refused(app, "password_overall", wait_ms, visitor).await);
    }
    let counters = counters(&rules, &keys, [&name, &account, &network], is_known);
    let mut silent = false;
    for counter in &counters {
        let mut tally = rows::lock(&mut writer, counter.scope, &counter.key, now_ms).await?;
        match (tally.admit(&counter.rule, now_ms), counter.scope) {
            (Ok(()), _) => rows::save(&mut writer, &counter.key, &tally).await?,
            (Err(barred), ACCOUNT) => {
                silent = true;
                closed(app, &tally, barred);
            }
            (Err(barred), _) => {
                let wait_ms = match barred {
                    Barred::Wait(ms) => ms,
                    Barred::Closed => counter.rule.window_ms,
                };
                writer.rollback().await?;
                return Err(limits::refused(app, limit_of(counter.scope), wait_ms, visitor).await);
            }
        }
    }
    writer.commit().await?;
    if silent {
        return Ok(Verdict::Silent);
    }
    let person = person(&keys, vec![name], &account, &network);
    Ok(Verdict::Go(Try { counters, person, known, overall }))
}

const ADDRESS: &str = "address";
const NAME: &str = "identifier";
const ACCOUNT: &str = "account";
const KNOWN: &str = "known";

fn limit_of(scope: &str) -> &'static str {
    if scope == ADDRESS { "password_address" } else { "password_identifier" }
}

/// Always in this order, so that two tries never wait for each other.
fn counters(
    rules: &Rules,
    keys: &Keys<'_>,
    [name, account, network]: [&str; 3],
    is_known: bool,
) -> Vec<Counter> {
    let most = if is_known { KNOWN_IN_A_ROW } else { STRANGERS_IN_A_ROW };
    let near = if is_known { network } else { "" };
    let group = if is_known { KNOWN } else { "" };
    let by_address = rules.address.map(|rule| Counter {
        scope: ADDRESS,
        key: keyed_hash(keys.mac, &[ADDRESS.as_bytes(), network.as_bytes()]),
        rule,
    });
    let by_name = rules.name.map(|rule| Counter { scope: NAME, key: keys.of(NAME, [name, near]), rule });
    let by_account = rules.name.map(|rule| Counter {
        scope: ACCOUNT,
        key: keys.of(ACCOUNT, [account, group]),
        rule: Rule { in_a_row: Some(most), ..rule },
    });
    [by_address, by_name, by_account].into_iter().flatten().collect()
}

/// The tallies that a good login forgets.
#[derive(Default)]
struct Person {
    names: BTreeSet<Vec<u8>>,
    accounts: BTreeSet<Vec<u8>>,
}

fn person(keys: &Keys<'_>, names: Vec<String>, account: &str, network: &str) -> Person {
    let of_name = |name: String| [keys.of(NAME, [&name, ""]), keys.of(NAME, [&name, network])];
    Person {
        names: names.into_iter().flat_map(of_name).collect(),
        accounts: ["", KNOWN].map(|group| keys.of(ACCOUNT, [account, group])).into(),
    }
}

impl Person {
    fn and(mut self, mut other: Self) -> Self {
        self.names.append(&mut other.names);
        self.accounts.append(&mut other.accounts);
        self
    }

    /// In the order in which tries take these rows, so that none waits for another in a circle.
    async fn forget(&self, writer: &mut Writer) -> Result<()> {
        for key in self.names.iter().chain(&self.accounts) {
            rows::forget(writer, key).await?;
        }
        Ok(())
    }
}

fn closed(app: &App, tally: &Tally, barred: Barred) {
    app.metrics.rate_limited("password_account");
    if barred == Barred::Closed {
        tracing::warn!(
            failures = tally.consecutive,
            "an account had too many wrong passwords in a row; strangers' networks no longer reach its password login"
        );
    }
}

/// The password was right: what was counted against this person is forgotten, and the network is known from now on.
pub async fn succeeded(app: &App, tried: Try, user: &User, visitor: &Visitor) {
    let (now_ms, network) = (app.now_ms(), address::network(visitor.address.as_deref().unwrap_or_default()));
    let done = async {
        let mac = mac(app).await?;
        let keys = Keys { mac: mac.as_slice(), provider: &user.provider };
        let mut writer = app.store.writer().await?;
        // In the order in which tries take their rows.
        for counter in tried.counters.iter().filter(|counter| counter.scope == ADDRESS) {
            give_back(&mut writer, counter, now_ms).await?;
        }
        let own = person(&keys, names(user), &user.id, &network);
        tried.person.and(own).forget(&mut writer).await?;
        for known in [&tried.known, &keys.of(KNOWN, [&user.id, &network])] {
            rows::lock(&mut writer, KNOWN, known, now_ms).await?;
        }
        Ok::<_, Error>(writer.commit().await?)
    };
    note(done.await);
}

/// The provider gave no answer that counts: nobody was wrong.
pub async fn unanswered(app: &App, tried: Try) {
    let now_ms = app.now_ms();
    let done = async {
        let mut writer = app.store.writer().await?;
        for counter in &tried.counters {
            give_back(&mut writer, counter, now_ms).await?;
        }
        Ok::<_, Error>(writer.commit().await?)
    };
    note(done.await);
}

/// The password was wrong; the try stays counted. Counts it against everybody too.
pub async fn failed(app: &App, tried: Try) {
    let Some((key, rule)) = tried.overall else { return };
    let now_ms = app.now_ms();
    let done = async {
        let mut writer = app.store.writer().await?;
        let mut tally = rows::lock(&mut writer, "overall", &key, now_ms).await?;
        let was_spent = tally.is_spent(&rule, now_ms);
        if tally.admit(&rule, now_ms).is_ok() {
            rows::save(&mut writer, &key, &tally).await?;
        }
        writer.commit().await?;
        if !was_spent && tally.is_spent(&rule, now_ms) {
            app.metrics.rate_limited("password_overall");
            tracing::warn!(failures = tally.failures, "wrong passwords come from everywhere: stuffing");
        }
        Ok::<_, Error>(())
    };
    note(done.await);
}

/// Somebody signed in at the provider's own pages: their password login opens again for everybody, and the network is known.
pub async fn forgive(app: &App, user: &User, visitor: &Visitor) {
    let (now_ms, network) = (app.now_ms(), address::network(visitor.address.as_deref().unwrap_or_default()));
    let done = async {
        let mac = mac(app).await?;
        let keys = Keys { mac: mac.as_slice(), provider: &user.provider };
        let mut writer = app.store.writer().await?;
        person(&keys, names(user), &user.id, &network).forget(&mut writer).await?;
        rows::lock(&mut writer, KNOWN, &keys.of(KNOWN, [&user.id, &network]), now_ms).await?;
        Ok::<_, Error>(writer.commit().await?)
    };
    note(done.await);
}

fn names(user: &User) -> Vec<String> {
    let profile = &user.profile;
    let email = profile.email.as_ref().map(|email| folded(email.as_str()));
    profile.username.as_deref().map(folded).into_iter().chain(email).collect()
}

async fn give_back(writer: &mut Writer, counter: &Counter, now_ms: i64) -> Result<()> {
    let mut tally = rows::lock(writer, counter.scope, &counter.key, now_ms).await?;
    tally.take_back(&counter.rule, now_ms);
    Ok(rows::save(writer, &counter.key, &tally).await?)
}

/// A tally that could not be settled counts a failure too many; nobody is kept from what they proved.
fn note(settled: Result<()>) {
    if let Err(error) = settled {
        tracing::warn!(%error, "the count of wrong passwords could not be settled");
    }
}

/// What makes the table unreadable; made once, shared by all replicas.
async fn mac(app: &App) -> Result<&Zeroizing<Vec<u8>>> {
    app.guess_key.get_or_try_init(|| make_mac(app)).await
}

async fn make_mac(app: &App) -> Result<Zeroizing<Vec<u8>>> {
    let make = || {
        let mut key = Zeroizing::new(vec![0_u8; KEY_BYTES]);
        Random::fill(&*app.random, &mut key);
        key
    };
    let mut writer = app.store.writer().await?;
    let key = own_keys::find_or_insert(&mut writer, KEY, make, &app.setup().ring, app.now_ms()).await?;
    writer.commit().await?;
    Ok(key)
}
