//! What tests are built from. Nothing here asserts anything about Doorward.

pub mod databases;
pub mod servers;
