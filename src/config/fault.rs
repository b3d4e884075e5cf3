//! Faults: what is wrong with a configuration, where it was written and what to try.

use std::{cell::RefCell, fmt, path::PathBuf};

/// One thing wrong with the configuration. No field ever holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The dotted key, such as `provider.keycloak.issuer`; empty for a whole file.
    pub key: String,
    /// `config.toml:12`, `built-in config.toml:12`, `environment DOORWARD__…` or `default`.
    pub origin: String,
    /// What is wrong, as a clause.
    pub problem: String,
    /// What to try, as an imperative.
    pub advice: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(out, "{} ", self.key)?;
        }
        write!(out, "({}): {}; {}", self.origin, self.problem, self.advice)
    }
}

/// Where a value was written. The order is the order in which faults are printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    File { line: usize },
    Environment { name: String },
    Default,
}

/// Collects everything found while reading, so that no fault hides another.
pub(super) struct Report {
    /// The name that stands before the line number.
    file: String,
    /// What relative paths in the configuration are relative to.
    folder: PathBuf,
    faults: RefCell<Vec<(Place, Fault)>>,
    warnings: RefCell<Vec<String>>,
}

impl Report {
    pub(super) fn new(file: String, folder: PathBuf) -> Self {
        let (faults, warnings) = (RefCell::default(), RefCell::default());
        Self { file, folder, faults, warnings }
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn fault(&self, key: &str, place: &Place, problem: &str, advice: &str) {
        let origin = match place {
            Place::File { line } => format!("{}:{line}", self.file),
            Place::Environment { name } => format!("environment {name}"),
            Place::Default => "default".to_owned(),
        };
        let fault =
            Fault { key: key.to_owned(), origin, problem: problem.to_owned(), advice: advice.to_owned() };
        self.faults.borrow_mut().push((place.clone(), fault));
    }

    /// Names a setting that is allowed and risky (security.md SC-04), in one line.
    pub(super) fn warn(&self, line: String) {
        self.warnings.borrow_mut().push(line);
    }

    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// The warnings when nothing was wrong, else every fault in the order of the file.
    pub(super) fn verdict(self) -> Result<Vec<String>, Vec<Fault>> {
        let mut faults = self.faults.into_inner();
        if faults.is_empty() {
            return Ok(self.warnings.into_inner());
        }
        faults.sort_by(|(a, _), (b, _)| a.cmp(b));
        Err(faults.into_iter().map(|(_, fault)| fault).collect())
    }
}
