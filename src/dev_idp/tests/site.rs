//! The mounted issuer, its clock, and what a browser or a client sends to it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use actix_web::App;
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use actix_web::test::{TestRequest, call_service, init_service};
use futures_util::future::LocalBoxFuture;
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::super::DevIdp;
use super::super::keys::sha256;

pub(super) const ISSUER: &str = "http://localhost:8080/dev-idp";
pub(super) const CALLBACK: &str = "http://localhost:8080/auth/callback/dev";
pub(super) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(super) const START_MS: i64 = 1_770_000_000_000;

pub(super) struct Clock(Arc<AtomicI64>);

impl Clock {
    pub(super) fn advance_seconds(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

pub(super) fn issuer() -> (DevIdp, Clock) {
    let now = Arc::new(AtomicI64::new(START_MS));
    let clock = Clock(Arc::clone(&now));
    let idp = DevIdp::new(ISSUER, Arc::new(move || now.load(Ordering::SeqCst))).unwrap();
    (idp, clock)
}

pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Answered {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub(super) fn header(&self, name: &HeaderName) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }

    pub(super) fn location(&self) -> Url {
        assert_eq!(self.status, StatusCode::SEE_OTHER, "{}", self.body);
        Url::parse(self.header(&header::LOCATION)).unwrap()
    }

    pub(super) fn query(&self, name: &str) -> Option<String> {
        let found = self.location();
        let mut pairs = found.query_pairs();
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    pub(super) fn cookie(&self) -> String {
        let set = self.header(&header::SET_COOKIE);
        set.split(';').next().unwrap().to_owned()
    }

    pub(super) fn asks(&self) -> bool {
        self.status == StatusCode::OK && self.body.contains("value=\"alice\"")
    }
}

type Respond = dyn Fn(TestRequest) -> LocalBoxFuture<'static, ServiceResponse>;

/// The mounted routes, ready to be asked.
pub(super) struct Site(Box<Respond>);

pub(super) async fn site(idp: &DevIdp) -> Site {
    let idp = idp.clone();
    let app = Rc::new(init_service(App::new().configure(move |config| idp.mount(config))).await);
    Site(Box::new(move |request| {
        let app = Rc::clone(&app);
        Box::pin(async move { call_service(&*app, request.to_request()).await })
    }))
}

pub(super) async fn send(site: &Site, request: TestRequest) -> Answered {
    let response = (site.0)(request).await;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = actix_web::body::to_bytes(response.into_body()).await.unwrap_or_default();
    Answered { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

pub(super) fn get(path: &str) -> TestRequest {
    let host = (header::HOST, "localhost:8080");
    TestRequest::get().uri(&format!("/dev-idp{path}")).insert_header(host)
}

pub(super) fn post(path: &str, fields: &[(&str, &str)]) -> TestRequest {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    TestRequest::post()
        .uri(&format!("/dev-idp{path}"))
        .insert_header((header::HOST, "localhost:8080"))
        .insert_header((header::CONTENT_TYPE, "application/x-www-form-urlencoded"))
        .set_payload(body)
}

pub(super) fn request_fields() -> Vec<(&'static str, String)> {
    [
        ("response_type", "code"),
        ("client_id", "doorward"),
        ("redirect_uri", CALLBACK),
        ("scope", "openid email profile"),
        ("state", "st&te"),
        ("nonce", "n-1"),
        ("code_challenge_method", "S256"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into_iter()
    .chain([("code_challenge", sha256(VERIFIER))])
    .collect()
}

pub(super) fn authorize(more: &str) -> TestRequest {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(request_fields()).finish();
    get(&format!("/authorize?{query}{more}"))
}

pub(super) async fn press(site: &Site, name: &str, value: &str) -> Answered {
    let fields = request_fields();
    let mut fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    fields.push((name, value));
    send(site, post("/authorize", &fields)).await
}

pub(super) async fn code_of(site: &Site, name: &str) -> String {
    press(site, "username", name).await.query("code").unwrap()
}

pub(super) async fn exchange(site: &Site, code: &str, verifier: &str) -> Answered {
    let fields = [
        ("grant_type", "authorization_code"),
        ("client_id", "doorward"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", verifier),
    ];
    send(site, post("/token", &fields)).await
}

pub(super) async fn refresh(site: &Site, token: &str) -> Answered {
    let fields = [("grant_type", "refresh_token"), ("client_id", "doorward"), ("refresh_token", token)];
    send(site, post("/token", &fields)).await
}

pub(super) async fn with_password(site: &Site, name: &str, password: &str) -> Answered {
    let fields = [
        ("grant_type", "password"),
        ("client_id", "doorward"),
        ("username", name),
        ("password", password),
        ("scope", "openid profile"),
    ];
    send(site, post("/token", &fields)).await
}

pub(super) async fn userinfo(site: &Site, tokens: &Value) -> Answered {
    let bearer = format!("Bearer {}", text(tokens, "access_token"));
    send(site, get("/userinfo").insert_header((header::AUTHORIZATION, bearer))).await
}

pub(super) fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object[member].as_str().unwrap_or_else(|| panic!("no {member} in {object}"))
}
