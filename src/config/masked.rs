//! The effective configuration as TOML text in which every secret is `"***"` (SC-05).

use std::fmt::{Display, Write as _};

use toml::Value;

use super::{
    Config, KeyMaterial, LogFormat, Provider, Route, WebhookOut,
    provider::{
        ASSERTION_AUDIENCE, BEARER, CLIENT_AUTH, REQUIRE_ISS, RESPONSE_MODE, RequireIss, WHEN, WebhookIn,
    },
    routes::{ACCESS, ATTACH},
    units::{duration_text, rate_text, size_text},
};

const MASK: &str = "***";

/// Writes one line per key; a key without a value is left out.
struct Page(String);

impl Page {
    fn head(&mut self, line: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.put(format_args!("{gap}{line}"));
    }

    fn put(&mut self, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn text(&mut self, key: &str, text: impl Display) {
        self.put(format_args!("{key} = {}", quoted(&text.to_string())));
    }

    fn some(&mut self, key: &str, text: Option<impl Display>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn plain(&mut self, key: &str, value: impl Display) {
        self.put(format_args!("{key} = {value}"));
    }

    fn list(&mut self, key: &str, texts: &[impl ToString]) {
        self.plain(key, list(texts));
    }

    fn secret(&mut self, key: &str, present: bool) {
        self.some(key, present.then_some(MASK));
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn list(texts: &[impl ToString]) -> String {
    Value::from(texts.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string()
}

/// The word of a value; every table of words is complete.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| *word)
}

impl Config {
    /// The effective configuration, defaults included, as TOML text without any secret.
    #[must_use]
    pub fn masked(&self) -> String {
        let mut page = Page(String::new());
        self.mask_server(&mut page);
        self.mask_keys(&mut page);
        self.mask_sessions(&mut page);
        self.mask_small(&mut page);
        for provider in &self.providers {
            mask_provider(&mut page, provider);
        }
        for upstream in &self.upstreams {
            page.head("[[upstream]]");
            page.text("id", &upstream.id);
            page.list("urls", &upstream.urls);
            page.some("tls_ca_file", upstream.tls_ca_file.as_ref().map(|path| path.display()));
            page.some("health_path", upstream.health_path.as_ref());
        }
        for route in &self.routes {
            mask_route(&mut page, route);
        }
        for webhook in &self.webhooks_out {
            mask_webhook_out(&mut page, webhook);
        }
        page.0
    }

    fn mask_server(&self, page: &mut Page) {
        let server = &self.server;
        page.head("[server]");
        page.text("listen", server.listen);
        page.text("public_url", server.public_url.origin().ascii_serialization());
        page.text("operations_listen", server.operations_listen);
        page.text("auth_prefix", &server.auth_prefix);
        page.list("trusted_proxies", &server.trusted_proxies);
        if let Some(tls) = &server.tls {
            let (certificate, key) = (tls.certificate_file.display(), tls.key_file.display());
            let (certificate, key) = (quoted(&certificate.to_string()), quoted(&key.to_string()));
            page.plain("tls", format_args!("{{ certificate_file = {certificate}, key_file = {key} }}"));
        }
        page.text("shutdown", duration_text(server.shutdown_ms.try_into().unwrap_or(i64::MAX)));
        page.head("[database]");
        page.text("url", MASK);
        page.plain("migrate", self.database.migrate);
        page.plain("pool_size", self.database.pool_size);
    }

    fn mask_keys(&self, page: &mut Page) {
        page.head("[keys]");
        page.text("current", &self.keys.current);
        page.head("[keys.ring]");
        for key in &self.keys.ring {
            let (source, text) = match &key.material {
                KeyMaterial::File(path) => ("file", path.display().to_string()),
                KeyMaterial::Value(_) => ("value", MASK.to_owned()),
                KeyMaterial::PassphraseFile(path) => ("passphrase_file", path.display().to_string()),
            };
            page.plain(&key.id, format_args!("{{ {source} = {} }}", quoted(&text)));
        }
    }

    fn mask_sessions(&self, page: &mut Page) {
        page.head("[session]");
        page.text("idle", duration_text(self.session.idle_ms));
        page.text("overall", duration_text(self.session.overall_ms));
        page.some("refresh_margin", self.session.refresh_margin_ms.map(duration_text));
        page.list("expose_claims", &self.session.expose_claims);
        page.plain("me_keeps_alive", self.session.me_keeps_alive);
        page.head("[cache]");
        page.text("size", size_text(self.cache.size_bytes));
        page.head("[cors]");
        page.list("origins", &self.cors.origins);
        page.head("[limits]");
        for (key, rate) in self.limits.rates() {
            page.text(key, rate_text(rate));
        }
        page.plain("sessions_per_user", self.limits.sessions_per_user);
        page.plain("websockets", self.limits.websockets);
        page.plain("login_attempts_per_browser", self.limits.login_attempts_per_browser);
        page.text("login_attempt", duration_text(self.limits.login_attempt_ms));
    }

    fn mask_small(&self, page: &mut Page) {
        page.head("[registration]");
        page.list("attributes", &self.registration.attributes);
        page.plain("hide_existing", self.registration.hide_existing);
        page.head("[log]");
        let format = match self.log.format {
            LogFormat::Pretty => "pretty",
            LogFormat::Json => "json",
        };
        page.text("format", format);
        page.text("level", &self.log.level);
        page.head("[telemetry]");
        page.some("otlp_endpoint", self.telemetry.otlp_endpoint.as_ref().map(without_query));
        page.text("service_name", &self.telemetry.service_name);
        page.head("[sync]");
        page.text("every", self.sync.every_ms.map_or_else(|| "off".to_owned(), duration_text));
        page.text("brake", format_args!("{}%", self.sync.brake_percent));
    }
}

fn mask_provider(page: &mut Page, provider: &Provider) {
    page.head("[[provider]]");
    page.text("id", &provider.id);
    page.text("kind", provider.kind.as_str());
    page.text("label", &provider.label);
    page.text("issuer", &provider.issuer);
    page.list("former_issuers", &provider.former_issuers);
    page.text("client_id", &provider.client_id);
    page.secret("client_secret", provider.client_secret.is_some());
    page.text("client_auth", word(&CLIENT_AUTH, &provider.client_auth));
    page.secret("private_key", provider.private_key_pem.is_some());
    page.list("scopes", &provider.scopes);
    page.text("pushed_authorization", word(&WHEN, &provider.pushed_authorization));
    page.text("response_mode", word(&RESPONSE_MODE, &provider.response_mode));
    page.list("id_token_algs", &provider.id_token_algs);
    match provider.require_iss {
        RequireIss::Auto => page.text("require_iss", "auto"),
        other => page.plain("require_iss", word(&REQUIRE_ISS, &other)),
    }
    page.text("userinfo", word(&WHEN, &provider.userinfo));
    page.plain("password_login", provider.password_login);
    page.plain("password_form", provider.password_form);
    page.plain("registration", provider.registration);
    page.plain("silent_login", provider.silent_login);
    page.plain("session_follows_token", provider.session_follows_token);
    page.text("bearer", word(&BEARER, &provider.bearer));
    page.list("api_audiences", &provider.api_audiences);
    page.text("introspection_cache", duration_text(provider.introspection_cache_ms));
    page.list("required_claims", &provider.required_claims);
    page.list("default_roles", &provider.default_roles);
    page.text("id_prefix", &provider.id_prefix);
    mask_kind_keys(page, provider);
}

fn mask_kind_keys(page: &mut Page, provider: &Provider) {
    page.some("issuer_template", provider.issuer_template.as_ref());
    page.list("allowed_tenants", &provider.allowed_tenants);
    page.list("trusted_audiences", &provider.trusted_audiences);
    page.text("clock_skew", duration_text(provider.clock_skew_ms));
    page.list("resource", &provider.resource);
    page.some("default_max_age", provider.default_max_age_s.map(|age_s| format!("{age_s}s")));
    let origin = provider.internal_base_url.as_ref().map(|url| url.origin().ascii_serialization());
    page.some("internal_base_url", origin);
    page.some("tls_ca_file", provider.tls_ca_file.as_ref().map(|path| path.display()));
    page.text("assertion_audience", word(&ASSERTION_AUDIENCE, &provider.assertion_audience));
    mask_tables(page, provider);
}

fn inline(pairs: &[(&str, String)]) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let pair = |(key, text): &(&str, String)| {
        let is_bare = !key.is_empty() && key.chars().all(is_bare);
        let key = if is_bare { (*key).to_owned() } else { quoted(key) };
        format!("{key} = {text}")
    };
    let pairs: Vec<_> = pairs.iter().map(pair).collect();
    if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
}

fn mask_tables(page: &mut Page, provider: &Provider) {
    // Operators do put API keys there: the names are enough to know what is set.
    let hidden: Vec<_> =
        provider.extra_auth_params.iter().map(|(key, _)| (key.as_str(), quoted(MASK))).collect();
    page.plain("extra_auth_params", inline(&hidden));
    let claims = &provider.claims;
    let path = |path: &Option<String>| quoted(path.as_deref().unwrap_or_default());
    let paths =
        [("roles", path(&claims.roles)), ("groups", path(&claims.groups)), ("tenant", path(&claims.tenant))];
    page.plain("claims", inline(&paths));
    if let Some(admin) = &provider.admin {
        let mut keys = vec![("client_id", quoted(&admin.client_id))];
        keys.extend(admin.client_secret.as_ref().map(|_| ("client_secret", quoted(MASK))));
        keys.extend(admin.base_url.as_ref().map(|url| ("base_url", quoted(&without_query(url)))));
        page.plain("admin", inline(&keys));
    }
    if let Some(WebhookIn { allowed_ips, tolerance_ms, .. }) = &provider.webhook {
        let keys = [
            ("secret", quoted(MASK)),
            ("allowed_ips", list(allowed_ips)),
            ("tolerance", quoted(&duration_text(*tolerance_ms))),
        ];
        page.plain("webhook", inline(&keys));
    }
}

fn mask_route(page: &mut Page, route: &Route) {
    page.head("[[route]]");
    page.text("path", &route.path);
    if let Some(methods) = &route.methods {
        page.list("methods", methods);
    }
    page.text("access", word(&ACCESS, &route.access));
    for (key, names) in [("roles", &route.roles), ("groups", &route.groups), ("tenants", &route.tenants)] {
        // An empty list means no condition, which a public route may not even mention.
        if !names.is_empty() {
            page.list(key, names);
        }
    }
    page.some("acr", route.acr.as_ref());
    page.some("max_age", route.max_age_ms.map(duration_text));
    page.some("upstream", route.upstream.as_ref());
    let attached: Vec<_> = route.attach.iter().map(|attach| word(&ATTACH, attach)).collect();
    page.list("attach", &attached);
    page.text("timeout", duration_text(route.timeout_ms));
    page.text("body_limit", size_text(route.body_limit_bytes));
}

fn mask_webhook_out(page: &mut Page, webhook: &WebhookOut) {
    page.head("[[webhook_out]]");
    page.text("id", &webhook.id);
    page.text("url", without_query(&webhook.url));
    page.text("secret", MASK);
    page.list("events", &webhook.events);
}

/// Addresses of hooks and collectors often carry a token in their query.
fn without_query(url: &url::Url) -> String {
    let mut url = url.clone();
    let masked = url.query().map(|_| MASK);
    url.set_query(masked);
    url.to_string()
}
