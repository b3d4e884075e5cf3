//! The name of a request: 128 random bits, which prove nothing by themselves.

use std::cell::RefCell;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::clock::Random;

const LENGTH: usize = 16;
const SPELLED: usize = 22;
/// One call of the system's generator costs as much as all of these.
const AT_ONCE: usize = 64;

/// Names for the requests of one worker, drawn some at a time.
#[derive(Default)]
pub struct RequestIds(RefCell<Vec<u8>>);

impl Clone for RequestIds {
    /// Starts empty: no two workers may give the same names.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl RequestIds {
    /// 22 base64url characters.
    pub fn next(&self, random: &dyn Random) -> Arc<str> {
        let mut drawn = self.0.borrow_mut();
        if drawn.len() < LENGTH {
            drawn.resize(LENGTH * AT_ONCE, 0);
            random.fill(&mut drawn);
        }
        let rest = drawn.len() - LENGTH;
        let mut spelled = [0; SPELLED];
        let length = URL_SAFE_NO_PAD.encode_slice(drawn.drain(rest..).as_slice(), &mut spelled);
        // They fit, and base64 is text.
        std::str::from_utf8(spelled.get(..length.unwrap_or(0)).unwrap_or_default()).unwrap_or_default().into()
    }
}
