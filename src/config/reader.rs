//! A typed reader over one written table. It notes every fault instead of stopping at the
//! first, and knows which keys were asked for, so that what nobody asked for is unknown.

use std::{fs::File, io::Read, path::PathBuf};

use secrecy::SecretString;
use url::Url;

use super::{
    address,
    fault::{Place, Report},
    tree::{Node, Table, Value},
    units::{self, Rate},
};

/// No secret, key or certificate of ours is larger.
const LARGEST_FILE: u64 = 64 << 10;
const NOTHING: &Table = &Table { entries: std::collections::BTreeMap::new() };

pub(super) struct Reader<'a> {
    pub(super) report: &'a Report,
    /// The dotted path of this table, such as `provider.keycloak`.
    pub(super) path: String,
    table: &'a Table,
    place: Place,
    asked: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(report: &'a Report, table: &'a Table) -> Self {
        let (path, asked) = (String::new(), Vec::new());
        Self { report, path, table, place: Place::Default, asked }
    }

    fn inner(&self, path: String, node: Option<&'a Node>) -> Self {
        let table = node.and_then(Node::table).unwrap_or(NOTHING);
        let place = node.map_or(Place::Default, |node| node.place.clone());
        Self { report: self.report, path, table, place, asked: Vec::new() }
    }

    /// The dotted name of a key in this table.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a fault of a key, at its own place or, when it is absent, at the table's.
    pub(super) fn fault(&self, key: &str, problem: &str, advice: &str) {
        let place = self.table.entries.get(key).map_or(&self.place, |node| &node.place);
        self.report.fault(&self.name(key), place, problem, advice);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.entries.contains_key(key)
    }

    fn ask(&mut self, key: &str) -> Option<&'a Node> {
        if !self.asked.iter().any(|name| name == key) {
            self.asked.push(key.to_owned());
        }
        self.table.entries.get(key)
    }

    fn wrong_type(&self, key: &str, node: &Node, wanted: &str) {
        let problem = format!("is {}, not {wanted}", node.value.type_name());
        self.fault(key, &problem, &format!("write {wanted}"));
    }

    pub(super) fn optional_string(&mut self, key: &str) -> Option<String> {
        let node = self.ask(key)?;
        match (&node.value, &node.raw) {
            (Value::Text(text), _) | (_, Some(text)) => Some(text.clone()),
            _ => {
                self.wrong_type(key, node, "a text in quotes");
                None
            }
        }
    }

    /// As [`Self::optional_string`], where an empty text means that nothing is set.
    pub(super) fn filled_string(&mut self, key: &str) -> Option<String> {
        self.optional_string(key).filter(|text| !text.is_empty())
    }

    pub(super) fn string(&mut self, key: &str, default: &str) -> String {
        self.optional_string(key).unwrap_or_else(|| default.to_owned())
    }

    /// A text that has no default. Absent or empty it is a fault, and empty here.
    pub(super) fn required_string(&mut self, key: &str, advice: &str) -> String {
        let well_typed =
            self.ask(key).is_none_or(|node| matches!(node.value, Value::Text(_)) || node.raw.is_some());
        let text = self.string(key, "");
        if text.trim().is_empty() && well_typed {
            self.fault(key, "is missing", advice);
        }
        text
    }

    pub(super) fn bool(&mut self, key: &str, default: bool) -> bool {
        match self.ask(key) {
            None => default,
            Some(Node { value: Value::Bool(truth), .. }) => *truth,
            Some(node) => {
                self.wrong_type(key, node, "true or false");
                default
            }
        }
    }

    /// A truth value, where the key also takes words; those are left to another reading.
    pub(super) fn written_bool(&mut self, key: &str) -> Option<bool> {
        match self.ask(key)?.value {
            Value::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    pub(super) fn integer(&mut self, key: &str, default: i64, allowed: (i64, i64)) -> i64 {
        let (least, most) = allowed;
        match self.ask(key) {
            None => default,
            Some(Node { value: Value::Integer(number), .. }) if (least..=most).contains(number) => *number,
            Some(Node { value: Value::Integer(number), .. }) => {
                let advice = format!("write a number from {least} to {most}");
                self.fault(key, &format!("is {number}, which is out of range"), &advice);
                default
            }
            Some(node) => {
                self.wrong_type(key, node, "a whole number without quotes");
                default
            }
        }
    }

    /// A text that `parse` understands; what it does not understand is one fault.
    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Option<T>,
        advice: &str,
    ) -> Option<T> {
        let text = self.optional_string(key)?;
        let value = parse(&text);
        if value.is_none() {
            self.fault(key, &format!("\"{text}\" is not understood"), advice);
        }
        value
    }

    pub(super) fn optional_duration_ms(&mut self, key: &str, allowed: (i64, i64)) -> Option<i64> {
        let duration_ms = self.parsed(key, units::duration_ms, units::DURATION_ADVICE)?;
        let (least, most) = allowed;
        if (least..=most).contains(&duration_ms) {
            return Some(duration_ms);
        }
        let text = units::duration_text;
        let problem = format!("is {}, which is out of range", text(duration_ms));
        self.fault(key, &problem, &format!("write {} to {}", text(least), text(most)));
        None
    }

    pub(super) fn duration_ms(&mut self, key: &str, default_ms: i64, allowed: (i64, i64)) -> i64 {
        self.optional_duration_ms(key, allowed).unwrap_or(default_ms)
    }

    pub(super) fn size_bytes(&mut self, key: &str, default: u64, allowed: (u64, u64)) -> u64 {
        let (least, most) = allowed;
        let advice = units::SIZE_ADVICE;
        let Some(bytes) = self.parsed(key, units::size_bytes, advice) else {
            return default;
        };
        if !(least..=most).contains(&bytes) {
            let text = units::size_text;
            let problem = format!("is {}, which is out of range", text(bytes));
            self.fault(key, &problem, &format!("write {} to {}", text(least), text(most)));
        }
        bytes
    }

    /// A rate with its default; `None` when the operator wrote `off`.
    pub(super) fn rate(&mut self, key: &str, default: &str) -> Option<Rate> {
        self.parsed(key, units::rate, units::RATE_ADVICE).unwrap_or_else(|| units::rate(default).flatten())
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)], default: T) -> T {
        let Some(text) = self.optional_string(key) else {
            return default;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.fault(key, &format!("\"{text}\" is not known"), &advice_for(&text, &known));
        default
    }

    pub(super) fn strings(&mut self, key: &str, default: &[&str]) -> Vec<String> {
        let default = || default.iter().map(|text| (*text).to_owned()).collect();
        let Some(node) = self.ask(key) else {
            return default();
        };
        let Value::List(items) = &node.value else {
            self.wrong_type(key, node, "a list of texts such as [\"a\", \"b\"]");
            return default();
        };
        let mut texts = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let name = format!("{}[{at}]", self.name(key));
            match &item.value {
                Value::Text(text) if !text.is_empty() => texts.push(text.clone()),
                Value::Text(_) => {
                    let advice = "remove it or fill it in";
                    self.report.fault(&name, &item.place, "is empty", advice);
                }
                other => {
                    let problem = format!("is {}, not a text", other.type_name());
                    self.report.fault(&name, &item.place, &problem, "write a text in quotes");
                }
            }
        }
        texts
    }

    /// An absolute http(s) URL without user information.
    pub(super) fn url(&mut self, key: &str) -> Option<Url> {
        let text = self.filled_string(key)?;
        let url = address::web_url(&text);
        if url.is_none() {
            let advice = "write an absolute URL such as \"https://host.example/path\"";
            self.fault(key, &format!("{} is not a web address", address::shown(&text)), advice);
        }
        url
    }

    /// A path, relative to the folder of the configuration file. Its existence is not checked.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.filled_string(key).map(|text| self.report.resolve(&text))
    }

    /// The text of a file that must be readable and not empty.
    pub(super) fn file_text(&mut self, key: &str) -> Option<String> {
        let path = self.path(key)?;
        match read_small(&path) {
            Ok(text) if text.is_empty() => {
                let problem = format!("the file {} is empty", path.display());
                self.fault(key, &problem, "write the secret into it");
                None
            }
            Ok(text) => Some(text),
            Err(error) => {
                let problem = format!("cannot read the file {}: {error}", path.display());
                self.fault(key, &problem, "create it, or let the user of doorward read it");
                None
            }
        }
    }

    /// The secret of `key` or of the file named by `key_file`; both given is a fault.
    pub(super) fn secret(&mut self, key: &str) -> Option<SecretString> {
        let file_key = format!("{key}_file");
        let inline = self.filled_string(key);
        let file = self.filled_string(&file_key);
        if inline.is_some() && file.is_some() {
            let problem = format!("{key} and {file_key} are both given");
            self.fault(&file_key, &problem, "keep one of them");
            return inline.map(Into::into);
        }
        inline.or_else(|| self.file_text(&file_key)).map(Into::into)
    }

    /// Whether a secret was named at all, be it readable or not.
    pub(super) fn has_secret(&self, key: &str) -> bool {
        let empty = |node: &Node| matches!(&node.value, Value::Text(text) if text.is_empty());
        [key, &format!("{key}_file")]
            .iter()
            .any(|key| self.table.entries.get(*key).is_some_and(|node| !empty(node)))
    }

    pub(super) fn table(&mut self, key: &str) -> Reader<'a> {
        let node = self.ask(key);
        if let Some(node) = node.filter(|node| node.table().is_none()) {
            self.wrong_type(key, node, "a table");
        }
        self.inner(self.name(key), node)
    }

    /// The tables of `[[key]]`, each named by its `id`, its quoted `path` or its number.
    pub(super) fn tables(&mut self, key: &str) -> Vec<Reader<'a>> {
        let Some(node) = self.ask(key) else {
            return Vec::new();
        };
        let Value::List(items) = &node.value else {
            let problem = format!("is {}, not a list of tables", node.value.type_name());
            self.fault(key, &problem, &format!("write [[{key}]] with two brackets"));
            return Vec::new();
        };
        let mut readers = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let word = match (item.text_of("id"), item.text_of("path")) {
                (Some(id), _) if !id.is_empty() => id.to_owned(),
                (_, Some(path)) if !path.is_empty() => format!("\"{path}\""),
                _ => format!("#{}", at + 1),
            };
            let name = format!("{}.{word}", self.name(key));
            if item.table().is_none() {
                let problem = format!("is {}, not a table", item.value.type_name());
                self.report.fault(&name, &item.place, &problem, "write a table");
                continue;
            }
            readers.push(self.inner(name, Some(item)));
        }
        readers
    }

    /// Every key of this table, for tables whose keys the operator chooses.
    pub(super) fn keys(&self) -> Vec<String> {
        self.table.entries.keys().cloned().collect()
    }

    /// Reports what nobody asked for. To be called once every known key was read.
    pub(super) fn finish(self) {
        for key in self.table.entries.keys().filter(|key| !self.asked.contains(key)) {
            let known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
            self.fault(key, "is not a known key", &advice_for(key, &known));
        }
    }
}

/// Names the nearest known word, or all of them when none is near.
fn advice_for(word: &str, known: &[&str]) -> String {
    let distance = |name: &&&str| strsim::damerau_levenshtein(word, name);
    // A long word is cheap to refuse: nobody mistypes a known name into a hundred letters.
    let nearest = if word.len() > 100 { None } else { known.iter().min_by_key(distance) };
    match nearest {
        Some(name) if distance(&name) <= (name.len() / 3).max(1) => {
            format!("did you mean \"{name}\"?")
        }
        _ => format!("known here: {}", known.join(", ")),
    }
}

/// A small text file, less one trailing line break.
fn read_small(path: &std::path::Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > LARGEST_FILE) {
        return Err(std::io::Error::other("it is larger than 64 KiB"));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
