//! The chunked coding, one way as a decoder and one way as a few constants.
//!
//! ```text
//!  Size ─▶ (Extension) ─▶ SizeEnd ─▶ Data ─▶ DataEnd ─▶ Size …
//!                            └ size 0 ─▶ Trailers ─▶ Done
//! ```
//!
//! The decoder is fed any split of the bytes and says where the data lies; it copies none.
//! Sizes are bare hexadecimal, lines end in CR LF, extensions are checked against the grammar
//! and dropped, trailers are checked like fields, and only harmless ones are kept.
//! Deliberately absent: passing chunks through as they came. What a lenient origin could read
//! otherwise than we did is never forwarded; chunk lines are written anew.

use core::ops::Range;

use crate::fault::ChunkError;
use crate::fields::split_trailer;
use crate::known::forbidden_in_trailer;
use crate::scan::{TOKEN, VALUE, is};

/// Hexadecimal digits of a chunk size, leading zeros included.
pub const CHUNK_SIZE_DIGITS_MAX: u8 = 16;
/// Largest chunk: what fits a signed 64-bit offset, as origins count.
pub const CHUNK_BYTES_MAX: u64 = i64::MAX as u64;
/// Bytes of chunk extensions in one body: enough for real ones, too few to hide work in.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of a trailer section, its line ends included.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Fields of a trailer section.
pub const TRAILER_FIELDS_MAX: u16 = 64;

/// Ends the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";
/// Ends a body that has no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Starts the end of a body: [`Chunked::trailers`] and [`CHUNK_END`] follow.
pub const LAST_CHUNK_START: &[u8] = b"0\r\n";

/// The line that starts a chunk of `len` bytes; `len` must not be 0, which would end the body.
pub fn chunk_header(len: usize, buffer: &mut [u8; 20]) -> &[u8] {
    debug_assert!(len > 0, "a chunk of no bytes ends the body");
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut at = buffer.len() - 2;
    buffer[at..].copy_from_slice(CHUNK_END);
    let mut rest = len;
    loop {
        at -= 1;
        buffer[at] = DIGITS[rest % 16];
        rest /= 16;
        if rest == 0 {
            break;
        }
    }
    &buffer[at..]
}

/// What one step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Body bytes, by position in this step's input.
    Data(Range<usize>),
    /// All input is used up and the body goes on.
    More,
    /// The body has ended; what follows in the input belongs to the next message.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        place: Place,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    Trailers,
    TrailersEnd,
    TrailerLine,
    Done,
}

/// Where in a chunk extension we are (RFC 9112 7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    BeforeSemicolon,
    BeforeName,
    Name,
    AfterName,
    BeforeValue,
    Value,
    Quoted,
    Escaped,
    AfterQuoted,
}

/// An incremental decoder of one chunked body.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    extension_bytes: u32,
    trailer_bytes: usize,
    trailer_fields: u16,
    /// Where in `trailers` the unfinished line starts.
    line_start: usize,
    /// Kept trailer lines, each with its CR LF, and the unfinished one. Empty, and not
    /// allocated, unless the body has trailers.
    trailers: Vec<u8>,
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunked {
    /// A decoder at the start of a body.
    pub const fn new() -> Self {
        Self {
            state: State::Size { size: 0, digits: 0 },
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
            line_start: 0,
            trailers: Vec::new(),
        }
    }

    /// True once [`Piece::End`] was given.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Body bytes that are still to come of the chunk that was begun: they may be relayed
    /// without looking at them. Tell the decoder by [`Chunked::skip`].
    pub const fn chunk_left(&self) -> u64 {
        match self.state {
            State::Data { left } => left,
            _ => 0,
        }
    }

    /// Notes that `bytes` of the chunk's data went past without coming through [`Chunked::step`]
    /// (spliced from socket to socket); at most [`Chunked::chunk_left`].
    pub fn skip(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.chunk_left());
        if let State::Data { left } = self.state {
            self.state = after_data(left.saturating_sub(bytes));
        }
    }

    /// The trailers that may be passed on: complete lines, each ending in CR LF; empty before
    /// the end. Names of framing, routing, authority and this hop are not among them.
    pub fn trailers(&self) -> &[u8] {
        if self.is_done() { &self.trailers } else { &[] }
    }

    /// Takes the next bytes: how many of them are used up, and what they mean.
    ///
    /// Gives one piece at a time; the caller comes again with the rest of the input. After
    /// [`Piece::End`] nothing more is used up.
    ///
    /// # Errors
    /// A [`ChunkError`] when the body is malformed or beyond a bound. The decoder must not be
    /// used after that.
    pub fn step(&mut self, input: &[u8]) -> Result<(usize, Piece), ChunkError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Done => return Ok((at, Piece::End)),
                State::Data { left } => {
                    let available = input.len() - at;
                    let take = usize::try_from(left).map_or(available, |left| left.min(available));
                    self.state = after_data(left - take as u64);
                    return Ok((at + take, Piece::Data(at..at + take)));
                }
                State::TrailerLine => {
                    at += self.take_trailer_bytes(&input[at..])?;
                    continue;
                }
                _ => {}
            }
            self.state = self.on_byte(byte)?;
            at += 1;
            if self.state == State::Done {
                return Ok((at, Piece::End));
            }
        }
        Ok((at, if self.state == State::Done { Piece::End } else { Piece::More }))
    }

    /// The state after one byte of framing.
    fn on_byte(&mut self, byte: u8) -> Result<State, ChunkError> {
        match self.state {
            State::Size { size, digits } => size_byte(size, digits, byte),
            State::Extension { size, place } => {
                self.extension_bytes += 1;
                if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX {
                    return Err(ChunkError::ExtensionTooLarge);
                }
                extension_byte(size, place, byte)
            }
            State::SizeEnd { size } => match (byte, size) {
                (b'\n', 0) => Ok(State::Trailers),
                (b'\n', left) => Ok(State::Data { left }),
                _ => Err(ChunkError::LineEndMalformed),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::Size { size: 0, digits: 0 }),
            State::DataCr | State::DataLf => Err(ChunkError::DataEndMalformed),
            State::Trailers if byte == b'\r' => Ok(State::TrailersEnd),
            State::Trailers if is(byte, TOKEN) => {
                self.trailer_fields += 1;
                if self.trailer_fields > TRAILER_FIELDS_MAX {
                    return Err(ChunkError::TrailerTooLarge);
                }
                self.trailer_bytes += 1;
                self.line_start = self.trailers.len();
                self.trailers.push(byte);
                Ok(State::TrailerLine)
            }
            State::Trailers if byte == b'\n' => Err(ChunkError::LineEndMalformed),
            State::Trailers => Err(ChunkError::TrailerMalformed),
            State::TrailersEnd if byte == b'\n' => Ok(State::Done),
            State::TrailersEnd => Err(ChunkError::LineEndMalformed),
            state @ (State::Data { .. } | State::TrailerLine | State::Done) => Ok(state),
        }
    }

    /// Takes bytes of the unfinished trailer line, at most up to its end.
    fn take_trailer_bytes(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        let line_feed = memchr::memchr(b'\n', input);
        let taken = line_feed.map_or(input.len(), |offset| offset + 1);
        self.trailer_bytes += taken;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(ChunkError::TrailerTooLarge);
        }
        self.trailers.extend_from_slice(&input[..taken]);
        if line_feed.is_some() {
            let line = &self.trailers[self.line_start..];
            let line = line.strip_suffix(b"\r\n").ok_or(ChunkError::LineEndMalformed)?;
            let (name, _) = split_trailer(line).ok_or(ChunkError::TrailerMalformed)?;
            if forbidden_in_trailer(name) {
                self.trailers.truncate(self.line_start);
            }
            self.state = State::Trailers;
        }
        Ok(taken)
    }
}

const fn after_data(left: u64) -> State {
    if left == 0 { State::DataCr } else { State::Data { left } }
}

/// One byte of a chunk size, or the first one behind it.
fn size_byte(size: u64, digits: u8, byte: u8) -> Result<State, ChunkError> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ if digits == 0 => return Err(ChunkError::SizeMalformed),
        b'\r' => return Ok(State::SizeEnd { size }),
        b'\n' => return Err(ChunkError::LineEndMalformed),
        b';' => return Ok(State::Extension { size, place: Place::BeforeName }),
        b' ' | b'\t' => return Ok(State::Extension { size, place: Place::BeforeSemicolon }),
        _ => return Err(ChunkError::SizeMalformed),
    };
    if digits == CHUNK_SIZE_DIGITS_MAX {
        return Err(ChunkError::SizeMalformed);
    }
    if size > CHUNK_BYTES_MAX >> 4 {
        return Err(ChunkError::SizeTooLarge);
    }
    Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
}

/// One byte of `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] ) CR`.
fn extension_byte(size: u64, place: Place, byte: u8) -> Result<State, ChunkError> {
    use Place as P;
    let space = matches!(byte, b' ' | b'\t');
    let token = is(byte, TOKEN);
    let next = match (place, byte) {
        (P::Name | P::Value | P::AfterQuoted, b'\r') => return Ok(State::SizeEnd { size }),
        (P::BeforeSemicolon | P::Name | P::AfterName | P::Value | P::AfterQuoted, b';') => {
            P::BeforeName
        }
        (P::BeforeSemicolon | P::BeforeName | P::AfterName | P::BeforeValue, _) if space => place,
        (P::BeforeName | P::Name, _) if token => P::Name,
        (P::Name, _) if space => P::AfterName,
        (P::Name | P::AfterName, b'=') => P::BeforeValue,
        (P::BeforeValue, b'"') => P::Quoted,
        (P::BeforeValue | P::Value, _) if token => P::Value,
        (P::Value | P::AfterQuoted, _) if space => P::BeforeSemicolon,
        (P::Quoted, b'"') => P::AfterQuoted,
        (P::Quoted, b'\\') => P::Escaped,
        (P::Quoted | P::Escaped, _) if is(byte, VALUE) => P::Quoted,
        (_, b'\n') => return Err(ChunkError::LineEndMalformed),
        _ => return Err(ChunkError::ExtensionMalformed),
    };
    Ok(State::Extension { size, place: next })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data, kept trailers, bytes used.
    type Decoded = (Vec<u8>, Vec<u8>, usize);

    /// Decodes `input` in pieces of `step` bytes: data, trailers, bytes used.
    fn decode(input: &[u8], step: usize) -> Result<Option<Decoded>, ChunkError> {
        let mut decoder = Chunked::new();
        let (mut data, mut used, mut fed) = (Vec::new(), 0, 0);
        while fed < input.len() {
            fed = (fed + step).min(input.len());
            loop {
                let rest = &input[used..fed];
                let (taken, piece) = decoder.step(rest)?;
                match piece {
                    Piece::Data(range) => data.extend_from_slice(&rest[range]),
                    Piece::More => {
                        assert_eq!(taken, rest.len());
                        used += taken;
                        break;
                    }
                    Piece::End => {
                        assert!(decoder.is_done());
                        return Ok(Some((data, decoder.trailers().to_vec(), used + taken)));
                    }
                }
                used += taken;
            }
        }
        Ok(None)
    }

    fn good(input: &[u8]) -> Decoded {
        let whole = decode(input, input.len()).expect("good").expect("complete");
        for step in 1..=input.len().min(9) {
            assert_eq!(decode(input, step), Ok(Some(whole.clone())), "in pieces of {step}");
        }
        whole
    }

    #[test]
    fn bodies_that_are_taken() {
        assert_eq!(good(b"0\r\n\r\n"), (vec![], vec![], 5));
        assert_eq!(good(b"3\r\nabc\r\n0\r\n\r\nGET"), (b"abc".to_vec(), vec![], 13));
        assert_eq!(good(b"00A\r\n0123456789\r\n000\r\n\r\n").0, b"0123456789");
        assert_eq!(good(b"a\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n").0, b"\r\n\r\n\r\n\r\n\r\n");
        assert_eq!(good(b"1;a\r\nx\r\n1 ; b = c ;d=\"\\\"; \t\"\r\ny\r\n0;z\r\n\r\n").0, b"xy");
        assert_eq!(good(b"1;a=1 ;b\r\nx\r\n0\r\n\r\n").0, b"x");
    }

    #[test]
    fn harmless_trailers_are_kept() {
        let input: &[u8] =
            b"0\r\nDigest: x\r\nContent-Length: 5\r\nHost: evil\r\nApcera_HTTPS: on\r\n\
              grpc-status:0\r\nX-Forwarded-For: 1.2.3.4\r\nEmpty:\r\n\r\nrest";
        let (data, trailers, used) = good(input);
        assert_eq!(data, b"");
        assert_eq!(trailers, b"Digest: x\r\ngrpc-status:0\r\nEmpty:\r\n");
        assert_eq!(used, input.len() - 4);
    }

    /// Goal: every departure is refused, in whatever pieces it comes.
    #[test]
    fn bodies_that_are_refused() {
        use ChunkError as E;
        let cases: [(&[u8], E); 45] = [
            (b"\r\n", E::SizeMalformed),
            (b"\n", E::SizeMalformed),
            (b" 3\r\n", E::SizeMalformed),
            (b"+3\r\n", E::SizeMalformed),
            (b"-3\r\n", E::SizeMalformed),
            (b"0x3\r\n", E::SizeMalformed),
            (b"3h\r\n", E::SizeMalformed),
            (b"3_0\r\n", E::SizeMalformed),
            (b";a\r\n", E::SizeMalformed),
            (b"3,3\r\n", E::SizeMalformed),
            (b"3\0\r\n", E::SizeMalformed),
            (b"3\x0b\r\n", E::SizeMalformed),
            (b"00000000000000003\r\n", E::SizeMalformed),
            (b"8000000000000000\r\n", E::SizeTooLarge),
            (b"ffffffffffffffff\r\n", E::SizeTooLarge),
            (b"3 \r\nabc\r\n", E::ExtensionMalformed),
            (b"3\t\r\nabc\r\n", E::ExtensionMalformed),
            (b"3\nabc\r\n", E::LineEndMalformed),
            (b"3\rabc\r\n", E::LineEndMalformed),
            (b"3\r\rabc\r\n", E::LineEndMalformed),
            (b"3;\r\n", E::ExtensionMalformed),
            (b"3;;\r\n", E::ExtensionMalformed),
            (b"3;a=\r\n", E::ExtensionMalformed),
            (b"3;=a\r\n", E::ExtensionMalformed),
            (b"3;a b\r\n", E::ExtensionMalformed),
            (b"3;a \r\n", E::ExtensionMalformed),
            (b"3;a=b c\r\n", E::ExtensionMalformed),
            (b"3;a=\"b\r\n\"\r\n", E::ExtensionMalformed),
            (b"3;a=\"b\"c\r\n", E::ExtensionMalformed),
            (b"3;a\0\r\n", E::ExtensionMalformed),
            (b"3;a\n", E::LineEndMalformed),
            (b"3;\n", E::LineEndMalformed),
            (b"3;a=\"\n", E::LineEndMalformed),
            (b"3;a\rb\r\n", E::LineEndMalformed),
            (b"3\r\nabcd\r\n", E::DataEndMalformed),
            (b"3\r\nabc\n0\r\n\r\n", E::DataEndMalformed),
            (b"3\r\nabc0\r\n\r\n", E::DataEndMalformed),
            (b"3\r\nabc\r0\r\n\r\n", E::DataEndMalformed),
            (b"0\r\n\n", E::LineEndMalformed),
            (b"0\r\n\rX", E::LineEndMalformed),
            (b"0\r\nA: 1\n\r\n", E::LineEndMalformed),
            (b"0\r\n A: 1\r\n\r\n", E::TrailerMalformed),
            (b"0\r\nA : 1\r\n\r\n", E::TrailerMalformed),
            (b"0\r\nA: 1\rB: 2\r\n\r\n", E::TrailerMalformed),
            (b"0\r\nA\r\n\r\n", E::TrailerMalformed),
        ];
        for (input, expected) in cases {
            for step in [input.len(), 1, 2, 3] {
                let text = String::from_utf8_lossy(input).into_owned();
                assert_eq!(decode(input, step), Err(expected), "{text:?} in pieces of {step}");
            }
        }
    }

    #[test]
    fn bounds_hold() {
        let extension = [b"1;a=", vec![b'x'; 20_000].as_slice(), b"\r\n"].concat();
        assert_eq!(decode(&extension, 100), Err(ChunkError::ExtensionTooLarge));
        let spread = b"1;abcdefgh\r\nx\r\n".repeat(2_000);
        assert_eq!(decode(&spread, 100), Err(ChunkError::ExtensionTooLarge));
        let long = [b"0\r\nA: ", vec![b'x'; TRAILER_BYTES_MAX].as_slice()].concat();
        assert_eq!(decode(&long, 100), Err(ChunkError::TrailerTooLarge));
        let many = [b"0\r\n".as_slice(), &b"A:\r\n".repeat(65)].concat();
        assert_eq!(decode(&many, 100), Err(ChunkError::TrailerTooLarge));
        let dropped = [b"0\r\n".as_slice(), &b"Host: a\r\n".repeat(65)].concat();
        assert_eq!(decode(&dropped, 100), Err(ChunkError::TrailerTooLarge));
    }

    #[test]
    fn a_decoder_allocates_nothing_without_trailers() {
        let mut decoder = Chunked::new();
        let mut rest: &[u8] = b"5\r\nhello\r\n0\r\n\r\n";
        while let Ok((used, piece)) = decoder.step(rest) {
            rest = &rest[used..];
            if piece == Piece::End {
                break;
            }
        }
        assert!(decoder.is_done());
        assert_eq!(decoder.trailers.capacity(), 0);
    }

    /// Goal: data that went past the decoder is accounted for.
    #[test]
    fn skipped_data_counts() {
        let mut decoder = Chunked::new();
        assert_eq!(decoder.step(b"a\r\n"), Ok((3, Piece::More)));
        assert_eq!(decoder.chunk_left(), 10);
        decoder.skip(4);
        assert_eq!(decoder.step(b"efghij\r\n0"), Ok((6, Piece::Data(0..6))));
        assert_eq!(decoder.step(b"\r\n0\r\n\r\n"), Ok((7, Piece::End)));
        assert_eq!(decoder.step(b"GET"), Ok((0, Piece::End)));
    }

    #[test]
    fn headers_are_hexadecimal() {
        for (len, expected) in [(1, "1\r\n"), (16, "10\r\n"), (0xbeef, "beef\r\n")] {
            assert_eq!(chunk_header(len, &mut [0; 20]), expected.as_bytes());
        }
        assert_eq!(chunk_header(usize::MAX, &mut [0; 20]).len(), 18);
    }
}
