//! A person at a browser: a cookie jar, the headers browsers send, and no redirect followed unless
//! asked. It knows HTTP alone and nothing of Doorward's insides.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method};
use serde_json::Value;
use url::{Origin, Url};

use super::form::{Form, forms};
use super::jar::Jar;
pub use super::jar::{Cookie, SetCookie};
use super::op::NowMs;

/// How a request came about; decides the Fetch Metadata headers (W3C Fetch Metadata).
#[derive(Clone)]
enum Mode {
    /// A program without a browser's headers.
    Bare,
    /// The person typed an address or used a bookmark.
    Typed,
    /// A form or link of the page at this origin; the nearness is the worst seen in the chain.
    FromPage(Origin, Nearness),
    /// A script of the base page.
    Script,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    SameOrigin,
    SameSite,
    CrossSite,
}

#[derive(Clone)]
struct Request {
    method: Method,
    url: Url,
    mode: Mode,
    body: Option<(&'static str, Vec<u8>)>,
}

/// An answer with where it came from.
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub url: Url,
    request: Request,
}

impl Page {
    /// The first header of this name; one that is not text is `None`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Every `Set-Cookie` line that parses, in order, accepted by the jar or not.
    pub fn set_cookies(&self) -> Vec<SetCookie> {
        let lines = self.headers.get_all("set-cookie").iter();
        lines.filter_map(|line| SetCookie::parse(line.to_str().ok()?)).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; fails with the body when it is none.
    pub fn json(&self) -> Value {
        let parsed = serde_json::from_slice(&self.body);
        parsed.unwrap_or_else(|error| panic!("{} {error}: {}", self.url, self.text()))
    }

    /// The `Location` header resolved against the page's address.
    pub fn location(&self) -> Option<Url> {
        self.url.join(self.header("location")?).ok()
    }

    pub fn is_redirect(&self) -> bool {
        matches!(self.status, 301 | 302 | 303 | 307 | 308) && self.header("location").is_some()
    }

    pub fn forms(&self) -> Vec<Form> {
        forms(&self.text())
    }
}

/// Clones share the jar: [`Browser::with_header`] is the same person with one more header.
#[derive(Clone)]
pub struct Browser {
    base: Url,
    /// Where requests to `base`'s origin really go, when TLS is only pretended.
    wire: Option<String>,
    client: Client,
    jar: Arc<Mutex<Jar>>,
    extra: Vec<(String, String)>,
    now: Arc<Mutex<NowMs>>,
}

impl Browser {
    /// `base_url` is what paths are resolved against.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's visitor needs a client of its own, and the cookies' clock until set"
    )]
    pub fn new(base_url: &str) -> Self {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        let now: NowMs = Arc::new(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            i64::try_from(since.unwrap().as_millis()).unwrap()
        });
        Self {
            base: Url::parse(base_url).unwrap(),
            wire: None,
            client,
            jar: Arc::default(),
            extra: Vec::new(),
            now: Arc::new(Mutex::new(now)),
        }
    }

    /// A visitor who trusts this authority (PEM) and nobody else; speaks HTTP/1.1.
    #[expect(clippy::disallowed_methods, reason = "as above")]
    pub fn trusting(base_url: &str, authority: &std::path::Path) -> Self {
        let pem = std::fs::read(authority).unwrap();
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
            .build()
            .unwrap();
        Self { client, ..Self::new(base_url) }
    }

    /// A visitor of `public_url` (https) whose requests arrive at `address` in plain http with the
    /// public Host, as if a TLS proxy stood between. Add the proxy's headers by `with_header`.
    pub fn behind_tls(public_url: &str, address: SocketAddr) -> Self {
        let mut browser = Self::new(public_url);
        browser.wire = Some(format!("http://{address}"));
        browser
    }

    /// The same person and jar, whose requests to the public origin arrive at `address`: another replica behind the same name.
    #[must_use]
    pub fn by_way_of(&self, address: SocketAddr) -> Self {
        Self { wire: Some(format!("http://{address}")), ..self.clone() }
    }

    /// The clock that cookies expire by, unix milliseconds.
    pub fn set_now(&self, now: NowMs) {
        *self.now.lock().unwrap() = now;
    }

    fn now_ms(&self) -> i64 {
        let now = self.now.lock().unwrap().clone();
        now()
    }

    /// The same person and jar, with this header on every request; it replaces the browser's own.
    #[must_use]
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.extra.push((name.into(), value.into()));
        other
    }

    /// A path of the base URL, or a whole URL.
    pub fn url(&self, path_or_url: &str) -> Url {
        self.base.join(path_or_url).unwrap()
    }

    /// A program's GET: cookies, `Accept: */*`, nothing else of a browser.
    pub async fn get(&self, path: &str) -> Page {
        self.send(self.request(Method::GET, path, Mode::Bare)).await
    }

    /// As [`Self::get`], for a server that may be down.
    pub async fn try_get(&self, path: &str) -> reqwest::Result<Page> {
        self.try_send(self.request(Method::GET, path, Mode::Bare)).await
    }

    /// The person types the address.
    pub async fn navigate(&self, path: &str) -> Page {
        self.send(self.request(Method::GET, path, Mode::Typed)).await
    }

    /// The person clicks a link on a page of `from`.
    pub async fn click(&self, from: &str, path: &str) -> Page {
        let mode = from_page(&self.url(from), &self.url(path));
        self.send(self.request(Method::GET, path, mode)).await
    }

    /// A script of the base page asks for JSON.
    pub async fn get_json(&self, path: &str) -> Page {
        self.send(self.request(Method::GET, path, Mode::Script)).await
    }

    pub async fn delete(&self, path: &str) -> Page {
        self.send(self.request(Method::DELETE, path, Mode::Script)).await
    }

    pub async fn post_json(&self, path: &str, body: &Value) -> Page {
        let mut request = self.request(Method::POST, path, Mode::Script);
        request.body = Some(("application/json", body.to_string().into_bytes()));
        self.send(request).await
    }

    /// A form of the base page is sent.
    pub async fn post_form(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.post_form_from(self.base.as_str(), path, fields).await
    }

    /// A form on a page of `from` is sent: another origin there makes it a cross-site request.
    pub async fn post_form_from(&self, from: &str, path: &str, fields: &[(&str, &str)]) -> Page {
        let mode = from_page(&self.url(from), &self.url(path));
        let mut request = self.request(Method::POST, path, mode);
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        request.body = Some(("application/x-www-form-urlencoded", form.into_bytes()));
        self.send(request).await
    }

    /// Sends a form of this page: its own fields, with these set or added (the button too).
    pub async fn submit(&self, page: &Page, form: &Form, set: &[(&str, &str)]) -> Page {
        let mut fields = form.fields.clone();
        for (name, value) in set {
            fields.retain(|(known, _)| known != name);
            fields.push(((*name).into(), (*value).into()));
        }
        let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut action = page.url.join(&form.action).unwrap();
        if form.method == "post" {
            return self.post_form_from(page.url.as_str(), action.as_str(), &fields).await;
        }
        action.query_pairs_mut().clear().extend_pairs(fields);
        self.click(page.url.as_str(), action.as_str()).await
    }

    /// Follows up to `most` redirects, across hosts, as the kind of request that began it.
    pub async fn follow(&self, mut page: Page, most: usize) -> Page {
        for _ in 0..most {
            let Some(next) = page.location().filter(|_| page.is_redirect()) else {
                break;
            };
            let mut request = page.request.clone();
            let keeps_method = matches!(page.status, 307 | 308);
            if !keeps_method && request.method != Method::HEAD {
                request.method = Method::GET;
                request.body = None;
            }
            if let Mode::FromPage(origin, worst) = &mut request.mode {
                *worst = (*worst).max(site_between(origin, &next));
            }
            request.url = next;
            page = self.send(request).await;
        }
        page
    }

    /// Types a login address and goes wherever it leads, until a page that is no redirect.
    pub async fn sign_in(&self, path: &str) -> Page {
        let start = self.navigate(path).await;
        let end = self.follow(start, 20).await;
        assert!(!end.is_redirect(), "still redirecting at {}", end.url);
        end
    }

    /// The answer with its body unread, for event streams and endless downloads.
    pub async fn open(&self, path: &str) -> reqwest::Response {
        let request = self.request(Method::GET, path, Mode::Script);
        let response = self.wire_request(&request).send().await.unwrap();
        self.keep_cookies(response.headers(), &request.url);
        response
    }

    /// The value of the base host's cookie of this name, whatever its path.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let mut cookies = self.cookies().into_iter();
        cookies.find(|c| c.name == name).map(|c| c.value)
    }

    /// All live cookies of the base host, whatever their paths.
    pub fn cookies(&self) -> Vec<Cookie> {
        self.jar.lock().unwrap().for_host(&self.base, self.now_ms())
    }

    /// Those that a request to this path would send.
    pub fn cookies_for(&self, path: &str) -> Vec<Cookie> {
        let url = self.url(path);
        self.jar.lock().unwrap().for_url(&url, self.now_ms())
    }

    /// Puts a cookie into the jar for the base host, path `/`.
    pub fn set_cookie(&self, name: &str, value: &str) {
        let mut attributes = vec![("Path".into(), "/".into())];
        if self.base.scheme() == "https" {
            attributes.push(("Secure".into(), String::new()));
        }
        let cookie = SetCookie { name: name.into(), value: value.into(), attributes };
        let now = self.now_ms();
        self.jar.lock().unwrap().store(&cookie, &self.base, now);
    }

    /// Forgets every cookie of this name.
    pub fn forget(&self, name: &str) {
        self.jar.lock().unwrap().remove(name);
    }

    pub fn clear(&self) {
        self.jar.lock().unwrap().clear();
    }

    fn request(&self, method: Method, path: &str, mode: Mode) -> Request {
        Request { method, url: self.url(path), mode, body: None }
    }

    async fn send(&self, request: Request) -> Page {
        let url = request.url.clone();
        let page = self.try_send(request).await;
        page.unwrap_or_else(|error| panic!("{url} did not answer: {error:?}"))
    }

    async fn try_send(&self, request: Request) -> reqwest::Result<Page> {
        let response = self.wire_request(&request).send().await?;
        self.keep_cookies(response.headers(), &request.url);
        Ok(Page {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            url: request.url.clone(),
            body: response.bytes().await?.to_vec(),
            request,
        })
    }

    fn keep_cookies(&self, headers: &HeaderMap, url: &Url) {
        let now = self.now_ms();
        let mut jar = self.jar.lock().unwrap();
        for line in headers.get_all("set-cookie") {
            if let Some(cookie) = line.to_str().ok().and_then(SetCookie::parse) {
                jar.store(&cookie, url, now);
            }
        }
    }

    fn wire_request(&self, request: &Request) -> reqwest::RequestBuilder {
        let mut headers = self.mode_headers(request);
        let mut url = request.url.clone();
        url.set_fragment(None);
        if let Some(cookies) = self.jar.lock().unwrap().header(&url, self.now_ms()) {
            set(&mut headers, "cookie", &cookies);
        }
        let mut target = url.to_string();
        if let Some(wire) = self.wire.as_ref().filter(|_| url.origin() == self.base.origin()) {
            let public = url.origin().ascii_serialization();
            set(&mut headers, "host", public.split_once("://").map_or("", |(_, host)| host));
            target = target.replacen(&public, wire, 1);
        }
        for (name, value) in &self.extra {
            set(&mut headers, name, value);
        }
        let mut builder = self.client.request(request.method.clone(), target);
        if let Some((content_type, body)) = &request.body {
            set_default(&mut headers, "content-type", content_type);
            builder = builder.body(body.clone());
        }
        builder.headers(headers)
    }

    fn mode_headers(&self, request: &Request) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let (accept, mode, dest, site) = match &request.mode {
            Mode::Bare => {
                set(&mut headers, "accept", "*/*");
                return headers;
            }
            Mode::Typed => (PEOPLE, "navigate", "document", "none"),
            Mode::FromPage(_, site) => (PEOPLE, "navigate", "document", site_name(*site)),
            Mode::Script => {
                let site = site_between(&self.base.origin(), &request.url);
                ("application/json", "cors", "empty", site_name(site))
            }
        };
        for (name, value) in
            [("accept", accept), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest), ("sec-fetch-site", site)]
        {
            set(&mut headers, name, value);
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            let origin = match &request.mode {
                Mode::FromPage(origin, _) => origin.clone(),
                _ => self.base.origin(),
            };
            set(&mut headers, "origin", &origin.ascii_serialization());
        }
        headers
    }
}

const PEOPLE: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
    headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
}

fn set_default(headers: &mut HeaderMap, name: &str, value: &str) {
    if !headers.contains_key(name) {
        set(headers, name, value);
    }
}

fn from_page(page: &Url, target: &Url) -> Mode {
    let origin = page.origin();
    let site = site_between(&origin, target);
    Mode::FromPage(origin, site)
}

/// A port does not part sites, the scheme and the host do. Hosts here are addresses or single
/// names, which are their own registrable domains.
fn site_between(origin: &Origin, target: &Url) -> Nearness {
    match (origin, target.origin()) {
        (known, other) if *known == other => Nearness::SameOrigin,
        (Origin::Tuple(scheme, host, _), Origin::Tuple(other_scheme, other_host, _))
            if *scheme == other_scheme && *host == other_host =>
        {
            Nearness::SameSite
        }
        _ => Nearness::CrossSite,
    }
}

fn site_name(site: Nearness) -> &'static str {
    match site {
        Nearness::SameOrigin => "same-origin",
        Nearness::SameSite => "same-site",
        Nearness::CrossSite => "cross-site",
    }
}

/// Sends these bytes as they are and returns all that comes back until the other side closes, is
/// silent for a second after it spoke, or ten seconds are over. Blocks: for malformed input.
pub fn raw(address: impl ToSocketAddrs, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    // A server that refuses early closes while we still write; what it said is what counts.
    let _ = stream.write_all(bytes);
    let over = Instant::now() + Duration::from_secs(10);
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    while Instant::now() < over {
        let patience = if answer.is_empty() { 10 } else { 1 };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(patience)));
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
        }
    }
    answer
}
