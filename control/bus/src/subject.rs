//! Subjects and patterns, and the table that finds who listens.
//!
//! A tree by tokens: finding the listeners of a subject costs a few look-ups, however many subscriptions there are.
//! Deliberately absent: what is delivered and when; the worlds differ in that.

use crate::{BusError, MESSAGE_BYTES_MAX};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a subject; a NATS server reads control lines of 4,096.
pub const SUBJECT_BYTES_MAX: usize = 1024;

/// Tokens of a subject: the depth of the tree, and of the recursion over it.
pub const SUBJECT_TOKENS_MAX: usize = 32;

/// Whether a message may be sent: the subject names one place and the payload is not too large.
pub(crate) fn check_message(subject: &str, payload_bytes: usize) -> Result<(), BusError> {
    if payload_bytes > MESSAGE_BYTES_MAX {
        return Err(BusError::TooLarge { bytes: payload_bytes });
    }
    let wild = |token: &str| matches!(token, "*" | ">");
    check_tokens(subject, |token, _| !wild(token))
}

/// Whether a pattern can be listened to.
pub(crate) fn check_pattern(pattern: &str, group: Option<&str>) -> Result<(), BusError> {
    check_tokens(pattern, |token, last| token != ">" || last)?;
    match group {
        Some(group) => check_tokens(group, |_, _| true),
        None => Ok(()),
    }
}

fn check_tokens(subject: &str, allowed: impl Fn(&str, bool) -> bool) -> Result<(), BusError> {
    let bad = |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_control();
    let mut tokens = subject.split('.').peekable();
    let mut count = 0;
    let mut fine = subject.len() <= SUBJECT_BYTES_MAX && !subject.bytes().any(bad);
    while let Some(token) = tokens.next() {
        count += 1;
        fine &= !token.is_empty() && allowed(token, tokens.peek().is_none());
    }
    if fine && count <= SUBJECT_TOKENS_MAX {
        Ok(())
    } else {
        Err(BusError::Subject(subject.chars().take(SUBJECT_BYTES_MAX).collect()))
    }
}

/// Who listens to what. `T` is how to reach a listener.
pub(crate) struct Table<T> {
    root: Node<T>,
    next_id: u64,
}

/// One token deep in the tree.
struct Node<T> {
    /// By token. Only looked up, never walked: the order of a hash map may not decide anything.
    children: HashMap<Box<str>, Self>,
    /// Patterns that go on with `*`.
    any: Option<Box<Self>>,
    /// Patterns that end with `>` here.
    rest: Leaf<T>,
    /// Patterns that end here.
    here: Leaf<T>,
}

/// Listeners of one pattern.
pub(crate) struct Leaf<T> {
    /// Each gets every message.
    pub(crate) plain: Vec<(u64, T)>,
    /// One member of each gets a message.
    pub(crate) groups: Vec<Group<T>>,
}

/// A queue group on one pattern.
pub(crate) struct Group<T> {
    pub(crate) name: Box<str>,
    pub(crate) members: Vec<(u64, T)>,
    turn: AtomicUsize,
}

impl<T> Group<T> {
    /// Counts the messages of this group.
    pub(crate) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

impl<T> Leaf<T> {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty()
    }

    fn insert(&mut self, group: Option<&str>, id: u64, listener: T) {
        let Some(name) = group else { return self.plain.push((id, listener)) };
        match self.groups.iter_mut().find(|group| &*group.name == name) {
            Some(group) => group.members.push((id, listener)),
            None => self.groups.push(Group {
                name: name.into(),
                members: vec![(id, listener)],
                turn: AtomicUsize::new(0),
            }),
        }
    }

    fn remove(&mut self, id: u64) {
        self.plain.retain(|(other, _)| *other != id);
        for group in &mut self.groups {
            group.members.retain(|(other, _)| *other != id);
        }
        self.groups.retain(|group| !group.members.is_empty());
    }
}

impl<T> Default for Leaf<T> {
    fn default() -> Self {
        Self { plain: Vec::new(), groups: Vec::new() }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), any: None, rest: Leaf::default(), here: Leaf::default() }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { root: Node::default(), next_id: 0 }
    }
}

impl<T> Table<T> {
    /// Adds a listener; the number is for [`Table::remove`].
    pub(crate) fn insert(&mut self, pattern: &str, group: Option<&str>, listener: T) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        let mut node = &mut self.root;
        for token in pattern.split('.') {
            node = match token {
                ">" => {
                    node.rest.insert(group, id, listener);
                    return id;
                }
                "*" => node.any.get_or_insert_default(),
                _ => node.children.entry(token.into()).or_default(),
            };
        }
        node.here.insert(group, id, listener);
        id
    }

    /// Takes a listener away, and the branches that only it needed.
    pub(crate) fn remove(&mut self, pattern: &str, id: u64) {
        self.root.remove(pattern, id);
    }

    /// Shows every leaf whose pattern matches `subject`, always in the same order.
    pub(crate) fn visit<'a>(&'a self, subject: &str, see: &mut impl FnMut(&'a Leaf<T>)) {
        self.root.visit(subject, see);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.any.is_none()
            && self.rest.is_empty()
            && self.here.is_empty()
    }

    fn remove(&mut self, pattern: &str, id: u64) {
        let (token, tail) = split_token(pattern);
        match token {
            ">" => self.rest.remove(id),
            "*" => {
                if let Some(child) = &mut self.any {
                    child.remove_tail(tail, id);
                    if child.is_empty() {
                        self.any = None;
                    }
                }
            }
            _ => {
                if let Some(child) = self.children.get_mut(token) {
                    child.remove_tail(tail, id);
                    if child.is_empty() {
                        self.children.remove(token);
                    }
                }
            }
        }
    }

    fn remove_tail(&mut self, tail: Option<&str>, id: u64) {
        match tail {
            Some(tail) => self.remove(tail, id),
            None => self.here.remove(id),
        }
    }

    fn visit<'a>(&'a self, subject: &str, see: &mut impl FnMut(&'a Leaf<T>)) {
        let (token, tail) = split_token(subject);
        let exact = if self.children.is_empty() { None } else { self.children.get(token) };
        for child in exact.into_iter().chain(self.any.as_deref()) {
            match tail {
                Some(tail) => child.visit(tail, see),
                None => child.here.show(see),
            }
        }
        self.rest.show(see);
    }
}

impl<T> Leaf<T> {
    fn show<'a>(&'a self, see: &mut impl FnMut(&'a Self)) {
        if !self.is_empty() {
            see(self);
        }
    }
}

fn split_token(subject: &str) -> (&str, Option<&str>) {
    match subject.split_once('.') {
        Some((token, tail)) => (token, Some(tail)),
        None => (subject, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, token by token, that the tree must agree with.
    fn matches(pattern: &str, subject: &str) -> bool {
        let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
        loop {
            match (pattern.next(), subject.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some(wanted), Some(token)) if wanted == "*" || wanted == token => {}
                _ => return false,
            }
        }
    }

    fn found(table: &Table<usize>, subject: &str) -> Vec<usize> {
        let mut all = Vec::new();
        table.visit(subject, &mut |leaf| all.extend(leaf.plain.iter().map(|(_, name)| *name)));
        all.sort_unstable();
        all
    }

    fn token() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("c"), Just("*")]
    }

    fn pattern() -> impl Strategy<Value = String> {
        (prop::collection::vec(token(), 1..5), any::<bool>())
            .prop_map(|(tokens, rest)| tokens.join(".") + if rest { ".>" } else { "" })
    }

    proptest! {
        /// Goal: the tree finds exactly what the definition says, and is empty when everybody has left.
        #[test]
        fn the_tree_is_the_definition(
            patterns in prop::collection::vec(pattern(), 0..20),
            subjects in prop::collection::vec("[abc](\\.[abc]){0,5}", 1..10),
            leave in prop::collection::vec(any::<bool>(), 20),
        ) {
            let mut table = Table::default();
            let ids: Vec<u64> = patterns
                .iter()
                .enumerate()
                .map(|(name, pattern)| table.insert(pattern, None, name))
                .collect();
            for (name, pattern) in patterns.iter().enumerate() {
                if leave[name] {
                    table.remove(pattern, ids[name]);
                }
            }
            for subject in &subjects {
                let wanted: Vec<usize> = (0..patterns.len())
                    .filter(|name| !leave[*name] && matches(&patterns[*name], subject))
                    .collect();
                prop_assert_eq!(found(&table, subject), wanted, "{}", subject);
            }
            for (name, pattern) in patterns.iter().enumerate() {
                table.remove(pattern, ids[name]);
            }
            prop_assert!(table.is_empty());
        }
    }

    /// Goal: what no NATS server would take is refused in every world.
    #[test]
    fn bad_subjects_are_refused() {
        let long = "a".repeat(SUBJECT_BYTES_MAX + 1);
        let deep = vec!["a"; SUBJECT_TOKENS_MAX + 1].join(".");
        for bad in
            ["", ".", "a.", ".a", "a..b", "a b", "a\r\nb", "a.*", "a.>", "*", ">", &long, &deep]
        {
            assert!(check_message(bad, 0).is_err(), "{bad}");
        }
        for bad in ["", "a.>.b", ">.a", "a b.*", "a..*"] {
            assert!(check_pattern(bad, None).is_err(), "{bad}");
        }
        for good in ["a", "a.*.b", "*", ">", "a.>", "*.>", "a*b.c>"] {
            assert!(check_pattern(good, None).is_ok(), "{good}");
        }
        assert!(check_pattern("a", Some("two words")).is_err());
        assert!(check_message("job.x.y.stdout", MESSAGE_BYTES_MAX).is_ok());
        assert!(check_message("a", MESSAGE_BYTES_MAX + 1).is_err());
    }
}
