//! The configuration file: text in, [`Settings`] and the wanted table out, or every mistake with its place.
//!
//! ```text
//!  text ──toml──▶ table with spans ──reader──▶ sections, routes ──checks across──▶ Config
//!                                      └── every mistake: line, column, why, what to try
//! ```
//!
//! A file is taken whole or not at all. Pure but for [`load`], which reads one file.
//! Deliberately absent: environment variables, includes, defaults that depend on the machine.

mod checks;
mod mistake;
mod reader;
mod routes;
mod sections;
mod suggest;

use std::path::Path;

use route::Desired;
use toml::de::DeTable;

use crate::settings::Settings;

pub use mistake::{ConfigErrors, MISTAKES_MAX, Mistake};
pub use suggest::closest;

use reader::{Mistakes, Reader};

/// A whole file that can be served.
#[derive(Clone, Debug)]
pub struct Config {
    /// Everything but the table.
    pub settings: Settings,
    /// The table that the file wants.
    pub desired: Desired,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Mistake>,
}

/// The largest file that is read: a million routes fit several times.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

const SECTIONS: &[&str] = &[
    "listen",
    "router",
    "limits",
    "timeouts",
    "access_log",
    "metrics",
    "certificate",
    "job",
    "route",
];

/// Read and check a configuration. Relative paths stay relative.
pub fn parse_str(text: &str) -> Result<Config, ConfigErrors> {
    parse_in(text, None)
}

/// As [`parse_str`], for a file: relative paths of certificates and logs are taken from `folder`.
pub fn parse_in(text: &str, folder: Option<&Path>) -> Result<Config, ConfigErrors> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut mistakes = Mistakes::new(text);
    for error in &syntax {
        let span = error.span().unwrap_or(0..0);
        mistakes.add("syntax", span, error.message()).why("the file is not valid TOML");
    }
    // What a recovering parser guesses is no ground for further complaints.
    if !syntax.is_empty() {
        return Err(mistakes.into_errors());
    }
    let end = text.len()..text.len();
    let mut file = Reader::new(table.get_ref(), "the file", end, &mut mistakes);
    let (settings, places) = sections::read(&mut file, folder);
    let (desired, table_places) = routes::read(&mut file);
    file.finish(SECTIONS);
    checks::across(&settings, &places, &desired, &table_places, &mut mistakes);
    let warnings = mistakes.take_warnings();
    if mistakes.is_empty() {
        return Ok(Config { settings, desired, warnings });
    }
    Err(mistakes.into_errors())
}

/// Read and check a file.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    let unreadable = |why: &dyn std::fmt::Display| {
        ConfigErrors::unreadable(&name, &format!("cannot read {name}: {why}"))
    };
    let bytes = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(unreadable(&format!("{bytes} bytes, but at most {FILE_BYTES_MAX} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    parse_in(&text, path.parent()).map_err(|errors| errors.in_file(&name))
}

/// `1 route`, `2 routes`: for what people read.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
