//! A person at a browser without any cookie, who signs in once: four requests, three of them to Doorward.

use std::time::Duration;

use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use reqwest::{Client, StatusCode};
use url::Url;

use super::Outcome;

const PEOPLE: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// Connections that people share, as they do behind a load balancer. Kept for less than the five seconds after
/// which Node closes one, so that no request meets a closing door.
#[expect(clippy::disallowed_methods, reason = "a visitor is not Doorward, and has a client of their own")]
pub fn client() -> Outcome<Client> {
    let client = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_idle_timeout(Duration::from_secs(2))
        .tls_certs_only([]);
    Ok(client.build()?)
}

/// Signs `person` in at `door` and ends on the first page behind it; hands back the cookies of the session.
pub async fn sign_in(http: &Client, door: &Url, person: &str) -> Outcome<String> {
    let mut start = door.join("/auth/login")?;
    start.query_pairs_mut().append_pair("return_to", "/protected").append_pair("login_hint", person);
    let begun = navigate(http, start, "").await?;
    let provider = begun.location.ok_or("the login did not lead to the provider")?;
    let answered = navigate(http, provider, "").await?;
    let callback = answered.location.filter(|url| url.origin() == door.origin());
    let callback = callback.ok_or("the provider did not lead back")?;
    let finished = navigate(http, callback, &begun.cookies).await?;
    let Some(page) = finished.location else {
        return Err(format!("the callback answered {} {}", finished.status, finished.body).into());
    };
    let page = navigate(http, page, &finished.cookies).await?;
    if page.status != StatusCode::OK || !page.body.contains(person) {
        return Err(format!("the page answered {} without {person}", page.status).into());
    }
    Ok(finished.cookies)
}

struct Page {
    status: StatusCode,
    location: Option<Url>,
    /// What was set, as it is sent back.
    cookies: String,
    body: String,
}

async fn navigate(http: &Client, url: Url, cookies: &str) -> Outcome<Page> {
    let mut request = http
        .get(url.clone())
        .header("accept", PEOPLE)
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-dest", "document")
        .header("sec-fetch-site", "cross-site");
    if !cookies.is_empty() {
        request = request.header(COOKIE, cookies);
    }
    let answer = request.send().await?;
    let location = answer.headers().get(LOCATION).and_then(|value| url.join(value.to_str().ok()?).ok());
    let (status, cookies) = (answer.status(), kept(answer.headers()));
    Ok(Page { status, location, cookies, body: answer.text().await? })
}

/// Cookies that the answer sets, without those that it takes away.
fn kept(headers: &HeaderMap) -> String {
    let lines = headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.filter_map(|line| line.split(';').next()).filter(|pair| !pair.ends_with('='));
    pairs.collect::<Vec<_>>().join("; ")
}
