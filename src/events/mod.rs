//! What the house tells the world of what happens in it: today, open tabs.
//!
//! Owns: who listens right now, and what each has yet to be told. Never does: HTTP, SQL, deciding that something happened.

pub mod live;
