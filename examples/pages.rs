//! Writes every page with friendly values into a folder, to look at them in a browser:
//! `cargo run --example pages -- /tmp/pages`, then serve that folder.

use std::{env, fs, path::Path};

use doorward::proxy::demo;
use doorward::web::views::{
    Account, Action, Choice, ChooseProvider, Chrome, FieldFault, LOGO, Moment, ProblemPage, Profile,
    STYLESHEET, SessionRow, SignOut, SignedOut, Template, asset_version, initials,
};

fn main() -> anyhow::Result<()> {
    let folder = env::args().nth(1).unwrap_or_else(|| "target/pages".to_owned());
    let folder = Path::new(&folder);
    fs::create_dir_all(folder.join("auth/static"))?;
    fs::write(folder.join("auth/static/doorward.css"), STYLESHEET)?;
    fs::write(folder.join("auth/static/doorward.svg"), LOGO)?;
    for (name, html) in doors()?.into_iter().chain(halls()?) {
        fs::write(folder.join(format!("{name}.html")), html)?;
    }
    Ok(())
}

fn chrome(signed_in_as: Option<&str>) -> Chrome {
    Chrome {
        auth_prefix: "/auth".to_owned(),
        host: "app.example".to_owned(),
        asset_version: asset_version(),
        signed_in_as: signed_in_as.map(str::to_owned),
    }
}

fn doors() -> anyhow::Result<Vec<(&'static str, String)>> {
    let choice = |label: &str, detail: Option<&str>| Choice {
        label: label.to_owned(),
        href: "/auth/login?provider=x".to_owned(),
        detail: detail.map(str::to_owned),
        initial: initials(label).chars().take(1).collect(),
    };
    let choose = ChooseProvider {
        chrome: chrome(None),
        providers: vec![
            choice("Company login", Some("id.example")),
            choice("Partners", Some("For people of other houses")),
            choice("Development", None),
        ],
        notice: Some("Your session has ended. Please sign in again.".to_owned()),
        form: None,
        register_href: Some("/auth/register".to_owned()),
    };
    let signed_out = SignedOut {
        chrome: chrome(None),
        left_open: Some("Your session at Company login may still be open.".to_owned()),
        sign_in_href: "/auth/login".to_owned(),
        continue_href: Some("/".to_owned()),
    };
    let sign_out = SignOut { chrome: chrome(Some("Ada Lovelace")), return_to: None };
    let refused = ProblemPage {
        chrome: chrome(Some("Alice Anders")),
        status: 403,
        title: "This door is not open to you".to_owned(),
        detail: "This page is for people with the role admin.".to_owned(),
        code: "not_allowed".to_owned(),
        request_id: "01k4t9m2v7x3e8rq5c6b0hznwd".to_owned(),
        faults: Vec::new(),
        action: Some(Action { label: "Back to the start".to_owned(), href: "/".to_owned() }),
    };
    let fields = ProblemPage {
        chrome: chrome(None),
        status: 422,
        title: "A few fields need another look".to_owned(),
        detail: "The account was not created.".to_owned(),
        code: "invalid_fields".to_owned(),
        request_id: "01k4t9m2v7x3e8rq5c6b0hznwe".to_owned(),
        faults: vec![
            FieldFault { field: "email".to_owned(), detail: "is not an address".to_owned() },
            FieldFault { field: "password".to_owned(), detail: "is shorter than 12".to_owned() },
        ],
        action: None,
    };
    Ok(vec![
        ("choose", choose.render()?),
        ("signed-out", signed_out.render()?),
        ("sign-out", sign_out.render()?),
        ("refused", refused.render()?),
        ("fields", fields.render()?),
    ])
}

fn account() -> Account {
    let moment = |text: &str| Moment { iso: "2026-03-01T10:00:00.000Z".to_owned(), text: text.to_owned() };
    let row = |id: &str, current: bool, device: &str, ip: &str| SessionRow {
        id: id.to_owned(),
        current,
        device: device.to_owned(),
        ip: ip.to_owned(),
        created: moment("1 March, 10:00"),
        last_active: moment(if current { "just now" } else { "3 hours ago" }),
        expires: moment("2 March, 10:00"),
        provider_label: "Company login".to_owned(),
    };
    Account {
        chrome: chrome(Some("Ada Lovelace")),
        user: Profile {
            display_name: "Ada Lovelace".to_owned(),
            initials: initials("Ada Lovelace"),
            email: Some("ada@app.example".to_owned()),
            username: Some("ada".to_owned()),
            provider_label: "Company login".to_owned(),
            roles: vec!["admin".to_owned(), "analyst".to_owned()],
            groups: vec!["/engines/analytical".to_owned()],
            tenant: Some("acme".to_owned()),
        },
        sessions: vec![
            row("s1", true, "Firefox on Linux", "203.0.113.7"),
            row("s2", false, "Safari on iPhone", "2001:db8:85a3::8a2e:370:7334"),
            row("s3", false, "Chrome on Windows", "198.51.100.23"),
        ],
        others: true,
        notice: Some("Signed out on Edge on Windows.".to_owned()),
    }
}

fn halls() -> anyhow::Result<Vec<(&'static str, String)>> {
    let identity: Vec<(String, String)> = [
        ("X-Auth-User", "ada"),
        ("X-Auth-Provider", "dev"),
        ("X-Auth-Subject", "ada"),
        ("X-Auth-Email", "ada@app.example"),
        ("X-Auth-Name", "Ada%20Lovelace"),
        ("X-Auth-Roles", "admin,user"),
        ("X-Auth-Tenant", "acme"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let demo_page = |path: &str| demo::page(path, &identity, "/auth").html;
    Ok(vec![
        ("account", account().render()?),
        ("demo-stranger", demo::page("/", &[], "/auth").html),
        ("demo-guest", demo_page("/")),
        ("demo-protected", demo_page("/protected")),
        ("demo-admin", demo_page("/admin-only")),
        ("demo-lost", demo_page("/nowhere")),
    ])
}
