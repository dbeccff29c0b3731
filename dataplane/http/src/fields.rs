//! The field section of a head: one pass that checks the grammar and tells the names apart.
//!
//! The result is a list of positions in a fixed scratch, one per core, overwritten by each head.
//! Deliberately absent: copies, and meaning across fields (`framing.rs`, `request.rs`,
//! `response.rs`).

use crate::fault::HeadError;
use crate::known::Known;
use crate::scan::{HEAD_BYTES_CEILING, Span, TOKEN, list, run_end, trim, value_end};

/// Fields a head may have at most, whatever the limits say.
pub const FIELDS_MAX: usize = 128;

/// Names that Connection may nominate beyond those that every hop knows. Real clients use one
/// or two; the bound keeps "options times fields" small.
pub const NOMINATIONS_MAX: usize = 16;

/// What a head may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, its last blank line included. Values beyond 65,535 count as
    /// 65,535.
    pub bytes_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
    /// Fields; values beyond [`FIELDS_MAX`] count as that.
    pub fields_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes_max: 16 * 1024, target_bytes_max: 8 * 1024, fields_max: 100 }
    }
}

impl HeadLimits {
    /// The part of `bytes` a head may lie in, and whether more bytes could make it complete.
    pub(crate) fn window<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], bool) {
        let most = self.bytes_max.min(HEAD_BYTES_CEILING);
        match bytes.get(..most) {
            Some(window) => (window, false),
            None => (bytes, true),
        }
    }
}

/// Who wrote the head: the two have different duties (RFC 9112 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A client: a space before the colon is refused.
    Client,
    /// An origin: a space before the colon is removed.
    Origin,
}

/// One field line, by position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// The name, as sent.
    pub name: Span,
    /// The value without surrounding white space.
    pub value: Span,
    /// What the name means to us.
    pub known: Known,
    flags: u8,
}

/// The line is not exactly `name: value CR LF` and is written anew when forwarded.
const REWRITE: u8 = 1;
/// Connection nominates it: it ends here.
const NOMINATED: u8 = 2;

impl Field {
    /// True when the line can be copied as it stands.
    #[inline]
    pub(crate) const fn is_canonical(&self) -> bool {
        self.flags & REWRITE == 0
    }

    /// True when Connection nominates the field, so that it is not for the next hop.
    #[inline]
    pub const fn is_nominated(&self) -> bool {
        self.flags & NOMINATED != 0
    }
}

/// The fields of the head parsed last: a fixed scratch, reused for every head of a core.
#[derive(Clone, Debug)]
pub struct Fields {
    list: [Field; FIELDS_MAX],
    len: usize,
    /// One bit per [`Known`] that occurs.
    seen: u64,
    /// What Connection asked for, by [`Options`] bits.
    options: Options,
}

/// What the Connection field asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

impl Default for Fields {
    fn default() -> Self {
        Self::new()
    }
}

impl Fields {
    /// An empty scratch.
    pub const fn new() -> Self {
        const NONE: Span = Span { start: 0, len: 0 };
        const EMPTY: Field = Field { name: NONE, value: NONE, known: Known::Other, flags: 0 };
        let options = Options { close: false, keep_alive: false, upgrade: false };
        Self { list: [EMPTY; FIELDS_MAX], len: 0, seen: 0, options }
    }

    /// The fields in the order in which they were sent.
    #[inline]
    pub fn all(&self) -> &[Field] {
        self.list.get(..self.len).unwrap_or_default()
    }

    /// True when a field of this kind occurs.
    #[inline]
    pub const fn has(&self, known: Known) -> bool {
        self.seen & known.bit() != 0
    }

    /// The first field of this kind.
    #[inline]
    pub fn first(&self, known: Known) -> Option<&Field> {
        if self.has(known) { self.all_of(known).next() } else { None }
    }

    /// All fields of this kind, in order, from either end.
    pub fn all_of(&self, known: Known) -> impl DoubleEndedIterator<Item = &Field> {
        self.all().iter().filter(move |field| field.known == known)
    }

    /// The values of all fields of this kind, in order, from either end.
    pub fn values<'a>(
        &'a self,
        known: Known,
        bytes: &'a [u8],
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.all_of(known).map(move |field| field.value.of(bytes))
    }

    /// The first field with this name, whatever its kind; names compare without case.
    pub fn by_name(&self, name: &str, bytes: &[u8]) -> Option<&Field> {
        self.all().iter().find(|field| field.name.of(bytes).eq_ignore_ascii_case(name.as_bytes()))
    }

    pub(crate) const fn options(&self) -> Options {
        self.options
    }

    /// Reads field lines from `from` up to the blank line; `None` when it has not come yet.
    ///
    /// Works strictly from left to right: what is refused here is refused no matter how the
    /// bytes were split on their way.
    pub(crate) fn read(
        &mut self,
        window: &[u8],
        from: usize,
        fields_max: usize,
        sender: Sender,
    ) -> Result<Option<usize>, HeadError> {
        let fields_max = fields_max.min(FIELDS_MAX);
        self.len = 0;
        self.seen = 0;
        self.options = Options::default();
        let mut at = from;
        loop {
            match window.get(at) {
                None => return Ok(None),
                Some(b'\r') => return end_of_section(window, at),
                Some(b' ' | b'\t') => return Err(HeadError::FoldedLine),
                Some(_) => {}
            }
            if self.len == fields_max {
                return Err(HeadError::TooManyFields);
            }
            // A slot that is not kept (the section ends, or is refused) is never looked at.
            let Some(slot) = self.list.get_mut(self.len) else {
                return Err(HeadError::TooManyFields);
            };
            let Some(next) = read_line(window, at, sender, slot)? else { return Ok(None) };
            let known = slot.known;
            self.note(known)?;
            at = next;
        }
    }

    /// Takes the slot that was filled last in; refuses a second one of those that must be single.
    #[inline]
    fn note(&mut self, known: Known) -> Result<(), HeadError> {
        const SINGLE: u64 =
            Known::Host.bit() | Known::ContentLength.bit() | Known::TransferEncoding.bit();
        let bit = known.bit();
        if bit & self.seen & SINGLE != 0 {
            return Err(match known {
                Known::Host => HeadError::HostDuplicate,
                Known::ContentLength => HeadError::LengthDuplicate,
                _ => HeadError::CodingDuplicate,
            });
        }
        self.seen |= bit;
        self.len += 1;
        Ok(())
    }

    /// Reads the Connection fields: options are noted, nominated fields are marked.
    ///
    /// A name that means something on this hop cannot be nominated away: those fields are
    /// either never forwarded or written by us.
    pub(crate) fn read_connection(&mut self, bytes: &[u8]) -> Result<(), HeadError> {
        if !self.has(Known::Connection) {
            return Ok(());
        }
        let mut nominations = 0;
        for index in 0..self.len {
            let field = self.list[index];
            if field.known != Known::Connection {
                continue;
            }
            let value = field.value.of(bytes);
            if value.eq_ignore_ascii_case(b"keep-alive") {
                self.options.keep_alive = true;
                continue;
            }
            for option in list(value) {
                if option.eq_ignore_ascii_case(b"close") {
                    self.options.close = true;
                } else if option.eq_ignore_ascii_case(b"keep-alive") {
                    self.options.keep_alive = true;
                } else if option.eq_ignore_ascii_case(b"upgrade") {
                    self.options.upgrade = true;
                } else if run_end(option, 0, TOKEN) == option.len() && nominations < NOMINATIONS_MAX
                {
                    nominations += 1;
                    self.nominate(option, bytes);
                } else {
                    return Err(HeadError::ConnectionMalformed);
                }
            }
        }
        Ok(())
    }

    fn nominate(&mut self, name: &[u8], bytes: &[u8]) {
        let own = [Known::Other, Known::Cookie, Known::SetCookie, Known::Via];
        if !own.contains(&Known::of(name)) {
            return;
        }
        for field in self.list.iter_mut().take(self.len) {
            if field.name.of(bytes).eq_ignore_ascii_case(name) {
                field.flags |= NOMINATED;
            }
        }
    }
}

/// The blank line after the last field.
fn end_of_section(window: &[u8], at: usize) -> Result<Option<usize>, HeadError> {
    match window.get(at + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some(at + 2)),
        Some(_) => Err(HeadError::BareCr),
    }
}

/// Reads the field line that starts at `at` into `slot`; gives where the next one starts.
///
/// The slot is written piece by piece: passing a whole [`Field`] around costs more than reading
/// it, as the processor has to wait for narrow stores before it can load them as one.
#[inline]
fn read_line(
    window: &[u8],
    at: usize,
    sender: Sender,
    slot: &mut Field,
) -> Result<Option<usize>, HeadError> {
    let name_end = run_end(window, at, TOKEN);
    let mut colon = name_end;
    match window.get(colon) {
        None => return Ok(None),
        Some(b':') if name_end > at => {}
        Some(b' ' | b'\t') if name_end > at => {
            if sender == Sender::Client {
                return Err(HeadError::SpaceBeforeColon);
            }
            colon = skip_space(window, colon);
            match window.get(colon) {
                None => return Ok(None),
                Some(b':') => {}
                Some(_) => return Err(HeadError::FieldNameMalformed),
            }
        }
        Some(_) => return Err(HeadError::FieldNameMalformed),
    }
    let after_colon = colon + 1;
    let value_start = match window.get(after_colon) {
        Some(b' ' | b'\t') => skip_space(window, after_colon + 1),
        _ => after_colon,
    };
    let line_end = value_end(window, value_start);
    let end = window.get(line_end..).unwrap_or_default();
    if end.first_chunk::<2>() != Some(b"\r\n") {
        return odd_line_end(end).map(|()| None);
    }
    let mut value_end = line_end;
    while value_end > value_start && matches!(window[value_end - 1], b' ' | b'\t') {
        value_end -= 1;
    }
    // Exactly one space, and it is a space: then the line can be copied as it stands.
    let canonical = colon == name_end
        && value_end == line_end
        && value_start == colon + 2
        && window[after_colon] == b' '
        && value_end > value_start;
    slot.name = Span::between(at, name_end);
    slot.value = Span::between(value_start, value_end);
    slot.known = Known::of(&window[at..name_end]);
    slot.flags = if canonical { 0 } else { REWRITE };
    Ok(Some(line_end + 2))
}

/// Tells what is wrong with the end of a field line; nothing, when only bytes are missing.
#[cold]
fn odd_line_end(end: &[u8]) -> Result<(), HeadError> {
    match (end.first(), end.get(1)) {
        (None, _) | (Some(b'\r'), None | Some(b'\n')) => Ok(()),
        (Some(b'\r'), Some(_)) => Err(HeadError::BareCr),
        (Some(b'\n'), _) => Err(HeadError::BareLf),
        (Some(_), _) => Err(HeadError::FieldValueMalformed),
    }
}

#[inline]
fn skip_space(window: &[u8], from: usize) -> usize {
    let mut at = from;
    while matches!(window.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    at
}

/// Checks one trailer line (without its CR LF) by the grammar of request fields and gives its
/// name and value.
pub(crate) fn split_trailer(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let name_end = run_end(line, 0, TOKEN);
    let value = line.get(name_end + 1..)?;
    let good = name_end > 0 && line[name_end] == b':' && value_end(value, 0) == value.len();
    good.then(|| (&line[..name_end], trim(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(section: &[u8], sender: Sender) -> Result<Fields, HeadError> {
        let mut fields = Fields::new();
        let end = fields.read(section, 0, 100, sender)?;
        assert_eq!(end, Some(section.len()));
        fields.read_connection(section)?;
        Ok(fields)
    }

    #[test]
    fn values_lose_their_white_space() {
        let section = b"A:1\r\nB: 2\r\nC: \t3 4\t \r\nD:\r\nE: \r\n\r\n";
        let fields = read(section, Sender::Client).expect("good");
        let seen: Vec<(&[u8], &[u8], bool)> = fields
            .all()
            .iter()
            .map(|field| (field.name.of(section), field.value.of(section), field.is_canonical()))
            .collect();
        let expected: [(&[u8], &[u8], bool); 5] = [
            (b"A", b"1", false),
            (b"B", b"2", true),
            (b"C", b"3 4", false),
            (b"D", b"", false),
            (b"E", b"", false),
        ];
        assert_eq!(seen, expected);
    }

    /// Goal: every departure from the field grammar has its own name.
    #[test]
    fn bad_lines_are_refused() {
        let cases: [(&[u8], HeadError); 17] = [
            (b"A : 1\r\n\r\n", HeadError::SpaceBeforeColon),
            (b"A\t: 1\r\n\r\n", HeadError::SpaceBeforeColon),
            (b" A: 1\r\n\r\n", HeadError::FoldedLine),
            (b"A: 1\r\n b\r\n\r\n", HeadError::FoldedLine),
            (b"A: 1\r\n\tb\r\n\r\n", HeadError::FoldedLine),
            (b": 1\r\n\r\n", HeadError::FieldNameMalformed),
            (b"A\r\n\r\n", HeadError::FieldNameMalformed),
            (b"A(: 1\r\n\r\n", HeadError::FieldNameMalformed),
            (b"A\x80: 1\r\n\r\n", HeadError::FieldNameMalformed),
            (b"A\0: 1\r\n\r\n", HeadError::FieldNameMalformed),
            (b"A: 1\n\r\n", HeadError::BareLf),
            (b"A: 1\r\n\n", HeadError::FieldNameMalformed),
            (b"A: 1\rB: 2\r\n\r\n", HeadError::BareCr),
            (b"A: 1\r\r\n\r\n", HeadError::BareCr),
            (b"A: 1\r\n\rB", HeadError::BareCr),
            (b"A: \0\r\n\r\n", HeadError::FieldValueMalformed),
            (b"A: \x7f\r\n\r\n", HeadError::FieldValueMalformed),
        ];
        for (section, expected) in cases {
            let text = String::from_utf8_lossy(section).into_owned();
            assert_eq!(read(section, Sender::Client).err(), Some(expected), "{text:?}");
        }
    }

    /// Goal: an origin's space before the colon is taken out, not passed on (RFC 9112 5.1).
    #[test]
    fn an_origin_may_put_space_before_the_colon() {
        let section = b"A : 1\r\n\r\n";
        let fields = read(section, Sender::Origin).expect("good");
        assert_eq!(fields.all()[0].name.of(section), b"A");
        assert!(!fields.all()[0].is_canonical());
        assert_eq!(
            read(b"A b: 1\r\n\r\n", Sender::Origin).err(),
            Some(HeadError::FieldNameMalformed)
        );
    }

    #[test]
    fn connection_nominates_only_what_is_not_ours() {
        let section = b"Connection: close, X-One, host, x-forwarded-for\r\nX-One: 1\r\nHost: a\r\n\
            X-Forwarded-For: 1.2.3.4\r\nConnection: , x-two ,\r\nx-Two: 2\r\n\r\n";
        let fields = read(section, Sender::Client).expect("good");
        let nominated: Vec<&[u8]> = fields
            .all()
            .iter()
            .filter(|field| field.is_nominated())
            .map(|field| field.name.of(section))
            .collect();
        assert_eq!(nominated, [&b"X-One"[..], b"x-Two"]);
        assert!(fields.options().close && !fields.options().keep_alive);
    }

    #[test]
    fn connection_is_a_bounded_list_of_tokens() {
        for value in ["a b", "close;q=1", "\"close\"", "close\u{e9}"] {
            let section = format!("Connection: {value}\r\n\r\n");
            let refused = read(section.as_bytes(), Sender::Client).err();
            assert_eq!(refused, Some(HeadError::ConnectionMalformed), "{value}");
        }
        let many = vec!["x"; NOMINATIONS_MAX + 1].join(",");
        let section = format!("Connection: {many}\r\n\r\n");
        let refused = read(section.as_bytes(), Sender::Client).err();
        assert_eq!(refused, Some(HeadError::ConnectionMalformed));
    }

    #[test]
    fn too_many_fields_are_refused() {
        let section = format!("{}\r\n", "A: 1\r\n".repeat(4));
        let mut fields = Fields::new();
        let outcome = |fields: &mut Fields, most| {
            fields.read(section.as_bytes(), 0, most, Sender::Client).map(|end| end.is_some())
        };
        assert_eq!(outcome(&mut fields, 4), Ok(true));
        assert_eq!(outcome(&mut fields, 3), Err(HeadError::TooManyFields));
    }
}
