//! Doorward: the door in front of a web app.

pub mod proxy;
pub mod web;
