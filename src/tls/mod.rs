//! TLS of the public listener, for those who want nothing in front.
//!
//! Owns: reading and judging the certificate files, the pair that new connections are shown, and the handshake with its limits.
//! Never does: speak HTTP (the one answer to a visitor who forgot the `s` comes as bytes), or decide when files are looked at again.

mod certificate;
mod front;
mod shown;
mod validity;

pub use self::certificate::{Pair, read};
pub use self::front::{Front, HANDSHAKE_MAX, HANDSHAKES_MAX};
pub use self::shown::{Print, Shown, print};
