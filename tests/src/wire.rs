//! Buffered reading of one connection: heads, lines and exact lengths, with the bytes left over kept.
//!
//! Deliberately absent: any forgiveness. A line ends in CRLF or it is told as it is.

use std::io::{self, ErrorKind, Read};

/// Longest head or line that is read before the peer is called broken, in bytes.
pub const LINE_BYTES_MAX: usize = 4 << 20;

/// Bytes asked of the kernel at once.
const READ_BYTES: usize = 64 << 10;

/// A byte stream with what was read from it and not yet used.
#[derive(Debug)]
pub struct Wire<S> {
    /// The stream itself, for writing.
    pub stream: S,
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
}

impl<S: Read> Wire<S> {
    /// Wrap a stream of which nothing was read yet.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), start: 0, ended: false }
    }

    /// What was read and not yet used.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Whether the peer's FIN (or close_notify) was read.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Use up `count` buffered bytes.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.buffered().len(), "consume of bytes that were not read");
        self.start += count;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Read once more; gives the number of new bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// What the stream says: a reset, a time-out, TLS trouble.
    pub fn fill(&mut self) -> io::Result<usize> {
        if self.start > READ_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let old = self.buffer.len();
        self.buffer.resize(old + READ_BYTES, 0);
        let outcome = loop {
            match self.stream.read(&mut self.buffer[old..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(old + outcome.as_ref().copied().unwrap_or(0));
        let count = outcome?;
        self.ended |= count == 0;
        Ok(count)
    }

    /// Bytes up to and with `mark`; `None` when the stream ended before the first byte.
    ///
    /// # Errors
    /// `UnexpectedEof` when it ended later, `InvalidData` beyond [`LINE_BYTES_MAX`], else what the stream says.
    pub fn through(&mut self, mark: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut searched: usize = 0;
        loop {
            let from = searched.saturating_sub(mark.len());
            if let Some(at) = find(&self.buffered()[from..], mark) {
                let end = from + at + mark.len();
                let found = self.buffered()[..end].to_vec();
                self.consume(end);
                return Ok(Some(found));
            }
            searched = self.buffered().len();
            if searched > LINE_BYTES_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "no end within the bound"));
            }
            if self.fill()? == 0 {
                if self.buffered().is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "ended within a head or line",
                ));
            }
        }
    }

    /// Pass exactly `count` bytes to `sink`, in the pieces in which they came.
    ///
    /// # Errors
    /// `UnexpectedEof` when the stream ends before, else what the stream says.
    pub fn exactly(&mut self, count: u64, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            if self.buffered().is_empty() && self.fill()? == 0 {
                let text = format!("ended {left} bytes before the end of the body");
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
            let piece = self.buffered().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            sink(&self.buffered()[..piece]);
            self.consume(piece);
            left -= piece as u64;
        }
        Ok(())
    }
}

/// Where `needle` begins in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, rest) = needle.split_first()?;
    let mut at = 0;
    while let Some(skip) = hay[at..].iter().position(|&byte| byte == first) {
        at += skip;
        if hay[at + 1..].starts_with(rest) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a mark is found however the bytes were cut. Method: a reader that gives one byte at a time.
    #[test]
    fn a_mark_is_found_across_reads() {
        struct Drip(Vec<u8>);
        impl Read for Drip {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    return Ok(0);
                }
                out[0] = self.0.remove(0);
                Ok(1)
            }
        }
        let mut wire = Wire::new(Drip(b"a\r\n\r\nbcd".to_vec()));
        assert_eq!(wire.through(b"\r\n\r\n").unwrap().unwrap(), b"a\r\n\r\n");
        let mut body = Vec::new();
        wire.exactly(2, |piece| body.extend_from_slice(piece)).unwrap();
        assert_eq!(body, b"bc");
        assert_eq!(wire.through(b"\n").unwrap_err().kind(), ErrorKind::UnexpectedEof);
        let mut empty = Wire::new(Drip(Vec::new()));
        assert!(empty.through(b"\n").unwrap().is_none());
    }

    #[test]
    fn find_is_the_naive_search() {
        let hay = b"\r\r\n\r\n\r\n";
        assert_eq!(find(hay, b"\r\n\r\n"), Some(1));
        assert_eq!(find(hay, b"x"), None);
        assert_eq!(find(b"", b"x"), None);
        assert_eq!(find(b"ab", b"abc"), None);
    }
}
