//! A door that takes access tokens, the provider that issues them, and a spy behind the door.

use std::time::Duration;

use doorward::domain::Clock as _;
use serde_json::{Map, Value, json};

use crate::house::home::{Plan, TestHouse, op_provider};
use crate::house::op::{Minted, ScriptedOp, mint};
use crate::house::upstream::{FakeUpstream, Wire};
use crate::proxy::stage::routes;
use crate::security::keep_time;

pub const JWT: &str = "bearer = \"jwt\"\napi_audiences = [\"other\", \"api\"]\n";
pub const INTROSPECTION: &str = "bearer = \"introspection\"\napi_audiences = [\"api\"]\n";

pub struct Stage {
    pub op: ScriptedOp,
    pub app: FakeUpstream,
    pub house: TestHouse,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub challenge: Option<String>,
    pub whole: String,
}

impl Answer {
    fn of(whole: String) -> Self {
        let status = whole.get(9..12).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {whole:?}"));
        let field = |line: &str| line.strip_prefix("www-authenticate: ").map(str::to_owned);
        let challenge = whole.lines().find_map(field);
        Self { status, challenge, whole }
    }

    pub fn json(&self) -> Value {
        let (_, body) = self.whole.split_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{}", self.whole))
    }

    /// A refusal in the words of RFC 6750.
    pub fn assert_invalid_token(&self, code: &str, case: &str) {
        assert_eq!(self.status, 401, "{case}: {}", self.whole);
        assert_eq!(self.challenge.as_deref(), Some("Bearer error=\"invalid_token\""), "{case}");
        assert_eq!(self.json()["code"], code, "{case}");
    }
}

const MORE_ROUTES: &str = r#"
[[route]]
path = "/strong/**"
upstream = "app"
acr = "gold"
max_age = "10m"

[[route]]
path = "/of-acme/**"
upstream = "app"
tenants = ["acme"]
"#;

impl Stage {
    pub async fn jwt() -> Self {
        Self::with(JWT, |plan| plan).await
    }

    /// With these keys in the provider's table.
    pub async fn with(keys: &str, change: impl FnOnce(Plan) -> Plan) -> Self {
        let op = ScriptedOp::start().await;
        let providers = format!("{}{keys}", op_provider("op", &op));
        Self::of(op, &providers, change).await
    }

    pub async fn of(op: ScriptedOp, providers: &str, change: impl FnOnce(Plan) -> Plan) -> Self {
        let app = FakeUpstream::start().await;
        let routes = routes(&format!("\"{}\"", app.url()));
        let house = change(TestHouse::with(&format!("{providers}{routes}{MORE_ROUTES}"))).open().await;
        keep_time(&op, &house);
        Self { op, app, house }
    }

    pub fn now_s(&self) -> i64 {
        self.house.clock.now_ms().div_euclid(1000)
    }

    /// An honest access token of `bob`, which no login of ours brought, after a change.
    pub fn minted(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Minted {
        let (now, key) = (self.now_s(), self.op.script(|s| s.key.clone()));
        let mut claims = json!({
            "iss": self.op.issuer(), "sub": "bob", "aud": "api", "client_id": "robot", "scope": "read",
            "iat": now, "exp": now + 300, "jti": mint::random_text(), "roles": ["user"], "email": "bob@example.test",
        });
        let claims_map = claims.as_object_mut().unwrap();
        change(claims_map);
        let claims_map = claims_map.clone();
        let header = json!({"alg": key.alg_name(), "typ": "at+jwt", "kid": key.kid()});
        let token = mint::mint(&header.to_string(), &claims.to_string(), &key);
        Minted { header: header.as_object().cloned().unwrap(), claims: claims_map, token, key }
    }

    pub fn token(&self, change: impl FnOnce(&mut Map<String, Value>)) -> String {
        self.minted(change).token
    }

    /// A request with whatever headers, on a connection of its own.
    pub async fn ask(&self, line: &str, headers: &str) -> Answer {
        let host = self.house.url.trim_start_matches("http://");
        let mut wire = Wire::open(self.house.address).await;
        wire.send(format!("{line} HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n")).await;
        Answer::of(String::from_utf8_lossy(&wire.rest().await).into_owned())
    }

    pub async fn bring(&self, line: &str, token: &str) -> Answer {
        self.ask(line, &format!("authorization: Bearer {token}\r\n")).await
    }

    /// The token is let in, and the app hears of this user.
    pub async fn accepted(&self, case: &str, token: &str, user: &str) {
        eprintln!("case: {case} must be accepted");
        self.app.forget();
        let answer = self.bring("GET /in/x", token).await;
        assert_eq!(answer.status, 200, "{case}: {}", answer.whole);
        assert_eq!(self.app.last().one("x-auth-user"), Some(user), "{case}");
    }

    /// The token is refused for this reason, on a route and at `/auth/me`, and the app is not asked.
    pub async fn refused(&self, case: &str, token: &str, reason: &str) {
        eprintln!("case: {case} must be refused as {reason}");
        // At most sixty refusals of one address are recorded in a minute.
        self.house.clock.advance(Duration::from_secs(3));
        self.app.forget();
        let before = self.house.refusals(reason).await;
        let code = if reason == "token_revoked" { "session_ended" } else { "not_signed_in" };
        self.bring("GET /in/x", token).await.assert_invalid_token(code, case);
        self.bring("GET /auth/me", token).await.assert_invalid_token(code, case);
        self.app.assert_silent(case);
        // An end that every token meets is not worth a row.
        let written = if reason == "access_token_expired" { 0 } else { 2 };
        assert_eq!(
            self.house.refusals(reason).await,
            before + written,
            "{case} was not recorded as {reason}"
        );
    }

    /// One claim takes each of these values (`None`: it is missing), each time refused.
    pub async fn claim_refused(&self, name: &str, values: Vec<Option<Value>>, reason: &str) {
        for value in values {
            let case = format!("{name} = {value:?}");
            let token = self.token(|claims| set(claims, name, value));
            self.refused(&case, &token, reason).await;
        }
    }

    /// As [`Self::claim_refused`], each time accepted.
    pub async fn claim_accepted(&self, name: &str, values: Vec<Option<Value>>) {
        for value in values {
            let case = format!("{name} = {value:?}");
            let token = self.token(|claims| set(claims, name, value));
            self.accepted(&case, &token, "bob").await;
        }
    }
}

/// Sets or removes a member.
pub fn set(object: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => object.insert(name.to_owned(), value),
        None => object.remove(name),
    };
}
