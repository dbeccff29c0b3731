//! How long a body is: the rules of RFC 9112 6.3, with every doubt decided as "refused".
//!
//! Deliberately absent: transfer codings other than `chunked`, lists of lengths, and any
//! preference between two framings that contradict each other.

use crate::fault::HeadError;
use crate::fields::Fields;
use crate::known::Known;
use crate::scan::{decimal, is_token, list};

/// Digits of a Content-Length. More than this is beyond any storage, and beyond what some
/// origins can count.
pub const LENGTH_DIGITS_MAX: usize = 18;

/// Version of a message. Only these two are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

/// What the two framing fields of a head say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Unstated,
    Length(u64),
    Chunked,
}

/// Reads Content-Length and Transfer-Encoding; each occurs at most once by now.
pub(crate) fn read(fields: &Fields, bytes: &[u8], version: Version) -> Result<Framing, HeadError> {
    let length = fields.first(Known::ContentLength);
    let coding = fields.first(Known::TransferEncoding);
    match (length, coding) {
        (None, None) => Ok(Framing::Unstated),
        (Some(_), Some(_)) => Err(HeadError::LengthWithCoding),
        (Some(length), None) => content_length(length.value.of(bytes)).map(Framing::Length),
        (None, Some(_)) if version == Version::Http10 => Err(HeadError::CodingBeforeHttp11),
        (None, Some(coding)) => transfer_encoding(coding.value.of(bytes)),
    }
}

fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    match decimal(value, LENGTH_DIGITS_MAX) {
        Some(length) => Ok(length),
        None if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
            Err(HeadError::LengthTooLarge)
        }
        None => Err(HeadError::LengthMalformed),
    }
}

/// Accepts `chunked`, alone. A list that is good but asks for more is told so (501); one that
/// does not end in `chunked` has no knowable end (400).
fn transfer_encoding(value: &[u8]) -> Result<Framing, HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(Framing::Chunked);
    }
    let mut count = 0;
    let mut last_is_chunked = false;
    for coding in list(value) {
        if !is_token(coding) {
            return Err(HeadError::CodingMalformed);
        }
        if last_is_chunked {
            return Err(HeadError::CodingNotChunkedLast);
        }
        last_is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        count += 1;
    }
    match (count, last_is_chunked) {
        (0 | 1, true) | (0, false) => Err(HeadError::CodingMalformed),
        (_, true) => Err(HeadError::CodingUnsupported),
        (_, false) => Err(HeadError::CodingNotChunkedLast),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_plain_decimals() {
        assert_eq!(content_length(b"0"), Ok(0));
        assert_eq!(content_length(b"007"), Ok(7));
        assert_eq!(content_length(b"999999999999999999"), Ok(999_999_999_999_999_999));
        assert_eq!(content_length(b"1000000000000000000"), Err(HeadError::LengthTooLarge));
        for bad in ["", "+1", "-1", "1, 1", "1,1", "0x10", "1 1", "1.0", "1e3", "\u{661}", "1;"] {
            assert_eq!(content_length(bad.as_bytes()), Err(HeadError::LengthMalformed), "{bad}");
        }
    }

    #[test]
    fn only_chunked_alone_is_taken() {
        for good in ["chunked", "Chunked", "CHUNKED"] {
            assert_eq!(transfer_encoding(good.as_bytes()), Ok(Framing::Chunked));
        }
        let cases = [
            ("", HeadError::CodingMalformed),
            (",", HeadError::CodingMalformed),
            (",chunked", HeadError::CodingMalformed),
            ("chunked,", HeadError::CodingMalformed),
            ("chunked;q=1", HeadError::CodingMalformed),
            ("\"chunked\"", HeadError::CodingMalformed),
            ("chunked\u{b}", HeadError::CodingMalformed),
            ("chu nked", HeadError::CodingMalformed),
            ("identity", HeadError::CodingNotChunkedLast),
            ("gzip", HeadError::CodingNotChunkedLast),
            ("xchunked", HeadError::CodingNotChunkedLast),
            ("chunked, identity", HeadError::CodingNotChunkedLast),
            ("chunked, chunked", HeadError::CodingNotChunkedLast),
            ("gzip, chunked", HeadError::CodingUnsupported),
        ];
        for (value, expected) in cases {
            assert_eq!(transfer_encoding(value.as_bytes()), Err(expected), "{value}");
        }
    }
}
