//! Alice signs in at the development provider, once; what is measured is what her session costs afterwards.

use std::net::SocketAddr;

use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use url::Url;

use super::Outcome;

/// The cookie of her session.
#[expect(clippy::disallowed_methods, reason = "a visitor is not Doorward, and has a client of their own")]
pub async fn as_alice(at: SocketAddr) -> Outcome<String> {
    let door = Url::parse(&format!("http://localhost:{}/", at.port()))?;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
    let page = |request: reqwest::RequestBuilder| {
        request.header("accept", "text/html").header("sec-fetch-mode", "navigate")
    };
    let begun = page(client.get(door.join("/auth/login?return_to=/")?)).send().await?;
    let attempt = kept(begun.headers());
    let provider = to(&door, begun.headers())?;
    let form = page(client.get(provider.clone())).send().await?.text().await?;
    let mut fields = hidden(&form);
    fields.push(("username".to_owned(), "alice".to_owned()));
    let action = attribute(form.split("<form").nth(1).unwrap_or_default(), "action").unwrap_or_default();
    let sent =
        page(client.post(provider.join(&action)?)).header("origin", door.origin().ascii_serialization());
    let answered = sent.form(&fields).send().await?;
    let callback = to(&provider, answered.headers())?;
    let finished = page(client.get(callback)).header(COOKIE, attempt).send().await?;
    let session = kept(finished.headers());
    if session.contains("doorward=") {
        Ok(session)
    } else {
        Err(format!("no session: {}", finished.status()).into())
    }
}

fn to(base: &Url, headers: &HeaderMap) -> Outcome<Url> {
    let location = headers.get(LOCATION).ok_or("a page that should lead on does not")?;
    Ok(base.join(location.to_str()?)?)
}

fn kept(headers: &HeaderMap) -> String {
    let lines = headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.filter_map(|line| line.split(';').next()).filter(|pair| !pair.ends_with('='));
    pairs.collect::<Vec<_>>().join("; ")
}

fn hidden(form: &str) -> Vec<(String, String)> {
    let inputs =
        form.split("<input").skip(1).filter(|input| attribute(input, "type").as_deref() == Some("hidden"));
    inputs.filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value")?))).collect()
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let tag = tag.split('>').next()?;
    let value = tag.split(&format!("{name}=\"")).nth(1)?.split('"').next()?;
    Some(value.replace("&#38;", "&").replace("&amp;", "&").replace("&#34;", "\""))
}
