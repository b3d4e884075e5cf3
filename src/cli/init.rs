//! `doorward init`: writes the start of a production set-up and overwrites nothing.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::config::{ProviderKind, check_issuer, check_public_url};

/// What the command line said. What is missing is asked, or has a default.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// Where `config.toml` and `secrets/` go; made when missing.
    pub dir: PathBuf,
    /// `--kind`: keycloak or oidc.
    pub kind: Option<String>,
    /// `--issuer`
    pub issuer: Option<String>,
    /// `--client-id`
    pub client_id: Option<String>,
    /// `--public-url`
    pub public_url: Option<String>,
}

/// Somebody who may be asked.
pub trait Ask {
    /// Asks one question. `None` = nobody is there (the input is piped), so that the default
    /// counts; an empty answer means the default too.
    ///
    /// # Errors
    /// When the terminal cannot be read or written.
    fn ask(&mut self, question: &str, default: &str) -> io::Result<Option<String>>;
}

/// Nobody: for piped input.
pub struct Nobody;

impl Ask for Nobody {
    fn ask(&mut self, _question: &str, _default: &str) -> io::Result<Option<String>> {
        Ok(None)
    }
}

/// What was written and what is left to a person.
#[derive(Clone, Debug)]
pub struct Initialised {
    /// The files made, `config.toml` first.
    pub files: Vec<PathBuf>,
    /// One instruction per line, to be done before the first start.
    pub left_to_do: Vec<String>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A value that can never work; a usage error (exit 2).
    #[error("--{flag}: {problem}; {advice}")]
    Invalid {
        /// The flag without its hyphens.
        flag: &'static str,
        /// What is wrong with its value.
        problem: String,
        /// What to try.
        advice: String,
    },
    /// A file that is in the way; nothing was written (exit 1).
    #[error("{} already exists and nothing is overwritten; choose another --dir", path.display())]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// The disk refused; what this run had made was removed again (exit 1).
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder concerned.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The terminal failed while asking (exit 1).
    #[error("cannot ask: {0}")]
    Ask(#[from] io::Error),
}

/// The four answers, checked.
struct Answers {
    kind: &'static str,
    issuer: String,
    client_id: String,
    public_url: String,
    /// Flags whose value is only an example.
    examples: Vec<&'static str>,
}

/// Writes `config.toml` and `secrets/k1` (32 random bytes, 0600, in a folder of 0700).
///
/// A person is asked for what the options leave out. When nobody is there an example stands
/// in its place and is named in `left_to_do`, so that scripts never hang or fail half-way.
///
/// # Errors
/// See [`InitError`]; on any of them the folder is as it was before.
pub fn run(
    options: &InitOptions,
    ask: &mut dyn Ask,
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<Initialised, InitError> {
    let config_file = options.dir.join("config.toml");
    let secrets = options.dir.join("secrets");
    let key_file = secrets.join("k1");
    for path in [&config_file, &key_file] {
        // A dangling link is in the way too, and `exists` would not see it.
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists { path: path.clone() });
        }
    }
    let answers = answers(options, ask)?;
    let mut key = zeroize::Zeroizing::new([0_u8; 32]);
    random(key.as_mut_slice());
    let made = [make_folder(&options.dir, 0o755)?, make_folder(&secrets, 0o700)?];
    let written = write_new(&key_file, key.as_slice(), 0o600).and_then(|()| {
        write_new(&config_file, config_text(&answers).as_bytes(), 0o644)
            .inspect_err(|_| drop(std::fs::remove_file(&key_file)))
    });
    if let Err(error) = written {
        // Only empty folders of this run go; one with foreign files in it refuses to.
        for (folder, made) in [(&secrets, made[1]), (&options.dir, made[0])] {
            if made {
                drop(std::fs::remove_dir(folder));
            }
        }
        return Err(error);
    }
    let left_to_do = left_to_do(&options.dir, &answers);
    Ok(Initialised { files: vec![config_file, key_file], left_to_do })
}

fn answers(options: &InitOptions, ask: &mut dyn Ask) -> Result<Answers, InitError> {
    let mut examples = Vec::new();
    let mut answer = |flag, given: &Option<String>, question: &str, example: &str| {
        if let Some(given) = given {
            return Ok(given.clone());
        }
        let answer = ask.ask(question, example)?;
        if answer.is_none() {
            examples.push(flag);
        }
        let answer = answer.unwrap_or_default().trim().to_owned();
        Ok::<_, io::Error>(if answer.is_empty() { example.to_owned() } else { answer })
    };
    let kind = answer("kind", &options.kind, "Kind of provider (keycloak, oidc)", "keycloak")?;
    let kind = kind_word(&kind)?;
    let example =
        if kind == "keycloak" { "https://id.example/realms/doorward" } else { "https://id.example" };
    let issuer = answer("issuer", &options.issuer, "Issuer of the provider", example)?;
    check("issuer", &issuer, check_issuer(&issuer))?;
    let client_id = answer("client-id", &options.client_id, "Client id there", "doorward")?;
    if client_id.trim().is_empty() {
        check("client-id", &client_id, Err::<(), _>(("is empty", "write the client's name")))?;
    }
    let question = "The one origin people will see";
    let public_url = answer("public-url", &options.public_url, question, "https://app.example")?;
    let public_url =
        check("public-url", &public_url, check_public_url(&public_url))?.origin().ascii_serialization();
    // The kind and the client id have defaults that may well be right; addresses do not.
    examples.retain(|flag| matches!(*flag, "issuer" | "public-url"));
    Ok(Answers { kind, issuer, client_id, public_url, examples })
}

fn kind_word(word: &str) -> Result<&'static str, InitError> {
    let invalid = |problem, advice| InitError::Invalid { flag: "kind", problem, advice };
    match ProviderKind::parse(word) {
        Ok(ProviderKind::Dev) => Err(invalid(
            "kind dev is for development".to_owned(),
            "run doorward without any file for it, or write keycloak or oidc".to_owned(),
        )),
        Ok(kind) => Ok(kind.as_str()),
        Err((problem, advice)) => Err(invalid(problem, advice)),
    }
}

fn check<T>(
    flag: &'static str,
    text: &str,
    result: Result<T, (&'static str, &'static str)>,
) -> Result<T, InitError> {
    result.map_err(|(problem, advice)| InitError::Invalid {
        flag,
        problem: format!("\"{text}\" {problem}"),
        advice: advice.to_owned(),
    })
}

/// Whether the folder had to be made.
fn make_folder(path: &Path, mode: u32) -> Result<bool, InitError> {
    if path.is_dir() {
        return Ok(false);
    }
    let outcome = DirBuilder::new().recursive(true).mode(mode).create(path);
    outcome.map_err(|source| InitError::Write { path: path.to_owned(), source })?;
    Ok(true)
}

/// Creates a file that must not be there yet, even if somebody makes it this very moment.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InitError> {
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists { path: path.to_owned() },
        _ => InitError::Write { path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| {
        drop(std::fs::remove_file(path));
        InitError::Write { path: path.to_owned(), source }
    })
}

fn left_to_do(dir: &Path, answers: &Answers) -> Vec<String> {
    let shown = |name: &str| dir.join(name).display().to_string();
    let mut lines = Vec::new();
    for flag in &answers.examples {
        let key = flag.replace('-', "_");
        lines.push(format!("{}: replace the example of {key}", shown("config.toml")));
    }
    lines.push(format!(
        "{}: write the database's address into it, postgres://<user>:<password>@<host>/<name>",
        shown("secrets/database-url")
    ));
    lines.push(format!(
        "{}: write the secret of client {} into it",
        shown(&format!("secrets/{}", answers.kind)),
        answers.client_id
    ));
    lines.push(format!(
        "at the provider: allow the redirect URI {}/auth/callback/{}, and {}/auth/signed-out \
         after logout",
        answers.public_url, answers.kind, answers.public_url
    ));
    lines.push(format!("run: doorward --config {} check", shown("config.toml")));
    lines
}

fn config_text(answers: &Answers) -> String {
    // The answers are people's text: quoted by the TOML writer they cannot become keys.
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let Answers { kind, .. } = answers;
    let public_url = quoted(&answers.public_url);
    let issuer = quoted(&answers.issuer);
    let client_id = quoted(&answers.client_id);
    format!(
        r#"# Written by `doorward init`. Keys that are absent have their defaults; the config.toml of
# doorward's repository lists and explains them. `doorward check` prints every fault at once.

[server]
listen = "127.0.0.1:8080"            # TLS ends in front of it
public_url = {public_url}            # the one origin people see
operations_listen = "127.0.0.1:9090" # healthz, readyz, metrics
trusted_proxies = []                 # the addresses of what stands in front, such as "127.0.0.1"

[database]
url_file = "secrets/database-url"    # postgres://user:password@host/name

[keys]
current = "k1"                       # lose it, and every session is lost with it
ring = {{ k1 = {{ file = "secrets/k1" }} }}

[log]
format = "json"

[[provider]]
id = "{kind}"
kind = "{kind}"
label = "Sign in"
issuer = {issuer}
client_id = {client_id}
client_secret_file = "secrets/{kind}"

[[upstream]]
id = "app"
urls = ["http://127.0.0.1:3000"]     # the app behind the door

[[route]]
path = "/**"
access = "signed_in"
upstream = "app"
"#
    )
}

#[cfg(test)]
mod tests;
