//! The door: HTTP in, HTTP out, nothing else.

pub mod views;
