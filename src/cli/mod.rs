//! The command line: one file per group of commands. Exit 0 is fine, 1 is faults, 2 is usage.

/// Prints a line; a reader that left early (`| head`) is no fault of ours.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

pub mod apikey;
pub mod check;
mod house;
pub mod init;
pub mod keys;
pub mod serve;
pub mod sessions;
pub mod users;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::app::{SystemClock, SystemRandom};
use crate::config::{self, Fault, Loaded, Sources};
use crate::flows::start::{Furniture, StartFault};

/// The door in front of a web app: login, session and user sync in one process.
#[derive(Parser)]
#[command(name = "doorward", version, propagate_version = true)]
struct CommandLine {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options that stand before or after the command.
#[derive(Args, Clone)]
pub struct Common {
    /// The configuration file; without it ./config.toml, else the built-in development set-up.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answers as JSON, for scripts.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Serves (the default).
    Serve,
    /// Writes the start of a production set-up; overwrites nothing.
    Init(InitArgs),
    /// Tries everything a start needs, and prints every fault at once.
    Check {
        /// Prints the effective configuration too, with secrets masked.
        #[arg(long)]
        print: bool,
    },
    /// Brings the database schema up to date, for set-ups with `migrate = false`.
    Migrate,
    /// The keys that seal stored tokens.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Keys for programs that call the admin API.
    Apikey {
        #[command(subcommand)]
        command: apikey::ApiKeyCommand,
    },
    /// Who is signed in.
    Sessions {
        #[command(subcommand)]
        command: sessions::SessionsCommand,
    },
    /// Who has ever signed in.
    Users {
        #[command(subcommand)]
        command: users::UsersCommand,
    },
    /// Prints the description of the public API, as `/openapi.json` of the operations listener does.
    Openapi,
}

#[derive(Args)]
struct InitArgs {
    /// Where config.toml and secrets/ go.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// keycloak or oidc.
    #[arg(long)]
    kind: Option<String>,
    /// The provider's issuer, as its discovery document spells it.
    #[arg(long)]
    issuer: Option<String>,
    #[arg(long)]
    client_id: Option<String>,
    /// The one origin that people see.
    #[arg(long)]
    public_url: Option<String>,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// The ring: which key seals, how old each is, and how many rows name it.
    List,
    /// Re-encrypts everything with the current key while the house is open; nobody is logged out.
    Rotate,
}

const FAULTS: u8 = 1;
const USAGE: u8 = 2;

/// Parses the command line and does what it says.
#[must_use]
pub fn run() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let CommandLine { common, command } = line;
    match command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(&common),
        Command::Init(args) => initialise(args, &common),
        Command::Check { print } => check::run(&common, print),
        Command::Migrate => serve::migrate(&common),
        Command::Keys { command: KeysCommand::List } => keys::list(&common),
        Command::Keys { command: KeysCommand::Rotate } => keys::rotate(&common),
        Command::Apikey { command } => apikey::run(&common, command),
        Command::Sessions { command } => sessions::run(&common, command),
        Command::Users { command } => users::run(&common, command),
        Command::Openapi => print_openapi(),
    }
}

impl Common {
    fn sources(&self) -> Result<Sources, ExitCode> {
        Sources::of_process(self.config.clone()).map_err(|e| {
            eprintln!("the working folder cannot be read: {e}");
            ExitCode::from(FAULTS)
        })
    }

    fn load(&self) -> Result<Loaded, ExitCode> {
        config::load(&self.sources()?).map_err(|faults| {
            self.print_faults(&faults);
            ExitCode::from(FAULTS)
        })
    }

    /// Every fault at once: key, origin, what is wrong, what to try.
    fn print_faults(&self, faults: &[Fault]) {
        if self.json {
            let rows: Vec<_> = faults
                .iter()
                .map(|f| serde_json::json!({ "key": f.key, "origin": f.origin, "problem": f.problem, "advice": f.advice }))
                .collect();
            say!("{}", serde_json::json!({ "faults": rows }));
            return;
        }
        let count = faults.len();
        eprintln!("{count} {} in the configuration:", if count == 1 { "fault" } else { "faults" });
        for fault in faults {
            eprintln!(
                "\n  {}  ({})\n    {}\n    try: {}",
                fault.key, fault.origin, fault.problem, fault.advice
            );
        }
    }

    /// What keeps a command from its work.
    fn print_start_fault(&self, fault: &StartFault) {
        let sentences = match fault {
            StartFault::NotYet(problem) => vec![problem.clone()],
            StartFault::Faults(faults) => faults.clone(),
        };
        if self.json {
            say!("{}", serde_json::json!({ "faults": sentences }));
            return;
        }
        for sentence in sentences {
            eprintln!("{sentence}");
        }
    }
}

/// The reader may close the pipe early (`doorward openapi | head`), which is no panic.
fn print_openapi() -> ExitCode {
    use std::io::Write as _;
    match std::io::stdout().write_all(crate::web::operations::OPENAPI.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAULTS),
    }
}

/// The machine's own time and randomness.
fn furniture() -> Furniture {
    Furniture { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom) }
}

/// A person at a terminal.
struct Person;

impl init::Ask for Person {
    fn ask(&mut self, question: &str, default: &str) -> std::io::Result<Option<String>> {
        use std::io::Write as _;
        let mut out = std::io::stderr();
        write!(out, "{question} [{default}] ")?;
        out.flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        Ok(Some(answer.trim().to_owned()))
    }
}

fn initialise(args: InitArgs, common: &Common) -> ExitCode {
    use crate::domain::Random as _;
    let options = init::InitOptions {
        dir: args.dir,
        kind: args.kind,
        issuer: args.issuer,
        client_id: args.client_id,
        public_url: args.public_url,
    };
    let mut random = |bytes: &mut [u8]| SystemRandom.fill(bytes);
    let mut person = Person;
    let mut nobody = init::Nobody;
    let ask: &mut dyn init::Ask = if std::io::stdin().is_terminal() { &mut person } else { &mut nobody };
    match init::run(&options, ask, &mut random) {
        Ok(done) if common.json => {
            say!("{}", serde_json::json!({ "files": done.files, "leftToDo": done.left_to_do }));
            ExitCode::SUCCESS
        }
        Ok(done) => {
            for file in &done.files {
                say!("wrote {}", file.display());
            }
            for step in &done.left_to_do {
                say!("to do: {step}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(if matches!(error, init::InitError::Invalid { .. }) { USAGE } else { FAULTS })
        }
    }
}
