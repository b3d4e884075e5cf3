//! All integration tests of Doorward, one binary: a server is started once for all of them.
#![cfg(test)]

mod browser_selftest;
mod chromium;
mod house;
mod login;
mod op_hostile_selftest;
mod op_selftest;
mod problems;
mod security;
mod servers;
mod stores;
