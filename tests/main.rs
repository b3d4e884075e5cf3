//! All integration tests of Doorward, one binary: a server is started once for all of them.
#![cfg(test)]

mod admin;
mod architecture;
mod bearer;
mod browser_selftest;
mod cache;
mod channel;
mod chromium;
mod config;
mod forward_auth;
mod house;
mod jobs;
mod keys;
mod login;
mod logout;
mod op_hostile_selftest;
mod op_selftest;
mod openapi;
mod password;
mod problems;
mod proxy;
mod refresh;
mod register;
mod reload;
mod security;
mod servers;
mod start;
mod stores;
mod telemetry;
mod tls;
