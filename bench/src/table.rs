//! Medians, ranges and ratios over rounds, and the Markdown made of them.
//!
//! A ratio is taken within each round, where both sides met the same weather, and then the median of these is
//! shown; the ratio of the medians is not. Deliberately absent: averages, and hiding a run that went badly.

use std::fmt::Write as _;

/// What one peer gave in the rounds of one reading; `None` where a run failed.
pub type Values = Vec<Option<f64>>;

/// One line of the table.
pub struct Line {
    /// The row's title.
    pub title: String,
    /// The reading's unit.
    pub unit: String,
    /// For each peer; `None` when it does not take part.
    pub cells: Vec<Option<Values>>,
}

/// Median, least and greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// The spread of some values; `None` when there are none.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    };
    Some(Spread { median, min, max })
}

/// Spread of the ratios `ours / theirs` of the rounds in which both have a value.
pub fn ratios(ours: &Values, theirs: &Values) -> Option<Spread> {
    let both = ours.iter().zip(theirs).filter_map(|(a, b)| Some((a.as_ref()?, b.as_ref()?)));
    spread(both.filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b))
}

/// Prints the lines: a column for each peer, then a column for each ratio of `first / other`.
pub fn markdown(peers: &[String], first: Option<usize>, lines: &[Line]) -> String {
    let others: Vec<usize> =
        (0..peers.len()).filter(|peer| first.is_some_and(|first| first != *peer)).collect();
    let mut text = String::from("| work | unit |");
    for peer in peers {
        write!(text, " {peer} |").ok();
    }
    for &other in &others {
        write!(text, " {} / {} |", first.map_or("", |first| &peers[first]), peers[other]).ok();
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(peers.len() + others.len()));
    text.push('\n');
    for line in lines {
        write!(text, "| {} | {} |", line.title, line.unit).ok();
        for cell in &line.cells {
            write!(text, " {} |", cell.as_ref().map_or_else(|| "-".to_owned(), value_text)).ok();
        }
        for &other in &others {
            write!(text, " {} |", ratio_text(line, first.unwrap_or(0), other)).ok();
        }
        text.push('\n');
    }
    text
}

fn value_text(values: &Values) -> String {
    let good = values.iter().flatten().copied();
    let failed = values.iter().filter(|value| value.is_none()).count();
    let note = if failed > 0 {
        format!(" ({failed} of {} runs failed)", values.len())
    } else {
        String::new()
    };
    match spread(good) {
        None => format!("failed{note}"),
        Some(s) if s.min == s.max => format!("{}{note}", number(s.median)),
        Some(s) => format!("{} [{}–{}]{note}", number(s.median), number(s.min), number(s.max)),
    }
}

fn ratio_text(line: &Line, first: usize, other: usize) -> String {
    let (Some(ours), Some(theirs)) = (&line.cells[first], &line.cells[other]) else {
        return "-".to_owned();
    };
    match ratios(ours, theirs) {
        None => "-".to_owned(),
        Some(s) if s.min == s.max => format!("**{:.2}**", s.median),
        Some(s) => format!("**{:.2}** [{:.2}–{:.2}]", s.median, s.min, s.max),
    }
}

/// Three significant digits, thousands with commas.
fn number(value: f64) -> String {
    if value.abs() >= 1000.0 {
        let digits = format!("{value:.0}");
        let mut grouped = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place) % 3 == 0 && grouped != "-" {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return grouped;
    }
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_taken_round_by_round() {
        assert_eq!(spread([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(spread([]), None);
        let ours = vec![Some(1.0), None, Some(6.0)];
        let theirs = vec![Some(2.0), Some(9.0), Some(4.0)];
        assert_eq!(ratios(&ours, &theirs), Some(Spread { median: 1.0, min: 0.5, max: 1.5 }));
    }

    #[test]
    fn the_table_shows_failures_and_absences() {
        let line = Line {
            title: "a row".to_owned(),
            unit: "µs".to_owned(),
            cells: vec![Some(vec![Some(8.0), Some(9.0)]), Some(vec![Some(16.0), None]), None],
        };
        let peers = ["router", "nginx", "blind"].map(str::to_owned);
        let want = "| work | unit | router | nginx | blind | router / nginx | router / blind |\n\
                    |---|---|---|---|---|---|---|\n\
                    | a row | µs | 8.50 [8.00–9.00] | 16.0 (1 of 2 runs failed) | - | **0.50** | - |\n";
        assert_eq!(markdown(&peers, Some(0), &[line]), want);
        assert_eq!(
            [0.123, 12.34, 123.4, 1234.5, 1234567.0].map(number),
            ["0.12", "12.3", "123", "1,234", "1,234,567"]
        );
    }
}
