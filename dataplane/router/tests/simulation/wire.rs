//! A plain reader of HTTP/1.1 messages for the actors: slow, obvious, and no code of the router's.
//!
//! Deliberately absent: leniency. What the router sends must be canonical, so anything odd is an error.

/// The start line and the fields of a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    /// The only value of a field; two of one name are an error of the sender.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        let (_, value) = found.next()?;
        assert!(found.next().is_none(), "two fields {name}: {self:?}");
        Some(value)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name).map(|text| text.parse().expect("a number of ours"))
    }

    /// The n-th word of the start line.
    pub(crate) fn word(&self, at: usize) -> &str {
        self.start.split(' ').nth(at).unwrap_or_default()
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    pub(crate) fn closes(&self) -> bool {
        self.get("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"))
    }
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// What a reader finds next.
#[derive(Debug)]
pub(crate) enum Part {
    /// A head; the caller says by [`Reader::begin`] what follows.
    Head(Head),
    Body(Vec<u8>),
    /// The message is whole; trailers, if it had some.
    End(Vec<(String, String)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// A head was given and nobody said what follows.
    Asked,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
}

/// See the module head.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    at: usize,
    state: State,
}

impl Default for Reader {
    fn default() -> Self {
        Self { bytes: Vec::new(), at: 0, state: State::Head }
    }
}

impl Reader {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that came and belong to nothing yet.
    pub(crate) fn left(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// All until the end of the connection belongs to this message.
    pub(crate) fn is_until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Take what is left as raw bytes, for a tunnel.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.left().to_vec();
        self.at = self.bytes.len();
        rest
    }

    /// Say how the body after a head is framed.
    pub(crate) fn begin(&mut self, framing: Framing) {
        assert_eq!(self.state, State::Asked, "no head was given");
        self.state = match framing {
            Framing::None => State::Length(0),
            Framing::Length(len) => State::Length(len),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
    }

    /// The head was of an interim response: another head follows.
    pub(crate) fn again(&mut self) {
        assert_eq!(self.state, State::Asked, "no head was given");
        self.state = State::Head;
    }

    /// The next part. `None`: more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, String> {
        loop {
            let part = match self.state {
                State::Asked => None,
                State::Head => self.head()?,
                State::Length(0) => {
                    self.state = State::Head;
                    Some(Part::End(Vec::new()))
                }
                State::Length(left) => self.data(left).map(|(bytes, left)| {
                    self.state = State::Length(left);
                    Part::Body(bytes)
                }),
                State::UntilClose => self.data(u64::MAX).map(|(bytes, _)| Part::Body(bytes)),
                State::ChunkData(0) => {
                    self.state = State::ChunkEnd;
                    continue;
                }
                State::ChunkData(left) => self.data(left).map(|(bytes, left)| {
                    self.state = State::ChunkData(left);
                    Part::Body(bytes)
                }),
                State::ChunkEnd => match self.line()? {
                    Some(line) if line.is_empty() => {
                        self.state = State::ChunkSize;
                        continue;
                    }
                    Some(line) => return Err(format!("{line:?} after the data of a chunk")),
                    None => None,
                },
                State::ChunkSize => match self.line()? {
                    Some(line) => {
                        let size = u64::from_str_radix(&line, 16)
                            .map_err(|_| format!("{line:?} is no chunk size"))?;
                        self.state =
                            if size == 0 { State::Trailers } else { State::ChunkData(size) };
                        continue;
                    }
                    None => None,
                },
                State::Trailers => self.section()?.map(|fields| {
                    self.state = State::Head;
                    Part::End(fields)
                }),
            };
            return Ok(part);
        }
    }

    fn data(&mut self, left: u64) -> Option<(Vec<u8>, u64)> {
        let count = self.left().len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return None;
        }
        let bytes = self.left()[..count].to_vec();
        self.at += count;
        Some((bytes, left - count as u64))
    }

    fn head(&mut self) -> Result<Option<Part>, String> {
        let before = self.at;
        let Some(start) = self.line()? else { return Ok(None) };
        let Some(fields) = self.section()? else {
            self.at = before;
            return Ok(None);
        };
        self.state = State::Asked;
        Ok(Some(Part::Head(Head { start, fields })))
    }

    /// Field lines up to the empty one; nothing is used up when that has not come.
    fn section(&mut self) -> Result<Option<Vec<(String, String)>>, String> {
        let before = self.at;
        let mut fields = Vec::new();
        loop {
            let Some(line) = self.line()? else {
                self.at = before;
                return Ok(None);
            };
            if line.is_empty() {
                return Ok(Some(fields));
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| format!("{line:?} is no field"))?;
            let value = value.strip_prefix(' ').unwrap_or(value);
            fields.push((name.to_owned(), value.to_owned()));
        }
    }

    fn line(&mut self) -> Result<Option<String>, String> {
        let Some(end) = self.left().iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let line = &self.left()[..end];
        let line = line.strip_suffix(b"\r").ok_or_else(|| format!("{line:?} ends without CR"))?;
        let text = std::str::from_utf8(line).map_err(|_| format!("{line:?} is no text"))?;
        if text.bytes().any(|byte| byte < b' ') {
            return Err(format!("{text:?} has control bytes"));
        }
        let text = text.to_owned();
        self.at += end + 1;
        Ok(Some(text))
    }
}
