//! The plan of the house, enforced: who may know whom, where foreign crates live, and how a file is made.
//!
//! `docs/ARCHITECTURE.md` shows the same table to people; a test below keeps the two equal.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use self::source::{Token, crate_paths, lines_with, tokens};

const LINES_MAX: usize = 500;
const CONTRACT_MAX: usize = 12;

/// Who may know whom. `room::part` opens one part of a room; a room's own parts always know each other.
const MAY_KNOW: [(&str, &[&str]); 17] = [
    (
        "app",
        &[
            "config",
            "crypto",
            "domain",
            "error",
            "events",
            "providers",
            "proxy::routes",
            "proxy::upstream",
            "store",
            "telemetry",
            "tls",
        ],
    ),
    (
        "cli",
        &["app", "config", "domain", "error", "flows", "server", "telemetry", "web::operations::OPENAPI"],
    ),
    ("config", &[]),
    ("crypto", &["domain"]),
    ("dev_idp", &[]),
    ("domain", &[]),
    ("error", &["domain", "providers", "store"]),
    ("events", &["store"]),
    ("flows", &["app", "config", "crypto", "domain", "error", "providers", "store", "telemetry", "tls"]),
    ("jobs", &["app", "domain", "error", "flows"]),
    ("providers", &["config", "crypto::sign", "crypto::trust", "domain", "telemetry"]),
    ("proxy", &["config", "crypto::trust", "domain"]),
    (
        "server",
        &["app", "config", "dev_idp", "domain", "error", "flows", "jobs", "store", "telemetry", "tls", "web"],
    ),
    ("store", &["config", "crypto", "domain"]),
    ("telemetry", &[]),
    ("tls", &["config"]),
    (
        "web",
        &["app", "config", "dev_idp::DevIdp", "domain", "error", "events", "flows", "proxy", "telemetry"],
    ),
];

/// Foreign crates that shape a room, and the only folders or files of `src` that may name them.
const FOREIGN: [(&str, &[&str]); 11] = [
    ("openidconnect", &["providers/oidc/"]),
    ("sqlx", &["store/"]),
    ("reqwest", &["providers/http.rs", "telemetry/"]),
    ("actix_web", &["web/", "server.rs", "server/", "cli/", "dev_idp/", "proxy/"]),
    ("actix_http", &["server/"]),
    ("h2", &["server.rs", "server/"]),
    ("actix_session", &["web/"]),
    ("actix_cors", &["web/"]),
    ("askama", &["web/", "proxy/", "dev_idp/"]),
    ("aes_gcm", &["crypto/"]),
    ("clap", &["cli/"]),
];

struct File {
    /// Relative to the package, with `/`.
    path: String,
    text: String,
    tokens: Vec<Token>,
}

impl File {
    /// `store::sessions::tokens` for `src/store/sessions/tokens.rs`.
    fn home(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inner.trim_end_matches("/mod").split('/').map(str::to_owned).collect()
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }
}

fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            walk(&entry, found);
        } else {
            found.push(entry);
        }
    }
}

static SRC: LazyLock<Vec<File>> = LazyLock::new(|| files("src"));
static TESTS: LazyLock<Vec<File>> = LazyLock::new(|| files("tests"));

/// Every Rust file under a folder of the package.
fn files(folder: &str) -> Vec<File> {
    let mut paths = Vec::new();
    walk(&package().join(folder), &mut paths);
    let rust = paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    rust.map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(package()).unwrap().to_string_lossy().replace('\\', "/");
        File { path, tokens: tokens(&text), text }
    })
    .collect()
}

fn plan() -> BTreeMap<&'static str, &'static [&'static str]> {
    MAY_KNOW.into_iter().collect()
}

/// `proxy::routes` opens `proxy::routes::Table`, and not `proxy::demo`.
fn opens(entry: &str, segments: &[String]) -> bool {
    entry.split("::").enumerate().all(|(at, part)| segments.get(at).is_some_and(|segment| segment == part))
}

/// The sentences that a file's paths deserve.
fn trespasses(file: &File) -> Vec<String> {
    let home = file.home();
    let Some(allowed) = plan().get(home[0].as_str()).copied() else { return Vec::new() };
    let strange = |path: &source::Path| {
        path.segments[0] != home[0] && !allowed.iter().any(|entry| opens(entry, &path.segments))
    };
    let sentence = |path: source::Path| {
        let room = &path.segments[0];
        let is_partly_open = allowed.iter().any(|entry| entry.split("::").next() == Some(room));
        let whom = if is_partly_open { path.segments.join("::") } else { room.clone() };
        format!("{} may not know {whom} ({}:{})", home[0], file.path, path.line)
    };
    crate_paths(&file.tokens, &home).into_iter().filter(strange).map(sentence).collect()
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn nobody_knows_a_room_that_the_plan_keeps_from_them() {
    assert_none(&SRC.iter().flat_map(trespasses).collect::<Vec<_>>());
}

#[test]
fn a_trespass_is_told_in_a_sentence() {
    let file =
        |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned(), tokens: tokens(text) };
    let told = |path, text| trespasses(&file(path, text)).join("; ");
    assert_eq!(
        told("src/store/x.rs", "//! x\n\nuse crate::{domain, web::Door};"),
        "store may not know web (src/store/x.rs:3)"
    );
    assert_eq!(
        told("src/app.rs", "use crate::proxy::{demo, routes};"),
        "app may not know proxy::demo (src/app.rs:1)"
    );
    assert_eq!(
        told("src/domain/user.rs", "use super::super::store;"),
        "domain may not know store (src/domain/user.rs:1)"
    );
    assert_eq!(told("src/web/mod.rs", "use crate::{app, web::cookies};"), "");
}

#[test]
fn every_room_is_in_the_plan_and_every_row_is_a_room() {
    let outside = ["lib", "main"];
    let rooms: BTreeSet<String> = SRC.iter().map(|file| file.home()[0].clone()).collect();
    let rooms: BTreeSet<&str> =
        rooms.iter().map(String::as_str).filter(|room| !outside.contains(room)).collect();
    let planned: BTreeSet<&str> = plan().into_keys().collect();
    assert_eq!(rooms, planned, "a new room needs a row in MAY_KNOW and in docs/ARCHITECTURE.md");
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    let mut faults = Vec::new();
    for file in SRC.iter() {
        let inner = file.path.trim_start_matches("src/");
        for (name, homes) in FOREIGN {
            if !homes.iter().any(|home| inner.starts_with(home)) {
                for line in lines_with(&file.tokens, &[name]) {
                    faults.push(format!("{name} lives in {} alone ({}:{line})", homes.join(" "), file.path));
                }
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn the_time_of_day_is_read_in_one_place() {
    let mut faults = Vec::new();
    // A log line is written when it is written, whatever time a test has set.
    let may = ["src/app.rs", "src/telemetry/line.rs"];
    for file in SRC.iter().filter(|file| !may.contains(&file.path.as_str())) {
        for call in [["SystemTime", "::", "now"], ["OffsetDateTime", "::", "now_utc"]] {
            for line in lines_with(&file.tokens, &call) {
                faults.push(format!(
                    "time comes from app.clock, not from {} ({}:{line})",
                    call.concat(),
                    file.path
                ));
            }
        }
    }
    assert_none(&faults);
}

#[test]
fn no_file_is_longer_than_five_hundred_lines() {
    let mut faults = Vec::new();
    for file in SRC.iter().chain(TESTS.iter()) {
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{} has {lines} lines; a file has {LINES_MAX} at most", file.path));
        }
    }
    assert_none(&faults);
}

#[test]
fn every_file_of_the_house_opens_with_a_short_contract() {
    let mut faults = Vec::new();
    for file in SRC.iter().filter(|file| !file.is_test() && file.path != "src/main.rs") {
        let lines = file.text.lines().take_while(|line| line.starts_with("//!")).count();
        if lines == 0 {
            faults.push(format!("{} does not say in `//!` what it is for", file.path));
        } else if lines > CONTRACT_MAX {
            faults.push(format!("{} opens with {lines} lines of `//!`; {CONTRACT_MAX} at most", file.path));
        }
    }
    assert_none(&faults);
}

#[test]
fn nothing_is_left_unfinished_and_no_lint_is_silenced() {
    let unfinished = [["todo", "!"], ["unimplemented", "!"], ["[", "allow"]];
    let mut faults = Vec::new();
    for file in SRC.iter().chain(TESTS.iter()) {
        for words in unfinished {
            for line in lines_with(&file.tokens, &words) {
                faults.push(format!("{} has no place here ({}:{line})", words.concat(), file.path));
            }
        }
    }
    assert_none(&faults);
}

fn document(name: &str) -> String {
    std::fs::read_to_string(package().join(name)).unwrap()
}

/// Everything between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn the_document_shows_the_plan_that_is_enforced() {
    let text = document("docs/ARCHITECTURE.md");
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let rows = text.lines().skip_while(|line| !line.starts_with("| room | may know")).skip(2);
    for row in rows.take_while(|line| line.starts_with('|')) {
        let mut cells = row.split('|').skip(1);
        let (room, known) = (cells.next().unwrap(), cells.next().unwrap());
        let room = quoted(room).next().unwrap().to_owned();
        shown.insert(room, quoted(known).map(str::to_owned).collect());
    }
    let owned = |list: &[&str]| list.iter().map(|entry| (*entry).to_owned()).collect();
    let enforced: BTreeMap<String, BTreeSet<String>> =
        plan().into_iter().map(|(room, known)| (room.to_owned(), owned(known))).collect();
    assert_eq!(shown, enforced);
}

/// Whether `flows::login::begin` leads somewhere: the deepest file on the way, and a word in it.
fn exists(path: &str, house: &[File]) -> bool {
    let segments: Vec<&str> = path.trim_end_matches("()").split("::").collect();
    let file_of = |length: usize| house.iter().find(|file| file.home() == segments[..length]);
    let Some(length) = (1..=segments.len()).rev().find(|length| file_of(*length).is_some()) else {
        return false;
    };
    let words = &file_of(length).unwrap().tokens;
    segments[length..].iter().all(|word| words.iter().any(|token| token.text == *word))
}

#[test]
fn documents_name_only_what_exists() {
    let mut faults = String::new();
    for name in ["README.md", "docs/ARCHITECTURE.md", "docs/SECURITY.md"] {
        for text in quoted(&document(name)) {
            let is_file = text.strip_suffix(".rs").is_some() && !text.contains(['*', '<', ' ']);
            let is_path = text.contains("::")
                && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '(' | ')'))
                && plan().contains_key(text.split("::").next().unwrap());
            let places = [package().join(text), package().join("src").join(text)];
            let missing_file = is_file && !places.iter().any(|place| place.exists());
            if missing_file || (is_path && !exists(text, &SRC)) {
                writeln!(faults, "{name} names `{text}`, which does not exist").unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}
