//! Did you mean …? The closest of a few known words.
//!
//! Deliberately absent: a dictionary. Candidates are the keys or names that would have been right.

/// Names that are compared at most: with 100,000 jobs a suggestion is not worth a second.
const CANDIDATES_MAX: usize = 10_000;

/// The candidate with the fewest edits, if it is close enough to be what was meant.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .map(|candidate| (edits(word, candidate, allowed), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Insertions, removals, replacements and swaps of neighbours from one word to the other; more than `most` is not counted out.
fn edits(from: &str, to: &str, most: usize) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    if from.len().abs_diff(to.len()) > most {
        return most + 1;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 0..from.len() {
        let mut row = vec![i + 1];
        for j in 0..to.len() {
            let replaced = last[j] + usize::from(from[i] != to[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from[i] == to[j - 1] && from[i - 1] == to[j] {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_as_people_make_them() {
        for (from, to, want) in [
            ("http", "http", 0),
            ("htp", "http", 1),
            ("hptt", "http", 2),
            ("tohst", "thost", 1),
            ("", "ab", 2),
        ] {
            assert_eq!(edits(from, to, 4), want, "{from} {to}");
        }
    }

    #[test]
    fn only_close_words_are_suggested() {
        let keys = ["http", "https", "admin"];
        assert_eq!(closest("htps", keys), Some("https"));
        assert_eq!(closest("amdin", keys), Some("admin"));
        assert_eq!(closest("port", keys), None);
    }
}
