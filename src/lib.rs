//! Doorward: the door in front of a web app.

pub mod cli;
pub mod config;
