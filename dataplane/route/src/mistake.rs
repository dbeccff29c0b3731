//! What is wrong with a piece of text, where, and what to write instead.
//!
//! One type for endpoints, weights and ACLs, so that every tool can point at the place in the
//! same way. Deliberately absent: the line, which only the reader of the file knows.

use std::borrow::Cow;
use std::fmt;

/// A text that was refused.
///
/// Displays as `column 7: what is wrong; try: what to write instead`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where the mistake begins: characters from the start of the text, the first is 1.
    pub column: usize,
    /// What is wrong there.
    pub what: Cow<'static, str>,
    /// What to write instead.
    pub hint: Cow<'static, str>,
}

impl SyntaxError {
    /// An error at a byte offset of `text`.
    pub(crate) fn at(
        text: &str,
        offset: usize,
        what: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Self {
        let before = text.char_indices().take_while(|&(at, _)| at < offset).count();
        Self { column: before + 1, what: what.into(), hint: hint.into() }
    }

    /// The text with a caret under the mistake, on two lines, for terminals.
    #[must_use]
    pub fn point_at(&self, text: &str) -> String {
        format!("{text}\n{:>width$}", '^', width = self.column)
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}; try: {}", self.column, self.what, self.hint)
    }
}

impl std::error::Error for SyntaxError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_not_bytes() {
        let text = "ä, x";
        let error = SyntaxError::at(text, text.find('x').unwrap(), "x is wrong", "y");
        assert_eq!(error.to_string(), "column 4: x is wrong; try: y");
        assert_eq!(error.point_at(text), "ä, x\n   ^");
    }
}
