//! What holds for every recipe, read as text: also for those whose program is not run here.

use std::path::Path;

const RECIPES: [&str; 4] =
    ["nginx/doorward.conf", "caddy/Caddyfile", "traefik/doorward.yml", "envoy/envoy.yaml"];
/// Every identity header that a route can make.
const IDENTITY: [&str; 9] = [
    "x-auth-user",
    "x-auth-provider",
    "x-auth-subject",
    "x-auth-email",
    "x-auth-name",
    "x-auth-roles",
    "x-auth-groups",
    "x-auth-tenant",
    "x-auth-assertion",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn px_01_every_recipe_takes_each_identity_header_from_the_visitor_and_from_doorward_alone() {
    let source = read("src/proxy/identity.rs").to_lowercase();
    for name in source.split('"').filter(|word| word.starts_with("x-auth-")) {
        assert!(IDENTITY.contains(&name), "{name} is new: teach it to the recipes");
    }
    for path in RECIPES {
        let recipe = read(&format!("deploy/{path}")).to_lowercase();
        for name in IDENTITY {
            let pattern = path.starts_with("traefik") && recipe.contains("(?i)^x[^a-z0-9]auth[^a-z0-9]");
            assert!(pattern || recipe.contains(name), "{path} does not know {name}");
        }
        assert!(recipe.contains("trusted_proxies"), "{path} says what Doorward needs");
        assert!(recipe.contains("/auth/check"), "{path}");
    }
}

/// Indentation by spaces, quotes that close, no tab, and every line a comment, a key, an item or a flow mapping.
fn assert_is_yaml(path: &str) {
    for (number, line) in read(path).lines().enumerate() {
        let case = format!("{path}:{}: {line}", number + 1);
        assert!(!line.contains('\t') && line.trim_end() == line, "{case}");
        let text = line.trim_start();
        assert!((line.len() - text.len()) % 2 == 0, "{case}");
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let code = text.split(" #").next().unwrap_or_default();
        for (open, close) in [('{', '}'), ('[', ']'), ('(', ')')] {
            // Character classes of a pattern stand in quotes.
            if !code.contains("[^") {
                assert_eq!(code.matches(open).count(), code.matches(close).count(), "{case}");
            }
        }
        assert_eq!(code.matches('"').count() % 2, 0, "{case}");
        assert!(code.starts_with("- ") || code.contains(": ") || code.ends_with(':'), "{case}");
    }
}

#[test]
fn the_recipes_that_are_not_run_have_the_form_of_yaml() {
    assert_is_yaml("deploy/traefik/doorward.yml");
    assert_is_yaml("deploy/envoy/envoy.yaml");
}
