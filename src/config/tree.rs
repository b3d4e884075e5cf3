//! The configuration as it was written: TOML values, each with the place it came from.

use std::{collections::BTreeMap, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::fault::Place;

/// Nothing in the configuration nests deeper than four; the limit keeps recursion small.
const DEEPEST: usize = 32;

pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Node>),
    Table(Table),
    /// A type that no key takes; the text says which, with its article.
    Other(&'static str),
}

pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
    /// The text of an environment variable: a secret made of digits is still text.
    pub(super) raw: Option<String>,
}

#[derive(Default)]
pub(super) struct Table {
    pub(super) entries: BTreeMap<String, Node>,
}

impl Value {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

impl Node {
    pub(super) fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The text of a key in this table, if this is a table and the key a text.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        match &self.table()?.entries.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A syntax error: what is wrong, and where (both counted from 1).
pub(super) struct SyntaxError {
    pub(super) problem: String,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Reads a whole file. The error text never quotes the file, which may hold secrets.
pub(super) fn parse(text: &str) -> Result<Table, SyntaxError> {
    let lines = Lines::of(text);
    match DeTable::parse(text) {
        Ok(table) => Ok(convert_table(table.get_ref(), &|span| lines.place(&span), 0)),
        Err(error) => {
            let (line, column) = lines.position(error.span().map_or(0, |span| span.start));
            Err(SyntaxError { problem: error.message().to_owned(), line, column })
        }
    }
}

/// Reads the value of an environment variable: TOML where it is TOML, else plain text.
pub(super) fn parse_variable(name: &str, text: &str) -> Node {
    let place = Place::Environment { name: name.to_owned() };
    let value = match DeValue::parse(text) {
        Ok(value) => convert(value.get_ref(), &|_| place.clone(), 0),
        Err(_) => Value::Text(text.to_owned()),
    };
    Node { value, place, raw: Some(text.to_owned()) }
}

type Placing<'a> = &'a dyn Fn(Range<usize>) -> Place;

fn convert_table(table: &DeTable<'_>, place: Placing<'_>, depth: usize) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let node =
            Node { value: convert(value.get_ref(), place, depth + 1), place: place(key.span()), raw: None };
        (String::from(AsRef::<str>::as_ref(key.get_ref())), node)
    };
    Table { entries: table.iter().map(entry).collect() }
}

fn convert(value: &DeValue<'_>, place: Placing<'_>, depth: usize) -> Value {
    if depth > DEEPEST {
        return Value::Other("a value nested too deeply");
    }
    match value {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number out of range"), Value::Integer),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Node {
                    value: convert(item.get_ref(), place, depth + 1),
                    place: place(item.span()),
                    raw: None,
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, place, depth)),
    }
}

/// The offsets at which lines start, to turn the parser's byte spans into line numbers.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|at| self.starts.get(at)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    fn place(&self, span: &Range<usize>) -> Place {
        Place::File { line: self.position(span.start).0 }
    }
}
