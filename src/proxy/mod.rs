//! The road to the app behind us.

pub mod demo;
