//! The public contract of errors: the whole table, and the shapes in which one leaves the house.

use doorward::domain::Denial;
use doorward::error::Error;
use doorward::web::problem::Problem;

use crate::house::home::TestHouse;

/// One of each. The match makes a new variant a compile error here until it is listed.
#[expect(clippy::too_many_lines, reason = "one of each, to be read as a list")]
fn every_error() -> Vec<Error> {
    let all = vec![
        Error::InvalidRequest("(what is wrong with it)"),
        Error::LoginExpired,
        Error::LoginFailed("any_reason"),
        Error::NotSignedIn,
        Error::InvalidToken("any_reason"),
        Error::TokenRevoked,
        Error::InvalidCredentials,
        Error::SessionEnded,
        Error::RefreshTokenReused,
        Error::InvalidFields(Vec::new()),
        Error::PasswordPolicy(Vec::new()),
        Error::Taken,
        Error::TooMany { retry_after_s: 7 },
        Error::Overloaded("canary"),
        Error::NotAllowed,
        Error::Csrf,
        Error::Denied(Denial::AccountDisabled),
        Error::Denied(Denial::AccountSuspended),
        Error::Denied(Denial::NoAppAccess),
        Error::Denied(Denial::AccountActionRequired),
        Error::Denied(Denial::EmailVerificationRequired),
        Error::Denied(Denial::MfaRequired),
        Error::Denied(Denial::OrganizationSelectionRequired),
        Error::LoginCancelled,
        Error::NotFound,
        Error::NotOffered,
        Error::NoRoute,
        Error::MethodNotAllowed,
        Error::IdentityConflict,
        Error::TooLarge,
        Error::TooSlow,
        Error::AddressTooLong,
        Error::HeadTooLarge,
        Error::WrongHost,
        Error::Internal("canary".into()),
        Error::ProviderRefused("canary".into()),
        Error::UpstreamDown("canary".into()),
        Error::UpstreamSlow,
        Error::ProviderDown("canary".into()),
        Error::DatabaseDown("canary".into()),
        Error::Interrupted("canary".into()),
    ];
    for error in &all {
        match error {
            Error::InvalidRequest(_)
            | Error::LoginExpired
            | Error::LoginFailed(_)
            | Error::NotSignedIn
            | Error::InvalidToken(_)
            | Error::TokenRevoked
            | Error::InvalidCredentials
            | Error::SessionEnded
            | Error::RefreshTokenReused
            | Error::InvalidFields(_)
            | Error::PasswordPolicy(_)
            | Error::Taken
            | Error::TooMany { .. }
            | Error::Overloaded(_)
            | Error::NotAllowed
            | Error::Csrf
            | Error::Denied(
                Denial::AccountDisabled
                | Denial::AccountSuspended
                | Denial::NoAppAccess
                | Denial::AccountActionRequired
                | Denial::EmailVerificationRequired
                | Denial::MfaRequired
                | Denial::OrganizationSelectionRequired,
            )
            | Error::LoginCancelled
            | Error::NotFound
            | Error::NotOffered
            | Error::NoRoute
            | Error::MethodNotAllowed
            | Error::IdentityConflict
            | Error::TooLarge
            | Error::TooSlow
            | Error::AddressTooLong
            | Error::HeadTooLarge
            | Error::WrongHost
            | Error::Internal(_)
            | Error::ProviderRefused(_)
            | Error::UpstreamDown(_)
            | Error::UpstreamSlow
            | Error::ProviderDown(_)
            | Error::DatabaseDown(_)
            | Error::Interrupted(_) => {}
        }
    }
    all
}

#[test]
fn the_table_of_problems_is_a_contract() {
    let mut table: Vec<String> = every_error()
        .iter()
        .map(|error| {
            let problem = Problem::of(error);
            format!("{} {}\n  {}\n  {}", problem.status, problem.code, problem.title, problem.detail)
        })
        .collect();
    table.sort();
    insta::assert_snapshot!(table.join("\n"));
}

#[test]
fn lg_06_what_went_wrong_inside_stays_inside() {
    for error in every_error() {
        let text = Problem::of(&error).json("request");
        assert!(!text.contains("canary") && !text.contains("any_reason"), "{text}");
    }
}

#[tokio::test]
async fn a_problem_is_json_for_programs_and_a_page_with_the_same_id_for_people() {
    let house = TestHouse::open().await;
    let browser = house.browser();
    let answer = browser.get_json("/auth/me").await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let body = answer.json();
    let mut names: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["code", "detail", "errors", "instance", "status", "title", "type"]);
    assert_eq!(body["type"], "urn:doorward:problem:not_signed_in");
    assert_eq!((&body["status"], &body["code"]), (&401.into(), &"not_signed_in".into()));
    assert_eq!(body["errors"], serde_json::json!([]));
    assert_eq!(body["instance"].as_str(), answer.header("x-request-id"));

    let page = browser.navigate("/auth/account").await;
    assert_eq!(page.status, 401);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let text = page.text();
    assert!(text.contains("You are not signed in") && text.contains("401 not_signed_in"), "{text}");
    assert!(text.contains(page.header("x-request-id").unwrap()), "{text}");
    assert!(text.contains("href=\"/auth/login\""), "a way on: {text}");
}

#[tokio::test]
async fn whatever_goes_wrong_on_our_own_paths_has_the_one_shape() {
    let house = TestHouse::open().await;
    let browser = house.browser();
    for (path, status, code) in [
        ("/auth/nowhere", 404, "not_found"),
        ("/auth", 404, "not_found"),
        ("/auth/login?prompt=nonsense", 400, "invalid_request"),
        ("/auth/login?provider=nobody", 404, "not_found"),
        ("/auth/login?return_to=/a&return_to=/b", 400, "invalid_request"),
        ("/auth/logout?return_to=/a&return_to=/b", 400, "invalid_request"),
        ("/auth/callback/nobody?code=a&state=b", 404, "not_found"),
        ("/auth/callback/dev", 400, "invalid_request"),
        ("/auth/callback/dev?code=a&state=b", 400, "login_expired"),
        ("/auth/static/nothing", 404, "not_found"),
        ("/nowhere", 404, "no_route"),
        ("/a%2fb", 400, "invalid_request"),
    ] {
        let answer = browser.get_json(path).await;
        let body = answer.json();
        assert_eq!((answer.status, body["code"].as_str()), (status, Some(code)), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        let page = browser.navigate(path).await;
        assert_eq!(page.status, status, "{path}");
        assert!(page.text().contains(&format!("{status} {code}")), "{path}: {}", page.text());
    }
}
