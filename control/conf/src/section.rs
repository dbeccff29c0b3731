//! Typed access to a dconf map: every key is asked for once, what nobody asked for is a mistake.
//!
//! Deliberately absent: defaults; they stand where the meaning is.

use crate::dconf::{Node, Value};
use crate::{Mistake, Place};
use std::str::FromStr;

/// A map of which the asked-for keys are taken out.
#[derive(Debug)]
pub struct Section {
    name: String,
    place: Place,
    entries: Vec<(String, Node)>,
    asked: Vec<String>,
}

impl Section {
    /// A whole file.
    pub fn of_file(text: &str) -> Result<Self, Mistake> {
        Self::of(String::new(), crate::dconf::parse(text)?)
    }

    fn of(name: String, node: Node) -> Result<Self, Mistake> {
        match node.value {
            Value::Map(entries) => Ok(Self { name, place: node.place, entries, asked: Vec::new() }),
            other => {
                let what = format!("{name} must be a section, not {}", other.kind());
                Err(Mistake::new(node.place, what, format!("write `{name} {{ … }}`")))
            }
        }
    }

    /// Where it begins.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn take(&mut self, key: &str) -> Option<Node> {
        self.asked.push(key.to_owned());
        let at = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(at).1)
    }

    /// A value as it was written.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, Mistake> {
        let path = self.path(key);
        self.take(key).map(|node| text_of(&path, node)).transpose()
    }

    /// A value through its own reader; `form` says what is expected.
    pub fn parsed<T, E: std::fmt::Display>(
        &mut self,
        key: &str,
        form: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Mistake> {
        let path = self.path(key);
        let Some(node) = self.take(key) else { return Ok(None) };
        let place = node.place;
        let text = text_of(&path, node)?;
        read(&text)
            .map(Some)
            .map_err(|why| Mistake::new(place, format!("{path} is \"{text}\": {why}"), form))
    }

    /// A number, an address, anything that reads itself.
    pub fn value<T: FromStr>(&mut self, key: &str, form: &str) -> Result<Option<T>, Mistake>
    where
        T::Err: std::fmt::Display,
    {
        self.parsed(key, form, str::parse)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &str) -> Result<Option<bool>, Mistake> {
        self.parsed(key, "true or false", |text| match text {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err("neither true nor false"),
        })
    }

    /// A list of values; one value alone is a list of one.
    pub fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, Mistake> {
        let path = self.path(key);
        let Some(node) = self.take(key) else { return Ok(None) };
        let members = match node.value {
            Value::List(members) => members,
            _ => vec![node],
        };
        members.into_iter().map(|member| text_of(&path, member)).collect::<Result<_, _>>().map(Some)
    }

    /// A section within this one.
    pub fn section(&mut self, key: &str) -> Result<Option<Self>, Mistake> {
        let path = self.path(key);
        self.take(key).map(|node| Self::of(path, node)).transpose()
    }

    /// A list of sections.
    pub fn sections(&mut self, key: &str) -> Result<Vec<Self>, Mistake> {
        let path = self.path(key);
        let Some(node) = self.take(key) else { return Ok(Vec::new()) };
        match node.value {
            Value::List(members) => members
                .into_iter()
                .enumerate()
                .map(|(index, member)| Self::of(format!("{path}[{index}]"), member))
                .collect(),
            _ => Self::of(path, node).map(|one| vec![one]),
        }
    }

    /// All entries as name and value.
    pub fn pairs(&mut self, key: &str) -> Result<Vec<(String, String)>, Mistake> {
        let Some(mut section) = self.section(key)? else { return Ok(Vec::new()) };
        let entries = std::mem::take(&mut section.entries);
        entries
            .into_iter()
            .map(|(name, node)| text_of(&section.path(&name), node).map(|text| (name, text)))
            .collect()
    }

    /// Takes keys that are known and not acted on; those that are there, for a note.
    pub fn ignored(&mut self, keys: &[&str]) -> Vec<String> {
        let there: Vec<_> = keys.iter().filter(|key| self.take(key).is_some()).collect();
        there.into_iter().map(|key| self.path(key)).collect()
    }

    /// The end: a key that nobody asked for is a mistake.
    pub fn finish(self) -> Result<(), Mistake> {
        let Some((key, node)) = self.entries.first() else { return Ok(()) };
        let near = self.asked.iter().min_by_key(|known| distance(known, key));
        let remedy = match near {
            Some(near) if distance(near, key) <= 2 => format!("did you mean {near}?"),
            _ => {
                let mut known = self.asked.clone();
                known.sort();
                format!("known here: {}", known.join(", "))
            }
        };
        Err(Mistake::new(node.place, format!("{} is not known", self.path(key)), remedy))
    }
}

fn text_of(path: &str, node: Node) -> Result<String, Mistake> {
    match node.value {
        Value::Text(text) => Ok(text),
        other => {
            let what = format!("{path} must be one value, not {}", other.kind());
            Err(Mistake::new(node.place, what, format!("write `{path}: value`")))
        }
    }
}

/// Letters to change, add or leave out to come from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
