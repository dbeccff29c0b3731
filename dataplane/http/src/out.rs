//! Where encoded bytes go: a cursor over a buffer that somebody else owns.
//!
//! Deliberately absent: growing. A head that does not fit is [`Full`]; the caller has a larger
//! page or answers 431.

/// The buffer is too small for what was to be written. What was written before is worthless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the output buffer is full")]
pub struct Full;

/// A write cursor.
#[derive(Debug)]
pub struct Out<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Out<'a> {
    /// Writes from the start of `buffer`.
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// Bytes written.
    #[expect(clippy::len_without_is_empty, reason = "a count of bytes, not a collection")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// What was written.
    pub fn written(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`Full`] when they do not fit; nothing is written then.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.len + bytes.len();
        copy(self.buffer.get_mut(self.len..end).ok_or(Full)?, bytes);
        self.len = end;
        Ok(())
    }

    /// Appends several pieces after one check of the room.
    ///
    /// # Errors
    /// [`Full`] when they do not fit; nothing is written then.
    #[inline]
    pub fn put_all<const N: usize>(&mut self, pieces: [&[u8]; N]) -> Result<(), Full> {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut room = self.buffer.get_mut(self.len..self.len + total).ok_or(Full)?;
        for piece in pieces {
            let (here, rest) = room.split_at_mut(piece.len());
            copy(here, piece);
            room = rest;
        }
        self.len += total;
        Ok(())
    }

    /// Appends a decimal number.
    ///
    /// # Errors
    /// [`Full`] when it does not fit.
    pub fn put_decimal(&mut self, number: u64) -> Result<(), Full> {
        let mut digits = [0; 20];
        self.put(decimal_text(number, &mut digits))
    }

    /// Appends one field line. Nothing that could end the line early is ever written: a value
    /// with a control byte is a bug of the caller, and its field is written empty.
    ///
    /// # Errors
    /// [`Full`] when it does not fit.
    pub fn put_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Full> {
        let safe = crate::scan::value_end(value, 0) == value.len();
        debug_assert!(safe, "control byte in a field of ours");
        match (safe, value) {
            (false, _) | (true, []) => self.put_all([name, b":\r\n"]),
            (true, value) => self.put_all([name, b": ", value, b"\r\n"]),
        }
    }
}

/// Copies `from` to `to`, which is as long. Most pieces of a head are short: two moves of a
/// fixed size, which may overlap, are cheaper than a call.
#[inline]
fn copy(to: &mut [u8], from: &[u8]) {
    match from.len() {
        8..=16 => copy_ends::<8>(to, from),
        17..=32 => copy_ends::<16>(to, from),
        33..=64 => copy_ends::<32>(to, from),
        _ => to.copy_from_slice(from),
    }
}

/// Copies the first and the last `N` of at most `2 * N` bytes.
#[inline]
fn copy_ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    debug_assert!(to.len() == from.len() && (N..=2 * N).contains(&from.len()));
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = *from;
    }
}

/// The decimal digits of `number`.
pub(crate) fn decimal_text(number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + digit(rest % 10);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    &digits[at..]
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder of ten")]
const fn digit(remainder: u64) -> u8 {
    remainder as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut buffer = [0; 4];
        let mut out = Out::new(&mut buffer);
        assert_eq!(out.put(b"abc"), Ok(()));
        assert_eq!(out.put(b"de"), Err(Full));
        assert_eq!(out.put_all([b"d", b"e"]), Err(Full));
        assert_eq!(out.put_all([b"d", b""]), Ok(()));
        assert_eq!(out.written(), b"abcd");
    }

    #[test]
    fn every_length_is_copied_whole() {
        for length in 0..100_u8 {
            let bytes: Vec<u8> = (0..length).collect();
            let mut buffer = [0xff; 120];
            let mut out = Out::new(&mut buffer);
            out.put(&bytes).expect("room");
            assert_eq!(out.written(), bytes);
            assert!(buffer[bytes.len()..].iter().all(|&byte| byte == 0xff));
        }
    }

    #[test]
    fn decimals_are_written_whole() {
        for number in [0, 9, 10, 1_234_567_890, u64::MAX] {
            assert_eq!(decimal_text(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
