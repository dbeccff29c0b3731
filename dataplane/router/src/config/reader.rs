//! A careful hand over one TOML table: typed keys with their places, every mistake noted, none fatal.
//!
//! Deliberately absent: knowledge of any section. And serde: it stops at the first mistake.

use std::collections::BTreeSet;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use route::SyntaxError;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::mistake::{ConfigErrors, MISTAKES_MAX, Mistake};
use super::suggest::closest;

/// A byte range of the file.
pub(super) type Place = Range<usize>;

/// What was found wrong so far.
pub(super) struct Mistakes<'t> {
    text: &'t str,
    list: Vec<Mistake>,
    warnings: Vec<Mistake>,
    /// Takes what comes after the list is full, so that a huge wrong file costs no quadratic search for lines.
    spill: Mistake,
    spilled: usize,
}

impl<'t> Mistakes<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let spill = Mistake::new("", 0..0, "", "");
        Self { text, list: Vec::new(), warnings: Vec::new(), spill, spilled: 0 }
    }

    /// Note a mistake; the answer takes `why` and `advise`.
    pub(super) fn add(
        &mut self,
        code: &'static str,
        place: Place,
        what: impl AsRef<str>,
    ) -> &mut Mistake {
        if self.list.len() == MISTAKES_MAX {
            self.spilled += 1;
            return &mut self.spill;
        }
        self.list.push_mut(Mistake::new(self.text, place, code, what.as_ref()))
    }

    /// As [`Self::add`], but the file stays good.
    pub(super) fn warn(
        &mut self,
        code: &'static str,
        place: Place,
        what: impl AsRef<str>,
    ) -> &mut Mistake {
        if self.warnings.len() == MISTAKES_MAX {
            return &mut self.spill;
        }
        let mut warning = Mistake::new(self.text, place, code, what.as_ref());
        warning.warning = true;
        self.warnings.push_mut(warning)
    }

    /// A mistake inside a string: the caret goes to the very character when the string is written plainly.
    pub(super) fn add_syntax(
        &mut self,
        code: &'static str,
        place: &Place,
        subject: &str,
        value: &str,
        error: &SyntaxError,
    ) {
        let raw = self.text.get(place.clone()).unwrap_or_default();
        let quoted = raw.len() >= 2 && raw.get(1..raw.len() - 1) == Some(value);
        let place = if quoted {
            let offset = value.char_indices().map(|(at, _)| at).nth(error.column.saturating_sub(1));
            let at = place.start + 1 + offset.unwrap_or(value.len());
            let rest = self.text.get(at..place.end - 1).unwrap_or_default();
            // The whole word, if it is one.
            let word = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
            at..at + word.max(1)
        } else {
            place.clone()
        };
        self.add(code, place, format!("{subject}: {}", error.what)).advise(error.hint.to_string());
    }

    /// The line in which a byte of the file stands, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|b| **b == b'\n').count() + 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What does not make the file bad.
    pub(super) fn take_warnings(&mut self) -> Vec<Mistake> {
        std::mem::take(&mut self.warnings)
    }

    pub(super) fn into_errors(self) -> ConfigErrors {
        ConfigErrors::new(self.list, self.spilled)
    }
}

/// A table that is being read.
pub(super) struct Reader<'a, 't, 'm> {
    table: &'a DeTable<'t>,
    name: &'static str,
    place: Place,
    asked: BTreeSet<&'static str>,
    pub(super) mistakes: &'m mut Mistakes<'t>,
}

impl<'a, 't, 'm> Reader<'a, 't, 'm> {
    /// `name` is how mistakes call the table: `[listen]`. `place` is where a missing key is missed.
    pub(super) fn new(
        table: &'a DeTable<'t>,
        name: &'static str,
        place: Place,
        mistakes: &'m mut Mistakes<'t>,
    ) -> Self {
        Self { table, name, place, asked: BTreeSet::new(), mistakes }
    }

    /// Where the table stands.
    pub(super) fn place(&self) -> Place {
        self.place.clone()
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'t>>> {
        self.asked.insert(key);
        self.table.get(key)
    }

    fn wrong_type(
        &mut self,
        key: &str,
        place: Place,
        value: &DeValue<'_>,
        wanted: &str,
        example: &str,
    ) {
        let what = format!("`{key}` is {}, but {wanted} is wanted", kind(value));
        self.mistakes.add("wrong_type", place, what).advise(format!("`{example}`"));
    }

    /// A key that must be there is not.
    pub(super) fn missing(&mut self, key: &str, example: &str) {
        let what = format!("`{key}` is missing in {}", self.name);
        self.mistakes.add("missing_key", self.place.clone(), what).advise(format!("`{example}`"));
    }

    pub(super) fn string(&mut self, key: &'static str, example: &str) -> Option<(&'a str, Place)> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text.as_ref(), value.span())),
            other => {
                self.wrong_type(key, value.span(), other, "a string", example);
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        match value.get_ref() {
            DeValue::Boolean(flag) => *flag,
            other => {
                self.wrong_type(
                    key,
                    value.span(),
                    other,
                    "true or false",
                    &format!("{key} = {default}"),
                );
                default
            }
        }
    }

    /// A whole number within `range`, and where it stands.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
        default: u64,
    ) -> (u64, Place) {
        let Some(value) = self.value(key) else { return (default, self.place()) };
        let example = format!("{key} = {default}");
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(key, value.span(), value.get_ref(), "a whole number", &example);
            return (default, value.span());
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => (number, value.span()),
            _ => {
                let (low, high) = (range.start(), range.end());
                let bound = if *high == u64::MAX {
                    format!("at least {low}")
                } else {
                    format!("{low} to {high}")
                };
                let what = format!("`{key}` is {integer}, but must be {bound}");
                self.mistakes
                    .add("out_of_range", value.span(), what)
                    .advise(format!("`{example}`"));
                (default, value.span())
            }
        }
    }

    /// A time in whole milliseconds, from 1 ms to a week.
    pub(super) fn millis(&mut self, key: &'static str, default: Duration) -> (Duration, Place) {
        const WEEK_MS: u64 = 7 * 24 * 3_600 * 1_000;
        let default_ms = u64::try_from(default.as_millis()).unwrap_or(WEEK_MS);
        let (ms, place) = self.number(key, 1..=WEEK_MS, default_ms);
        (Duration::from_millis(ms), place)
    }

    fn array(&mut self, key: &'static str, example: &str) -> Option<(&'a DeArray<'t>, Place)> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Array(array) => Some((array, value.span())),
            other => {
                self.wrong_type(key, value.span(), other, "a list", example);
                None
            }
        }
    }

    /// A list of strings with their places; entries of other types are mistakes and left out.
    pub(super) fn strings(&mut self, key: &'static str, example: &str) -> Vec<(&'a str, Place)> {
        let Some((array, _)) = self.array(key, example) else { return Vec::new() };
        let mut strings = Vec::with_capacity(array.len());
        for value in array {
            match value.get_ref() {
                DeValue::String(text) => strings.push((text.as_ref(), value.span())),
                other => self.wrong_type(key, value.span(), other, "a list of strings", example),
            }
        }
        strings
    }

    /// A list of strings, each parsed; what does not parse is a mistake with `wanted` and `example`.
    pub(super) fn parsed<T: FromStr>(
        &mut self,
        key: &'static str,
        wanted: &str,
        example: &str,
    ) -> Vec<(T, Place)> {
        let mut parsed = Vec::new();
        for (text, place) in self.strings(key, example) {
            match text.parse() {
                Ok(value) => parsed.push((value, place)),
                Err(_) => {
                    let what = format!("\"{text}\" in `{key}` is not {wanted}");
                    self.mistakes.add("bad_value", place, what).advise(format!("`{example}`"));
                }
            }
        }
        parsed
    }

    /// The tables of `[[key]]`, or of an inline list of tables.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Vec<(&'a DeTable<'t>, Place)> {
        let Some((array, _)) = self.array(key, example) else { return Vec::new() };
        let mut tables = Vec::with_capacity(array.len());
        for value in array {
            match value.get_ref() {
                DeValue::Table(table) => tables.push((table, value.span())),
                other => self.wrong_type(key, value.span(), other, "a table", example),
            }
        }
        tables
    }

    /// Read the section `[key]`; not called when it is absent.
    pub(super) fn section(
        &mut self,
        key: &'static str,
        name: &'static str,
        read: impl FnOnce(&mut Reader<'a, 't, '_>),
    ) {
        let Some(value) = self.value(key) else { return };
        match value.get_ref() {
            DeValue::Table(table) => {
                let mut reader = Reader::new(table, name, value.span(), self.mistakes);
                read(&mut reader);
                reader.finish(&[]);
            }
            other => self.wrong_type(key, value.span(), other, "a table", &format!("[{key}]")),
        }
    }

    /// A number, or a number in quotes: the text as written.
    pub(super) fn number_text(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<(&'a str, Place)> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            DeValue::String(text) => text.as_ref(),
            other => {
                self.wrong_type(key, value.span(), other, "a decimal number", example);
                return None;
            }
        };
        Some((text, value.span()))
    }

    /// Every key that nobody asked for is a mistake. `more` are known keys that need not have been asked for.
    pub(super) fn finish(self, more: &[&'static str]) {
        for (key, _) in self.table {
            let word: &str = key.get_ref();
            let known = || self.asked.iter().chain(more).copied();
            if known().any(|known| known == word) {
                continue;
            }
            let what = format!("`{word}` is not a key of {}", self.name);
            let mistake = self.mistakes.add("unknown_key", key.span(), what);
            mistake.why("unknown keys are refused, so that a typing mistake cannot go unnoticed");
            match closest(word, known()) {
                Some(meant) => mistake.advise(format!("`{meant}`")),
                None => mistake.advise(format!("one of {}", list(known()))),
            };
        }
    }
}

/// Known words as prose.
fn list<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
