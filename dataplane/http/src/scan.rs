//! Byte classes and the scanners over them: the grammar of RFC 9110 and RFC 9112 as tables.
//!
//! Everything here looks at bytes and answers with positions; nothing decides what a message
//! means. On x86-64 the value scanner looks at 16 bytes at once (SSE2, always there); elsewhere
//! at 8, by arithmetic on a `u64`.
//! Deliberately absent: leniency. A line ends in CR LF and in nothing else.

/// A piece of a head, by position, so that a parsed head borrows nothing.
///
/// Four bytes instead of a slice's sixteen: one entry of [`crate::Fields`] stays small, and the
/// buffer may move between parsing and forwarding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u16,
    /// Bytes.
    pub len: u16,
}

impl Span {
    /// The piece between two offsets of one head.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "heads are cut at HEAD_BYTES_CEILING before any position is taken"
    )]
    pub(crate) const fn between(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= HEAD_BYTES_CEILING);
        Self { start: start as u16, len: (end - start) as u16 }
    }

    /// The bytes this span stands for; `bytes` must be those that were parsed.
    ///
    /// Empty when the span does not lie within `bytes`, so that a mix-up of buffers is a wrong
    /// answer in a test and not a crash in production.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        let start = usize::from(self.start);
        bytes.get(start..start + usize::from(self.len)).unwrap_or_default()
    }

    /// Offset of the byte after the last.
    #[inline]
    pub const fn end(self) -> usize {
        self.start as usize + self.len as usize
    }

    /// True when it holds no byte.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// No head is ever longer: positions are `u16`.
pub const HEAD_BYTES_CEILING: usize = u16::MAX as usize;

/// RFC 9110 5.6.2: `tchar`.
pub(crate) const TOKEN: u8 = 1;
/// What may stand in the path of a request target (see `target.rs` for the reasons).
pub(crate) const PATH: u8 = 2;
/// What may stand behind the first `?` of a request target.
pub(crate) const QUERY: u8 = 4;
/// Letters, digits, `-`, `.`, `_`, `~`: what we take as a host name.
pub(crate) const HOST: u8 = 8;
/// `field-vchar`, space and tab.
pub(crate) const VALUE: u8 = 16;

/// Class bits of every byte.
pub(crate) static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "index is below 256")]
        let byte = index as u8;
        table[index] = class(byte);
        index += 1;
    }
    table
}

const fn class(byte: u8) -> u8 {
    let mut bits = 0;
    let alnum = byte.is_ascii_alphanumeric();
    let symbol = matches!(
        byte,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    );
    if alnum || symbol {
        bits |= TOKEN;
    }
    if alnum || matches!(byte, b'-' | b'.' | b'_' | b'~') {
        bits |= HOST;
    }
    let visible = byte > b' ' && byte < 0x7f;
    if visible && byte != b'#' {
        bits |= QUERY;
        if !matches!(byte, b'?' | b'"' | b'<' | b'>' | b'\\') {
            bits |= PATH;
        }
    }
    if visible || byte == b' ' || byte == b'\t' || byte >= 0x80 {
        bits |= VALUE;
    }
    bits
}

/// True when `byte` belongs to one of the classes in `mask`.
#[inline]
pub(crate) fn is(byte: u8, mask: u8) -> bool {
    CLASS[usize::from(byte)] & mask != 0
}

/// Offset of the first byte at or after `from` that is not of `mask`, or the length.
#[inline]
pub(crate) fn run_end(bytes: &[u8], from: usize, mask: u8) -> usize {
    let mut at = from;
    while let Some(&[a, b, c, d]) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        if !is(a, mask) {
            return at;
        }
        if !is(b, mask) {
            return at + 1;
        }
        if !is(c, mask) {
            return at + 2;
        }
        if !is(d, mask) {
            return at + 3;
        }
        at += 4;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| !is(byte, mask)).unwrap_or(rest.len())
}

/// True for a non-empty `token`.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && run_end(bytes, 0, TOKEN) == bytes.len()
}

/// Offset of the first byte at or after `from` that may not stand in a field value, or the
/// length: a control byte other than tab. In a good line that is its CR.
#[inline]
pub(crate) fn value_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(pair) = bytes.get(at..).and_then(|rest| rest.first_chunk::<{ 2 * BLOCK }>()) {
        let (low, high) = pair.split_at(BLOCK);
        let low = low.first_chunk().map_or(0, |eight| suspects(*eight));
        let high = high.first_chunk().map_or(0, |eight| suspects(*eight));
        if low | high != 0 {
            break;
        }
        at += 2 * BLOCK;
    }
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<BLOCK>()) {
        let bad = suspects(*block) & !tabs(*block);
        if bad != 0 {
            return at + bad.trailing_zeros() as usize / 8;
        }
        at += BLOCK;
    }
    run_end(bytes, at, VALUE)
}

/// Bytes that are looked at together.
const BLOCK: usize = 8;

const fn lanes(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; BLOCK])
}

/// The high bit of each lane that holds a control byte, tabs included.
///
/// Each byte is tested in its own lane: a number is added to its seven low bits that carries
/// into the eighth exactly when the byte passes the test, so no lane disturbs its neighbour.
#[inline]
const fn suspects(block: [u8; BLOCK]) -> u64 {
    let word = u64::from_le_bytes(block);
    let low = word & lanes(0x7f);
    let control = !(low + lanes(0x80 - 0x20));
    let delete = low + lanes(1);
    (control | delete) & !word & lanes(0x80)
}

/// The high bit of each lane that holds a tab.
#[inline]
const fn tabs(block: [u8; BLOCK]) -> u64 {
    let difference = u64::from_le_bytes(block) ^ lanes(b'\t');
    !(((difference & lanes(0x7f)) + lanes(0x7f)) | difference) & lanes(0x80)
}

/// `bytes` without spaces and tabs at either end.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [b' ' | b'\t', tail @ ..] = rest {
        rest = tail;
    }
    while let [head @ .., b' ' | b'\t'] = rest {
        rest = head;
    }
    rest
}

/// The elements of a comma-separated list, trimmed; empty ones are left out, as RFC 9110 5.6.1
/// asks of recipients.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// A non-empty run of decimal digits that fits `digits_max` of them.
pub(crate) fn decimal(bytes: &[u8], digits_max: usize) -> Option<u64> {
    debug_assert!(digits_max <= 19);
    if bytes.is_empty() || bytes.len() > digits_max {
        return None;
    }
    let mut number = 0_u64;
    for &byte in bytes {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number * 10 + u64::from(byte - b'0');
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the block scanner and the table agree on every byte at every place.
    #[test]
    fn blocks_and_table_agree() {
        for length in 0..40 {
            for place in 0..length {
                for byte in 0..=255_u8 {
                    let mut bytes = vec![b'a'; length];
                    bytes[place] = byte;
                    let expected = if is(byte, VALUE) { length } else { place };
                    assert_eq!(value_end(&bytes, 0), expected, "{byte:#x} at {place} of {length}");
                }
            }
        }
    }

    #[test]
    fn lists_skip_empty_elements() {
        let seen: Vec<&[u8]> = list(b" a ,,\tb, ").collect();
        assert_eq!(seen, [b"a", b"b"]);
    }

    #[test]
    fn a_span_outside_its_bytes_is_empty() {
        assert_eq!(Span::between(3, 9).of(b"abcd"), b"");
        assert_eq!(Span::between(1, 3).of(b"abcd"), b"bc");
    }

    #[test]
    fn decimals_are_digits_only() {
        assert_eq!(decimal(b"0042", 18), Some(42));
        for bad in [&b""[..], b"+1", b"-1", b"1 ", b"0x1", b"1_0", b"1234567890123456789"] {
            assert_eq!(decimal(bad, 18), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
