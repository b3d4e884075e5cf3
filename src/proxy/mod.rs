//! The road to the app behind the door.
//!
//! Owns: the one table of routes, the identity headers an upstream receives, and the built-in demo app.
//! Never does: look up who the guest is (it comes as an argument), touch the database, or know a provider.
//! Until the gateway arrives, `builtin:demo` is the only upstream that answers.

pub mod demo;
pub mod identity;
pub mod routes;
