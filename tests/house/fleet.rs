//! Replicas as an operator runs them: several real processes of one folder, on one PostgreSQL, behind one public name.
//!
//! Owns: the processes and their database. A balancer is played by the browsers, each of which names the replica it goes to.

use super::browser::Browser;
use super::databases::Database;
use super::home::free_port;
use super::process::{Home, Process};
use super::servers::http;
use super::servers::keycloak::{self, Realm};

pub struct Fleet {
    pub processes: Vec<Process>,
    /// For a command beside the running replicas, or one replica more.
    pub home: Home,
    pub database: Database,
    /// The origin that people see. Nobody listens there: every browser has a replica of its own.
    pub public_url: String,
}

impl Fleet {
    /// Opens this many processes of `home` on a fresh PostgreSQL database; each is ready.
    pub async fn open(mut home: Home, count: usize) -> Self {
        let database = Database::postgres().await;
        let public_url = format!("http://localhost:{}", free_port());
        home.set_env("DOORWARD__DATABASE__URL", &database.url);
        home.set_env("DOORWARD__SERVER__PUBLIC_URL", &public_url);
        let mut processes = Vec::new();
        for _ in 0..count {
            processes.push(home.open().await);
        }
        Self { processes, home, database, public_url }
    }

    /// A new person, at the first replica.
    pub fn browser(&self) -> Browser {
        Browser::new(&self.public_url).by_way_of(self.processes[0].public)
    }

    /// The same person at each replica in turn.
    pub fn everywhere(&self, person: &Browser) -> Vec<Browser> {
        self.processes.iter().map(|process| person.by_way_of(process.public)).collect()
    }

    /// A person who has signed in at a provider without pages, by way of the first replica.
    pub async fn signed_in(&self) -> Browser {
        let browser = self.browser();
        let page = browser.sign_in("/auth/login?return_to=/protected").await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
        browser
    }

    /// As [`Self::signed_in`], at Keycloak's own page.
    pub async fn signed_in_at(&self, realm: &Realm, name: &str) -> Browser {
        let browser = self.browser();
        let start = browser.navigate("/auth/login?return_to=/protected").await;
        let asked = start.location().unwrap_or_else(|| panic!("no redirect: {}", start.text()));
        let password = format!("{name}-pass-1");
        let callback = keycloak::sign_in(&http(), asked.as_str(), name, &password).await;
        let page = browser.follow(browser.click(&realm.issuer, &callback).await, 5).await;
        assert_eq!((page.status, page.url.path()), (200, "/protected"), "{}", page.text());
        browser
    }

    /// Writes what no flow would write to sessions, and leaves word of it.
    pub async fn rewrite(&self, sql: &str) {
        let word = "SELECT pg_notify('doorward', CAST(json_build_object('node', '', 'notes', (SELECT json_agg(json_build_object('c', id)) \
                    FROM sessions)) AS TEXT))";
        self.database.execute(&format!("{sql}; {word}")).await;
    }

    /// What every process has said so far, for a failure's message.
    pub fn logs(&self) -> String {
        self.processes.iter().map(Process::log).collect::<Vec<_>>().join("\n--\n")
    }
}

/// A production set-up whose one provider is this realm, as id `keycloak`; the demo app stands behind the door.
pub fn keycloak_home(realm: &Realm, more: &str) -> Home {
    let home = Home::with_config(&format!(
        r#"
[[provider]]
id = "keycloak"
kind = "keycloak"
label = "Company login"
issuer = "{}"
client_id = "{}"
client_secret = "{}"

[[upstream]]
id = "demo"
urls = ["builtin:demo"]

[[route]]
path = "/"
access = "public"
upstream = "demo"

[[route]]
path = "/protected"
upstream = "demo"

{more}"#,
        realm.issuer, realm.client_id, realm.client_secret
    ));
    home.write_key("secrets/k1");
    home
}
