//! The dconf syntax of `cluster.conf`, `continuum.conf` and package scripts.
//!
//! ```text
//! # a comment
//! name: web                  a bare word or several, up to the end of the line
//! text: "quoted, \"escaped\""
//! resources { memory: 256MB  disk_space = "1GB" }
//! tags [ aws, "us west" gpu ]    commas are optional
//! build ( raw lines, taken as they are )
//! ```
//!
//! `:` and `=` mean the same and may be left out before `{`, `[` and `(`. Of a key that stands twice the last wins, and
//! two maps of one name do not merge. Deliberately absent: variables and includes.

use crate::{Mistake, Place};

/// Depth of nested maps and lists.
pub const DEPTH_MAX: usize = 32;
/// Bytes of a file.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// A value and where it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where.
    pub place: Place,
    /// What.
    pub value: Value,
}

/// What a file is made of. Numbers and booleans are text until somebody asks for them as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A word, a quoted string, or a raw block.
    Text(String),
    /// In order.
    List(Vec<Node>),
    /// In order of first appearance, last value.
    Map(Vec<(String, Node)>),
}

impl Value {
    /// For messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a value",
            Self::List(_) => "a list",
            Self::Map(_) => "a section",
        }
    }
}

/// Reads a whole file into one map.
pub fn parse(text: &str) -> Result<Node, Mistake> {
    let start = Place { line: 1, column: 1 };
    if text.len() > TEXT_BYTES_MAX {
        let what = format!("the file has {} bytes, more than {TEXT_BYTES_MAX}", text.len());
        return Err(Mistake::new(start, what, ""));
    }
    let mut reader = Reader { rest: text, place: start };
    let value = reader.map(None, 0)?;
    Ok(Node { place: start, value })
}

struct Reader<'a> {
    rest: &'a str,
    place: Place,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.place = Place { line: self.place.line + 1, column: 1 };
        } else {
            self.place.column += 1;
        }
        Some(c)
    }

    /// Passes over blanks, line ends, commas, semicolons and comments.
    fn skip(&mut self) {
        while let Some(c) = self.peek() {
            if c == '#' {
                self.skip_line();
            } else if c.is_whitespace() || c == ',' || c == ';' {
                self.bump();
            } else {
                break;
            }
        }
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|c| c != '\n') {
            self.bump();
        }
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|c| c == ' ' || c == '\t' || c == '\r') {
            self.bump();
        }
    }

    /// Entries up to `}` (opened at `opened`) or the end of the file.
    fn map(&mut self, opened: Option<Place>, depth: usize) -> Result<Value, Mistake> {
        self.check_depth(depth)?;
        let mut entries: Vec<(String, Node)> = Vec::new();
        loop {
            self.skip();
            match (self.peek(), opened) {
                (None, None) => return Ok(Value::Map(entries)),
                (None, Some(place)) => {
                    return Err(Mistake::new(place, "this { is never closed", "add the missing }"));
                }
                (Some('}'), Some(_)) => {
                    self.bump();
                    return Ok(Value::Map(entries));
                }
                (Some(c @ ('}' | ']' | ')')), _) => {
                    return Err(Mistake::new(
                        self.place,
                        format!("nothing is open that {c} closes"),
                        "",
                    ));
                }
                (Some(_), _) => {
                    let (key, node) = self.entry(depth)?;
                    match entries.iter_mut().find(|(name, _)| *name == key) {
                        Some(entry) => entry.1 = node,
                        None => entries.push((key, node)),
                    }
                }
            }
        }
    }

    fn entry(&mut self, depth: usize) -> Result<(String, Node), Mistake> {
        let place = self.place;
        let key = if self.peek() == Some('"') { self.quoted()? } else { self.key() };
        if key.is_empty() {
            return Err(Mistake::new(place, "a name was expected here", "write `name: value`"));
        }
        self.skip_blanks();
        let separated = matches!(self.peek(), Some(':' | '='));
        if separated {
            self.bump();
            self.skip_blanks();
            // A block may begin on the next line.
            if matches!(self.peek(), Some('\n' | '#')) {
                let before = (self.rest, self.place);
                self.skip();
                if !matches!(self.peek(), Some('{' | '[' | '(' | '"')) {
                    (self.rest, self.place) = before;
                }
            }
        } else {
            self.skip();
            if !matches!(self.peek(), Some('{' | '[' | '(')) {
                let what = format!("\"{key}\" has no value");
                return Err(Mistake::new(place, what, format!("write `{key}: value`")));
            }
        }
        let node = self.value(depth, Within::Map)?;
        Ok((key, node))
    }

    fn key(&mut self) -> String {
        let mut key = String::new();
        while let Some(c) = self.peek() {
            if c.is_whitespace()
                || matches!(
                    c,
                    ':' | '=' | '{' | '}' | '[' | ']' | '(' | ')' | ',' | ';' | '"' | '#'
                )
            {
                break;
            }
            key.push(c);
            self.bump();
        }
        key
    }

    fn value(&mut self, depth: usize, within: Within) -> Result<Node, Mistake> {
        let place = self.place;
        let value = match self.peek() {
            Some('{') => {
                self.bump();
                self.map(Some(place), depth + 1)?
            }
            Some('[') => {
                self.bump();
                self.list(place, depth + 1)?
            }
            Some('(') => {
                self.bump();
                Value::Text(self.raw(place)?)
            }
            Some('"') => Value::Text(self.quoted()?),
            _ => Value::Text(self.bare(within)),
        };
        Ok(Node { place, value })
    }

    fn list(&mut self, opened: Place, depth: usize) -> Result<Value, Mistake> {
        self.check_depth(depth)?;
        let mut members = Vec::new();
        loop {
            self.skip();
            match self.peek() {
                None => {
                    return Err(Mistake::new(
                        opened,
                        "this [ is never closed",
                        "add the missing ]",
                    ));
                }
                Some(']') => {
                    self.bump();
                    return Ok(Value::List(members));
                }
                Some(c @ ('}' | ')')) => {
                    return Err(Mistake::new(
                        self.place,
                        format!("{c} stands inside a list"),
                        "close it with ]",
                    ));
                }
                Some(_) => members.push(self.value(depth, Within::List)?),
            }
        }
    }

    /// Lines as they are, up to the `)` that balances the one before.
    fn raw(&mut self, opened: Place) -> Result<String, Mistake> {
        let mut text = String::new();
        let mut open = 1_usize;
        while let Some(c) = self.bump() {
            match c {
                '(' => open += 1,
                ')' => open -= 1,
                _ => {}
            }
            if open == 0 {
                return Ok(text);
            }
            text.push(c);
        }
        Err(Mistake::new(opened, "this ( is never closed", "add the missing )"))
    }

    fn quoted(&mut self) -> Result<String, Mistake> {
        let opened = self.place;
        self.bump();
        let mut text = String::new();
        while let Some(c) = self.bump() {
            match c {
                '"' => return Ok(text),
                '\\' => match self.bump() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(c @ ('"' | '\\')) => text.push(c),
                    Some(c) => text.extend(['\\', c]),
                    None => break,
                },
                c => text.push(c),
            }
        }
        Err(Mistake::new(opened, "this quotation mark is never closed", "add the missing \""))
    }

    /// In a map up to the end of the line, in a list one word.
    fn bare(&mut self, within: Within) -> String {
        let mut text = String::new();
        while let Some(c) = self.peek() {
            let ends = match c {
                '\n' | '}' | ']' | ',' | ';' => true,
                '#' => text.is_empty() || text.ends_with([' ', '\t']),
                c if c.is_whitespace() => within == Within::List || self.a_key_follows(),
                _ => false,
            };
            if ends {
                break;
            }
            text.push(c);
            self.bump();
        }
        text.trim_end().to_owned()
    }

    /// In `{ memory: 256MB disk: 1GB }` the second word is the next name.
    fn a_key_follows(&self) -> bool {
        let rest = self.rest.trim_start_matches([' ', '\t']);
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
            .unwrap_or(rest.len());
        end > 0 && {
            let after = &rest[end..];
            let tail = after.trim_start_matches([' ', '\t']);
            // `http://…` and `a=b` within a command are no names; a name's colon is followed by a blank.
            (after.starts_with(':') && after[1..].starts_with([' ', '\t', '\n']))
                || tail.starts_with('{')
                || tail.starts_with("= ")
        }
    }

    fn check_depth(&self, depth: usize) -> Result<(), Mistake> {
        if depth > DEPTH_MAX {
            return Err(Mistake::new(
                self.place,
                format!("more than {DEPTH_MAX} sections inside each other"),
                "",
            ));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Map,
    List,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(value: &Value) -> String {
        match value {
            Value::Text(text) => format!("{text:?}"),
            Value::List(members) => {
                let members: Vec<_> = members.iter().map(|m| shown(&m.value)).collect();
                format!("[{}]", members.join(" "))
            }
            Value::Map(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|(k, n)| format!("{k}={}", shown(&n.value))).collect();
                format!("{{{}}}", entries.join(" "))
            }
        }
    }

    fn read(text: &str) -> String {
        match parse(text) {
            Ok(node) => shown(&node.value),
            Err(mistake) => mistake.to_string(),
        }
    }

    /// Goal: every form that the known files use.
    #[test]
    fn the_forms_of_the_known_files() {
        let cases = [
            ("name: web", r#"{name="web"}"#),
            ("start_cmd: ./run -p 80 # port", r#"{start_cmd="./run -p 80"}"#),
            ("url: http://a.b:80/x#y", r##"{url="http://a.b:80/x#y"}"##),
            ("a { b: 1 c: 2 }", r#"{a={b="1" c="2"}}"#),
            ("a: {\n b = x\n}\n", r#"{a={b="x"}}"#),
            ("t [ aws, \"us west\" gpu ]", r#"{t=["aws" "us west" "gpu"]}"#),
            (
                "p: [ { number: 0\n optional: true } { number: 80 } ]",
                r#"{p=[{number="0" optional="true"} {number="80"}]}"#,
            ),
            ("build (\n  if (x) then\n)", r#"{build="\n  if (x) then\n"}"#),
            ("a: 1\na: 2", r#"{a="2"}"#),
            ("q: \"a \\\"b\\\" \\n\"", r#"{q="a \"b\" \n"}"#),
            ("e:\nf: 1", r#"{e="" f="1"}"#),
            ("cmd: FOO=bar ./x --y=1", r#"{cmd="FOO=bar ./x --y=1"}"#),
            ("", "{}"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    /// Goal: mistakes point at their place.
    #[test]
    fn mistakes_have_places() {
        assert_eq!(read("a {\n b: 1\n"), "line 1: this { is never closed; try: add the missing }");
        assert_eq!(read("a: 1\n}"), "line 2: nothing is open that } closes");
        assert_eq!(read("x\ny: 1"), "line 1: \"x\" has no value; try: write `x: value`");
        assert_eq!(
            read("x: \"a"),
            "line 1: this quotation mark is never closed; try: add the missing \""
        );
        assert_eq!(read(&"a { ".repeat(40)), "line 1: more than 32 sections inside each other");
        let text = "ok: 1\nbad [ } ]";
        assert_eq!(
            parse(text).unwrap_err().in_text("c.conf", text),
            "c.conf:2:7: } stands inside a list\n    bad [ } ]\n          ^\n  try: close it with ]"
        );
    }

    proptest! {
        /// Goal: no text makes the reader panic or hang.
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z:={}\\[\\]()\"\\\\#, \n]{0,120}") {
            drop(parse(&text));
        }
    }
}
