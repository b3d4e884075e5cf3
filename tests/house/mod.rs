//! What tests are made with: servers that stand in for other people's, and people who visit.

pub mod browser;
pub mod corpus;
pub mod form;
pub mod jar;
pub mod op;
