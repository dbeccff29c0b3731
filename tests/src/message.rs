//! Heads of requests and responses, read as strictly as RFC 9110 and 9112 allow.
//!
//! A reader here never corrects: each departure is kept in `faults`, so that "nothing invalid is ever forwarded"
//! is checked by every test that has an origin. Deliberately absent: semantics of single fields.

use std::fmt;

use crate::body::Body;

/// Bytes as text, one character a byte, so that nothing is lost in an error message.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// One field line.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    /// As sent.
    pub name: String,
    /// Without the white space around it.
    pub value: String,
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

/// Field lines in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<Field>);

impl Fields {
    /// Value of the first field of that name, in any case.
    pub fn get(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    /// Values of all fields of that name, in any case.
    pub fn all(&self, name: &str) -> Vec<String> {
        let same = |field: &&Field| field.name.eq_ignore_ascii_case(name);
        self.0.iter().filter(same).map(|field| field.value.clone()).collect()
    }

    /// Whether there is such a field.
    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Read one field line; departures from `name: value` go to `faults`.
    pub fn take_line(&mut self, line: &[u8], faults: &mut Vec<String>) {
        if line.first().is_some_and(|&byte| byte == b' ' || byte == b'\t') {
            faults.push(format!("folded line {:?}", latin1(line)));
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            faults.push(format!("field line without a colon {:?}", latin1(line)));
            return;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            faults.push(format!("field name {:?}", latin1(name)));
        }
        if value.iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7F) {
            faults.push(format!("control byte in the value of {:?}", latin1(line)));
        }
        let value = latin1(value);
        let value = value.trim_matches([' ', '\t']).to_owned();
        self.0.push(Field { name: latin1(name), value });
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// By the end of the connection; responses only.
    UntilClose,
}

/// A request as an origin took it off the wire.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which connection of the origin it came on, from 0.
    pub connection: usize,
    /// Which request of that connection, from 0.
    pub index: usize,
    /// The head as it came, blank line included.
    pub head: Vec<u8>,
    /// First word of the request line.
    pub method: String,
    /// Second word.
    pub target: String,
    /// Field lines.
    pub fields: Fields,
    /// How the body is framed.
    pub framing: Framing,
    /// The body, as far as it was read.
    pub body: Body,
    /// Departures from the grammar in the head.
    pub faults: Vec<String>,
}

impl Request {
    /// Read a head that ends with a blank line.
    pub fn parse(head: Vec<u8>) -> Self {
        let mut faults = Vec::new();
        let (start, fields) = split_head(&head, &mut faults);
        let words: Vec<&str> = start.split(' ').collect();
        let (method, target) = match words[..] {
            [method, target, version] => {
                if method.is_empty() || !method.bytes().all(is_token) {
                    faults.push(format!("method {method:?}"));
                }
                if target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
                    faults.push(format!("target {target:?}"));
                }
                if target.contains('#') {
                    faults.push(format!("fragment in target {target:?}"));
                }
                if version != "HTTP/1.1" {
                    faults.push(format!("version {version:?}, want HTTP/1.1 to origins"));
                }
                (method.to_owned(), target.to_owned())
            }
            _ => {
                faults.push(format!("request line {start:?}"));
                (String::new(), start.clone())
            }
        };
        let framing = request_framing(&fields, &mut faults);
        check_host(&fields, &mut faults);
        check_look_alikes(&fields, &mut faults);
        let body = Body::default();
        Self { connection: 0, index: 0, head, method, target, fields, framing, body, faults }
    }

    /// Value of the first field of that name.
    pub fn get(&self, name: &str) -> Option<String> {
        self.fields.get(name)
    }

    /// The body as text, one character a byte.
    pub fn text(&self) -> String {
        latin1(&self.body.bytes)
    }

    /// Everything that was wrong with it, head and body.
    pub fn all_faults(&self) -> Vec<String> {
        let place = format!("{} {}", self.method, self.target);
        self.faults.iter().chain(&self.body.faults).map(|f| format!("{place}: {f}")).collect()
    }
}

/// A response as a client took it off the wire.
#[derive(Clone, Debug)]
pub struct Response {
    /// The head as it came, blank line included.
    pub head: Vec<u8>,
    /// 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub minor: u8,
    /// Three digits.
    pub status: u16,
    /// Field lines.
    pub fields: Fields,
    /// How the body is framed.
    pub framing: Framing,
    /// The body, as far as it was read.
    pub body: Body,
    /// The 1xx responses that came before it.
    pub interim: Vec<(u16, Fields)>,
}

impl Response {
    /// Read a head that ends with a blank line; `method` is that of the request.
    ///
    /// # Errors
    /// The first departure from the grammar: a client of ours does not put up with any.
    pub fn parse(head: Vec<u8>, method: &str) -> Result<Self, String> {
        let mut faults = Vec::new();
        let (start, fields) = split_head(&head, &mut faults);
        let minor = match start.get(..9) {
            Some("HTTP/1.1 ") => 1,
            Some("HTTP/1.0 ") => 0,
            _ => return Err(format!("status line {start:?}")),
        };
        let digits = start.get(9..12).unwrap_or_default();
        let status = digits.parse::<u16>().unwrap_or(0);
        if !(100..600).contains(&status) || !matches!(start.as_bytes().get(12), None | Some(b' ')) {
            faults.push(format!("status line {start:?}"));
        }
        let framing = response_framing(&fields, method, status, &mut faults);
        if let Some(first) = faults.first() {
            return Err(format!("{first} in {:?}", latin1(&head)));
        }
        let body = Body::default();
        Ok(Self { head, minor, status, fields, framing, body, interim: Vec::new() })
    }

    /// Value of the first field of that name.
    pub fn get(&self, name: &str) -> Option<String> {
        self.fields.get(name)
    }

    /// The body as text, one character a byte.
    pub fn text(&self) -> String {
        latin1(&self.body.bytes)
    }

    /// The reason code of an answer that the router gave itself.
    pub fn code(&self) -> Option<String> {
        self.get("apcera-error")
    }

    /// Whether the connection field says `close`.
    pub fn says_close(&self) -> bool {
        let options = self.fields.all("connection").join(",").to_ascii_lowercase();
        options.split(',').any(|option| option.trim() == "close")
    }
}

/// Whether a byte may stand in a token (RFC 9110 section 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn split_head(head: &[u8], faults: &mut Vec<String>) -> (String, Fields) {
    let text = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut rest = text;
    while let Some(at) = crate::wire::find(rest, b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    for line in &lines {
        if line.iter().any(|&byte| byte == b'\r' || byte == b'\n' || byte == 0) {
            faults.push(format!("bare CR, bare LF or NUL in {:?}", latin1(line)));
        }
    }
    let mut fields = Fields::default();
    for line in &lines[1..] {
        fields.take_line(line, faults);
    }
    (latin1(lines[0]), fields)
}

fn length_of(fields: &Fields, faults: &mut Vec<String>) -> Option<u64> {
    let lengths = fields.all("content-length");
    if lengths.len() > 1 {
        faults.push(format!("{} Content-Length fields", lengths.len()));
    }
    let text = lengths.first()?;
    let plain =
        !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain {
        faults.push(format!("Content-Length {text:?}"));
        return Some(0);
    }
    text.parse().ok()
}

/// True when the message is chunked; anything but one plain `chunked` is a fault.
fn is_chunked(fields: &Fields, faults: &mut Vec<String>) -> bool {
    let codings = fields.all("transfer-encoding");
    if !codings.is_empty() && codings.iter().map(String::as_str).ne(["chunked"]) {
        faults.push(format!("Transfer-Encoding {codings:?}"));
    }
    !codings.is_empty()
}

fn request_framing(fields: &Fields, faults: &mut Vec<String>) -> Framing {
    let (length, chunked) = (length_of(fields, faults), is_chunked(fields, faults));
    if length.is_some() && chunked {
        faults.push("both Content-Length and Transfer-Encoding".to_owned());
    }
    match length {
        _ if chunked => Framing::Chunked,
        Some(count) => Framing::Length(count),
        None => Framing::None,
    }
}

fn response_framing(
    fields: &Fields,
    method: &str,
    status: u16,
    faults: &mut Vec<String>,
) -> Framing {
    let (length, chunked) = (length_of(fields, faults), is_chunked(fields, faults));
    if length.is_some() && chunked {
        faults.push("both Content-Length and Transfer-Encoding".to_owned());
    }
    if (status < 200 || status == 204) && (length.is_some() || chunked) {
        faults.push(format!("framing fields in a {status}"));
    }
    if status < 200 || status == 204 || status == 304 || method == "HEAD" {
        return Framing::None;
    }
    match length {
        _ if chunked => Framing::Chunked,
        Some(count) => Framing::Length(count),
        None => Framing::UntilClose,
    }
}

fn check_host(fields: &Fields, faults: &mut Vec<String>) {
    let hosts = fields.all("host");
    if hosts.len() != 1 {
        faults.push(format!("{} Host fields", hosts.len()));
    }
    let strange = |byte: u8| !byte.is_ascii_graphic() || b",/@?#\\<>\"".contains(&byte);
    if hosts.iter().any(|host| host.bytes().any(strange)) {
        faults.push(format!("Host {hosts:?}"));
    }
}

/// Framing fields in disguise: an origin that maps `_` to `-` would believe them.
fn check_look_alikes(fields: &Fields, faults: &mut Vec<String>) {
    for field in &fields.0 {
        let plain: String = field
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let exact = field.name.to_ascii_lowercase();
        if plain != exact && ["content-length", "transfer-encoding"].contains(&plain.as_str()) {
            faults.push(format!("look-alike of a framing field: {:?}", field.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(head: &str) -> Vec<String> {
        Request::parse(head.as_bytes().to_vec()).faults
    }

    #[test]
    fn a_plain_request_has_no_fault() {
        let head = "POST /a?b HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nX: a, b\r\n\r\n";
        let request = Request::parse(head.as_bytes().to_vec());
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/a?b"));
        assert_eq!(
            (request.framing, request.get("x").as_deref()),
            (Framing::Length(3), Some("a, b"))
        );
        assert!(request.faults.is_empty(), "{:?}", request.faults);
    }

    /// Goal: the judge is no rubber stamp. Method: each of these must be told.
    #[test]
    fn each_departure_is_told() {
        for head in [
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
            "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(!faults(head).is_empty(), "{head:?} passed as clean");
        }
    }

    #[test]
    fn responses_are_judged_too() {
        let parse = |text: &str, method| Response::parse(text.as_bytes().to_vec(), method);
        let ok = parse("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "GET").unwrap();
        assert_eq!((ok.status, ok.framing), (200, Framing::Length(2)));
        let head = parse("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD").unwrap();
        assert_eq!(head.framing, Framing::None);
        assert_eq!(parse("HTTP/1.1 200\r\n\r\n", "GET").unwrap().framing, Framing::UntilClose);
        for text in [
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n",
        ] {
            parse(text, "GET").unwrap_err();
        }
    }
}
