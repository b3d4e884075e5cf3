//! Keys, and what is done with them: sealing what the database keeps, signing what providers ask for.
//!
//! Owns: master keys and their strength, the sub-key of each purpose,
//! the key ring, the sealed form, client and identity assertions, whose certificates count.
//! Never does: primitives of its own, files, SQL, trying all keys on a
//! text, printing a secret or comparing one with `==`.
//!
//! ```text
//! 32 bytes or passphrase ─► MasterKey ─HKDF(purpose)─► KeyRing ─AES-256-GCM(place)─► stored form
//! ```

pub mod assertion;
pub mod key;
pub mod mac;
pub mod seal;
pub mod sign;
pub mod trust;

pub use key::{KeyFault, MasterKey, Purpose, same_bytes};
pub use seal::{KeyRing, OpenError, Place, RingFault};
pub use sign::{Algorithm, SignFault, Signer};
