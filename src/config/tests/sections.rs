//! Keys of the sections, one by one.

use super::*;

#[test]
fn plain_http_is_refused_on_a_public_address_ck10() {
    let public = "https://app.example";
    for url in ["http://app.example", "http://10.0.0.1", "http://localhost.example"] {
        one_fault(faults(public, url), "server.public_url", "http on a public address");
    }
    for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost", "http://a.localhost"] {
        assert_eq!(faults(public, url), []);
    }
    for url in ["https://a.example/x", "https://a.example/?q", "https://u@a.example", "a.example"] {
        assert_eq!(keys(&faults(public, url)), ["server.public_url"], "{url}");
    }
    let issuer = "https://id.example/realms/doorward";
    one_fault(faults(issuer, "http://id.example"), "provider.keycloak.issuer", "http");
    assert_eq!(faults(issuer, "http://127.0.0.1:8081/realms/x"), []);
}

#[test]
fn the_development_provider_starts_on_loopback_alone() {
    let kind = "provider.dev.kind";
    let open = built_in(&[("DOORWARD__SERVER__LISTEN", "0.0.0.0:8080")]).unwrap_err();
    one_fault(open, kind, "loopback listener");
    let public = built_in(&[("DOORWARD__SERVER__PUBLIC_URL", "https://app.example")]).unwrap_err();
    one_fault(public, kind, "loopback public_url");
}

#[test]
fn the_default_public_url_and_the_development_issuer_follow_the_port() {
    let mut config = built_in(&[("DOORWARD__SERVER__LISTEN", "127.0.0.1:0")]).unwrap().config;
    config.follow_port(4711);
    assert_eq!(config.server.public_url.as_str(), "http://localhost:4711/");
    assert_eq!(config.providers[0].issuer, "http://localhost:4711/dev-idp");
    let written = [("DOORWARD__SERVER__PUBLIC_URL", "http://localhost:9")];
    let mut config = built_in(&written).unwrap().config;
    config.follow_port(4711);
    assert_eq!(config.server.public_url.as_str(), "http://localhost:9/");
    let files = "{ certificate_file = \"c\", key_file = \"k\" }";
    let mut config = built_in(&[("DOORWARD__SERVER__TLS", files)]).unwrap().config;
    config.follow_port(4711);
    assert_eq!(config.server.public_url.as_str(), "https://localhost:4711/");
    assert!(config.masked().contains("tls = { certificate_file = "), "{}", config.masked());
}

#[test]
fn weak_and_malformed_keys_are_refused_cr07() {
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, b| text + &format!("{b:02x}"));
    let text = hex(b"not-random-at-all-just-32-chars!");
    let counting = hex(&(0..32).collect::<Vec<u8>>());
    let guess = "anybody could guess";
    let table = [
        ("00".repeat(32), guess),
        ("ab".repeat(32), guess),
        ("0123456789abcdef".repeat(4), guess),
        (counting, guess),
        (text, guess),
        ("A".repeat(43) + "=", guess),
        ("ab".repeat(16), "32 bytes"),
        ("c2hvcnQ=".to_owned(), "32 bytes"),
        ("*".repeat(64), "neither"),
    ];
    for (key, problem) in table {
        let ring = format!("value = \"{key}\"");
        let found = faults("file = \"k1\"", &ring);
        assert!(found.iter().all(|fault| !fault.to_string().contains(&key)), "{key}");
        one_fault(found, "keys.ring.k1.value", problem);
    }
    for key in
        [KEY, "Xw06sclOdybYG2DypMOXDhGI5c1Ct5Y/oF184pFLaDo", "Xw06sclOdybYG2DypMOXDhGI5c1Ct5Y_oF184pFLaDo="]
    {
        assert_eq!(faults("file = \"k1\"", &format!("value = \"{key}\"")), []);
    }
}

#[test]
fn the_ring_is_checked() {
    let entry = "k1 = { file = \"k1\" }";
    let key = |name: &str| format!("keys.ring.{name}");
    one_fault(faults(entry, "k1 = {}"), &key("k1.file"), "missing");
    let both = format!("k1 = {{ file = \"k1\", value = \"{KEY}\" }}");
    one_fault(faults(entry, &both), &key("k1.value"), "together");
    one_fault(faults(entry, "k1 = { file = \"gone\" }"), &key("k1.file"), "does not exist");
    let gone = "k1 = { passphrase_file = \"gone\" }";
    one_fault(faults(entry, gone), &key("k1.passphrase_file"), "does not exist");
    one_fault(faults(entry, &format!("{entry}, K2 = {{ file = \"k1\" }}")), &key("K2"), "key id");
    one_fault(faults(entry, "k2 = { file = \"k1\" }"), "keys.current", "not in the ring");
}

#[test]
fn single_keys_are_checked_where_they_stand() {
    let table = [
        ("[session]\nidle = \"25h\"\n", "session.idle", "longer than"),
        ("[session]\noverall = \"31d\"\n", "session.overall", "out of range"),
        ("[session]\nidle = 3600\n", "session.idle", "is a number"),
        ("[cache]\nsize = \"10MB\"\n", "cache.size", "not understood"),
        ("[limits]\nrefresh = \"600 per minute\"\n", "limits.refresh", "not understood"),
        ("[limits]\nlogin_attempts_per_browser = 11\n", "limits.login_attempts_per_browser", "11"),
        ("[limits]\nlogin_attempt = \"61m\"\n", "limits.login_attempt", "out of range"),
        ("[cors]\norigins = [\"null\"]\n", "cors.origins", "exact origin"),
        ("[cors]\norigins = [\"*\"]\n", "cors.origins", "exact origin"),
        ("[cors]\norigins = [\"https://a.example/\"]\n", "cors.origins", "exact origin"),
        ("[cors]\norigins = [3]\n", "cors.origins[0]", "is a number"),
        ("[log]\nlevel = \"loud\"\n", "log.level", "not a log level"),
        ("[sync]\nevery = \"5s\"\n", "sync.every", "not understood"),
        ("[sync]\nbrake = \"200%\"\n", "sync.brake", "not understood"),
        ("[telemetry]\notlp_endpoint = \"collector\"\n", "telemetry.otlp_endpoint", "web address"),
        ("[registration]\nhide_existing = \"yes\"\n", "registration.hide_existing", "is a text"),
        ("[webhook_out]\nurl = \"\"\n", "webhook_out", "is a table"),
        ("[tls]\n", "tls", "not a known key"),
    ];
    for (text, key, problem) in table {
        one_fault(more(text, &[]).err().unwrap_or_default(), key, problem);
    }
}

#[test]
fn the_server_section_is_checked() {
    let url = "public_url = \"https://app.example\"";
    let table = [
        ("auth_prefix = \"/auth/\"", "server.auth_prefix", "prefix"),
        ("auth_prefix = \"/\"", "server.auth_prefix", "prefix"),
        ("auth_prefix = \"/dev-idp/x\"", "server.auth_prefix", "prefix"),
        ("trusted_proxies = [\"10.0.0.0/33\"]", "server.trusted_proxies", "not a network"),
        ("operations_listen = \"127.0.0.1:8080\"", "server.operations_listen", "same address"),
        ("tls = { certificate_file = \"c\" }", "server.tls.key_file", "other half"),
        ("tls = { key_file = \"k\" }", "server.tls.certificate_file", "other half"),
        ("shutdown = \"1h\"", "server.shutdown", "out of range"),
    ];
    for (line, key, problem) in table {
        one_fault(faults(url, &format!("{url}\n{line}")), key, problem);
    }
    let empty = "tls = { certificate_file = \"\", key_file = \"\" }\ntrusted_proxies = [\"10.0.0.1\"]";
    assert_eq!(faults(url, &format!("{url}\n{empty}")), []);
    let both = "tls = { certificate_file = \"c\", key_file = \"k\" }";
    assert_eq!(faults(url, &format!("{url}\n{both}")), []);
    let plain = format!("public_url = \"http://localhost:1\"\n{both}");
    one_fault(faults(url, &plain), "server.public_url", "plain http although");
    assert_eq!(keys(&faults("url_file = \"database-url\"", "url = \"mysql://x\"")), ["database.url"]);
}

#[test]
fn units_read_back_what_they_write() {
    for text in ["500ms", "90s", "15m", "24h", "7d", "0ms"] {
        let again = units::duration_ms(text).map(units::duration_text);
        assert_eq!(again.and_then(|text| units::duration_ms(&text)), units::duration_ms(text));
        assert!(units::duration_ms(text).is_some(), "{text}");
    }
    for text in ["", "s", "1", "-1s", "1.5h", "1 h", "1h30m", "9999999999999999999s", "3651d", "+1s", "1S"] {
        assert_eq!(units::duration_ms(text), None, "{text}");
    }
    for text in ["", "MiB", "1", "1MB", "99999999999GiB", "1 KiB"] {
        assert_eq!(units::size_bytes(text), None, "{text}");
    }
    for text in ["", "1", "/1m", "0/1m", "1/0s", "1/m", "-1/1m", "Off", "99999999999/1m"] {
        assert_eq!(units::rate(text), None, "{text}");
    }
}
