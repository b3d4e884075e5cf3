//! `docs/openapi.json` says what the code does: its routes, its problem codes, its JSON shapes. The sources are read as text, because that is
//! where a new route or code appears first.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn document() -> Value {
    serde_json::from_str(&read("docs/openapi.json")).unwrap()
}

/// `get /auth/me` for each `at("/me", …).route(read().to(…))`. What leads to `closed` is not offered, and not described.
fn routes() -> BTreeSet<String> {
    let source = read("src/web/mod.rs");
    let mut found = BTreeSet::new();
    for place in source.split("at(\"").skip(1) {
        let path = place.split('"').next().unwrap();
        for route in place.split(".route(").skip(1).filter(|route| !route.contains(".to(closed)")) {
            let call = route.split('(').next().unwrap();
            let method = if call == "read" { "get" } else { call.strip_prefix("web::").unwrap() };
            // What apps read lies outside our prefix.
            let root = if path == "/jwks.json" { "/.well-known/doorward" } else { "/auth" };
            found.insert(format!("{method} {root}{path}"));
        }
    }
    found
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let described: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    assert!(described.len() > 10);
    assert_eq!(described, routes());
}

#[test]
fn every_problem_code_is_described_and_nothing_else() {
    let source = read("src/web/problem.rs");
    let codes: BTreeSet<&str> = source
        .split("of(")
        .filter_map(|call| {
            let (status, rest) = call.trim_start().split_once(',')?;
            let is_status = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
            let code = rest.trim_start().strip_prefix('"')?.split('"').next()?;
            is_status.then_some(code)
        })
        .collect();
    assert!(codes.len() > 15, "{codes:?}");
    let document = document();
    let described =
        document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array().unwrap();
    let described: BTreeSet<&str> = described.iter().map(|code| code.as_str().unwrap()).collect();
    assert_eq!(described, codes);
}

/// The members of a `json!` object that a function of `wire.rs` builds.
fn members(function: &str) -> BTreeSet<String> {
    let source = read("src/web/wire.rs");
    let (_, body) = source.split_once(&format!("pub fn {function}(")).unwrap();
    let body = body.split("\n}\n").next().unwrap();
    body.lines()
        .filter_map(|line| Some(line.trim().strip_prefix('"')?.split_once("\":")?.0.to_owned()))
        .collect()
}

#[test]
fn users_and_sessions_have_the_described_members() {
    let document = document();
    for (schema, function) in [("User", "user"), ("Session", "session"), ("Tokens", "tokens")] {
        let schema = &document["components"]["schemas"][schema];
        let described: BTreeSet<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(described, members(function));
        let required: BTreeSet<String> = schema["required"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(required, described, "every member is always there, if only as null");
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn references_lead_somewhere_and_operations_are_named_once() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in &found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name} is used twice");
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}");
            for part in path.split('{').skip(1) {
                let wanted = part.split('}').next().unwrap();
                let parameters = operation["parameters"].as_array().unwrap();
                let is_there = parameters.iter().any(|p| p["in"] == "path" && p["name"] == wanted);
                assert!(is_there, "{method} {path} does not describe {wanted}");
            }
        }
    }
}

#[test]
fn the_command_line_prints_the_document() {
    let printed = Command::new(env!("CARGO_BIN_EXE_doorward")).arg("openapi").output().unwrap();
    assert!(printed.status.success());
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), read("docs/openapi.json"));
}
