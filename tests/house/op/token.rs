//! The token endpoint: code, refresh and password grants (RFC 6749 sections 4.1.3, 4.3 and 6).

use actix_web::HttpResponse;
use aws_lc_rs::digest;
use serde_json::{Map, Value, json};

use super::client_auth::authenticate;
use super::endpoints::{Call, Outcome, Refusal};
use super::mint::{self, Minted, b64, random_text};
use super::{Access, Book, Grant, Refresh};

type Object = Map<String, Value>;

/// What a token answer is made for.
struct Issue {
    grant: usize,
    nonce: Option<String>,
    refresh: Option<String>,
    id_token: bool,
}

pub(super) fn token(call: &Call<'_>) -> Outcome {
    authenticate(call)?;
    let issue = match call.request.form("grant_type").as_deref() {
        Some("authorization_code") => code_grant(call)?,
        Some("refresh_token") => refresh_grant(call)?,
        Some("password") => password_grant(call)?,
        _ => return Err(Refusal::OAuth(400, "unsupported_grant_type")),
    };
    Ok(answer(call, issue))
}

/// The code is single use: a second use ends what the first one brought (section 4.1.2).
fn code_grant(call: &Call<'_>) -> Result<Issue, Refusal> {
    let field = |name: &str| call.request.form(name).unwrap_or_default();
    let invalid = Refusal::OAuth(400, "invalid_grant");
    let verifier = field("code_verifier");
    let hash = b64(digest::digest(&digest::SHA256, verifier.as_bytes()));
    let mut book = call.shared.book.lock().unwrap();
    let code = book.codes.get_mut(&field("code")).ok_or(invalid)?;
    let (grant, reused) = (code.grant, code.used);
    code.used = true;
    let fits = code.redirect_uri == field("redirect_uri")
        && (43..=128).contains(&verifier.len())
        && code.challenge == hash
        && call.shared.now_ms() < code.expires_ms;
    let nonce = code.nonce.clone();
    if reused {
        book.grants[grant].revoked = true;
    }
    if reused || !fits || book.grants[grant].revoked {
        return Err(invalid);
    }
    let refresh = call.script.refresh_tokens.then(|| new_refresh(&mut book, grant));
    Ok(Issue { grant, nonce, refresh, id_token: true })
}

fn refresh_grant(call: &Call<'_>) -> Result<Issue, Refusal> {
    let invalid = Refusal::OAuth(400, "invalid_grant");
    let sent = call.request.form("refresh_token").unwrap_or_default();
    let mut book = call.shared.book.lock().unwrap();
    let known = book.refresh.get_mut(&sent).ok_or(invalid)?;
    let (grant, reused) = (known.grant, known.used);
    known.used = call.script.rotate_refresh;
    if reused {
        known.used = true;
        if call.script.reuse_revokes {
            book.grants[grant].revoked = true;
        }
    }
    if reused || book.grants[grant].revoked {
        return Err(invalid);
    }
    let refresh = call.script.rotate_refresh.then(|| new_refresh(&mut book, grant));
    Ok(Issue { grant, nonce: None, refresh, id_token: call.script.id_token_at_refresh })
}

fn password_grant(call: &Call<'_>) -> Result<Issue, Refusal> {
    let Some((name, password)) = &call.script.password else {
        return Err(Refusal::OAuth(400, "unauthorized_client"));
    };
    let same = |field: &str, wanted: &String| call.request.form(field).as_ref() == Some(wanted);
    if !same("username", name) || !same("password", password) {
        return Err(Refusal::OAuth(400, "invalid_grant"));
    }
    let grant = Grant {
        person: call.script.person.clone(),
        scope: call.request.form("scope").unwrap_or_default(),
        sid: call.script.sid.clone().unwrap_or_else(random_text),
        auth_time: call.script.auth_time.unwrap_or(call.shared.now_s()),
        acr: None,
        revoked: false,
    };
    let mut book = call.shared.book.lock().unwrap();
    book.grants.push(grant);
    let grant = book.grants.len() - 1;
    Ok(Issue {
        grant,
        nonce: None,
        refresh: call.script.refresh_tokens.then(|| new_refresh(&mut book, grant)),
        id_token: true,
    })
}

pub(super) fn new_refresh(book: &mut Book, grant: usize) -> String {
    let token = random_text();
    book.refresh.insert(token.clone(), Refresh { grant, used: false });
    token
}

fn answer(call: &Call<'_>, issue: Issue) -> HttpResponse {
    let script = call.script;
    let grant = call.shared.book.lock().unwrap().grants[issue.grant].clone();
    let access_token = access_token(call, &grant);
    let expires_s = call.shared.now_s() + script.token_life_s;
    call.shared
        .book
        .lock()
        .unwrap()
        .access
        .insert(access_token.clone(), Access { grant: issue.grant, expires_s });
    let mut body = json!({
        "access_token": access_token, "token_type": "Bearer",
        "expires_in": script.token_life_s, "scope": grant.scope,
    });
    if let Some(map) = body.as_object_mut() {
        if let Some(refresh) = issue.refresh {
            map.insert("refresh_token".into(), refresh.into());
        }
        if issue.id_token {
            let token = id_token(call, &grant, issue.nonce, &access_token);
            map.insert("id_token".into(), token.into());
        }
        if let Some(change) = &script.on_token_response {
            change(map);
        }
    }
    HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(body)
}

/// RFC 9068.
fn access_token(call: &Call<'_>, grant: &Grant) -> String {
    let (script, now) = (call.script, call.shared.now_s());
    let mut claims = object(json!({
        "iss": call.shared.issuer, "sub": grant.person.sub, "aud": script.access_token_audience,
        "client_id": script.client_id, "azp": script.client_id, "scope": grant.scope,
        "iat": now, "exp": now + script.token_life_s, "jti": random_text(), "sid": grant.sid,
    }));
    let mut header = header(call, "at+jwt");
    if let Some(change) = &script.on_access_token {
        change(&mut header, &mut claims);
    }
    sign(call, &header, &claims)
}

/// Core section 2.
fn id_token(call: &Call<'_>, grant: &Grant, nonce: Option<String>, access_token: &str) -> String {
    let (script, now) = (call.script, call.shared.now_s());
    let mut claims = call.claims_of(&grant.person);
    claims.append(&mut object(json!({
        "iss": call.shared.issuer, "aud": script.client_id, "iat": now,
        "exp": now + script.token_life_s, "auth_time": grant.auth_time, "sid": grant.sid,
        "amr": ["pwd"], "at_hash": mint::at_hash(access_token, script.key.alg()),
    })));
    for (name, value) in [("nonce", nonce), ("acr", grant.acr.clone())] {
        if let Some(value) = value {
            claims.insert(name.into(), value.into());
        }
    }
    let mut header = header(call, "JWT");
    if let Some(change) = &script.on_id_token {
        change(&mut header, &mut claims);
    }
    let token = sign(call, &header, &claims);
    let Some(replace) = &script.on_raw_id_token else {
        return token;
    };
    replace(&Minted { header, claims, token, key: script.key.clone() })
}

fn header(call: &Call<'_>, typ: &str) -> Object {
    let key = &call.script.key;
    object(json!({"alg": key.alg_name(), "typ": typ, "kid": key.kid()}))
}

fn sign(call: &Call<'_>, header: &Object, claims: &Object) -> String {
    let header = Value::Object(header.clone()).to_string();
    let claims = Value::Object(claims.clone()).to_string();
    mint::mint(&header, &claims, &call.script.key)
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
