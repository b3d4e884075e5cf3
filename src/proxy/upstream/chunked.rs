//! The chunked coding of answers (RFC 9112 7.1), taken apart as it comes: each piece is handed on at once, trailers are dropped.

use bytes::{Buf as _, Bytes, BytesMut};

use super::Fault;

/// A size line with its extensions; a trailer line.
const LINE_MAX: usize = 4 * 1024;
/// All trailers together.
const TRAILERS_MAX: usize = 16 * 1024;

/// Where in the coding we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Data {
        left: u64,
    },
    /// The line end behind a chunk's data.
    DataEnd,
    Trailers {
        seen: usize,
    },
    End,
}

/// Takes chunked bytes apart.
#[derive(Debug)]
pub struct Decoder(At);

/// What a step brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Piece(Bytes),
    NeedsMore,
    End,
}

impl Default for Decoder {
    fn default() -> Self {
        Self(At::Size)
    }
}

impl Decoder {
    /// Consumes what it can of `read`.
    ///
    /// # Errors
    /// [`Fault::Broken`] for what is no chunked coding.
    pub fn step(&mut self, read: &mut BytesMut) -> Result<Step, Fault> {
        loop {
            match self.0 {
                At::Size => {
                    let Some(line) = line(read, LINE_MAX)? else { return Ok(Step::NeedsMore) };
                    let size = size_of(&line)?;
                    self.0 = if size == 0 { At::Trailers { seen: 0 } } else { At::Data { left: size } };
                }
                At::Data { left } => {
                    if read.is_empty() {
                        return Ok(Step::NeedsMore);
                    }
                    let take = usize::try_from(left).map_or(read.len(), |left| left.min(read.len()));
                    let left = left - take as u64;
                    self.0 = if left == 0 { At::DataEnd } else { At::Data { left } };
                    return Ok(Step::Piece(read.split_to(take).freeze()));
                }
                At::DataEnd => {
                    let Some(end) = read.get(..2) else { return Ok(Step::NeedsMore) };
                    if end != b"\r\n" {
                        return Err(Fault::Broken("a chunk is longer than its size"));
                    }
                    read.advance(2);
                    self.0 = At::Size;
                }
                At::Trailers { seen } => {
                    let Some(line) = line(read, LINE_MAX)? else { return Ok(Step::NeedsMore) };
                    let seen = seen + line.len() + 2;
                    if seen > TRAILERS_MAX {
                        return Err(Fault::Broken("its trailers are too long"));
                    }
                    self.0 = if line.is_empty() { At::End } else { At::Trailers { seen } };
                }
                At::End => return Ok(Step::End),
            }
        }
    }
}

/// One line without its CR LF.
fn line(read: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Fault> {
    match read.iter().take(max).position(|byte| *byte == b'\n') {
        Some(at) if at > 0 && read.get(at - 1) == Some(&b'\r') => {
            let mut line = read.split_to(at + 1);
            line.truncate(at - 1);
            Ok(Some(line.freeze()))
        }
        Some(_) => Err(Fault::Broken("a line of its chunked coding has no CR")),
        None if read.len() >= max => Err(Fault::Broken("a line of its chunked coding is too long")),
        None => Ok(None),
    }
}

fn size_of(line: &[u8]) -> Result<u64, Fault> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let sound = (1..=16).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| sound);
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(Fault::Broken("a chunk size is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8], step: usize) -> Result<(Vec<u8>, bool, usize), Fault> {
        let (mut decoder, mut read, mut body) = (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            read.extend_from_slice(piece);
            loop {
                match decoder.step(&mut read)? {
                    Step::Piece(piece) => body.extend_from_slice(&piece),
                    Step::NeedsMore => break,
                    Step::End => return Ok((body, true, read.len())),
                }
            }
        }
        Ok((body, false, read.len()))
    }

    #[test]
    fn chunks_are_put_together_however_they_are_cut() {
        let coded = b"4\r\nWiki\r\n6;x=\"y\"\r\npedia \r\nA\r\nin chunks.\r\n0\r\nx-trailer: 1\r\n\r\n";
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(decode(coded, step), Ok((b"Wikipedia in chunks.".to_vec(), true, 0)), "{step}");
        }
        assert_eq!(decode(b"1\r\na\r\n", 9), Ok((b"a".to_vec(), false, 0)), "no end without a last chunk");
        assert_eq!(decode(b"0\r\n\r\nHTTP/1.1", 99), Ok((Vec::new(), true, 8)), "what follows is left");
    }

    #[test]
    fn what_is_no_chunked_coding_is_refused() {
        for coded in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"11111111111111111\r\n",
            b"1\na\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n\n",
            b"0\r\nx: 1\n\n",
        ] {
            assert!(decode(coded, 99).is_err(), "{:?}", String::from_utf8_lossy(coded));
        }
        assert!(decode(&[b'1'; 5000], 9999).is_err());
        let endless = [b"0\r\n".to_vec(), b"a: 1\r\n".repeat(4000)].concat();
        assert!(decode(&endless, endless.len()).is_err());
    }
}
