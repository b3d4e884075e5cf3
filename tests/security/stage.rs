//! A house whose one provider is the scripted one, both by one clock, and the two ways a login can end there.

use std::sync::Arc;
use std::time::Duration;

use doorward::domain::Clock as _;
use serde_json::{Map, Value};

use super::assert_rejected;
use crate::house::browser::{Browser, Cookie, Page};
use crate::house::home::{Plan, TestHouse, op_provider};
use crate::house::op::{NowMs, Script, ScriptedOp};

pub type Object = Map<String, Value>;

pub struct Stage {
    pub op: ScriptedOp,
    pub house: TestHouse,
}

impl Stage {
    pub async fn open() -> Self {
        Self::with("").await
    }

    /// With these further keys in the provider's table.
    pub async fn with(keys: &str) -> Self {
        let op = ScriptedOp::start().await;
        let plan = TestHouse::with(&format!("{}{keys}\n", op_provider("op", &op)));
        Self::of(op, plan).await
    }

    pub async fn of(op: ScriptedOp, plan: Plan) -> Self {
        let house =
            plan.set("LIMITS__LOGIN_START", "\"off\"").set("LIMITS__CALLBACK", "\"off\"").open().await;
        let stage = Self { op, house };
        stage.op.set_now(stage.now());
        stage
    }

    pub fn now(&self) -> NowMs {
        let clock = Arc::clone(&self.house.clock);
        Arc::new(move || clock.now_ms())
    }

    pub fn now_s(&self) -> i64 {
        self.house.clock.now_ms().div_euclid(1000)
    }

    pub fn browser(&self) -> Browser {
        let browser = self.house.browser();
        browser.set_now(self.now());
        browser
    }

    /// Somebody goes to the protected page and wherever that leads.
    pub async fn tries(&self) -> (Browser, Page) {
        let browser = self.browser();
        let page = browser.sign_in("/auth/login?return_to=/protected").await;
        (browser, page)
    }

    /// A login that must be refused for this reason; the case is what a failure names.
    pub async fn refused(&self, case: &str, reason: &str) {
        eprintln!("case: {case} must be refused as {reason}");
        // At most sixty refusals of one address are recorded in a minute.
        self.house.clock.advance(Duration::from_secs(1));
        let (browser, page) = self.tries().await;
        assert_rejected(&self.house, &page, reason).await;
        assert_eq!(browser.navigate("/protected").await.status, 303, "{case}: the protected page opened");
        assert!(browser.cookies().is_empty(), "{case} left cookies: {:?}", browser.cookies());
    }

    /// A login that must succeed; the person signs out again.
    pub async fn accepted(&self, case: &str) {
        eprintln!("case: {case} must be accepted");
        let (browser, page) = self.tries().await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{case}: {}", page.text());
        assert_eq!(browser.post_form("/auth/logout", &[]).await.status, 303, "{case}");
        assert_eq!(self.house.live_sessions().await, 0, "{case}");
    }

    /// The provider lies as told, once, and the login is refused.
    pub async fn lie(&self, case: &str, reason: &str, lie: impl FnOnce(&mut Script)) {
        self.op.script(|s| {
            honest(s);
            lie(s);
        });
        self.refused(case, reason).await;
        self.op.script(honest);
    }

    /// The twin of [`Self::lie`]: unusual, and right.
    pub async fn truth(&self, case: &str, truth: impl FnOnce(&mut Script)) {
        self.op.script(|s| {
            honest(s);
            truth(s);
        });
        self.accepted(case).await;
        self.op.script(honest);
    }

    /// One claim of the ID token takes each of these values (`None`: it is missing), each time refused.
    pub async fn claim_refused(&self, name: &'static str, values: Vec<Option<Value>>, reason: &str) {
        for value in values {
            let case = format!("{name} = {value:?}");
            self.lie(&case, reason, |s| s.claims(move |claims| set(claims, name, value.as_ref()))).await;
        }
        self.accepted("an honest token afterwards").await;
    }

    /// As [`Self::claim_refused`], each time accepted.
    pub async fn claim_accepted(&self, name: &'static str, values: Vec<Option<Value>>) {
        for value in values {
            let case = format!("{name} = {value:?}");
            self.truth(&case, |s| s.claims(move |claims| set(claims, name, value.as_ref()))).await;
        }
    }

    /// Begins a login and asks the provider; the callback is not visited yet.
    pub async fn callback_of(&self, browser: &Browser, login: &str) -> String {
        let start = browser.navigate(login).await;
        let at_provider = browser.follow(start, 1).await;
        at_provider.location().expect("the provider sends the browser back").to_string()
    }
}

/// The sealed attempts that a browser holds; the note of recent logins beside them is none.
pub fn attempts(browser: &Browser) -> Vec<Cookie> {
    let mut cookies = browser.cookies();
    cookies.retain(|c| c.name.contains("doorward-login-") && !c.name.ends_with("-recent"));
    cookies
}

/// Sets or removes a member.
pub fn set(object: &mut Object, name: &str, value: Option<&Value>) {
    match value {
        Some(value) => {
            object.insert(name.to_owned(), value.clone());
        }
        None => {
            object.remove(name);
        }
    }
}

/// Takes back every lie about tokens, metadata, keys and answers.
pub fn honest(script: &mut Script) {
    script.id_token(|_, _| {});
    script.raw_id_token(|minted| minted.token.clone());
    script.access_token(|_, _| {});
    script.token_response(|_| {});
    script.userinfo(|_| {});
    script.discovery(|_| {});
    script.jwks(|_| {});
    script.authorization_response(|_| {});
    script.always.clear();
    script.queue.clear();
    script.auth_time = None;
}

/// A callback address with parameters changed: `None` removes, `Some` sets the one value.
pub fn with_params(callback: &str, changes: &[(&str, Option<&str>)]) -> String {
    let mut url = url::Url::parse(callback).unwrap();
    let mut pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    for (name, value) in changes {
        pairs.retain(|(known, _)| known != name);
        pairs.extend(value.map(|value| ((*name).to_owned(), value.to_owned())));
    }
    url.query_pairs_mut().clear().extend_pairs(pairs);
    url.to_string()
}

/// The one value of a query parameter; fails when it is there twice or not at all.
pub fn param(url: &url::Url, name: &str) -> String {
    let values: Vec<_> = url.query_pairs().filter(|(n, _)| n == name).map(|(_, v)| v.into_owned()).collect();
    assert_eq!(values.len(), 1, "{name} in {url}");
    values.into_iter().next().unwrap()
}
