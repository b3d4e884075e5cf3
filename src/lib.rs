//! Doorward: the door in front of a web app.
pub mod dev_idp;
