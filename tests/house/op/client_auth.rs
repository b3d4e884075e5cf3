//! Client authentication as a strict provider does it (RFC 6749 section 2.3, RFC 7523 section 2.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::endpoints::{Call, Refusal};
use super::script::ClientAuth;
use super::{decode, first, mint};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Refuses two methods at once, a method that the script does not take, and a wrong proof.
pub(super) fn authenticate(call: &Call<'_>) -> Result<(), Refusal> {
    let form = call.request.form_pairs();
    let basic = call.request.header("authorization");
    let secret = first(&form, "client_secret");
    let assertion = first(&form, "client_assertion");
    let used = match (basic, &secret, &assertion) {
        (Some(_), None, None) => ClientAuth::Basic,
        (None, Some(_), None) => ClientAuth::Post,
        (None, None, Some(_)) => ClientAuth::PrivateKeyJwt,
        (None, None, None) => ClientAuth::None,
        _ => return Err(Refusal::OAuth(400, "invalid_request")),
    };
    let wanted = call.script.client_auth;
    let right_kind = used == wanted || (wanted == ClientAuth::Proven && used != ClientAuth::None);
    let named = first(&form, "client_id");
    let right_client = named.as_ref().is_none_or(|id| *id == call.script.client_id);
    let proven = match used {
        ClientAuth::Basic => basic.is_some_and(|header| basic_is_right(call, header)),
        ClientAuth::Post => named.is_some() && secret.as_ref() == Some(&call.script.client_secret),
        ClientAuth::PrivateKeyJwt => {
            first(&form, "client_assertion_type").as_deref() == Some(ASSERTION_TYPE)
                && assertion.is_some_and(|token| assertion_is_right(call, &token))
        }
        ClientAuth::None | ClientAuth::Proven => named.is_some(),
    };
    if right_kind && right_client && proven { Ok(()) } else { Err(Refusal::OAuth(401, "invalid_client")) }
}

/// Id and secret are form-urlencoded each before base64 (RFC 6749 section 2.3.1).
fn basic_is_right(call: &Call<'_>, header: &str) -> bool {
    let plain = |part: &str| first(&decode(format!("v={part}").as_bytes()), "v");
    let credentials = header
        .strip_prefix("Basic ")
        .and_then(|text| STANDARD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    credentials.is_some_and(|text| {
        text.split_once(':').is_some_and(|(id, secret)| {
            plain(id).as_ref() == Some(&call.script.client_id)
                && plain(secret).as_ref() == Some(&call.script.client_secret)
        })
    })
}

/// Signed by the client's key, for us, not over, at most five minutes long, and never seen before.
fn assertion_is_right(call: &Call<'_>, token: &str) -> bool {
    let Some(key) = &call.script.client_key else {
        return false;
    };
    let Some((_, claims)) = mint::peek(token) else {
        return false;
    };
    let is = |name: &str, wanted: &str| claims.get(name).and_then(Value::as_str) == Some(wanted);
    let issuer = &call.shared.issuer;
    let ours = is("aud", issuer) || is("aud", &format!("{issuer}/token"));
    let now = call.shared.now_s();
    let expires = claims.get("exp").and_then(Value::as_i64).unwrap_or(0);
    let jti = claims.get("jti").and_then(Value::as_str).unwrap_or("");
    mint::verifies(token, key)
        && is("iss", &call.script.client_id)
        && is("sub", &call.script.client_id)
        && ours
        && expires > now
        && expires <= now + 300
        && !jti.is_empty()
        && call.shared.book.lock().unwrap().assertions.insert(jti.into())
}
