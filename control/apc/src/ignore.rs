//! `.apcignore`: which files of a directory stay at home.
//!
//! One pattern a line, as in `.gitignore`: `#` begins a comment, `*` and `?` do not match a slash, `**` does, a slash at
//! the end means directories only, a slash elsewhere ties the pattern to the directory of the file, `!` takes a file
//! back; the last match decides. Pure. Deliberately absent: files below the first one, character classes.

/// Patterns of one file.
const PATTERNS_MAX: usize = 1_000;
/// Bytes of one pattern; keeps the matching short.
const PATTERN_BYTES_MAX: usize = 512;

/// The patterns in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ignore(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    back: bool,
    folders_only: bool,
    anchored: bool,
}

impl Ignore {
    /// Reads the text of the file; patterns beyond the bound are told.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if patterns.len() == PATTERNS_MAX || line.len() > PATTERN_BYTES_MAX {
                return Err(format!(
                    "line {} is too much: {PATTERNS_MAX} patterns of {PATTERN_BYTES_MAX} bytes",
                    at + 1
                ));
            }
            let (back, line) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
            let (folders_only, line) =
                line.strip_suffix('/').map_or((false, line), |rest| (true, rest));
            let anchored = line.contains('/');
            let text = line.strip_prefix('/').unwrap_or(line).to_owned();
            patterns.push(Pattern { text, back, folders_only, anchored });
        }
        Ok(Self(patterns))
    }

    /// Whether `path`, relative and with slashes, stays at home.
    pub(crate) fn ignores(&self, path: &str, folder: bool) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        let hit = self.0.iter().rev().find(|pattern| {
            let subject = if pattern.anchored { path } else { name };
            (folder || !pattern.folders_only)
                && matches(pattern.text.as_bytes(), subject.as_bytes())
        });
        hit.is_some_and(|pattern| !pattern.back)
    }
}

/// Row by row over the pattern: no backtracking, so that no pattern is slow.
fn matches(pattern: &[u8], subject: &[u8]) -> bool {
    let mut row = vec![false; subject.len() + 1];
    row[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let mut next = vec![false; subject.len() + 1];
        let (deep, step) = match &pattern[at..] {
            // `**/` also matches nothing.
            [b'*', b'*', b'/', ..] => {
                for end in 0..=subject.len() {
                    let border = end == 0 || subject[end - 1] == b'/';
                    next[end] = row[end] || (border && row[..end].iter().any(|&reached| reached));
                }
                row = next;
                at += 3;
                continue;
            }
            [b'*', b'*', ..] => (true, 2),
            [b'*', ..] => (false, 1),
            [letter, ..] => {
                for end in 1..=subject.len() {
                    let fits = *letter == subject[end - 1]
                        || (*letter == b'?' && subject[end - 1] != b'/');
                    next[end] = row[end - 1] && fits;
                }
                row = next;
                at += 1;
                continue;
            }
            [] => break,
        };
        for end in 0..=subject.len() {
            let longer = end > 0 && next[end - 1] && (deep || subject[end - 1] != b'/');
            next[end] = row[end] || longer;
        }
        row = next;
        at += step;
    }
    row[subject.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: the patterns that people write do what they expect.
    #[test]
    fn patterns_do_what_is_expected() {
        let ignore =
            Ignore::parse("# comment\n*.log\n/build\ncache/\nlogs/**/x?\n!keep.log\n**/tmp\n")
                .unwrap();
        let cases = [
            ("a.log", false, true),
            ("deep/a.log", false, true),
            ("deep/keep.log", false, false),
            ("build", true, true),
            ("src/build", true, false),
            ("cache", true, true),
            ("cache", false, false),
            ("logs/a/b/x1", false, true),
            ("logs/x1", false, true),
            ("logs/x12", false, false),
            ("a/tmp", false, true),
            ("tmp", false, true),
            ("atmp", false, false),
        ];
        for (path, folder, expected) in cases {
            assert_eq!(ignore.ignores(path, folder), expected, "{path}");
        }
        assert!(Ignore::parse(&"x\n".repeat(1_001)).is_err());
    }

    proptest! {
        /// Goal: a text without signs matches itself and nothing else; no pattern panics.
        #[test]
        fn plain_text_matches_itself(text in "[a-z/]{1,20}", other in "[a-z/]{1,20}", wild in "[a*?/]{0,20}") {
            prop_assert!(matches(text.as_bytes(), text.as_bytes()));
            prop_assert_eq!(matches(text.as_bytes(), other.as_bytes()), text == other);
            matches(wild.as_bytes(), text.as_bytes());
            prop_assert!(matches(b"**", text.as_bytes()));
        }
    }
}
