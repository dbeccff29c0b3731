//! One line of an instance as it lies in a log file: a short head and the text.
//!
//! `magic, stream, length (2 bytes), number (8), milliseconds (8), text`. Lines are numbered where they are cut, so that
//! whoever reads the files, now or after a restart, gives every line the same number. Pure. Deliberately absent: a
//! checksum; a record is only ever cut short, and a short one is not there yet.

use wire::logs::{LINE_BYTES_MAX, LogStream};

const MAGIC: u8 = 0xA7;
/// Bytes before the text.
pub const HEAD_BYTES: usize = 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it was written.
    pub stream: LogStream,
    /// 1, 2, 3 … in its stream.
    pub seq: u64,
    /// When it was read.
    pub at_ms: u64,
    /// Without its end of line.
    pub text: Vec<u8>,
}

/// What stands at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A record and its length.
    Record(Record, usize),
    /// A part of one, or nothing.
    Short,
    /// Something else.
    Broken,
}

impl Record {
    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let length = self.text.len().min(LINE_BYTES_MAX);
        let stream = u8::from(self.stream != LogStream::Stdout) + 1;
        out.extend([MAGIC, stream]);
        // `LINE_BYTES_MAX` fits two bytes.
        out.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(self.seq.to_be_bytes());
        out.extend(self.at_ms.to_be_bytes());
        out.extend(&self.text[..length]);
    }

    /// Reads one.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Parsed {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Parsed::Short;
        };
        let stream = match head[1] {
            1 => LogStream::Stdout,
            2 => LogStream::Stderr,
            _ => return Parsed::Broken,
        };
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if head[0] != MAGIC || length > LINE_BYTES_MAX {
            return Parsed::Broken;
        }
        let Some(text) = rest.get(..length) else { return Parsed::Short };
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let record = Self { stream, seq: number(4), at_ms: number(12), text: text.to_vec() };
        Parsed::Record(record, HEAD_BYTES + length)
    }
}

/// Cuts bytes of one stream into numbered lines.
#[derive(Debug)]
pub struct Lines {
    stream: LogStream,
    seq: u64,
    partial: Vec<u8>,
}

impl Lines {
    /// Nothing read yet.
    #[must_use]
    pub fn new(stream: LogStream) -> Self {
        Self { stream, seq: 0, partial: Vec::new() }
    }

    /// Takes bytes in; `write` gets each line that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], at_ms: u64, write: &mut impl FnMut(Record)) {
        while let Some(&first) = bytes.first() {
            if first == b'\n' {
                self.cut(at_ms, write);
                bytes = &bytes[1..];
                continue;
            }
            if self.partial.len() == LINE_BYTES_MAX {
                self.cut(at_ms, write);
            }
            let room = LINE_BYTES_MAX - self.partial.len();
            let end = bytes.iter().take(room).position(|b| *b == b'\n');
            let take = end.unwrap_or_else(|| room.min(bytes.len()));
            self.partial.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
        }
    }

    /// The stream ended: what is left is a line too.
    pub fn finish(&mut self, at_ms: u64, write: &mut impl FnMut(Record)) {
        if !self.partial.is_empty() {
            self.cut(at_ms, write);
        }
    }

    fn cut(&mut self, at_ms: u64, write: &mut impl FnMut(Record)) {
        self.seq += 1;
        let mut text = std::mem::take(&mut self.partial);
        if text.last() == Some(&b'\r') {
            text.pop();
        }
        write(Record { stream: self.stream, seq: self.seq, at_ms, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut all = Vec::new();
        let mut lines = Lines::new(LogStream::Stdout);
        let mut write = |record: Record| {
            all.push(format!("{} {}", record.seq, String::from_utf8_lossy(&record.text)))
        };
        for chunk in chunks {
            lines.feed(chunk, 5, &mut write);
        }
        lines.finish(5, &mut write);
        all
    }

    /// Goal: line ends of both kinds, empty lines, an unfinished last line.
    #[test]
    fn lines_are_cut() {
        assert_eq!(lines(&[b"a\r\n\nb", b"c\nd"]), ["1 a", "2 ", "3 bc", "4 d"]);
        assert_eq!(lines(&[b"a\n"]), ["1 a"]);
        assert!(lines(&[b""]).is_empty());
        let long = vec![b'x'; LINE_BYTES_MAX * 2 + 1];
        let lengths: Vec<_> = lines(&[&long, b"\n"]).iter().map(String::len).collect();
        assert_eq!(lengths, [LINE_BYTES_MAX + 2, LINE_BYTES_MAX + 2, 3]);
        let exact = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(lines(&[&exact, b"\n"]).len(), 1);
    }

    proptest! {
        /// Goal: any split of the bytes gives the same lines, and what is written is what is read.
        #[test]
        fn splits_do_not_matter(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), at in 0_usize..200) {
            let at = at.min(bytes.len());
            prop_assert_eq!(lines(&[&bytes]), lines(&[&bytes[..at], &bytes[at..]]));
            let record = Record { stream: LogStream::Stderr, seq: 9, at_ms: u64::MAX, text: bytes };
            let mut out = Vec::new();
            record.encode(&mut out);
            for cut in 0..out.len() {
                prop_assert_eq!(Record::parse(&out[..cut]), Parsed::Short);
            }
            let length = out.len();
            out.push(1);
            prop_assert_eq!(Record::parse(&out), Parsed::Record(record, length));
            out[0] ^= 1;
            prop_assert_eq!(Record::parse(&out), Parsed::Broken);
        }
    }
}
