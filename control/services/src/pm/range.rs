//! A single byte range of a request, as RFC 9110 section 14 has it.
//!
//! Pure. Deliberately absent: several ranges in one request; a server may answer those with the whole, and does.

use std::ops::Range;

/// What a `Range` header asks of a representation of `length` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: no range, one that is not understood, or several.
    Whole,
    /// These bytes, 206.
    Part(Range<u64>),
    /// Bytes that it does not have, 416.
    Unsatisfiable,
}

/// Reads a `Range` header.
#[must_use]
pub fn wanted(header: Option<&str>, length: u64) -> Wanted {
    let Some((unit, set)) = header.and_then(|text| text.split_once('=')) else {
        return Wanted::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Wanted::Whole };
    match (number(first), number(last)) {
        (Some(Number::None), Some(Number::Some(suffix))) => match suffix.min(length) {
            0 => Wanted::Unsatisfiable,
            suffix => Wanted::Part(length - suffix..length),
        },
        (Some(Number::Some(first)), Some(last)) => {
            let end = match last {
                Number::None => length,
                Number::Some(last) if last < first => return Wanted::Whole,
                Number::Some(last) => last.saturating_add(1).min(length),
            };
            if first >= length { Wanted::Unsatisfiable } else { Wanted::Part(first..end) }
        }
        _ => Wanted::Whole,
    }
}

enum Number {
    None,
    Some(u64),
}

/// Digits only; a number too large for 64 bits is beyond every length. None = neither digits nor empty.
fn number(text: &str) -> Option<Number> {
    if text.is_empty() {
        return Some(Number::None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Number::Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: each form of the RFC, and each way to miss it.
    #[test]
    fn the_forms_of_a_range() {
        let of = |header: &str| wanted(Some(header), 100);
        assert_eq!(of("bytes=0-0"), Wanted::Part(0..1));
        assert_eq!(of("Bytes = 10-19"), Wanted::Part(10..20));
        assert_eq!(of("bytes=90-"), Wanted::Part(90..100));
        assert_eq!(of("bytes=90-1000"), Wanted::Part(90..100));
        assert_eq!(of("bytes=-5"), Wanted::Part(95..100));
        assert_eq!(of("bytes=-500"), Wanted::Part(0..100));
        assert_eq!(of("bytes=100-"), Wanted::Unsatisfiable);
        assert_eq!(of("bytes=99999999999999999999-"), Wanted::Unsatisfiable);
        assert_eq!(of("bytes=-0"), Wanted::Unsatisfiable);
        for whole in [
            "bytes=5-4",
            "bytes=0-1,5-6",
            "bytes=-",
            "bytes=a-b",
            "lines=1-2",
            "bytes",
            "bytes=+1-2",
        ] {
            assert_eq!(of(whole), Wanted::Whole, "{whole}");
        }
        assert_eq!(wanted(None, 100), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }

    proptest! {
        /// Goal: a part is never empty and never beyond the end, whatever is asked.
        #[test]
        fn a_part_is_within(header in "(bytes=)?[0-9,-]{0,12}|.{0,20}", length in 0_u64..1_000) {
            if let Wanted::Part(part) = wanted(Some(&header), length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
