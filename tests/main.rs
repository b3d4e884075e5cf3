//! All integration tests of Doorward, one binary: a server is started once for all of them.
#![cfg(test)]

mod architecture;
mod browser_selftest;
mod chromium;
mod config;
mod house;
mod keys;
mod login;
mod op_hostile_selftest;
mod op_selftest;
mod openapi;
mod password;
mod problems;
mod reload;
mod security;
mod servers;
mod start;
mod stores;
mod telemetry;
