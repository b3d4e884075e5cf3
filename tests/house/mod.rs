//! What tests are made with: the house itself, servers that stand in for other people's, and people who visit.

pub mod browser;
pub mod corpus;
pub mod databases;
pub mod fleet;
pub mod form;
pub mod home;
pub mod invariants;
pub mod jar;
pub mod op;
pub mod process;
pub mod servers;
pub mod spa;
pub mod tab;
pub mod two;
pub mod upstream;
pub mod wire;
