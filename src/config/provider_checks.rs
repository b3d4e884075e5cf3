//! What must hold between the keys of one `[[provider]]`, and between it and `[server]`.

use super::{
    address,
    provider::{Bearer, ClientAuth, Provider, ProviderKind},
    provider_reader::dev_issuer,
    reader::Reader,
    server::Server,
};

/// Settings that are fine alone and senseless together (security.md SC-04).
pub(super) fn contradictions(section: &Reader<'_>, provider: &Provider) {
    let oidc = provider.kind == ProviderKind::Oidc;
    if provider.bearer == Bearer::Jwt && provider.api_audiences.is_empty() && !provider.may_lack_audiences() {
        let advice = "list the audience that the provider puts into access tokens for this app";
        section.fault("api_audiences", "is empty although bearer is \"jwt\"", advice);
    }
    if provider.bearer == Bearer::Introspection && provider.client_auth == ClientAuth::None {
        let advice = "give the client a secret or a key";
        section.fault("bearer", "introspection needs a client that can prove itself", advice);
    }
    if provider.password_form && !provider.password_login {
        let advice = "write password_login = true as well";
        section.fault("password_form", "is true although password_login is false", advice);
    }
    if oidc && provider.registration {
        let advice = "use the provider's own kind, or remove the key";
        section.fault("registration", "kind oidc has no way to create users", advice);
    }
    for issuer in &provider.former_issuers {
        if address::web_url(issuer).is_none() || *issuer == provider.issuer {
            let advice = "list issuers that this provider had before";
            section.fault(
                "former_issuers",
                &format!("{} is no former issuer", address::shown(issuer)),
                advice,
            );
        }
    }
    template(section, provider);
    if let Some(path) = provider.tls_ca_file.as_ref() {
        let text = std::fs::read_to_string(path);
        if !text.is_ok_and(|text| text.contains("-----BEGIN CERTIFICATE-----")) {
            let problem = format!("{} is not a readable PEM certificate", path.display());
            section.fault("tls_ca_file", &problem, "name a PEM file of the authority");
        }
    }
    if provider.kind != ProviderKind::Dev && provider.password_login {
        let name = section.name("password_login");
        section.report.warn(format!("{name}: passwords of people pass through doorward"));
    }
}

fn template(section: &Reader<'_>, provider: &Provider) {
    let Some(template) = provider.issuer_template.as_ref() else {
        if !provider.allowed_tenants.is_empty() {
            let advice = "write issuer_template, or remove the key";
            section.fault("allowed_tenants", "has no effect without issuer_template", advice);
        }
        return;
    };
    let filled = template.replace("{tenantid}", "t");
    if !template.contains("{tenantid}") || address::issuer(&filled).is_err() {
        let advice = "write it as in the discovery document, with {tenantid} in it";
        section.fault("issuer_template", "is not a template of an https issuer", advice);
    }
    if provider.allowed_tenants.is_empty() {
        let advice = "list the ids of the tenants whose people may sign in";
        section.fault("allowed_tenants", "is empty, so that nobody could sign in", advice);
    }
}

/// The development provider knows nobody's password but everybody's name: it may only ever
/// be reachable from the machine it runs on.
pub(super) fn dev(section: &Reader<'_>, provider: &mut Provider, server: Option<&Server>) {
    let Some(server) = server else { return };
    let advice = "use another kind of provider, or bind to loopback for development";
    if !address::is_local(server.listen) {
        let problem = format!("kind dev needs a loopback listener, not {}", server.listen);
        section.fault("kind", &problem, advice);
    }
    if !address::is_loopback(&server.public_url) {
        let problem = format!("kind dev needs a loopback public_url, not {}", server.public_url);
        section.fault("kind", &problem, advice);
    }
    if provider.issuer_is_default {
        provider.issuer = dev_issuer(&server.public_url);
    }
    // It is reached through our own listener, which nobody else vouches for.
    if let (Some(tls), None) = (&server.tls, &provider.tls_ca_file) {
        provider.tls_ca_file = Some(tls.certificate_file.clone());
    }
    let name = section.name("kind");
    section.report.warn(format!("{name} dev: anybody on this machine signs in without a password"));
}
