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
        let stream = match self.stream {
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
            LogStream::SystemError => 3,
        };
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
            3 => LogStream::SystemError,
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

/// Where lines go.
pub trait Sink {
    /// Whether a line of so many bytes, with its end, is taken.
    fn admit(&mut self, bytes: usize) -> bool;
    /// A line that was admitted.
    fn write(&mut self, record: Record);
    /// So many were not.
    fn dropped(&mut self, lines: u64);
}

/// Cuts bytes of one stream into numbered lines. A line that the sink does not take has no number, and what came with it
/// in one piece goes with it: looking for ends of lines is all that it costs.
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

    /// Takes bytes in; the sink gets each line that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], at_ms: u64, sink: &mut impl Sink) {
        while let Some(&first) = bytes.first() {
            let end = first == b'\n';
            if end || self.partial.len() == LINE_BYTES_MAX {
                bytes = &bytes[usize::from(end)..];
                if !self.cut(at_ms, sink) {
                    return self.skip(bytes, sink);
                }
                continue;
            }
            let room = LINE_BYTES_MAX - self.partial.len();
            let end = bytes.iter().take(room).position(|b| *b == b'\n');
            let take = end.unwrap_or_else(|| room.min(bytes.len()));
            self.partial.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
        }
    }

    /// The stream ended: what is left is a line too.
    pub fn finish(&mut self, at_ms: u64, sink: &mut impl Sink) {
        if !self.partial.is_empty() {
            self.cut(at_ms, sink);
        }
    }

    /// Drops the lines that these bytes complete; their rest may become a line.
    fn skip(&mut self, bytes: &[u8], sink: &mut impl Sink) {
        debug_assert!(self.partial.is_empty(), "a line was just cut");
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (whole, rest) = bytes.split_at(whole);
        let parts = rest.chunks(LINE_BYTES_MAX);
        let ends = whole.iter().filter(|byte| **byte == b'\n').count();
        sink.dropped((ends + parts.len().saturating_sub(1)) as u64);
        self.partial.extend_from_slice(parts.last().unwrap_or_default());
    }

    /// False when the line was not taken.
    fn cut(&mut self, at_ms: u64, sink: &mut impl Sink) -> bool {
        if !sink.admit(self.partial.len() + 1) {
            self.partial.clear();
            sink.dropped(1);
            return false;
        }
        self.seq += 1;
        let mut text = std::mem::take(&mut self.partial);
        if text.last() == Some(&b'\r') {
            text.pop();
        }
        sink.write(Record { stream: self.stream, seq: self.seq, at_ms, text });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes every line for which its list says so, and all after its end.
    #[derive(Default)]
    struct Taken {
        fates: std::collections::VecDeque<bool>,
        all: Vec<String>,
        dropped: u64,
    }

    impl Sink for Taken {
        fn admit(&mut self, _: usize) -> bool {
            self.fates.pop_front().unwrap_or(true)
        }

        fn write(&mut self, record: Record) {
            self.all.push(format!("{} {}", record.seq, String::from_utf8_lossy(&record.text)));
        }

        fn dropped(&mut self, lines: u64) {
            self.dropped += lines;
        }
    }

    fn taken(chunks: &[&[u8]], fates: &[bool]) -> Taken {
        let mut sink = Taken { fates: fates.iter().copied().collect(), ..Taken::default() };
        let mut lines = Lines::new(LogStream::Stdout);
        for chunk in chunks {
            lines.feed(chunk, 5, &mut sink);
        }
        lines.finish(5, &mut sink);
        sink
    }

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        taken(chunks, &[]).all
    }

    /// Goal: a line that is not taken goes with what came with it, but not what comes next; numbers have no gaps; each
    /// line is either taken or counted.
    #[test]
    fn what_is_not_taken_is_counted() {
        let sink = taken(&[b"a\nb\nc\nd", b"e\nf\n"], &[true, false]);
        assert_eq!((sink.all, sink.dropped), (vec!["1 a".into(), "2 de".into(), "3 f".into()], 2));
        let long = vec![b'x'; LINE_BYTES_MAX * 3 + 1];
        let sink = taken(&[&long, b"\ny\n"], &[false]);
        assert_eq!((sink.all, sink.dropped), (vec!["1 x".into(), "2 y".into()], 3));
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
        /// Goal: whatever is dropped, what is left is numbered without gaps, and nothing is lost uncounted.
        #[test]
        fn every_line_is_taken_or_counted(
            chunks in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x')], 0..20), 0..20),
            fates in proptest::collection::vec(any::<bool>(), 0..40),
        ) {
            let parts: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let sink = taken(&parts, &fates);
            let count = lines(&[&chunks.concat()]).len() as u64;
            prop_assert_eq!(sink.all.len() as u64 + sink.dropped, count);
            for (n, line) in (1..).zip(&sink.all) {
                prop_assert!(line.starts_with(&format!("{n} ")), "{}", line);
            }
        }

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
