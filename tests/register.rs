//! How people get an account: by a program's JSON and by the page, at the development issuer and at a real Keycloak, on both databases.

use doorward::dev_idp::Endpoint;
use reqwest::Method;
use serde_json::{Value, json};

use crate::house::browser::{Browser, Page};
use crate::house::databases::on_each_database;
use crate::house::home::{Plan, TestHouse};
use crate::house::process::Home;
use crate::house::servers::keycloak::{self, Realm, RealmSpec};

const PASSWORD: &str = " Käse & Brot, 7 Tage\u{301} ";

/// A whole wish, as the guide for API clients writes it.
pub fn wish(name: &str) -> Value {
    json!({
        "username": name, "email": format!("{name}@new.example"), "password": PASSWORD,
        "firstName": "Nina", "lastName": "Neu",
    })
}

/// A provider of kind keycloak that lets people register.
pub fn registering(realm: &Realm) -> String {
    format!(
        "[[provider]]\nid = \"keycloak\"\nkind = \"keycloak\"\nlabel = \"Company login\"\nissuer = \"{}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"\nregistration = true\n",
        realm.issuer, realm.client_id, realm.client_secret
    )
}

/// What a problem says of its fields.
pub fn faults(page: &Page) -> Vec<(String, String)> {
    let body = page.json();
    let errors = body["errors"].as_array().unwrap();
    let word = |fault: &Value, name: &str| fault[name].as_str().unwrap().to_owned();
    errors.iter().map(|fault| (word(fault, "field"), word(fault, "code"))).collect()
}

pub async fn users(house: &TestHouse) -> i64 {
    house.database.number("SELECT count(*) FROM users").await
}

/// Signs in at the development issuer by the password, as a client of its own would.
async fn proves_password(house: &TestHouse, name: &str) -> bool {
    let fields = [
        ("grant_type", "password"),
        ("client_id", "other"),
        ("username", name),
        ("password", PASSWORD),
        ("scope", "openid"),
    ];
    house.browser().post_form("/dev-idp/token", &fields).await.status == 200
}

on_each_database! {
    async fn a_program_registers_somebody_who_then_signs_in_as_the_same_user(db: Database) {
        let house = plan(&db).open().await;
        let program = Browser::new(&house.url);
        let answer = program.post_json("/auth/register", &wish("nina")).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert!(answer.set_cookies().is_empty(), "registering makes no session");
        let body = answer.json();
        assert_eq!(body["message"], "User registered successfully");
        assert_eq!(body["userId"], body["user"]["id"]);
        let members = ["email", "username", "firstName", "lastName", "displayName", "usertag", "provider"];
        let expected = ["nina@new.example", "nina", "Nina", "Neu", "Nina Neu", "nina", "dev"];
        assert_eq!(members.map(|name| body["user"][name].as_str().unwrap().to_owned()), expected);
        assert_eq!(body["user"]["emailVerified"], false);
        assert_eq!(body["user"]["roles"], json!(["newcomer"]), "default roles are given");
        assert_eq!(house.dev_idp().registered(), ["nina"]);
        assert!(proves_password(&house, "nina").await, "the password arrived byte for byte");

        let guest = house.browser();
        let asked = guest.navigate("/auth/login?return_to=/protected&login_hint=nina").await;
        let form = guest.follow(asked, 5).await;
        let back = guest.submit(&form, form.forms().first().unwrap(), &[("username", "nina")]).await;
        assert_eq!(guest.follow(back, 5).await.status, 200);
        let me = guest.get_json("/auth/me").await.json();
        assert_eq!(me["user"]["id"], body["userId"]);
        assert_eq!(me["user"]["roles"], json!(["newcomer", "user"]), "the provider's word joined at the first login");
        assert_eq!(users(&house).await, 1);
        let row = "SELECT state || ' ' || username || email || person FROM registrations";
        assert_eq!(house.database.texts(row).await, ["finished {}"], "who it was about is forgotten");
        let events = "SELECT event FROM audit_log WHERE event LIKE 'regis%' OR event LIKE 'user.%' ORDER BY event";
        assert_eq!(house.database.texts(events).await, ["registration", "user.created"]);
    }

    async fn listed_attributes_reach_the_app_and_never_the_provider(db: Database) {
        let house = plan(&db).set("REGISTRATION__ATTRIBUTES", r#"["plan", "seats"]"#).open().await;
        let mut nina = wish("nina");
        nina["attributes"] = json!({ "plan": "pro", "seats": 3 });
        assert_eq!(house.browser().post_json("/auth/register", &nina).await.status, 201);
        let data = house.database.texts("SELECT app_data FROM users").await;
        assert_eq!(serde_json::from_str::<Value>(&data[0]).unwrap(), json!({ "registration": { "plan": "pro", "seats": 3 } }));
        let mut olga = wish("olga");
        olga["attributes"] = json!({ "plan": "pro", "colour": "red" });
        let refused = house.browser().post_json("/auth/register", &olga).await;
        assert_eq!((refused.status, faults(&refused)), (422, vec![("attributes.colour".into(), "unknown".into())]));
    }

    async fn the_same_key_gets_the_same_answer_and_stands_for_one_person(db: Database) {
        let house = plan(&db).open().await;
        let one = house.browser().with_header("idempotency-key", "order-4711");
        let first = one.post_json("/auth/register", &wish("nina")).await;
        let again = one.post_json("/auth/register", &wish("nina")).await;
        assert_eq!((first.status, again.status), (201, 201), "{}", again.text());
        assert_eq!(first.json(), again.json());
        let other = one.post_json("/auth/register", &wish("olga")).await;
        assert_eq!((other.status, faults(&other)), (422, vec![("Idempotency-Key".into(), "reused".into())]));
        let together = futures_util::future::join_all((0..10).map(|_| {
            let browser = house.browser().with_header("idempotency-key", "both-at-once");
            async move { browser.post_json("/auth/register", &wish("petra")).await }
        }));
        for answer in together.await {
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
        assert_eq!(house.dev_idp().registered(), ["nina", "petra"]);
        // A refusal made nothing, so its key may be used again.
        let taken = house.browser().with_header("idempotency-key", "third").post_json("/auth/register", &wish("nina")).await;
        assert_eq!((taken.status, taken.json()["code"].as_str()), (409, Some("taken")));
        let free = house.browser().with_header("idempotency-key", "third").post_json("/auth/register", &wish("rosa")).await;
        assert_eq!(free.status, 201);
    }
}

fn plan(db: &crate::house::databases::Database) -> Plan {
    TestHouse::plan()
        .database(db)
        .set("LIMITS__REGISTER", "\"off\"")
        .set("PROVIDER__DEV__DEFAULT_ROLES", r#"["newcomer"]"#)
}

#[tokio::test]
async fn all_faults_are_named_at_once_and_the_providers_own_come_beside_their_fields() {
    let house = TestHouse::open().await;
    let program = house.browser();
    let refused = program.post_json("/auth/register", &json!({ "email": "no", "role": "admin" })).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (422, Some("invalid_fields")));
    let named: Vec<_> = faults(&refused).into_iter().map(|(field, _)| field).collect();
    assert_eq!(named, ["username", "email", "password", "role"]);
    let mut weak = wish("nina");
    weak["password"] = "short".into();
    let refused = program.post_json("/auth/register", &weak).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (422, Some("password_policy")));
    assert_eq!(faults(&refused), [("password".to_owned(), "policy".to_owned())]);
    let refused = program.post_json("/auth/register", &wish("ni")).await;
    assert_eq!(faults(&refused), [("username".to_owned(), "invalid".to_owned())]);
    for body in ["[]", "{", "\"x\""] {
        let answer = crate::house::servers::http()
            .post(format!("{}/auth/register", house.url))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{body}");
    }
    assert_eq!((users(&house).await, house.dev_idp().registered().len()), (0, 0));
}

#[tokio::test]
async fn a_person_fills_in_the_form_mends_it_and_lands_at_the_sign_in() {
    let house = TestHouse::open().await;
    let person = house.browser();
    let page = person.navigate("/auth/register?return_to=/protected").await;
    assert_eq!(page.status, 200);
    assert!(!page.text().contains("<script") && !page.text().contains("style="), "{}", page.text());
    let form = page.forms().remove(0);
    let typed = [
        ("username", "nina"),
        ("email", "nina at new.example"),
        ("firstName", "<b>Nina"),
        ("lastName", "Neu"),
        ("password", PASSWORD),
    ];
    let again = person.submit(&page, &form, &typed).await;
    assert_eq!(again.status, 422);
    let text = again.text();
    assert!(text.contains("This is not an e-mail address.") && text.contains("aria-invalid"), "{text}");
    let kept = again.forms().remove(0);
    for (name, value) in typed {
        let expected = if name == "password" { "" } else { value };
        assert!(kept.fields.contains(&(name.to_owned(), expected.to_owned())), "{name}: {kept:?}");
    }
    assert!(!text.contains("Brot"), "the password is not shown again");
    let done = person.submit(&again, &kept, &[("email", "nina@new.example"), ("password", PASSWORD)]).await;
    assert_eq!(done.status, 303, "{}", done.text());
    let expected = "/auth/login?provider=dev&login_hint=nina&return_to=%2Fprotected";
    assert_eq!(done.header("location"), Some(expected));
    let sign_in = person.follow(done, 5).await;
    assert!(sign_in.text().contains("Nina Neu") || sign_in.text().contains("Nina"), "{}", sign_in.text());
    let taken = person.submit(&again, &kept, &[("email", "other@new.example"), ("password", PASSWORD)]).await;
    assert_eq!(taken.status, 409);
    assert!(taken.text().contains("user name or e-mail address already"), "{}", taken.text());
}

#[tokio::test]
async fn several_places_are_offered_as_a_choice_and_none_as_nothing() {
    let second = "[[provider]]\nid = \"partners\"\nkind = \"keycloak\"\nlabel = \"Partners\"\nissuer = \"http://127.0.0.1:9/realms/p\"\nclient_id = \"d\"\nclient_secret = \"s3cret-of-the-client\"\nregistration = true\n";
    let house = TestHouse::with(&format!("{DEV}{second}")).open().await;
    let person = house.browser();
    let refused = person.post_json("/auth/register", &wish("nina")).await;
    assert_eq!((refused.status, faults(&refused)), (422, vec![("provider".into(), "required".into())]));
    let mut nina = wish("nina");
    nina["provider"] = "nobody".into();
    assert_eq!(person.post_json("/auth/register", &nina).await.json()["code"], "not_offered");
    nina["provider"] = "dev".into();
    assert_eq!(person.post_json("/auth/register", &nina).await.status, 201);
    let page = person.navigate("/auth/register?provider=partners").await;
    let text = page.text();
    assert!(text.contains("Partners") && text.contains("value=\"partners\" required checked"), "{text}");
    let choose = person.navigate("/auth/login?return_to=/protected").await.text();
    assert!(choose.contains("/auth/register?return_to=%2Fprotected"), "{choose}");
    // A provider that cannot be reached made nobody.
    nina["provider"] = "partners".into();
    let down = person.post_json("/auth/register", &nina).await;
    assert_eq!((down.status, down.json()["code"].as_str()), (503, Some("provider_unavailable")));

    let none = TestHouse::with(&DEV.replace("registration = true", "")).open().await;
    for answer in [
        none.browser().post_json("/auth/register", &wish("a")).await,
        none.browser().get_json("/auth/register").await,
    ] {
        assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("not_offered")));
    }
}

const DEV: &str = "[[provider]]\nid = \"dev\"\nkind = \"dev\"\nlabel = \"Development\"\nclient_id = \"doorward\"\nclient_auth = \"none\"\nregistration = true\n";

on_each_database! {
    async fn keycloak_gets_the_user_and_its_refusals_name_their_fields(db: Database) {
        let realm = keycloak::server().await.realm(RealmSpec::default()).await;
        let house = TestHouse::with(&registering(&realm)).database(&db).set("LIMITS__REGISTER", "\"off\"").open().await;
        let program = house.browser();
        let answer = program.post_json("/auth/register", &wish("Nina.Neu")).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let id = realm.user_id("nina.neu").await;
        assert_eq!(answer.json()["userId"], id.as_str());
        let user = realm.admin(Method::GET, &format!("/users/{id}"), None).await;
        assert_eq!((&user["emailVerified"], &user["enabled"]), (&json!(false), &json!(true)));
        assert!(user["attributes"]["doorward_ref"][0].is_string(), "{user}");

        let taken = program.post_json("/auth/register", &wish("nina.neu")).await;
        assert_eq!((taken.status, taken.json()["code"].as_str()), (409, Some("taken")));
        let mut odd = wish("olga");
        odd["username"] = "ol".into();
        let refused = program.post_json("/auth/register", &odd).await;
        assert_eq!((refused.status, faults(&refused)), (422, vec![("username".into(), "invalid".into())]), "{}", refused.text());
        let policy = json!({ "passwordPolicy": "length(60) and hashAlgorithm(pbkdf2-sha256) and hashIterations(1)" });
        realm.admin(Method::PUT, "", Some(&policy)).await;
        let refused = program.post_json("/auth/register", &wish("olga")).await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (422, Some("password_policy")));
        assert!(refused.json()["errors"][0]["detail"].as_str().unwrap().contains("60"), "{}", refused.text());
        assert_eq!(users(&house).await, 1);

        // The password that Keycloak holds is the one that was typed.
        let form = [
            ("grant_type", "password"), ("client_id", realm.client_id.as_str()),
            ("client_secret", realm.client_secret.as_str()), ("username", "nina.neu"), ("password", PASSWORD),
        ];
        let endpoint = format!("{}/protocol/openid-connect/token", realm.issuer);
        let answer = crate::house::servers::http().post(endpoint).form(&form).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
}

#[tokio::test]
async fn reading_the_page_asks_nobody_and_writes_nothing() {
    let house = TestHouse::open().await;
    // The house has written its own keys by the time that it answers.
    house.browser().navigate("/auth/register").await;
    let before = house.database.dump().await;
    for path in ["/auth/register", "/auth/register?provider=dev&return_to=//evil.example"] {
        let page = house.browser().navigate(path).await;
        assert_eq!(page.status, 200);
        assert!(!page.text().contains("evil.example"), "{}", page.text());
    }
    assert!(before == house.database.dump().await);
    assert_eq!(house.dev_idp().times_asked(Endpoint::CreateUser), 0);
}

#[tokio::test]
async fn a_person_gives_the_listed_attributes_on_the_page() {
    let house = TestHouse::plan().set("REGISTRATION__ATTRIBUTES", r#"["company_name", "plan"]"#).open().await;
    let person = house.browser();
    let page = person.navigate("/auth/register").await;
    assert!(page.text().contains("Company name"), "{}", page.text());
    let form = page.forms().remove(0);
    let fields = [
        ("username", "nina"),
        ("email", "nina at new.example"),
        ("password", PASSWORD),
        ("attributes.company_name", "Käse & Söhne"),
    ];
    let again = person.submit(&page, &form, &fields).await;
    assert_eq!(again.status, 422);
    let kept = again.forms().remove(0);
    let company = ("attributes.company_name".to_owned(), "Käse & Söhne".to_owned());
    assert!(kept.fields.contains(&company), "{kept:?}");
    let done = person.submit(&again, &kept, &[("email", "nina@new.example"), ("password", PASSWORD)]).await;
    assert_eq!(done.status, 303, "{}", done.text());
    let data = house.database.texts("SELECT app_data FROM users").await.remove(0);
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(
        data,
        json!({ "registration": { "company_name": "Käse & Söhne" } }),
        "what was left empty is not there"
    );
    // A page of one's own may not send more than what is listed.
    let more = [
        ("username", "olga"),
        ("email", "olga@new.example"),
        ("password", PASSWORD),
        ("attributes.role", "admin"),
    ];
    assert_eq!(house.browser().post_form("/auth/register", &more).await.status, 422);
}

#[tokio::test]
async fn a_realm_that_drops_the_mark_is_told_to_the_operator() {
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    let text = registering(&realm);
    let home = Home::with_config(&text);
    home.write_key("secrets/k1");
    let checked = home.run(&["check"]).await;
    assert!(checked.all().contains("registration at provider keycloak"), "{}", checked.all());
    assert_eq!(checked.code, 0, "{}", checked.all());
    let mut profile = realm.admin(Method::GET, "/users/profile", None).await;
    profile.as_object_mut().unwrap().remove("unmanagedAttributePolicy");
    realm.admin(Method::PUT, "/users/profile", Some(&profile)).await;
    let checked = home.run(&["check"]).await;
    assert!(checked.code == 1 && checked.all().contains("doorward_ref"), "{}", checked.all());
    let mut process = home.open().await;
    let warned = process.heard("doorward_ref").await;
    assert!(warned.contains("WARN") && warned.contains("keycloak"), "{warned}");
}

/// Moves the power over people from the main client to one that can do nothing else.
async fn split_powers(realm: &Realm) {
    let id_of = async |client: &str| {
        let found = realm.admin(Method::GET, &format!("/clients?clientId={client}"), None).await;
        found[0]["id"].as_str().unwrap().to_owned()
    };
    let clerk = json!({
        "clientId": "clerk", "enabled": true, "publicClient": false, "secret": "clerk-secret", "standardFlowEnabled": false,
        "directAccessGrantsEnabled": false, "serviceAccountsEnabled": true,
    });
    realm.admin(Method::POST, "/clients", Some(&clerk)).await;
    let (clerk, main, management) =
        (id_of("clerk").await, id_of("doorward").await, id_of("realm-management").await);
    let account = realm.admin(Method::GET, &format!("/clients/{clerk}/service-account-user"), None).await;
    let role = realm.admin(Method::GET, &format!("/clients/{management}/roles/manage-users"), None).await;
    let place = format!("/users/{}/role-mappings/clients/{management}", account["id"].as_str().unwrap());
    realm.admin(Method::POST, &place, Some(&json!([role]))).await;
    realm
        .admin(Method::PUT, &format!("/clients/{main}"), Some(&json!({ "serviceAccountsEnabled": false })))
        .await;
}

#[tokio::test]
async fn the_directory_is_asked_with_credentials_of_its_own_where_the_operator_names_some() {
    let realm = keycloak::server().await.realm(RealmSpec::default()).await;
    split_powers(&realm).await;
    let own = registering(&realm);
    let refused =
        TestHouse::with(&own).open().await.browser().post_json("/auth/register", &wish("nina")).await;
    assert_eq!(refused.status, 502, "the main client has no power over people: {}", refused.text());
    let admin = "admin = { client_id = \"clerk\", client_secret = \"clerk-secret\" }\n";
    let house = TestHouse::with(&format!("{own}{admin}")).set("LIMITS__REGISTER", "\"off\"").open().await;
    let made = house.browser().post_json("/auth/register", &wish("nina")).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["userId"], realm.user_id("nina").await.as_str());
    let taken = house.browser().post_json("/auth/register", &wish("nina")).await;
    assert_eq!(taken.status, 409, "{}", taken.text());
}
