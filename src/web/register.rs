//! `/auth/register`: one flow for programs (JSON) and people (a form that keeps what was typed, never the password).

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, ORIGIN};
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};
use serde_json::{Map, Value, json};

use super::login::see_other;
use super::outer::Whole;
use super::problem::{Problem, Refused};
use super::{Door, pages, views, visitor, wire};
use crate::domain::{FieldFault, ReturnTo};
use crate::error::Error;
use crate::flows::register::{self, Asked, Registered};

type Answer = Result<HttpResponse, Refused>;

const KEY: &str = "idempotency-key";
const HIDDEN: &str = "If that name and address were free and the password fits, the account is ready now.";
const ATTRIBUTE: &str = "attributes.";

/// Where an account is created, on the way to somewhere.
pub fn href(door: &Door, return_to: Option<&str>) -> String {
    let place = format!("{}/register", door.auth_prefix);
    let Some(to) = return_to else { return place };
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("return_to", to).finish();
    format!("{place}?{query}")
}

/// `GET /auth/register`
pub async fn show(request: HttpRequest, door: web::Data<Door>) -> Answer {
    let mut typed = Typed::default();
    for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
        match name.as_ref() {
            "return_to" | "provider" if !typed.0.contains_key(name.as_ref()) => {
                typed.0.insert(name.into_owned(), Value::String(value.into_owned()));
            }
            _ => {}
        }
    }
    form(&door, &typed, None)
}

/// `POST /auth/register`
pub async fn register(request: HttpRequest, body: web::Bytes, door: web::Data<Door>) -> Answer {
    if register::offered(&door.app.setup()).is_empty() {
        return Err(Refused(Error::NotOffered));
    }
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => by_program(&request, &body, &door).await,
        "application/x-www-form-urlencoded" => by_person(&request, &body, &door).await,
        _ => Err(Refused(Error::InvalidRequest("Send application/json, or the form of this door."))),
    }
}

async fn by_program(request: &HttpRequest, body: &[u8], door: &Door) -> Answer {
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        return Err(Refused(Error::InvalidRequest("The body is not a JSON object.")));
    };
    let mut keys = request.headers().get_all(KEY);
    let key = keys.next().map(|key| key.to_str().unwrap_or_default());
    if keys.next().is_some() {
        return Err(Refused(Error::InvalidRequest("Idempotency-Key is sent twice.")));
    }
    let asked = Asked { fields, key, visitor: &visitor(request) };
    Ok(match register::register(&door.app, asked).await? {
        Registered::Complete(user) => HttpResponse::Created().json(json!({
            "message": "User registered successfully",
            "userId": user.id,
            "user": wire::user(&user),
        })),
        Registered::Hidden => HttpResponse::Accepted().json(json!({ "message": HIDDEN })),
    })
}

async fn by_person(request: &HttpRequest, body: &[u8], door: &Door) -> Answer {
    let headers = request.headers();
    // The guard has judged them; a form without either has no proof at all, and no header stands in for it.
    if !headers.contains_key("sec-fetch-site") && !headers.contains_key(ORIGIN) {
        return Err(Refused(Error::Csrf));
    }
    let (typed, fields) = Typed::read(body).map_err(|detail| Refused(Error::InvalidRequest(detail)))?;
    let asked = Asked { fields, key: None, visitor: &visitor(request) };
    match register::register(&door.app, asked).await {
        Ok(Registered::Complete(user)) => {
            let hint = user.profile.username.unwrap_or_default();
            Ok(see_other(&typed.sign_in(door, &[("provider", &user.provider), ("login_hint", &hint)]))
                .finish())
        }
        Ok(Registered::Hidden) => {
            let page =
                views::Accepted { chrome: pages::chrome(door, None), sign_in_href: typed.sign_in(door, &[]) };
            let mut response = pages::page(&page)?;
            *response.status_mut() = StatusCode::ACCEPTED;
            Ok(response)
        }
        Err(error @ (Error::NotOffered | Error::Internal(_))) => Err(Refused(error)),
        Err(error) => again(door, &typed, error),
    }
}

/// The form once more, with what is wrong in it.
fn again(door: &Door, typed: &Typed, error: Error) -> Answer {
    let problem = Problem::of(&error);
    // Logs it, as for any other way out.
    let answer = Refused(error).error_response();
    let mut response = form(door, typed, Some(&problem))?;
    *response.status_mut() = answer.status();
    for header in problem.headers() {
        response.headers_mut().insert(header.0, header.1);
    }
    response.extensions_mut().insert(Whole);
    Ok(response)
}

/// What a person typed, without the password.
#[derive(Default)]
struct Typed(Map<String, Value>);

impl Typed {
    /// The form as the page needs it again, and as the flow takes it.
    fn read(body: &[u8]) -> Result<(Self, Map<String, Value>), &'static str> {
        let (mut typed, mut fields, mut attributes) = (Map::new(), Map::new(), Map::new());
        for (name, value) in url::form_urlencoded::parse(body) {
            let value = Value::String(value.into_owned());
            let twice = match name.strip_prefix(ATTRIBUTE) {
                // An input that was left empty says nothing of the attribute.
                Some(_) if value == "" => None,
                Some(attribute) => {
                    typed.insert(name.clone().into_owned(), value.clone());
                    attributes.insert(attribute.to_owned(), value)
                }
                None if name == "return_to" => typed.insert(name.into_owned(), value),
                None => {
                    if name != "password" {
                        typed.insert(name.clone().into_owned(), value.clone());
                    }
                    fields.insert(name.into_owned(), value)
                }
            };
            if twice.is_some() {
                return Err("A field of the form is sent twice.");
            }
        }
        if !attributes.is_empty() {
            fields.insert("attributes".to_owned(), Value::Object(attributes));
        }
        Ok((Self(typed), fields))
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn return_to(&self, door: &Door) -> Option<String> {
        let to = ReturnTo::parse(self.text("return_to"), &door.app.setup().return_rules)?;
        Some(to.as_str().to_owned()).filter(|_| !self.text("return_to").is_empty())
    }

    fn sign_in(&self, door: &Door, more: &[(&str, &str)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(more.iter().filter(|(_, value)| !value.is_empty()));
        if let Some(to) = self.return_to(door) {
            query.append_pair("return_to", &to);
        }
        let query = query.finish();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}/login{mark}{query}", door.auth_prefix)
    }
}

fn form(door: &Door, typed: &Typed, problem: Option<&Problem>) -> Answer {
    let offered = register::offered(&door.app.setup());
    if offered.is_empty() {
        return Err(Refused(Error::NotOffered));
    }
    let offered_count = offered.len();
    let faults = problem.map_or(&[][..], |problem| problem.errors.as_slice());
    let providers = offered
        .into_iter()
        .map(|(id, label)| views::Place { chosen: id == typed.text("provider"), id, label })
        .collect();
    let mut fields = fields(typed, faults);
    // The password stays the last.
    let at = fields.len().saturating_sub(1);
    fields.splice(at..at, attributes(&door.app.setup().config.registration.attributes, typed, faults));
    // The choice of a place comes first, where there is one.
    let wrong = fields.iter().position(|field| field.fault.is_some()).or((offered_count < 2).then_some(0));
    if let Some(field) = wrong.and_then(|at| fields.get_mut(at)) {
        field.focused = true;
    }
    // A fault without a field of its own on the page is said above them.
    let known =
        |fault: &&FieldFault| fault.field == "provider" || fields.iter().any(|f| f.name == fault.field);
    let stray =
        faults.iter().find(|fault| !known(fault)).map(|fault| format!("{}: {}", fault.field, fault.detail));
    let notice =
        stray.or_else(|| problem.filter(|problem| problem.errors.is_empty()).map(|p| p.detail.to_owned()));
    pages::page(&views::Register {
        chrome: pages::chrome(door, None),
        providers,
        provider_fault: sentence(faults, "provider"),
        fields,
        notice,
        return_to: typed.return_to(door),
        sign_in_href: typed.sign_in(door, &[]),
    })
}

fn sentence(faults: &[FieldFault], field: &str) -> Option<String> {
    let all: Vec<&str> = faults.iter().filter(|f| f.field == field).map(|f| f.detail.as_str()).collect();
    (!all.is_empty()).then(|| all.join(" "))
}

fn fields(typed: &Typed, faults: &[FieldFault]) -> Vec<views::Field> {
    const ROWS: [(&str, &str, &str, &str); 5] = [
        ("username", "User name", "text", "username"),
        ("email", "E-mail address", "email", "email"),
        ("firstName", "First name", "text", "given-name"),
        ("lastName", "Last name", "text", "family-name"),
        ("password", "Password", "password", "new-password"),
    ];
    let field = |(name, label, kind, autocomplete): (&'static str, &'static str, _, _)| {
        let secret = name == "password";
        let value: Cow<'_, str> = if secret { "".into() } else { typed.text(name).into() };
        views::Field {
            name: name.into(),
            label: label.into(),
            kind,
            autocomplete,
            value: value.into_owned(),
            hint: secret.then_some("A long one is a good one: several words are easier to remember."),
            fault: sentence(faults, name),
            required: !matches!(name, "firstName" | "lastName"),
            longest: if secret { 1024 } else { 255 },
            focused: false,
        }
    };
    ROWS.map(field).into()
}

/// An input for each attribute that the operator lets people give.
fn attributes(names: &[String], typed: &Typed, faults: &[FieldFault]) -> Vec<views::Field> {
    let field = |attribute: &String| {
        let name = format!("{ATTRIBUTE}{attribute}");
        views::Field {
            label: spoken(attribute).into(),
            kind: "text",
            autocomplete: "off",
            value: typed.text(&name).to_owned(),
            hint: None,
            fault: sentence(faults, &name),
            required: false,
            longest: 1024,
            focused: false,
            name: name.into(),
        }
    };
    names.iter().map(field).collect()
}

/// `company_name` and `companyName` as people write it: "Company name".
fn spoken(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        match c {
            '_' | '-' | '.' => words.push(' '),
            c if c.is_uppercase() && words.ends_with(char::is_lowercase) => {
                words.push(' ');
                words.extend(c.to_lowercase());
            }
            c if words.is_empty() => words.extend(c.to_uppercase()),
            c => words.push(c),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_attributes_are_spoken() {
        for (name, words) in
            [("plan", "Plan"), ("company_name", "Company name"), ("companyName", "Company name")]
        {
            assert_eq!(spoken(name), words);
        }
    }
}
