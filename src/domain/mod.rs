//! The nouns of the house: pure, synchronous values with their rules.
//!
//! Owns: what a user, a session, a login attempt, a grant and a change are, and what makes each valid.
//! Never does: I/O, `async`, reading a clock or drawing random bytes; it imports nothing of ours.

pub mod access_token;
pub mod address;
pub mod api_key;
pub mod change;
pub mod clock;
pub mod email;
pub mod fault;
pub mod grant;
pub mod guesses;
pub mod login;
pub mod logout;
pub mod policy;
pub mod principal;
pub mod rates;
pub mod refusals;
pub mod registration;
pub mod renewal;
pub mod return_to;
pub mod session;
pub mod tally;
pub mod user;
pub mod usertag;

pub use access_token::AccessToken;
pub use api_key::{ApiKey, KnownKey, Standing};
pub use change::{Change, Profile};
pub use clock::{Clock, Random};
pub use email::Email;
pub use fault::FieldFault;
pub use grant::{Grant, Held, Tokens};
pub use login::{Callback, LoginAttempt, LoginRequest, Prompt};
pub use logout::LogoutToken;
pub use principal::{Fact, Principal};
pub use refusals::Refusals;
pub use registration::{NewUser, RegistrationRules};
pub use renewal::Renewal;
pub use return_to::ReturnTo;
pub use session::{NewSession, Session, SessionKey, SessionKind};
pub use tally::Tally;
pub use user::{Denial, Status, User};
