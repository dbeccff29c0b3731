//! A mistake in a file: where it is, what it is, what to try.
//!
//! Deliberately absent: colours.

use std::fmt;

/// Where something stands, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Character in the line.
    pub column: usize,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// One sentence.
    pub what: String,
    /// What to try; may be empty.
    pub remedy: String,
}

impl Mistake {
    pub(crate) fn new(place: Place, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { place, what: what.into(), remedy: remedy.into() }
    }

    /// The mistake with the line that it is in, underlined.
    #[must_use]
    pub fn in_text(&self, file: &str, text: &str) -> String {
        let mut shown = format!("{file}:{}:{}: {}", self.place.line, self.place.column, self.what);
        if let Some(line) = text.lines().nth(self.place.line.saturating_sub(1)) {
            let indent = " ".repeat(self.place.column.saturating_sub(1));
            shown.push_str(&format!("\n    {}\n    {indent}^", line.replace('\t', " ")));
        }
        if !self.remedy.is_empty() {
            shown.push_str(&format!("\n  try: {}", self.remedy));
        }
        shown
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.place.line, self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "; try: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistake {}
