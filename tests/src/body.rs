//! Message bodies as they came: bytes, chunk sizes, trailers; and a pattern to fill and check large ones.
//!
//! Deliberately absent: forgiveness in chunked framing. Every departure from RFC 9112 section 7.1 is a fault.

use std::io::{self, ErrorKind, Read};
use std::sync::OnceLock;

use crate::message::{Fields, Framing};
use crate::wire::Wire;

/// A body on its way in or wholly read.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The bytes, without framing.
    pub bytes: Vec<u8>,
    /// Sizes of the chunks, the last one of 0 left out; empty when not chunked.
    pub chunks: Vec<u64>,
    /// Trailer fields.
    pub trailers: Fields,
    /// Whether the framing said that this was all.
    pub complete: bool,
    /// Departures from the grammar.
    pub faults: Vec<String>,
}

impl Body {
    /// Read on until the framing says that the body is complete.
    ///
    /// # Errors
    /// `UnexpectedEof` for a body that was cut, `InvalidData` for chunked framing beyond repair. What came before is kept.
    pub fn read<S: Read>(&mut self, wire: &mut Wire<S>, framing: Framing) -> io::Result<()> {
        match framing {
            Framing::None => {}
            Framing::Length(count) => {
                wire.exactly(count, |piece| self.bytes.extend_from_slice(piece))?;
            }
            Framing::Chunked => self.read_chunked(wire)?,
            Framing::UntilClose => loop {
                let count = wire.buffered().len();
                self.bytes.extend_from_slice(wire.buffered());
                wire.consume(count);
                if wire.fill()? == 0 {
                    break;
                }
            },
        }
        self.complete = true;
        Ok(())
    }

    /// Read one chunk into `bytes`; false after the last chunk and its trailers.
    ///
    /// # Errors
    /// As [`Body::read`].
    pub fn read_chunk<S: Read>(&mut self, wire: &mut Wire<S>) -> io::Result<bool> {
        let line = self.line(wire)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits < line.len() {
            self.faults.push(format!(
                "chunk line {:?} is more than a size",
                crate::message::latin1(&line)
            ));
        }
        if digits == 0 || digits > 15 {
            return Err(io::Error::new(ErrorKind::InvalidData, "chunk without a size"));
        }
        let text = String::from_utf8_lossy(&line[..digits]).into_owned();
        let size = u64::from_str_radix(&text, 16).expect("up to 15 hexadecimal digits");
        if size == 0 {
            self.read_trailers(wire)?;
            return Ok(false);
        }
        wire.exactly(size, |piece| self.bytes.extend_from_slice(piece))?;
        let mut end = Vec::new();
        wire.exactly(2, |piece| end.extend_from_slice(piece))?;
        if end != b"\r\n" {
            return Err(io::Error::new(ErrorKind::InvalidData, "chunk not ended by CRLF"));
        }
        self.chunks.push(size);
        Ok(true)
    }

    fn read_chunked<S: Read>(&mut self, wire: &mut Wire<S>) -> io::Result<()> {
        while self.read_chunk(wire)? {}
        Ok(())
    }

    fn read_trailers<S: Read>(&mut self, wire: &mut Wire<S>) -> io::Result<()> {
        loop {
            let line = self.line(wire)?;
            if line.is_empty() {
                return Ok(());
            }
            self.trailers.take_line(&line, &mut self.faults);
        }
    }

    /// One line without its CRLF; a bare LF or CR is a fault.
    fn line<S: Read>(&mut self, wire: &mut Wire<S>) -> io::Result<Vec<u8>> {
        let Some(mut line) = wire.through(b"\n")? else {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "ended within chunked framing"));
        };
        line.pop();
        if line.pop_if(|last| *last == b'\r').is_none() {
            self.faults.push("bare LF in chunked framing".to_owned());
        }
        if line.contains(&b'\r') {
            self.faults.push("bare CR in chunked framing".to_owned());
        }
        Ok(line)
    }
}

/// Period of the test pattern in bytes: a prime, so that a lost or doubled page or buffer always shows.
const PATTERN_PERIOD: usize = 65_521;

/// One period of the pattern, made once.
fn period() -> &'static [u8] {
    static PERIOD: OnceLock<Vec<u8>> = OnceLock::new();
    PERIOD.get_or_init(|| {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..PATTERN_PERIOD).map(|_| next()).collect()
    })
}

/// The pattern from byte `start` to the end of its period.
fn run_from(start: u64) -> &'static [u8] {
    let at = start % PATTERN_PERIOD as u64;
    &period()[usize::try_from(at).expect("below the period")..]
}

/// `count` bytes of the endless test pattern from byte `start`.
pub fn pattern(start: u64, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let run = run_from(start + bytes.len() as u64);
        bytes.extend_from_slice(&run[..run.len().min(count - bytes.len())]);
    }
    bytes
}

/// Checks the pattern as it comes.
#[derive(Debug, Default)]
pub struct PatternCheck {
    /// Bytes taken so far.
    pub count: u64,
}

impl PatternCheck {
    /// Take the next piece.
    ///
    /// # Panics
    /// When it differs, with its place.
    pub fn take(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let run = run_from(self.count);
            let (now, later) = piece.split_at(run.len().min(piece.len()));
            assert!(now == &run[..now.len()], "wrong within bytes {} + {}", self.count, now.len());
            self.count += now.len() as u64;
            piece = later;
        }
    }
}

/// The bytes as chunked framing with chunks of `size` bytes, last chunk and given trailer lines included.
pub fn chunked(bytes: &[u8], size: usize, trailers: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / size * 8 + 16);
    for piece in bytes.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n");
    for line in trailers {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the pattern check takes the pattern in any pieces, and notices one wrong byte and one lost page.
    #[test]
    fn the_pattern_is_checked() {
        let bytes = pattern(0, 200_000);
        let mut check = PatternCheck::default();
        bytes.chunks(777).for_each(|piece| check.take(piece));
        assert_eq!(check.count, 200_000);
        assert_eq!(pattern(70_000, 10), bytes[70_000..70_010]);
        let lost = [&bytes[..4_096], &bytes[8_192..]].concat();
        let wrong = std::panic::catch_unwind(|| PatternCheck::default().take(&lost));
        assert!(wrong.is_err(), "a lost page went unnoticed");
    }

    #[test]
    fn chunked_framing_reads_back() {
        let sent = pattern(0, 1000);
        let mut wire = Wire::new(io::Cursor::new(chunked(&sent, 300, &["X-Sum: 7"])));
        let mut body = Body::default();
        body.read(&mut wire, Framing::Chunked).unwrap();
        assert_eq!((body.bytes, body.chunks), (sent, vec![300, 300, 300, 100]));
        assert_eq!(body.trailers.get("x-sum").as_deref(), Some("7"));
        assert!(body.complete && body.faults.is_empty());
    }

    /// Goal: the reader that judges the router is itself strict. Method: a list of wrong framings.
    #[test]
    fn wrong_chunks_are_noticed() {
        for (text, fault) in [
            ("5\nhello\r\n0\r\n\r\n", true),
            ("5;x=1\r\nhello\r\n0\r\n\r\n", true),
            ("5 \r\nhello\r\n0\r\n\r\n", true),
            ("5\r\nhelloXX0\r\n\r\n", false),
            ("x\r\nhello\r\n0\r\n\r\n", false),
            ("5\r\nhello\r\n0\r\n", false),
        ] {
            let mut body = Body::default();
            let outcome = body.read(&mut Wire::new(io::Cursor::new(text)), Framing::Chunked);
            assert_eq!(outcome.is_ok(), fault, "{text:?}");
            assert!(outcome.is_err() || !body.faults.is_empty(), "{text:?} passed");
        }
    }
}
