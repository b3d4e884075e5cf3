//! A person without a browser: fills in the one form of a provider's sign-in pages. Knows no provider by name.

use std::collections::HashMap;

use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use url::Url;

/// A sign-in takes some redirects; more than this is a loop.
const MAX_STEPS: usize = 12;

/// Opens `authorize_url`, sends `fields` with the first form that it meets, and follows every redirect that stays
/// on the provider. Gives the first address elsewhere: the callback. An error says on which page it ended.
pub async fn sign_in(
    http: &reqwest::Client,
    authorize_url: &str,
    fields: &[(&str, &str)],
) -> Result<String, String> {
    let mut at = Url::parse(authorize_url).map_err(|error| format!("{authorize_url}: {error}"))?;
    let provider = at.origin();
    let mut jar = Jar::default();
    let mut form: Option<Vec<(String, String)>> = None;
    let mut unsent = true;
    for _ in 0..MAX_STEPS {
        let request = match form.take() {
            Some(form) => http.post(at.clone()).form(&form),
            None => http.get(at.clone()),
        };
        let response =
            request.header(COOKIE, jar.header()).send().await.map_err(|error| format!("{at}: {error}"))?;
        jar.keep(response.headers());
        let status = response.status();
        if status.is_redirection() {
            let next = location(&at, response.headers())?;
            if next.origin() != provider {
                return Ok(next.into());
            }
            at = next;
            continue;
        }
        let page = response.text().await.map_err(|error| format!("{at}: {error}"))?;
        let found = Form::first_in(&page).filter(|_| unsent && status.is_success());
        let Some(found) = found else {
            return Err(format!("the sign-in ended on a page ({status}) at {at}:\n{page}"));
        };
        unsent = false;
        at = at.join(&found.action).map_err(|error| format!("{}: {error}", found.action))?;
        form = Some(found.filled_in(fields));
    }
    Err(format!("the sign-in went in circles, last at {at}"))
}

fn location(at: &Url, headers: &HeaderMap) -> Result<Url, String> {
    let location = headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| format!("{at}: a redirect without an address"))?;
    at.join(location).map_err(|error| format!("{location}: {error}"))
}

/// Cookies of one provider by name. Paths and `Secure` are ignored: providers set `Secure` even over plain HTTP
/// on loopback, where browsers send such cookies and strict clients do not.
#[derive(Default)]
struct Jar(HashMap<String, String>);

impl Jar {
    fn keep(&mut self, headers: &HeaderMap) {
        for cookie in headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
            let pair = cookie.split(';').next().unwrap_or_default();
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            if value.is_empty() {
                self.0.remove(name.trim());
            } else {
                self.0.insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
    }

    fn header(&self) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }
}

struct Form {
    action: String,
    hidden: Vec<(String, String)>,
}

impl Form {
    fn first_in(page: &str) -> Option<Self> {
        let rest = &page[page.find("<form")?..];
        let form = &rest[..rest.find("</form").unwrap_or(rest.len())];
        let action = attribute(form.split('>').next()?, "action")?;
        let hidden = form
            .split("<input")
            .skip(1)
            .filter_map(|input| input.split('>').next())
            .filter(|input| attribute(input, "type").as_deref() == Some("hidden"))
            .filter_map(|input| {
                Some((attribute(input, "name")?, attribute(input, "value").unwrap_or_default()))
            })
            .collect();
        Some(Self { action, hidden })
    }

    fn filled_in(mut self, fields: &[(&str, &str)]) -> Vec<(String, String)> {
        self.hidden.retain(|(name, _)| fields.iter().all(|(field, _)| field != name));
        self.hidden.extend(fields.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        self.hidden
    }
}

/// The value of `name="…"` inside one tag.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let mark = format!("{name}=\"");
    // The blank keeps `action` apart from `formaction`.
    let start = tag
        .match_indices(&mark)
        .find(|(at, _)| tag[..*at].chars().next_back().is_some_and(char::is_whitespace))?;
    let value = &tag[start.0 + mark.len()..];
    Some(unescaped(&value[..value.find('"')?]))
}

fn unescaped(text: &str) -> String {
    text.replace("&#x3D;", "=")
        .replace("&#39;", "'")
        .replace("&quot;", "\"")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&#38;", "&")
        .replace("&amp;", "&")
}
