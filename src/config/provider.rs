//! One configured identity provider, as the program may rely on it.

use std::path::PathBuf;

use ipnet::IpNet;
use secrecy::SecretString;
use url::Url;

/// One `[[provider]]`. Durations are milliseconds unless the name says otherwise.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the contract")]
pub struct Provider {
    /// `[a-z0-9-]{1,32}`: the path segment and the rows' `provider`.
    pub id: String,
    /// Which adapter speaks to it.
    pub kind: ProviderKind,
    /// What people read on the page that lets them choose.
    pub label: String,
    /// The exact text of the issuer identifier, compared byte for byte.
    pub issuer: String,
    /// Nobody wrote the issuer: kind dev derives it from the public URL.
    pub issuer_is_default: bool,
    /// A row with one of these issuers moves over at its next login.
    pub former_issuers: Vec<String>,
    /// Our name at the provider.
    pub client_id: String,
    /// Present for `client_secret_basic` and `client_secret_post`.
    pub client_secret: Option<SecretString>,
    /// How we prove who we are at the token endpoint.
    pub client_auth: ClientAuth,
    /// The PEM text for `private_key_jwt`.
    pub private_key_pem: Option<SecretString>,
    /// `kid` of the client assertion's header; needed where the provider holds several of our keys.
    pub private_key_id: Option<String>,
    /// The algorithm that the private key signs with.
    pub private_key_alg: String,
    /// Requested scopes; always holds `openid`.
    pub scopes: Vec<String>,
    /// Whether requests are pushed (RFC 9126).
    pub pushed_authorization: When,
    /// How the callback comes.
    pub response_mode: ResponseMode,
    /// Accepted signature algorithms of ID tokens; never `none` or HS*.
    pub id_token_algs: Vec<String>,
    /// Whether callbacks must carry `iss` (RFC 9207).
    pub require_iss: RequireIss,
    /// Whether user info is asked; auto = when the ID token lacks a needed claim.
    pub userinfo: When,
    /// Whether names and passwords may come to us (JSON).
    pub password_login: bool,
    /// Whether the page that lets people choose also shows a form for them.
    pub password_form: bool,
    /// Whether people may register through us.
    pub registration: bool,
    /// Whether `prompt=none` is allowed.
    pub silent_login: bool,
    /// Without a refresh token: whether the session ends with the access token.
    pub session_follows_token: bool,
    /// Whether and how bearer tokens are accepted.
    pub bearer: Bearer,
    /// The audiences of which one must stand in a bearer JWT.
    pub api_audiences: Vec<String>,
    /// How long the provider's word on a bearer token is believed, where it is asked; at most a minute.
    pub introspection_cache_ms: i64,
    /// Claims without which a login is refused.
    pub required_claims: Vec<String>,
    /// Local roles given once, at creation.
    pub default_roles: Vec<String>,
    /// What stands before the subject in `users.id`.
    pub id_prefix: String,
    /// Where roles, groups and the tenant stand in the claims.
    pub claims: Claims,
    /// The directory's own credentials where they differ.
    pub admin: Option<Admin>,
    /// How webhooks of this provider are verified.
    pub webhook: Option<WebhookIn>,
    /// The discovery document's issuer where it is a template (several tenants).
    pub issuer_template: Option<String>,
    /// Tenants that may fill the template.
    pub allowed_tenants: Vec<String>,
    /// Members of `aud` tolerated beside ours.
    pub trusted_audiences: Vec<String>,
    /// How far the provider's clock may be off.
    pub clock_skew_ms: i64,
    /// Sent with every authorization request; never a protocol parameter.
    pub extra_auth_params: Vec<(String, String)>,
    /// Resource indicators (RFC 8707).
    pub resource: Vec<String>,
    /// `max_age` of every authorization request, in seconds.
    pub default_max_age_s: Option<u64>,
    /// The origin that calls from us (never from browsers) go to instead.
    pub internal_base_url: Option<Url>,
    /// A PEM file of authorities trusted beside the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// The `aud` of our client assertions.
    pub assertion_audience: AssertionAudience,
}

/// The adapters of this release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProviderKind {
    /// Keycloak 26.
    Keycloak,
    /// Any OpenID provider.
    Oidc,
    /// The embedded development provider, on loopback only.
    Dev,
}

/// Client authentication at the token endpoint (OpenID Connect Core 1.0 section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// The secret in the `Authorization` header.
    SecretBasic,
    /// The secret in the body.
    SecretPost,
    /// A signed assertion (RFC 7523).
    PrivateKeyJwt,
    /// A public client.
    None,
}

/// When an optional step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When metadata or need says so.
    Auto,
    /// Every time.
    Always,
    /// At no time.
    Never,
}

/// OAuth 2.0 response modes for the code flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseMode {
    /// Parameters in the callback's query.
    Query,
    /// A form posted to the callback.
    FormPost,
}

/// Whether a callback must carry `iss` (RFC 9207).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequireIss {
    /// Required when metadata announces it.
    Auto,
    /// Always required.
    True,
    /// Checked only when present.
    False,
}

/// How bearer tokens are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// Not at all.
    Off,
    /// As JWTs checked here.
    Jwt,
    /// By asking the provider (RFC 7662).
    Introspection,
}

/// The audience of client assertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssertionAudience {
    /// The issuer identifier.
    Issuer,
    /// The token endpoint, for older providers.
    TokenEndpoint,
}

/// Dotted paths into the claims; `None` = not taken from claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Where roles stand.
    pub roles: Option<String>,
    /// Where groups stand.
    pub groups: Option<String>,
    /// Where the tenant stands.
    pub tenant: Option<String>,
}

/// The credentials for the provider's directory.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The provider's own `client_id` unless written.
    pub client_id: String,
    /// The provider's own secret unless a `client_id` was written.
    pub client_secret: Option<SecretString>,
    /// Where the directory answers; `None` = derived from the issuer.
    pub base_url: Option<Url>,
}

/// How incoming webhooks are verified.
#[derive(Clone, Debug)]
pub struct WebhookIn {
    /// The shared secret.
    pub secret: SecretString,
    /// Networks that may call; empty = all.
    pub allowed_ips: Vec<IpNet>,
    /// How old or early a timestamp may be.
    pub tolerance_ms: i64,
}

impl Provider {
    /// Whether a bearer token may be known as ours by the client that it was issued to, without an audience. Keycloak says of each
    /// token what it is, and so does a provider that is asked; of other JWTs only the audience tells an API's token.
    #[must_use]
    pub fn may_lack_audiences(&self) -> bool {
        self.kind == ProviderKind::Keycloak || self.bearer == Bearer::Introspection
    }
}

impl ProviderKind {
    /// Every word that `kind` takes, and the kind where its adapter is part of this release.
    pub(super) const WORDS: [(&'static str, Option<Self>); 7] = [
        ("keycloak", Some(Self::Keycloak)),
        ("oidc", Some(Self::Oidc)),
        ("dev", Some(Self::Dev)),
        ("asgardeo", None),
        ("workos", None),
        ("auth0", None),
        ("authvital", None),
    ];

    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keycloak => "keycloak",
            Self::Oidc => "oidc",
            Self::Dev => "dev",
        }
    }

    /// The kind that a word names.
    ///
    /// # Errors
    /// Says what is wrong with the word and which words there are.
    pub fn parse(word: &str) -> Result<Self, (String, String)> {
        let known: Vec<&str> =
            Self::WORDS.iter().filter(|(_, kind)| kind.is_some()).map(|(word, _)| *word).collect();
        match Self::WORDS.iter().find(|(name, _)| *name == word) {
            Some((_, Some(kind))) => Ok(*kind),
            Some((_, None)) => Err((
                format!("kind \"{word}\" arrives with a later release"),
                "use kind = \"oidc\" until then".to_owned(),
            )),
            None => Err((
                format!("\"{word}\" is not a kind of provider"),
                format!("write one of {}", known.join(", ")),
            )),
        }
    }
}

pub(super) const CLIENT_AUTH: [(&str, ClientAuth); 4] = [
    ("client_secret_basic", ClientAuth::SecretBasic),
    ("client_secret_post", ClientAuth::SecretPost),
    ("private_key_jwt", ClientAuth::PrivateKeyJwt),
    ("none", ClientAuth::None),
];
pub(super) const WHEN: [(&str, When); 3] =
    [("auto", When::Auto), ("always", When::Always), ("never", When::Never)];
pub(super) const RESPONSE_MODE: [(&str, ResponseMode); 2] =
    [("query", ResponseMode::Query), ("form_post", ResponseMode::FormPost)];
pub(super) const REQUIRE_ISS: [(&str, RequireIss); 3] =
    [("auto", RequireIss::Auto), ("true", RequireIss::True), ("false", RequireIss::False)];
pub(super) const BEARER: [(&str, Bearer); 3] =
    [("off", Bearer::Off), ("jwt", Bearer::Jwt), ("introspection", Bearer::Introspection)];
pub(super) const ASSERTION_AUDIENCE: [(&str, AssertionAudience); 2] =
    [("issuer", AssertionAudience::Issuer), ("token_endpoint", AssertionAudience::TokenEndpoint)];
