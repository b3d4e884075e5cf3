//! The name of a request: 128 random bits, which prove nothing by themselves.

use std::cell::RefCell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytestring::ByteString;

use crate::domain::clock::Random;

/// In base64url; 128 bits.
const LENGTH: usize = 22;
const BYTES: usize = 16;
/// One call of the system's generator, and one piece of memory, cost as much as all of these.
const AT_ONCE: usize = 64;

/// Names for the requests of one worker, drawn some at a time: what is left of one text, of which each name is a part.
#[derive(Default)]
pub struct RequestIds(RefCell<ByteString>);

impl Clone for RequestIds {
    /// Starts empty: no two workers may give the same names.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl RequestIds {
    /// 22 base64url characters.
    pub fn next(&self, random: &dyn Random) -> ByteString {
        let mut left = self.0.borrow_mut();
        if left.len() < LENGTH {
            *left = draw(random);
        }
        let (id, behind) = left.split_at(LENGTH);
        *left = behind;
        id
    }
}

fn draw(random: &dyn Random) -> ByteString {
    let mut drawn = [0; BYTES * AT_ONCE];
    random.fill(&mut drawn);
    let mut spelled = String::with_capacity(LENGTH * AT_ONCE);
    for bytes in drawn.chunks_exact(BYTES) {
        URL_SAFE_NO_PAD.encode_string(bytes, &mut spelled);
    }
    spelled.into()
}
