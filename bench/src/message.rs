//! Reads one message off a byte stream and checks it: an HTTP/1.1 head with a body of known length, or a
//! fixed number of bytes. The same reader serves clients (answers) and the origin (requests).
//!
//! ```text
//!   Head ──▶ Body ──▶ (done) ──▶ Head …
//! ```
//!
//! Pure: no socket, no clock. Deliberately absent: chunked bodies. Every body here has a length, and a proxy
//! that reframes one would be seen as a fault, not measured as something else.

use crate::pattern;

/// What a well-formed message looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A head that begins with `start` and announces a body of exactly `body` bytes.
    Http {
        /// How the head begins.
        start: &'static [u8],
        /// Length of the body.
        body: usize,
    },
    /// Bytes of the pattern without a head.
    Fixed {
        /// How many.
        bytes: usize,
    },
}

/// Why a message is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The head is longer than [`HEAD_BYTES_MAX`].
    HeadTooLong,
    /// The first line is not the expected one; holds its beginning.
    Start(String),
    /// `Content-Length` is absent or another one.
    Length(String),
    /// The body's bytes differ from the pattern at or after this position.
    Body {
        /// Position in the body.
        at: usize,
    },
    /// More bytes came than one message has.
    Surplus {
        /// How many more.
        bytes: usize,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HeadTooLong => write!(f, "head longer than {HEAD_BYTES_MAX} bytes"),
            Self::Start(line) => write!(f, "unexpected first line: {line}"),
            Self::Length(head) => write!(f, "wrong or no Content-Length in: {head}"),
            Self::Body { at } => write!(f, "body differs from the pattern at or after byte {at}"),
            Self::Surplus { bytes } => write!(f, "{bytes} bytes after the end of the message"),
        }
    }
}

/// Longest head accepted, bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// How far into the current message the reader is.
#[derive(Default)]
pub struct Reader {
    /// A head that has not ended yet. Empty, and without memory, in the common case.
    partial: Vec<u8>,
    /// Body bytes seen; `None` while in the head.
    body_at: Option<usize>,
    /// Length of the last head whose `Content-Length` was checked: heads of one connection repeat.
    head_len_checked: usize,
}

impl Reader {
    /// Takes the next bytes. `Ok(true)` when they end the message; the reader is then ready for the next one.
    ///
    /// # Errors
    /// When the message is not of this shape. The connection is of no more use then.
    pub fn feed(&mut self, shape: Shape, bytes: &[u8]) -> Result<bool, Fault> {
        match shape {
            Shape::Fixed { bytes: total } => self.feed_body(total, bytes),
            Shape::Http { start, body } => {
                if self.body_at.is_some() {
                    return self.feed_body(body, bytes);
                }
                if self.partial.is_empty() {
                    return self.feed_head(start, body, bytes);
                }
                let mut joined = std::mem::take(&mut self.partial);
                joined.extend_from_slice(bytes);
                self.feed_head(start, body, &joined)
            }
        }
    }

    /// Body bytes still to come; 0 while in a head. These may be discarded unread, see [`Self::skip`].
    pub fn body_left(&self, shape: Shape) -> usize {
        match (shape, self.body_at) {
            (Shape::Fixed { bytes: total } | Shape::Http { body: total, .. }, Some(at)) => {
                total - at
            }
            (_, None) => 0,
        }
    }

    /// Counts `bytes` body bytes as received without looking at them. `Ok(true)` when they end the message.
    ///
    /// # Errors
    /// When there are more than the message has left.
    pub fn skip(&mut self, shape: Shape, bytes: usize) -> Result<bool, Fault> {
        let left = self.body_left(shape);
        if bytes > left {
            return Err(Fault::Surplus { bytes: bytes - left });
        }
        self.body_at = self.body_at.map(|at| at + bytes).filter(|_| bytes < left);
        Ok(bytes == left)
    }

    /// Whether no byte of the next message has come.
    pub fn is_between(&self) -> bool {
        self.partial.is_empty() && self.body_at.is_none()
    }

    fn feed_head(&mut self, start: &[u8], body: usize, bytes: &[u8]) -> Result<bool, Fault> {
        let shown = start.len().min(bytes.len());
        if bytes[..shown] != start[..shown] {
            return Err(Fault::Start(excerpt(bytes)));
        }
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(Fault::HeadTooLong);
            }
            self.partial = bytes.to_vec();
            return Ok(false);
        };
        let head_len = end + 4;
        if self.head_len_checked != head_len {
            if announced_length(&bytes[..head_len]) != body {
                return Err(Fault::Length(excerpt(&bytes[..head_len])));
            }
            self.head_len_checked = head_len;
        }
        self.feed_body(body, &bytes[head_len..])
    }

    fn feed_body(&mut self, total: usize, bytes: &[u8]) -> Result<bool, Fault> {
        let at = self.body_at.unwrap_or(0);
        if at + bytes.len() > total {
            return Err(Fault::Surplus { bytes: at + bytes.len() - total });
        }
        if !pattern::matches(at, bytes) {
            return Err(Fault::Body { at });
        }
        let done = at + bytes.len() == total;
        self.body_at = if done { None } else { Some(at + bytes.len()) };
        Ok(done)
    }
}

/// The head's `Content-Length`; 0 when there is none, `usize::MAX` when it is unreadable or framing is another.
fn announced_length(head: &[u8]) -> usize {
    let mut length = 0;
    for line in head.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = &line[..colon];
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return usize::MAX;
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = std::str::from_utf8(&line[colon + 1..]).unwrap_or("");
            length = value.trim().parse().unwrap_or(usize::MAX);
        }
    }
    length
}

fn excerpt(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 240;
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::Http { start: b"HTTP/1.1 200 ", body: 300 };

    fn answer(body: usize) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\nServer: x\r\nCONTENT-length:  {body} \r\n\r\n");
        [head.as_bytes(), pattern::body(body)].concat()
    }

    #[test]
    fn any_split_gives_the_same_messages() {
        let two = [answer(300), answer(300)].concat();
        let one_len = two.len() / 2;
        for step in [1, 2, 7, 60, 100, one_len] {
            let mut reader = Reader::default();
            let mut ends = Vec::new();
            let mut at = 0;
            while at < two.len() {
                // A piece never spans two messages: clients wait for the answer.
                let piece = step.min(one_len - at % one_len);
                if reader.feed(SHAPE, &two[at..at + piece]).unwrap() {
                    ends.push(at + piece);
                }
                at += piece;
            }
            assert_eq!(ends, [one_len, 2 * one_len], "in steps of {step}");
            assert!(reader.is_between());
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let feed = |bytes: &[u8]| Reader::default().feed(SHAPE, bytes);
        assert!(matches!(feed(b"HTTP/1.1 502 Bad"), Err(Fault::Start(_))));
        assert!(matches!(feed(&answer(299)), Err(Fault::Length(_))));
        assert!(matches!(
            feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(Fault::Length(_))
        ));
        let mut wrong = answer(300);
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        assert!(matches!(feed(&wrong), Err(Fault::Body { .. })));
        assert_eq!(feed(&[answer(300), b"x".to_vec()].concat()), Err(Fault::Surplus { bytes: 1 }));
    }

    #[test]
    fn skipped_bytes_count() {
        let mut reader = Reader::default();
        let bytes = answer(300);
        assert_eq!(reader.feed(SHAPE, &bytes[..bytes.len() - 200]), Ok(false));
        assert_eq!(reader.body_left(SHAPE), 200);
        assert_eq!(reader.skip(SHAPE, 150), Ok(false));
        assert_eq!(reader.skip(SHAPE, 51), Err(Fault::Surplus { bytes: 1 }));
        assert_eq!(reader.skip(SHAPE, 50), Ok(true));
        assert!(reader.is_between());
    }
}
