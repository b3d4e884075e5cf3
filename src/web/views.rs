//! What people see: one struct per page, each an HTML document made from plain fields.
//!
//! Owns the wording, the markup and the static files beside it. Never decides who may see a page,
//! never reads a request, never knows cookies or status lines. Every value is untrusted and escaped
//! by the templates; a link passes [`link`] as well. No page carries script or inline style, so the
//! content policy can forbid both.

use std::borrow::Cow;

pub use askama::Template;

/// The stylesheet, served at `{auth_prefix}/static/doorward.css` as `text/css`.
pub const STYLESHEET: &str = include_str!("../../static/doorward.css");

/// The mark and favicon, served at `{auth_prefix}/static/doorward.svg` as `image/svg+xml`.
pub const LOGO: &str = include_str!("../../static/doorward.svg");

const ASSET_HASH: u64 = fnv1a(LOGO.as_bytes(), fnv1a(STYLESHEET.as_bytes(), 0xcbf2_9ce4_8422_2325));

/// Sixteen hex digits that change with the static files, so that a file asked for with this `v` may
/// be cached forever.
#[must_use]
pub fn asset_version() -> String {
    format!("{ASSET_HASH:016x}")
}

/// FNV-1a, because it runs at compile time; it names a file and guards nothing.
const fn fnv1a(mut bytes: &[u8], mut hash: u64) -> u64 {
    while let [first, rest @ ..] = bytes {
        hash = (hash ^ *first as u64).wrapping_mul(0x0000_0100_0000_01b3);
        bytes = rest;
    }
    hash
}

/// Lets a path of this origin or an http(s) address through and turns anything else into `/`:
/// escaping alone does not disarm `javascript:`, and `//host` or `/\host` would leave the origin
/// while looking like a path.
#[must_use]
pub fn link(href: &str) -> &str {
    let local = href.starts_with('/') && !href.starts_with("//") && !href.starts_with("/\\");
    let web = href.starts_with("https://") || href.starts_with("http://");
    // Browsers drop tabs and line breaks while parsing, which would rebuild what was just refused.
    let clean = !href.contains(|letter: char| letter.is_ascii_control());
    if clean && (local || web) { href } else { "/" }
}

/// What frames every page.
#[derive(Debug, Clone)]
pub struct Chrome {
    /// Where our own paths begin, such as `/auth`; no slash at the end.
    pub auth_prefix: String,
    /// The origin's host as people know it, such as `app.example`.
    pub host: String,
    /// See [`asset_version`].
    pub asset_version: String,
    /// The guest's display name, when there is a session.
    pub signed_in_as: Option<String>,
}

/// `GET /auth/login` with several providers.
#[derive(Debug, Template)]
#[template(path = "choose_provider.html")]
pub struct ChooseProvider {
    pub chrome: Chrome,
    pub providers: Vec<Choice>,
    /// One sentence above the choices, such as why a sign-in is asked again.
    pub notice: Option<String>,
    /// Name and password, where a provider offers that.
    pub form: Option<PasswordForm>,
    /// Where an account is created, if that is offered.
    pub register_href: Option<String>,
}

/// The form for name and password.
#[derive(Debug)]
pub struct PasswordForm {
    /// Whose password it may be; at least one.
    pub providers: Vec<Place>,
    /// As it was typed before.
    pub username: String,
    /// A checked return path.
    pub return_to: Option<String>,
    /// What was wrong with the last try.
    pub said: Vec<String>,
}

/// `GET /auth/register`, and its form again when something in it has to be mended.
#[derive(Debug, Template)]
#[template(path = "register.html")]
pub struct Register {
    pub chrome: Chrome,
    /// Shown when there is a choice.
    pub providers: Vec<Place>,
    pub provider_fault: Option<String>,
    pub fields: Vec<Field>,
    /// What is wrong with the whole, as a sentence.
    pub notice: Option<String>,
    /// A checked return path, posted on.
    pub return_to: Option<String>,
    pub sign_in_href: String,
}

/// One provider in a list.
#[derive(Debug, Clone)]
pub struct Place {
    pub id: String,
    pub label: String,
    pub chosen: bool,
}

/// One field of a form.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: Cow<'static, str>,
    pub label: Cow<'static, str>,
    /// The input's type.
    pub kind: &'static str,
    pub autocomplete: &'static str,
    /// As it was typed; never a password.
    pub value: String,
    pub hint: Option<&'static str>,
    pub fault: Option<String>,
    pub required: bool,
    pub longest: u16,
    pub focused: bool,
}

impl Field {
    fn is_described(&self) -> bool {
        self.fault.is_some() || self.hint.is_some()
    }
}

/// The one page after a registration that must not tell whether it created anybody.
#[derive(Debug, Template)]
#[template(path = "registered.html")]
pub struct Accepted {
    pub chrome: Chrome,
    pub sign_in_href: String,
}

/// One way in.
#[derive(Debug, Clone)]
pub struct Choice {
    pub label: String,
    /// Where the click leads; see [`link`].
    pub href: String,
    pub detail: Option<String>,
    /// One letter for the tile; decoration, hidden from screen readers.
    pub initial: String,
}

/// `GET /auth/signed-out`.
#[derive(Debug, Template)]
#[template(path = "signed_out.html")]
pub struct SignedOut {
    pub chrome: Chrome,
    /// What could not be ended, as a sentence: "Your session at Company login may still be open."
    pub left_open: Option<String>,
    pub sign_in_href: String,
    pub continue_href: Option<String>,
}

/// `GET /auth/logout`: one button, because a GET must not end a session.
#[derive(Debug, Template)]
#[template(path = "sign_out.html")]
pub struct SignOut {
    pub chrome: Chrome,
    /// A checked return path, posted on as `return_to`.
    pub return_to: Option<String>,
}

impl SignOut {
    fn stay_href(&self) -> &str {
        self.return_to.as_deref().map_or("/", link)
    }
}

/// A problem (RFC 9457), re-dressed for a person.
#[derive(Debug, Template)]
#[template(path = "problem.html")]
pub struct ProblemPage {
    pub chrome: Chrome,
    pub status: u16,
    pub title: String,
    pub detail: String,
    /// The problem's stable code, such as `login_expired`.
    pub code: String,
    pub request_id: String,
    pub faults: Vec<FieldFault>,
    pub action: Option<Action>,
}

/// One field that needs another look.
#[derive(Debug, Clone)]
pub struct FieldFault {
    pub field: String,
    pub detail: String,
}

/// The one thing a person can do next.
#[derive(Debug, Clone)]
pub struct Action {
    pub label: String,
    /// See [`link`].
    pub href: String,
}

impl ProblemPage {
    /// What to do now, in words that blame nobody; `detail` has said what happened.
    fn comfort(&self) -> &'static str {
        match self.status {
            401 => "Signing in again usually settles it.",
            403 => {
                "If you expected to get in, the people who run this site can help. \
                 The lines below tell them where to look."
            }
            404 | 405 | 410 => "The address may have moved, or a link may be out of date.",
            421 => "This door answers for one address only.",
            422 => "Change what is listed here and send it again.",
            429 => "A short pause is all it takes. Then try again.",
            500..=599 => {
                "This is on our side and usually passes soon. \
                 If it stays, the lines below tell the people who run this site where to look."
            }
            _ => {
                "A fresh start usually helps. If it happens again, \
                 the lines below tell the people who run this site where to look."
            }
        }
    }
}

/// `GET /auth/account`.
#[derive(Debug, Template)]
#[template(path = "account.html")]
pub struct Account {
    pub chrome: Chrome,
    pub user: Profile,
    pub sessions: Vec<SessionRow>,
    /// Whether there is any session but this one to end.
    pub others: bool,
    /// What was just done, as a sentence: "Signed out on Firefox on Linux."
    pub notice: Option<String>,
}

/// The guest as the provider describes them.
#[derive(Debug, Clone)]
pub struct Profile {
    pub display_name: String,
    /// One or two letters; see [`initials`].
    pub initials: String,
    pub email: Option<String>,
    pub username: Option<String>,
    pub provider_label: String,
    pub roles: Vec<String>,
    pub groups: Vec<String>,
    pub tenant: Option<String>,
}

/// One session of the guest.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// The public handle, never the key.
    pub id: String,
    pub current: bool,
    /// Words for a user agent, such as "Firefox on Linux"; see [`device`].
    pub device: String,
    pub ip: String,
    pub created: Moment,
    pub last_active: Moment,
    pub expires: Moment,
    pub provider_label: String,
}

/// A time for machines (RFC 3339) and for people.
#[derive(Debug, Clone)]
pub struct Moment {
    pub iso: String,
    pub text: String,
}

/// The first letters of the first and last word, upper case: "Ada Lovelace" is "AL"; "?" when there
/// is none.
#[must_use]
pub fn initials(name: &str) -> String {
    let mut words =
        name.split_whitespace().filter_map(|word| word.chars().find(|letter| letter.is_alphanumeric()));
    let (first, last) = (words.next(), words.next_back());
    let letters: String = first.into_iter().chain(last).flat_map(char::to_uppercase).collect();
    if letters.is_empty() { "?".to_owned() } else { letters }
}

/// A user agent in a few words for the sessions list. Order matters: most browsers also name the
/// ones they imitate.
#[must_use]
pub fn device(user_agent: &str) -> String {
    const BROWSERS: [(&str, &str); 8] = [
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Internet"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const SYSTEMS: [(&str, &str); 7] = [
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Android", "Android"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("CrOS", "ChromeOS"),
        ("Linux", "Linux"),
    ];
    let named = |table: &[(&str, &'static str)]| {
        table.iter().find(|(sign, _)| user_agent.contains(sign)).map(|(_, name)| *name)
    };
    match (named(&BROWSERS), named(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        (None, Some(system)) => format!("An app on {system}"),
        (None, None) => "Unknown device".to_owned(),
    }
}

#[cfg(test)]
mod tests;
