//! Doorward: the door in front of a web app.
//!
//! The rooms, from the street inwards: [`web`] answers, [`flows`] decide, [`app`] is their furniture; [`providers`] speak to identity
//! providers, [`store`] remembers, [`crypto`] seals, [`proxy`] leads to the app behind the door, [`domain`] names things. [`dev_idp`] is a
//! neighbour that knows none of them. `docs/ARCHITECTURE.md` walks through each flow.

pub mod app;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod dev_idp;
pub mod domain;
pub mod error;
pub mod events;
pub mod flows;
pub mod jobs;
pub mod providers;
pub mod proxy;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod web;
