//! One mistake in the file, as people and programs want it told.
//!
//! ```text
//! error[unknown_key]: `htp` is not a key of [listen]
//!   --> router.toml:2:1
//!    |
//!  2 | htp = ["127.0.0.1:8080"]
//!    | ^^^
//!   why: keys that are not known are refused, so that a typing mistake cannot go unnoticed
//!   try: `http`
//! ```
//!
//! Deliberately absent: colour. The form is the same in a terminal, a log and a test.

use std::fmt;
use std::ops::Range;

/// Mistakes told at most; a file with more is wrong as a whole.
pub const MISTAKES_MAX: usize = 50;
/// Characters of a source line that are shown.
const LINE_SHOWN: usize = 120;

/// See the module head.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mistake {
    /// Stable name of the kind of mistake.
    pub code: &'static str,
    /// What is wrong.
    pub what: String,
    /// Why that is a mistake; may be empty.
    pub why: String,
    /// What to write instead; may be empty.
    pub r#try: String,
    /// From 1; 0: the file as a whole.
    pub line: usize,
    /// Characters from 1.
    pub column: usize,
    /// The line's text, without its end.
    pub text: String,
    /// Characters marked.
    #[serde(skip)]
    pub width: usize,
    /// Told, but no reason to refuse the file.
    pub warning: bool,
}

impl Mistake {
    /// A mistake at a byte span of `text`. Spans beyond the end point at the end.
    pub(super) fn new(text: &str, span: Range<usize>, code: &'static str, what: &str) -> Self {
        let start = floor_char(text, span.start);
        let end = floor_char(text, span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line_text = text[line_start..line_end].trim_end_matches('\r');
        Self {
            code,
            what: what.to_owned(),
            why: String::new(),
            r#try: String::new(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: text[start..end.min(line_end)].chars().count().max(1),
            text: line_text.to_owned(),
            warning: false,
        }
    }

    /// Add the reason.
    pub(super) fn why(&mut self, why: impl Into<String>) -> &mut Self {
        self.why = why.into();
        self
    }

    /// Add the advice.
    pub(super) fn advise(&mut self, advice: impl Into<String>) -> &mut Self {
        self.r#try = advice.into();
        self
    }

    /// On one line: `router.toml:2:1: what`.
    pub fn one_line(&self, file: &str) -> String {
        if self.line == 0 {
            return self.what.clone();
        }
        format!("{file}:{}:{}: {}", self.line, self.column, self.what)
    }

    /// Write it with the name of the file.
    pub fn write(&self, f: &mut impl fmt::Write, file: &str) -> fmt::Result {
        let kind = if self.warning { "warning" } else { "error" };
        writeln!(f, "{kind}[{}]: {}", self.code, self.what)?;
        if self.line > 0 {
            let gutter = self.line.to_string().len();
            writeln!(f, "{:gutter$}--> {file}:{}:{}", "", self.line, self.column)?;
            let (shown, skipped) = window(&self.text, self.column);
            writeln!(f, "{:gutter$} |", "")?;
            writeln!(f, "{} | {shown}", self.line)?;
            let width = self.width.min(LINE_SHOWN);
            let column = self.column - skipped;
            writeln!(
                f,
                "{:gutter$} | {:indent$}{}",
                "",
                "",
                "^".repeat(width),
                indent = column - 1
            )?;
        }
        for (name, text) in [("why", &self.why), ("try", &self.r#try)] {
            if !text.is_empty() {
                writeln!(f, "  {name}: {text}")?;
            }
        }
        Ok(())
    }
}

/// The part of a long line around `column`, and how many characters were left out before it. Tabs become spaces, so that
/// the marks stand where they should.
fn window(text: &str, column: usize) -> (String, usize) {
    let skipped = if column > LINE_SHOWN { column - LINE_SHOWN / 2 } else { 0 };
    let shown = text.chars().skip(skipped).take(LINE_SHOWN);
    (shown.map(|c| if c.is_control() { ' ' } else { c }).collect(), skipped)
}

/// The nearest place at or before `at` where a character begins.
fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// All mistakes of a file, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// As given to the program.
    pub file: String,
    /// At least one.
    pub list: Vec<Mistake>,
    /// Mistakes beyond [`MISTAKES_MAX`] that are not in the list.
    pub more: usize,
}

impl ConfigErrors {
    pub(super) fn new(mut list: Vec<Mistake>, more: usize) -> Self {
        list.sort_by_key(|mistake| (mistake.line, mistake.column));
        Self { file: "router.toml".to_owned(), list, more }
    }

    pub(super) fn unreadable(file: &str, what: &str) -> Self {
        let mut mistake = Mistake::new("", 0..0, "unreadable", what);
        mistake.line = 0;
        Self { file: file.to_owned(), list: vec![mistake], more: 0 }
    }

    pub(super) fn in_file(mut self, file: &str) -> Self {
        file.clone_into(&mut self.file);
        self
    }

    /// The first mistake on one line, for logs and status pages: `router.toml:2:1: what`.
    pub fn first_line(&self) -> String {
        let Some(first) = self.list.first() else { return self.file.clone() };
        let others = self.list.len() - 1 + self.more;
        let more = if others > 0 { format!(" (and {others} more)") } else { String::new() };
        format!("{}{more}", first.one_line(&self.file))
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.list {
            mistake.write(f, &self.file)?;
        }
        if self.more > 0 {
            writeln!(f, "… and {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
