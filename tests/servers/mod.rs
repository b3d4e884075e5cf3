//! The real servers that other tests lean on do what those tests expect of them.

pub mod client;
mod keycloak;
mod listener;
mod oidc_provider;

use sqlx::{Connection as _, PgConnection};

use crate::house::servers::{chromium, oidc_provider as op, postgres};
use listener::page_url;

#[tokio::test]
async fn each_test_gets_a_database_of_its_own() {
    let (one, other) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let mut connection = PgConnection::connect(&one.url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE seen (n BIGINT)").execute(&mut connection).await.unwrap();
    let mut stranger = PgConnection::connect(&other.url).await.unwrap();
    sqlx::raw_sql("SELECT n FROM seen").execute(&mut stranger).await.unwrap_err();
}

#[tokio::test]
async fn a_private_cluster_comes_back_with_its_data_on_the_same_port() {
    let mut cluster = postgres::own_cluster().await;
    let url = cluster.url("doorward");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (n BIGINT); INSERT INTO kept VALUES (7)")
        .execute(&mut connection)
        .await
        .unwrap();
    cluster.stop().await;
    connection.ping().await.unwrap_err();
    PgConnection::connect(&url).await.unwrap_err();
    cluster.start().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT n FROM kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept, 7);
}

#[tokio::test]
async fn chromium_opens_a_page_and_fills_it_in() {
    let issuer = op::server(op::OpSpec {
        redirect_uris: vec![format!("{}?callback", page_url("/callback").await)],
        ..op::OpSpec::default()
    })
    .await;
    let chrome = chromium::browser().await;
    let page = page_url("/").await;
    chrome.set_size(390, 844).await;
    chrome.dark(true).await;
    chrome.goto(&page).await;
    assert_eq!(chrome.run("return innerWidth").await, 390);
    let dark = "return matchMedia('(prefers-color-scheme: dark)').matches";
    assert_eq!(chrome.run(dark).await, true);
    let log = chrome.console_log().await;
    assert!(log.iter().any(|line| line.contains("Content Security Policy")), "{log:?}");

    chrome.fill("input", "first").await;
    chrome.fill("input", "second").await;
    chrome.click("button").await;
    chrome.wait_for("h2").await;
    assert_eq!(chrome.text("h2").await, "/?word=second");
    assert_eq!(chrome.current_url().await.query(), Some("word=second"));
    chrome.back().await;
    chrome.wait_for("input").await;
    let picture = tempfile::NamedTempFile::new().unwrap();
    chrome.screenshot(picture.path()).await;
    assert!(std::fs::read(picture.path()).unwrap().starts_with(b"\x89PNG"));

    chrome.goto(&format!("{}/.well-known/openid-configuration", issuer.issuer)).await;
    assert!(chrome.text("body").await.contains(&issuer.issuer));
    chrome.close().await;
}
