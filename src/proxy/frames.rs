//! Reads along in a stream of WebSocket frames (RFC 6455 5.2), to know their sizes; no frame is held or changed.

/// One message, whatever its number of frames; what common servers take by default is a sixteenth of it.
const MESSAGE_MAX: u64 = 16 << 20;
/// A control frame carries at most this (RFC 6455 5.5).
const CONTROL_MAX: u64 = 125;

/// The opcode of a close frame.
const CLOSE: u8 = 0x8;

/// A server's close frame with one of the reasons of RFC 6455 7.4.1.
#[must_use]
pub fn close(reason: u16) -> [u8; 4] {
    let [high, low] = reason.to_be_bytes();
    [0x80 | CLOSE, 2, high, low]
}

/// One direction of a socket.
#[derive(Debug, Default)]
pub struct Meter {
    /// The head of a frame as far as it came.
    head: Vec<u8>,
    payload_left: u64,
    /// Data bytes of the message that is under way.
    message: u64,
    has_closed: bool,
}

impl Meter {
    /// Whether what comes next keeps to the sizes; `false` ends the socket.
    pub fn admits(&mut self, mut piece: &[u8]) -> bool {
        while !piece.is_empty() {
            let skip = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(piece.len());
            self.payload_left -= skip as u64;
            let Some((first, rest)) = piece.get(skip..).and_then(<[u8]>::split_first) else { return true };
            self.head.push(*first);
            piece = rest;
            if let Some(length) = length(&self.head) {
                if !self.begin(length) {
                    return false;
                }
                self.head.clear();
            }
        }
        true
    }

    /// Whether a frame of ours could stand here.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.head.is_empty() && self.payload_left == 0
    }

    /// Whether this side has said its last word, a close frame.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    fn begin(&mut self, length: u64) -> bool {
        self.payload_left = length;
        let first = self.head.first().copied().unwrap_or_default();
        if first & 0x08 != 0 {
            self.has_closed |= first & 0x0f == CLOSE;
            return length <= CONTROL_MAX;
        }
        self.message = self.message.saturating_add(length);
        let fits = self.message <= MESSAGE_MAX;
        if first & 0x80 != 0 {
            self.message = 0;
        }
        fits
    }
}

/// The payload's length, once the head is whole.
fn length(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (extra, short) = match second & 0x7f {
        126 => (2, None),
        127 => (8, None),
        length => (0, Some(u64::from(length))),
    };
    if head.len() < 2 + extra + mask {
        return None;
    }
    let long = head.iter().skip(2).take(extra).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    Some(short.unwrap_or(long))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, length: u64, masked: bool) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut head = vec![first];
        match u16::try_from(length) {
            Ok(short) if short < 126 => head.push(bit | short.to_be_bytes()[1]),
            Ok(short) => {
                head.push(bit | 0x7e);
                head.extend(short.to_be_bytes());
            }
            Err(_) => {
                head.push(bit | 0x7f);
                head.extend(length.to_be_bytes());
            }
        }
        head.extend([7; 4].iter().take(if masked { 4 } else { 0 }));
        head
    }

    #[test]
    fn ht_07_frames_of_any_cut_are_followed() {
        let mut stream = Vec::new();
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            stream.extend(frame(0x82, length, true));
            stream.extend(vec![1; usize::try_from(length).unwrap()]);
        }
        for cut in [1, 3, 1000, stream.len()] {
            let mut meter = Meter::default();
            assert!(stream.chunks(cut).all(|piece| meter.admits(piece)), "{cut}");
            assert!(meter.head.is_empty() && meter.payload_left == 0 && meter.message == 0);
        }
    }

    #[test]
    fn a_close_frame_is_the_last_word_and_ours_stands_between_others() {
        let mut meter = Meter::default();
        assert!(meter.admits(&frame(0x81, 3, false)) && !meter.is_between_frames());
        assert!(meter.admits(b"abc") && meter.is_between_frames() && !meter.has_closed());
        assert!(meter.admits(&[0x88]) && !meter.is_between_frames());
        assert!(meter.admits(&close(1008)[1..]) && meter.is_between_frames() && meter.has_closed());
    }

    #[test]
    fn ht_07_a_message_or_control_frame_beyond_its_limit_ends_the_socket() {
        assert!(Meter::default().admits(&frame(0x82, MESSAGE_MAX, true)));
        assert!(!Meter::default().admits(&frame(0x82, MESSAGE_MAX + 1, false)));
        assert!(!Meter::default().admits(&frame(0x82, u64::MAX, false)));
        assert!(!Meter::default().admits(&frame(0x89, 126, true)));
        let mut meter = Meter::default();
        let half = frame(0x02, MESSAGE_MAX / 2 + 1, false);
        assert!(meter.admits(&half));
        meter.payload_left = 0;
        assert!(!meter.admits(&frame(0x80, MESSAGE_MAX / 2, false)), "fragments count together");
    }
}
