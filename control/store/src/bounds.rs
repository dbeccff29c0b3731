//! What the store refuses before it asks a database, and the span of keys under a prefix.
//!
//! Deliberately absent: any meaning of keys. `jobs/` is a prefix like every other.

use crate::{
    Expect, KEY_BYTES_MAX, LIST_LIMIT_MAX, StoreError, VALUE_BYTES_MAX, WRITES_MAX, Write,
};
use std::collections::BTreeSet;

/// No UTF-8 contains this byte, so every key is below it.
const ABOVE_ALL: u8 = 0xFF;

/// The keys from `from` to just before `to`, in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
}

impl Span {
    /// All keys that begin with `prefix`: a range, so that no character in it can mean anything.
    pub(crate) fn of_prefix(prefix: &str) -> Self {
        let mut to = prefix.as_bytes().to_vec();
        match to.last_mut() {
            // A byte of UTF-8 is at most 0xF4, so adding one never overflows.
            Some(last) => *last += 1,
            None => to.push(ABOVE_ALL),
        }
        Self { from: prefix.as_bytes().to_vec(), to }
    }

    /// The same, without `key` and what comes before it.
    pub(crate) fn after(mut self, key: &str) -> Self {
        // A key and a zero byte is the very next key there can be.
        let next = [key.as_bytes(), &[0]].concat();
        self.from = self.from.max(next);
        self
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.from.as_slice() <= key.as_bytes() && key.as_bytes() < self.to.as_slice()
    }
}

/// Whether a key can be one.
pub(crate) fn key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::Invalid("a key is empty".into()));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(StoreError::Invalid(format!(
            "a key has {} bytes, at most {KEY_BYTES_MAX} are allowed: {}…",
            key.len(),
            key.chars().take(32).collect::<String>()
        )));
    }
    Ok(())
}

/// Whether a prefix can be the beginning of a key.
pub(crate) fn prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.len() > KEY_BYTES_MAX {
        return Err(StoreError::Invalid(format!(
            "a prefix has {} bytes, a key at most {KEY_BYTES_MAX}",
            prefix.len()
        )));
    }
    Ok(())
}

/// How many records a page may have.
pub(crate) fn limit(limit: u32) -> Result<u32, StoreError> {
    if limit == 0 {
        return Err(StoreError::Invalid("a page of 0 records would never end".into()));
    }
    Ok(limit.min(LIST_LIMIT_MAX))
}

/// The keys of a page, and how many records it may have.
pub(crate) fn page(
    prefix: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<(Span, usize), StoreError> {
    self::prefix(prefix)?;
    let limit = self::limit(limit)? as usize;
    let mut span = Span::of_prefix(prefix);
    if let Some(after) = after {
        span = span.after(after);
    }
    Ok((span, limit))
}

/// Whether a transaction can be one.
pub(crate) fn writes(writes: &[Write]) -> Result<(), StoreError> {
    if writes.is_empty() {
        return Err(StoreError::Invalid("a transaction writes nothing".into()));
    }
    if writes.len() > WRITES_MAX {
        return Err(StoreError::Invalid(format!(
            "a transaction has {} writes, at most {WRITES_MAX} are allowed",
            writes.len()
        )));
    }
    let mut named = BTreeSet::new();
    for write in writes {
        key(write.key())?;
        if !named.insert(write.key()) {
            let key = write.key();
            return Err(StoreError::Invalid(format!("a transaction names {key} twice")));
        }
        match write {
            Write::Put { key, value, .. } if value.len() > VALUE_BYTES_MAX => {
                return Err(StoreError::Invalid(format!(
                    "the value of {key} has {} bytes, at most {VALUE_BYTES_MAX} are allowed",
                    value.len()
                )));
            }
            Write::Delete { key, expect: Expect::Absent } => {
                return Err(StoreError::Invalid(format!(
                    "{key} cannot be removed on the condition that it is absent"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: a span holds exactly the keys with the prefix, whatever characters are in it.
        #[test]
        fn a_span_is_its_prefix(prefix in "\\PC{0,3}", key in "\\PC{0,6}", glued in any::<bool>()) {
            let key = if glued { format!("{prefix}{key}") } else { key };
            prop_assert_eq!(Span::of_prefix(&prefix).contains(&key), key.starts_with(&prefix));
        }

        /// Goal: after a key, exactly the greater ones remain.
        #[test]
        fn after_a_key_are_the_greater(last in "[a-c\0\u{10FFFF}]{1,3}", key in "[a-c\0\u{10FFFF}]{1,3}") {
            let span = Span::of_prefix("").after(&last);
            prop_assert_eq!(span.contains(&key), key.as_bytes() > last.as_bytes());
        }
    }

    /// Goal: each bound refuses one more than it allows.
    #[test]
    fn bounds_refuse() {
        let put = |key: String, bytes: usize| Write::Put {
            key,
            value: vec![0; bytes].into(),
            expect: Expect::Any,
        };
        let many = |n: usize| (0..n).map(|i| put(i.to_string(), 0)).collect::<Vec<_>>();
        assert!(writes(&many(WRITES_MAX)).is_ok());
        assert!(writes(&many(WRITES_MAX + 1)).is_err());
        assert!(writes(&[]).is_err());
        assert!(writes(&[put("k".into(), VALUE_BYTES_MAX)]).is_ok());
        assert!(writes(&[put("k".into(), VALUE_BYTES_MAX + 1)]).is_err());
        assert!(writes(&[put("k".repeat(KEY_BYTES_MAX), 0)]).is_ok());
        assert!(writes(&[put("k".repeat(KEY_BYTES_MAX + 1), 0)]).is_err());
        assert!(writes(&[put(String::new(), 0)]).is_err());
        assert!(writes(&[put("k".into(), 0), put("k".into(), 0)]).is_err());
        assert!(writes(&[Write::Delete { key: "k".into(), expect: Expect::Absent }]).is_err());
        assert!(limit(0).is_err());
        assert_eq!(limit(u32::MAX).ok(), Some(LIST_LIMIT_MAX));
    }
}
