use crate::telemetry::{CONTENT_TYPE, Metrics};

fn page(metrics: &Metrics) -> String {
    metrics.encode().unwrap()
}

#[test]
fn names_follow_the_prometheus_conventions() {
    let metrics = Metrics::new();
    metrics.know_providers(["keycloak"]);
    metrics.login_started("keycloak", "ok");
    metrics.callback("keycloak", "login_expired");
    metrics.logout("browser", "ok");
    metrics.session_ended("expired", 3);
    metrics.csrf_refused();
    metrics.audit_dropped(2);
    metrics.http("login", "GET", 303, 0.004);
    metrics.provider_call("keycloak", "token", "ok", 0.2);
    metrics.crypt_decrypt_fail("unknown_key");
    metrics.key_age_days("k1", 12);
    metrics.swept("sessions", 5);
    metrics.job("sweep", "ok");
    metrics.database_connections(3, 1);
    let page = page(&metrics);
    for line in [
        concat!("doorward_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "doorward_login_starts_total{provider=\"keycloak\",outcome=\"ok\"} 1",
        "doorward_login_callbacks_total{provider=\"keycloak\",outcome=\"login_expired\"} 1",
        "doorward_logouts_total{kind=\"browser\",outcome=\"ok\"} 1",
        "doorward_sessions_ended_total{reason=\"expired\"} 3",
        "doorward_csrf_refusals_total 1",
        "doorward_audit_rows_dropped_total 2",
        "doorward_http_requests_total{route=\"login\",method=\"GET\",status=\"303\"} 1",
        "doorward_http_request_duration_seconds_bucket{le=\"0.005\",route=\"login\",method=\"GET\"} 1",
        "doorward_http_request_duration_seconds_bucket{le=\"0.0025\",route=\"login\",method=\"GET\"} 0",
        "doorward_http_request_duration_seconds_count{route=\"login\",method=\"GET\"} 1",
        "doorward_provider_calls_total{provider=\"keycloak\",operation=\"token\",outcome=\"ok\"} 1",
        "doorward_provider_call_duration_seconds_sum{provider=\"keycloak\",operation=\"token\"} 0.2",
        "doorward_decrypt_failures_total{reason=\"unknown_key\"} 1",
        "doorward_key_age_days{key=\"k1\"} 12",
        "doorward_swept_rows_total{table=\"sessions\"} 5",
        "doorward_job_runs_total{job=\"sweep\",outcome=\"ok\"} 1",
        "doorward_database_connections{state=\"idle\"} 3",
        "doorward_database_connections{state=\"busy\"} 1",
        "doorward_log_lines_lost_total 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
    }
    assert!(page.ends_with("# EOF\n"), "{page}");
    assert!(page.contains("# TYPE doorward_log_lines_lost counter\n"), "{page}");
    assert!(CONTENT_TYPE.starts_with("application/openmetrics-text"));
}

#[test]
fn a_stranger_cannot_make_a_provider_label() {
    let metrics = Metrics::new();
    metrics.know_providers(["keycloak"]);
    metrics.callback("no-such-provider", "not_found");
    metrics.callback("keycloak", "ok");
    let page = page(&metrics);
    assert!(page.contains("{provider=\"other\",outcome=\"not_found\"} 1"), "{page}");
    assert!(page.contains("{provider=\"keycloak\",outcome=\"ok\"} 1"), "{page}");
    assert!(!page.contains("no-such-provider"), "{page}");
}

#[test]
fn a_reload_changes_the_known_providers() {
    let metrics = Metrics::new();
    metrics.know_providers(["old"]);
    metrics.know_providers(["new"]);
    metrics.login_started("old", "ok");
    metrics.login_started("new", "ok");
    let page = page(&metrics);
    assert!(page.contains("provider=\"new\"") && !page.contains("provider=\"old\""), "{page}");
}

#[test]
fn persons_tokens_and_sentences_do_not_become_labels() {
    let metrics = Metrics::new();
    let digest = "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9";
    let words =
        ["alice@example.com", "203.0.113.9", digest, "Vq3x", "code refused: abc", "", "a\"} 1\nfake_total 9"];
    for text in words {
        metrics.session_ended(text, 1);
        metrics.logout(text, text);
        metrics.job(text, text);
        metrics.crypt_decrypt_fail(text);
        metrics.swept(text, 1);
        metrics.provider_call(text, text, text, 0.1);
    }
    let page = page(&metrics);
    for text in words.into_iter().filter(|text| !text.is_empty()) {
        assert!(!page.contains(text), "{text:?} is in\n{page}");
    }
    assert!(page.contains("doorward_sessions_ended_total{reason=\"other\"} 7"), "{page}");
}

#[test]
fn a_metric_does_not_grow_without_bound() {
    let metrics = Metrics::new();
    for n in 0..2_000 {
        metrics.session_ended(&format!("reason-{n}"), 1);
    }
    let page = page(&metrics);
    let series = page.lines().filter(|line| line.starts_with("doorward_sessions_ended_total{")).count();
    assert_eq!(series, 501);
    assert!(page.contains("doorward_sessions_ended_total{reason=\"other\"} 1500"), "{page}");
    // Series from before the bound was reached go on counting as themselves.
    metrics.session_ended("reason-7", 1);
    assert!(self::page(&metrics).contains("{reason=\"reason-7\"} 2"));
}

#[test]
fn odd_statuses_methods_and_times_are_contained() {
    let metrics = Metrics::new();
    metrics.http("proxy", "GET", 299, 0.1);
    metrics.http("proxy", "GET", 999, 0.1);
    metrics.http("proxy", "BREW", 418, f64::NAN);
    metrics.http("proxy", "BREW", 418, -3.0);
    let page = page(&metrics);
    assert!(page.contains("{route=\"proxy\",method=\"GET\",status=\"2xx\"} 1"), "{page}");
    assert!(page.contains("{route=\"proxy\",method=\"GET\",status=\"other\"} 1"), "{page}");
    assert!(page.contains("{route=\"proxy\",method=\"other\",status=\"418\"} 2"), "{page}");
    assert!(page.contains("seconds_sum{route=\"proxy\",method=\"other\"} 0.0"), "{page}");
}

#[test]
fn a_clone_counts_into_the_same_page() {
    let metrics = Metrics::new();
    metrics.clone().csrf_refused();
    assert!(page(&metrics).contains("doorward_csrf_refusals_total 1"));
}
