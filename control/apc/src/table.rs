//! Tables as users know them: a rounded box, one space around each text, left-aligned.
//!
//! ```text
//! ╭──────┬───────────────────╮      ╭───────────────────────────────╮
//! │ Type │ Endpoint          │      │     Application Settings      │
//! ├──────┼───────────────────┤      ├───────────────────┬───────────┤
//! │ http │ app-route.foo.com │      │              FQN: │ job::/a:… │
//! ╰──────┴───────────────────╯      ╰───────────────────┴───────────╯
//! ```
//!
//! Pure: text in, text out. Deliberately absent: colour, and the width of the terminal; a UUID that is cut is of no use.

/// Columns of a table: enough for every table here, and a bound for the loops.
const COLUMNS_MAX: usize = 16;

/// A table with a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(head: &[&str]) -> Self {
        assert!(head.len() <= COLUMNS_MAX, "a table of {} columns", head.len());
        Self { head: head.iter().map(|&text| text.to_owned()).collect(), rows: Vec::new() }
    }

    /// One more row; cells that are missing are empty.
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.head.len(), String::new());
        self.rows.push(cells);
    }

    /// The whole table, each line with its end.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| width(&row[column]));
                cells.chain([width(&self.head[column])]).max().unwrap_or(0)
            })
            .collect();
        let mut text = rule(&widths, '╭', '┬', '╮');
        text += &line(&widths, &self.head);
        text += &rule(&widths, '├', '┼', '┤');
        for row in &self.rows {
            text += &line(&widths, row);
        }
        text + &rule(&widths, '╰', '┴', '╯')
    }
}

/// A box of settings: a centred title, right-aligned names, left-aligned values. Wide enough for
/// [`VALUE_WIDTH_MIN`], so that boxes of different applications line up.
pub(crate) fn settings(title: &str, rows: &[(String, String)]) -> String {
    let names = rows.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let values = rows.iter().map(|(_, value)| width(value)).max().unwrap_or(0);
    let widths = [names, values.max(VALUE_WIDTH_MIN)];
    let inside = widths[0] + widths[1] + 3;
    let left = inside.saturating_sub(width(title)) / 2;
    let mut text = rule(&[inside], '╭', '─', '╮');
    text += &line(&[inside], &[format!("{}{title}", " ".repeat(left))]);
    text += &rule(&widths, '├', '┬', '┤');
    for (name, value) in rows {
        let pad = " ".repeat(names - width(name));
        text += &line(&widths, &[format!("{pad}{name}"), value.clone()]);
    }
    text + &rule(&widths, '╰', '┴', '╯')
}

/// Least width of the values in [`settings`]; the width of the documented box.
const VALUE_WIDTH_MIN: usize = 41;

fn rule(widths: &[usize], left: char, middle: char, right: char) -> String {
    let spans: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
    format!("{left}{}{right}\n", spans.join(&middle.to_string()))
}

fn line(widths: &[usize], cells: &[String]) -> String {
    let padded: Vec<String> = cells
        .iter()
        .zip(widths)
        .map(|(cell, &wide)| format!(" {cell}{} ", " ".repeat(wide.saturating_sub(width(cell)))))
        .collect();
    format!("│{}│\n", padded.join("│"))
}

/// Characters, not bytes. Names and endpoints are ASCII; free text may be off by a wide character.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the list of routes, byte for byte as the documents print it.
    #[test]
    fn routes_as_documented() {
        let mut table = Table::new(&["Type", "Endpoint", "# Times Used"]);
        table.row(["http", "app-route.foo.com", "2"]);
        table.row(["http", "my-route2.foo.com", "1"]);
        assert_eq!(
            table.render(),
            "\
╭──────┬───────────────────┬──────────────╮
│ Type │ Endpoint          │ # Times Used │
├──────┼───────────────────┼──────────────┤
│ http │ app-route.foo.com │ 2            │
│ http │ my-route2.foo.com │ 1            │
╰──────┴───────────────────┴──────────────╯
"
        );
    }

    /// Goal: the box of settings, byte for byte as the documents print it.
    #[test]
    fn settings_as_documented() {
        let rows = [
            ("FQN:", "job::/sandbox/admin::mynode"),
            ("Directory:", "/src/sample-apps/example-node-hello"),
            ("Staging Pipeline:", "(will be auto-detected)"),
            ("CPU:", "0ms/s (uncapped)"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            settings("Application Settings", &rows),
            "\
╭───────────────────────────────────────────────────────────────╮
│                     Application Settings                      │
├───────────────────┬───────────────────────────────────────────┤
│              FQN: │ job::/sandbox/admin::mynode               │
│        Directory: │ /src/sample-apps/example-node-hello       │
│ Staging Pipeline: │ (will be auto-detected)                   │
│              CPU: │ 0ms/s (uncapped)                          │
╰───────────────────┴───────────────────────────────────────────╯
"
        );
    }

    /// Goal: a value longer than the documented box widens it; an empty table still has its frame.
    #[test]
    fn boxes_grow_and_tables_may_be_empty() {
        let long = "x".repeat(50);
        let text = settings("T", &[("A:".to_owned(), long)]);
        let widths: Vec<usize> = text.lines().map(width).collect();
        assert!(widths.iter().all(|&wide| wide == widths[0]), "{text}");
        assert_eq!(Table::new(&["Name"]).render(), "╭──────╮\n│ Name │\n├──────┤\n╰──────╯\n");
    }
}
