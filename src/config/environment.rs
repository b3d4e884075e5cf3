//! The environment over the file: `DOORWARD__SECTION__KEY`, and tables with an id by it.

use super::{
    fault::{Place, Report},
    tree::{Node, Table, Value, parse_variable},
};

const PREFIX: &str = "DOORWARD__";
/// The lists of tables whose entries the environment can name by id.
const WITH_ID: [&str; 3] = ["provider", "upstream", "webhook_out"];

/// Lays every `DOORWARD__…` variable over the table, a parent before its children.
pub(super) fn overlay(root: &mut Table, environment: &[(String, String)], report: &Report) {
    let mut ours: Vec<_> = environment.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    for (name, text) in ours {
        let path = name.trim_start_matches(PREFIX).to_ascii_lowercase();
        let node = parse_variable(name, text);
        if let Err((problem, advice)) = place_in_root(root, &path, node) {
            let place = Place::Environment { name: name.clone() };
            report.fault(&path.replace("__", "."), &place, &problem, &advice);
        }
    }
}

type Refusal = (String, String);

fn refusal(problem: &str, advice: &str) -> Refusal {
    (problem.to_owned(), advice.to_owned())
}

fn place_in_root(root: &mut Table, path: &str, node: Node) -> Result<(), Refusal> {
    let steps: Vec<&str> = path.split("__").collect();
    if steps.iter().any(|step| step.is_empty()) {
        return Err(refusal("names no key", "write DOORWARD__SECTION__KEY"));
    }
    match steps.as_slice() {
        [list, id, rest @ ..] if WITH_ID.contains(list) && !rest.is_empty() => {
            insert(entry_with_id(root, list, id)?, rest, node)
        }
        ["route", _, ..] => Err(refusal(
            "a route has no id, so that the environment cannot name one",
            "set it in the file, or all routes at once by DOORWARD__ROUTE='[{ path = … }]'",
        )),
        _ => insert(root, &steps, node),
    }
}

/// The table of a list whose `id` reads as `id` when written in a variable's name.
fn entry_with_id<'a>(root: &'a mut Table, list: &str, id: &str) -> Result<&'a mut Table, Refusal> {
    let entries = match root.entries.get_mut(list).map(|node| &mut node.value) {
        Some(Value::List(entries)) => entries.as_mut_slice(),
        _ => &mut [],
    };
    let mut known = Vec::new();
    for entry in entries {
        let spelled = entry.text_of("id").unwrap_or_default().replace('-', "_");
        if spelled == id
            && let Value::Table(table) = &mut entry.value
        {
            return Ok(table);
        }
        known.push(spelled.to_ascii_uppercase());
    }
    let advice = if known.is_empty() {
        format!("add a [[{list}]] with this id to the file")
    } else {
        format!("use one of {}, or add a [[{list}]] with this id to the file", known.join(", "))
    };
    Err((format!("no {list} has this id"), advice))
}

fn insert(table: &mut Table, steps: &[&str], node: Node) -> Result<(), Refusal> {
    let [step, rest @ ..] = steps else {
        return Ok(());
    };
    if rest.is_empty() {
        yield_place(table, step);
        table.entries.insert((*step).to_owned(), node);
        return Ok(());
    }
    // An id inside a section (keys.ring) may hold hyphens, which a variable's name cannot.
    let name = table
        .entries
        .keys()
        .find(|key| key.replace('-', "_") == **step)
        .map_or_else(|| (*step).to_owned(), Clone::clone);
    let place = node.place.clone();
    let fresh = || Node { value: Value::Table(Table::default()), place, raw: None };
    match &mut table.entries.entry(name).or_insert_with(fresh).value {
        Value::Table(inner) => insert(inner, rest, node),
        _ => Err(refusal("the key above it holds a plain value", "name an existing table")),
    }
}

/// `x` and `x_file` (and the three sources of a ring entry) exclude each other. A later source
/// wins over an earlier one, so what the file said in the other spelling has to go.
fn yield_place(table: &mut Table, key: &str) {
    let rivals: Vec<String> = match key {
        "file" | "value" | "passphrase_file" => {
            ["file", "value", "passphrase_file"].map(str::to_owned).into()
        }
        _ => vec![key.strip_suffix("_file").map_or_else(|| format!("{key}_file"), str::to_owned)],
    };
    table
        .entries
        .retain(|name, node| !rivals.contains(name) || matches!(node.place, Place::Environment { .. }));
}
