//! The verbs: one file per thing that can happen, each in one direction.
//!
//! Owns: the order of steps and every decision between them.
//! Never does: know HTTP, cookies, status codes or templates; hold a `Writer` across a call to someone else's house.
//! A flow takes `&App` and domain values and returns domain values, so that browser, API, command line and jobs share it.

pub mod activity;
pub mod admin;
pub mod again;
pub mod api_keys;
pub mod assertion;
pub mod audit;
pub mod bearer;
pub mod certificate;
pub mod check;
pub mod guesses;
pub mod lease;
pub mod limits;
pub mod login;
pub mod logout;
pub mod password;
pub mod provider_logout;
pub mod recognise;
pub mod refresh;
pub mod register;
pub mod reload;
pub mod rotate;
pub mod session;
pub mod start;
pub mod sweep;

/// Who stands at the door, as far as the request tells.
#[derive(Debug, Clone, Default)]
pub struct Visitor {
    pub address: Option<String>,
    pub user_agent: Option<String>,
    pub request_id: String,
}
