//! Doorward: the door in front of a web app.

pub mod crypto;
pub mod domain;
pub mod store;
