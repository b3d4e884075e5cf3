//! Reads and checks `[[provider]]`, one fault per thing wrong.

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::{
    address,
    provider::{
        ASSERTION_AUDIENCE, Admin, AssertionAudience, BEARER, Bearer, CLIENT_AUTH, Claims, ClientAuth,
        Provider, ProviderKind, REQUIRE_ISS, RESPONSE_MODE, RequireIss, ResponseMode, WHEN, WebhookIn, When,
    },
    provider_checks::{contradictions, dev},
    reader::Reader,
    routes::unique_id,
    server::{Server, networks},
    units::{DAY_MS, MINUTE_MS, SECOND_MS},
};

/// Parameters of an authorization request that are ours to set, for safety depends on them.
const PROTECTED_PARAMETERS: [&str; 26] = [
    "acr_values",
    "claims",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "dpop_jkt",
    "grant_type",
    "id_token_hint",
    "iss",
    "login_hint",
    "max_age",
    "nonce",
    "prompt",
    "redirect_uri",
    "request",
    "request_uri",
    "resource",
    "response_mode",
    "response_type",
    "scope",
    "state",
];
/// Signature algorithms that ID tokens may have; all are asymmetric.
const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
const DEFAULT_ALGORITHMS: [&str; 4] = ["RS256", "ES256", "PS256", "EdDSA"];
/// The longest prefix that still leaves `users.id` short enough for an index.
const LONGEST_PREFIX: usize = 64;

pub(super) fn read(sections: Vec<Reader<'_>>, server: Option<&Server>) -> Vec<Provider> {
    let mut taken = Vec::new();
    let mut providers: Vec<Provider> = Vec::with_capacity(sections.len());
    for (at, mut section) in sections.into_iter().enumerate() {
        let id = unique_id(&mut section, &mut taken);
        let Some(kind) = kind(&mut section) else {
            continue;
        };
        let default_prefix = if at == 0 { String::new() } else { format!("{id}|") };
        let mut provider = provider(&mut section, id, kind);
        provider.id_prefix = id_prefix(&mut section, &default_prefix, &providers);
        if kind == ProviderKind::Dev {
            dev(&section, &mut provider, server);
        }
        section.finish();
        providers.push(provider);
    }
    providers
}

/// The kind, or nothing when it is not one of ours: then its other keys cannot be judged.
fn kind(section: &mut Reader<'_>) -> Option<ProviderKind> {
    let word = section.required_string("kind", "write keycloak, oidc or dev");
    if word.is_empty() {
        return None;
    }
    let kind = ProviderKind::parse(&word);
    kind.map_err(|(problem, advice)| section.fault("kind", &problem, &advice)).ok()
}

fn provider(section: &mut Reader<'_>, id: String, kind: ProviderKind) -> Provider {
    let issuer = issuer(section, kind);
    let client_id = client_id(section);
    let (client_auth, client_secret, private_key_pem) = client_auth(section, kind);
    let bearer = section.choice("bearer", &BEARER, Bearer::Off);
    let provider = Provider {
        label: section.filled_string("label").unwrap_or_else(|| id.clone()),
        id,
        kind,
        issuer_is_default: issuer.is_empty(),
        issuer,
        former_issuers: section.strings("former_issuers", &[]),
        admin: admin(section, &client_id, client_secret.as_ref()),
        client_id,
        client_secret,
        client_auth,
        private_key_pem,
        private_key_id: section.filled_string("private_key_id"),
        private_key_alg: section.choice("private_key_alg", &ASSERTION_ALGS, "RS256").to_owned(),
        scopes: scopes(section),
        pushed_authorization: section.choice("pushed_authorization", &WHEN, When::Auto),
        response_mode: section.choice("response_mode", &RESPONSE_MODE, ResponseMode::Query),
        id_token_algs: id_token_algs(section),
        require_iss: require_iss(section),
        userinfo: section.choice("userinfo", &WHEN, When::Auto),
        password_login: section.bool("password_login", false),
        password_form: section.bool("password_form", false),
        registration: section.bool("registration", false),
        silent_login: section.bool("silent_login", false),
        session_follows_token: section.bool("session_follows_token", false),
        bearer,
        api_audiences: section.strings("api_audiences", &[]),
        introspection_cache_ms: section.duration_ms(
            "introspection_cache",
            30 * SECOND_MS,
            (0, 60 * SECOND_MS),
        ),
        required_claims: section.strings("required_claims", &[]),
        default_roles: section.strings("default_roles", &[]),
        id_prefix: String::new(),
        claims: claims(section, kind),
        webhook: webhook(section),
        issuer_template: section.filled_string("issuer_template"),
        allowed_tenants: section.strings("allowed_tenants", &[]),
        trusted_audiences: section.strings("trusted_audiences", &[]),
        clock_skew_ms: section.duration_ms("clock_skew", 60 * SECOND_MS, (0, 300 * SECOND_MS)),
        extra_auth_params: extra_auth_params(section),
        resource: resource(section),
        default_max_age_s: section
            .optional_duration_ms("default_max_age", (0, 365 * DAY_MS))
            .map(|max_age_ms| (max_age_ms / SECOND_MS).unsigned_abs()),
        internal_base_url: base_url(section, "internal_base_url"),
        tls_ca_file: section.path("tls_ca_file"),
        assertion_audience: section.choice(
            "assertion_audience",
            &ASSERTION_AUDIENCE,
            AssertionAudience::Issuer,
        ),
    };
    contradictions(section, &provider);
    provider
}

fn issuer(section: &mut Reader<'_>, kind: ProviderKind) -> String {
    if kind == ProviderKind::Dev && !section.has("issuer") {
        return String::new();
    }
    let advice = "copy the text of \"issuer\" in the provider's discovery document";
    let issuer = section.required_string("issuer", advice);
    if let Err((problem, advice)) = address::issuer(&issuer)
        && !issuer.is_empty()
    {
        section.fault("issuer", &format!("{} {problem}", address::shown(&issuer)), advice);
    }
    issuer
}

fn client_id(section: &mut Reader<'_>) -> String {
    section.required_string("client_id", "write the name under which the provider knows doorward")
}

type Credentials = (ClientAuth, Option<SecretString>, Option<SecretString>);

/// What a client assertion can be signed with.
const ASSERTION_ALGS: [(&str, &str); 4] =
    [("RS256", "RS256"), ("PS256", "PS256"), ("ES256", "ES256"), ("EdDSA", "EdDSA")];

fn client_auth(section: &mut Reader<'_>, kind: ProviderKind) -> Credentials {
    let default = match kind {
        ProviderKind::Dev => ClientAuth::None,
        ProviderKind::Keycloak | ProviderKind::Oidc => ClientAuth::SecretBasic,
    };
    let client_auth = section.choice("client_auth", &CLIENT_AUTH, default);
    let secret = section.secret("client_secret");
    let private_key = section.secret("private_key");
    let has_secret = section.has_secret("client_secret");
    let has_key = section.has_secret("private_key");
    match client_auth {
        ClientAuth::SecretBasic | ClientAuth::SecretPost if !has_secret => {
            let advice = "name a file with the client's secret, or write client_auth = \"none\" \
                          for a public client";
            section.fault("client_secret_file", "is missing", advice);
        }
        ClientAuth::PrivateKeyJwt if !has_key => {
            let advice = "name a PEM file with the client's private key";
            section.fault("private_key_file", "is missing for private_key_jwt", advice);
        }
        ClientAuth::None if has_secret => {
            let advice = "remove the secret, or write client_auth = \"client_secret_basic\"";
            section.fault("client_auth", "is none although a client secret is given", advice);
        }
        _ => {}
    }
    let is_pem = |pem: &SecretString| pem.expose_secret().contains("PRIVATE KEY-----");
    if private_key.as_ref().is_some_and(|pem| !is_pem(pem)) {
        let key = if section.has("private_key") { "private_key" } else { "private_key_file" };
        let advice = "use a PKCS #8 key that begins with -----BEGIN PRIVATE KEY-----";
        section.fault(key, "is not a private key in PEM form", advice);
    }
    (client_auth, secret, private_key)
}

fn scopes(section: &mut Reader<'_>) -> Vec<String> {
    let mut scopes = section.strings("scopes", &["openid", "email", "profile"]);
    // RFC 6749 section 3.3: visible ASCII without the quote and the backslash.
    let is_token =
        |scope: &str| scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    for scope in scopes.iter().filter(|scope| !is_token(scope)) {
        let advice = "write each scope as a text of its own";
        section.fault("scopes", &format!("\"{scope}\" is not a scope"), advice);
    }
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    scopes
}

fn id_token_algs(section: &mut Reader<'_>) -> Vec<String> {
    let algorithms = section.strings("id_token_algs", &DEFAULT_ALGORITHMS);
    let advice = format!("choose among {}", ALGORITHMS.join(", "));
    if algorithms.is_empty() {
        section.fault("id_token_algs", "is empty, so that no token could pass", &advice);
    }
    for name in algorithms.iter().filter(|name| !ALGORITHMS.contains(&name.as_str())) {
        let reason = if name == "none" || name.starts_with("HS") {
            "proves nothing about the issuer"
        } else {
            "is not an algorithm that doorward verifies"
        };
        section.fault("id_token_algs", &format!("\"{name}\" {reason}"), &advice);
    }
    algorithms
}

/// Both `true` and `"true"` are taken, for the third word, `"auto"`, needs quotes.
fn require_iss(section: &mut Reader<'_>) -> RequireIss {
    match section.written_bool("require_iss") {
        Some(true) => RequireIss::True,
        Some(false) => RequireIss::False,
        None => section.choice("require_iss", &REQUIRE_ISS, RequireIss::Auto),
    }
}

fn claims(section: &mut Reader<'_>, kind: ProviderKind) -> Claims {
    let roles = match kind {
        ProviderKind::Keycloak => "realm_access.roles",
        ProviderKind::Oidc | ProviderKind::Dev => "roles",
    };
    let mut table = section.table("claims");
    let mut path =
        |key: &str, default: &str| Some(table.string(key, default)).filter(|path| !path.is_empty());
    let claims = Claims {
        roles: path("roles", roles),
        groups: path("groups", "groups"),
        tenant: path("tenant", "org_id"),
    };
    table.finish();
    claims
}

fn admin(section: &mut Reader<'_>, client_id: &str, client_secret: Option<&SecretString>) -> Option<Admin> {
    let present = section.has("admin");
    let mut table = section.table("admin");
    let own_id = table.filled_string("client_id");
    let own_secret = table.secret("client_secret");
    if own_id.is_some() && !table.has_secret("client_secret") {
        let advice = "name a file with the secret of admin.client_id";
        table.fault("client_secret_file", "is missing", advice);
    }
    let client_secret =
        if own_id.is_some() { own_secret } else { own_secret.or_else(|| client_secret.cloned()) };
    let base_url = table.url("base_url");
    if base_url.as_ref().is_some_and(|url| !address::is_safe_target(url)) {
        table.fault("base_url", "is http on a public address", "use https");
    }
    table.finish();
    let client_id = own_id.unwrap_or_else(|| client_id.to_owned());
    present.then_some(Admin { client_id, client_secret, base_url })
}

fn webhook(section: &mut Reader<'_>) -> Option<WebhookIn> {
    if !section.has("webhook") {
        section.table("webhook").finish();
        return None;
    }
    let mut table = section.table("webhook");
    let secret = table.secret("secret");
    if !table.has_secret("secret") {
        table.fault("secret_file", "is missing", "name a file with the shared secret");
    }
    let allowed_ips = networks(&mut table, "allowed_ips");
    let tolerance_ms = table.duration_ms("tolerance", 5 * MINUTE_MS, (SECOND_MS, 15 * MINUTE_MS));
    table.finish();
    Some(WebhookIn { secret: secret?, allowed_ips, tolerance_ms })
}

fn extra_auth_params(section: &mut Reader<'_>) -> Vec<(String, String)> {
    let mut table = section.table("extra_auth_params");
    let mut parameters = Vec::new();
    for name in table.keys() {
        let value = table.optional_string(&name);
        if PROTECTED_PARAMETERS.contains(&name.to_ascii_lowercase().as_str()) {
            let advice = "remove it, or use the key that sets it where there is one";
            table.fault(&name, "is a protocol parameter that doorward itself sets", advice);
        } else if let Some(value) = value {
            parameters.push((name, value));
        }
    }
    parameters
}

fn resource(section: &mut Reader<'_>) -> Vec<String> {
    let resources = section.strings("resource", &[]);
    let is_absolute = |text: &str| Url::parse(text).is_ok_and(|url| url.fragment().is_none());
    for resource in resources.iter().filter(|resource| !is_absolute(resource)) {
        let problem = format!("\"{resource}\" is not an absolute URI without a fragment");
        section.fault("resource", &problem, "write one such as \"https://api.example/\"");
    }
    resources
}

fn base_url(section: &mut Reader<'_>, key: &str) -> Option<Url> {
    let url = section.url(key)?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        let advice = "write scheme, host and port alone, such as \"http://keycloak:8080\"";
        section.fault(key, "has a path, query or fragment", advice);
    }
    if !address::is_safe_target(&url) {
        let name = section.name(key);
        section.report.warn(format!("{name}: secrets and tokens travel there over plain http"));
    }
    Some(url)
}

fn id_prefix(section: &mut Reader<'_>, default: &str, earlier: &[Provider]) -> String {
    let prefix = section.string("id_prefix", default);
    if prefix.len() > LONGEST_PREFIX || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        let advice = "write at most 64 visible ASCII characters, such as \"acme|\"";
        section.fault("id_prefix", "cannot stand before a user id", advice);
    }
    if let Some(other) = earlier.iter().find(|other| other.id_prefix == prefix) {
        let problem = format!("\"{prefix}\" is the prefix of provider {} too", other.id);
        section.fault("id_prefix", &problem, "give each provider a prefix of its own");
    }
    prefix
}

/// The issuer of the embedded development provider.
pub(super) fn dev_issuer(public_url: &Url) -> String {
    format!("{}/dev-idp", public_url.origin().ascii_serialization())
}
