//! The road to the app behind the door.
//!
//! Owns: the canonical request, the one table of routes, which headers pass and which we set, the streaming client towards the apps, WebSockets,
//! and the built-in demo app. Never does: look up who the guest is (it comes as an argument), touch the database, or know a provider.
//!
//! ```text
//! canonical ─► routes ─► (web: guest, policy, CSRF) ─► headers ─► forward ─► upstream ─► body or tunnel
//! ```

pub mod canonical;
pub mod demo;
pub mod forward;
pub mod frames;
pub mod headers;
pub mod identity;
pub mod routes;
pub mod upgrade;
pub mod upstream;
