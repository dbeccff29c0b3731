//! Lines of many writers in one order: each shown once, none left out that anybody has.
//!
//! Pure. Within one instance and stream the numbers decide; between them the time does. A live line whose number jumps is
//! held back until the pages have been asked for what lies between. Deliberately absent: asking.

use std::collections::{BTreeMap, VecDeque};
use wire::InstanceId;
use wire::logs::{LogLine, LogStream};

/// Writers whose last number is remembered; when there are more, the one that was silent longest is forgotten.
const WRITERS_MAX: usize = 4_096;
/// Lines held back behind a jump; more are shown with the gap.
const HELD_MAX: usize = 4_096;
/// Notes of the platform that are remembered, so that none is shown twice.
const NOTES_MAX: usize = 128;

type Writer = (InstanceId, LogStream);

/// Which lines have been shown.
#[derive(Default)]
pub(super) struct Merge {
    /// The last number of each writer, and when it last wrote.
    shown: BTreeMap<Writer, (u64, u64)>,
    notes: VecDeque<(u64, String)>,
    held: Vec<LogLine>,
}

/// The newest `lines` of all, oldest first, each once.
pub(super) fn newest(mut all: Vec<LogLine>, lines: usize) -> Vec<LogLine> {
    sort(&mut all);
    all.dedup_by(|a, b| same(a, b));
    all.split_off(all.len().saturating_sub(lines))
}

fn sort(lines: &mut [LogLine]) {
    lines.sort_by(|a, b| {
        (a.at_ms, a.instance, a.stream, a.seq).cmp(&(b.at_ms, b.instance, b.stream, b.seq))
    });
}

fn same(a: &LogLine, b: &LogLine) -> bool {
    (a.instance, a.stream, a.seq) == (b.instance, b.stream, b.seq)
        && (a.instance.is_some() || a.text == b.text)
}

impl Merge {
    /// After these have been shown, or passed over because they are older than what was asked for. A writer that is not
    /// among them begins later, with its number 1.
    pub(super) fn beginning_with(lines: &[LogLine]) -> Self {
        let mut merge = Self::default();
        for line in lines {
            merge.note(line);
        }
        merge
    }

    /// A live line: shown, known already, or held back; true when pages should be asked for.
    pub(super) fn take(&mut self, line: LogLine, out: &mut Vec<LogLine>) -> bool {
        let Some(instance) = line.instance else {
            self.show(line, out);
            return false;
        };
        let last = self.shown.get(&(instance, line.stream)).map_or(0, |(seq, _)| *seq);
        if line.seq <= last + 1 {
            self.show(line, out);
            return false;
        }
        if self.held.len() < HELD_MAX {
            self.held.push(line);
            return true;
        }
        self.release(out);
        self.show(line, out);
        false
    }

    /// Whether lines are held back.
    pub(super) const fn waits(&self) -> bool {
        !self.held.is_empty()
    }

    /// What the pages have now: shows all that is newer than what was shown, then what was held back. What nobody has any
    /// more stays a gap in the numbers.
    pub(super) fn repair(&mut self, pages: Vec<LogLine>, out: &mut Vec<LogLine>) {
        let mut all = pages;
        all.append(&mut self.held);
        // By number within a writer, or the same writer's lines with equal times would look like a step back.
        sort(&mut all);
        for line in all {
            self.show(line, out);
        }
    }

    fn release(&mut self, out: &mut Vec<LogLine>) {
        for line in std::mem::take(&mut self.held) {
            self.show(line, out);
        }
    }

    fn show(&mut self, line: LogLine, out: &mut Vec<LogLine>) {
        if self.note(&line) {
            out.push(line);
        }
    }

    /// Takes a line as shown; false when it was shown before.
    fn note(&mut self, line: &LogLine) -> bool {
        let Some(instance) = line.instance else {
            let note = (line.seq, line.text.clone());
            if self.notes.contains(&note) {
                return false;
            }
            if self.notes.len() == NOTES_MAX {
                self.notes.pop_front();
            }
            self.notes.push_back(note);
            return true;
        };
        let writer = (instance, line.stream);
        if let Some((last, at)) = self.shown.get_mut(&writer) {
            let fresh = line.seq > *last;
            if fresh {
                (*last, *at) = (line.seq, line.at_ms);
            }
            return fresh;
        }
        if self.shown.len() == WRITERS_MAX {
            let silent =
                self.shown.iter().min_by_key(|(_, (_, at))| *at).map(|(writer, _)| *writer);
            silent.map(|writer| self.shown.remove(&writer));
        }
        self.shown.insert(writer, (line.seq, line.at_ms));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::JobId;
    use wire::logs::LogStream::Stdout;

    fn line(writer: u128, seq: u64) -> LogLine {
        LogLine {
            job: JobId(uuid::Uuid::nil()),
            instance: (writer != 0).then(|| InstanceId(uuid::Uuid::from_u128(writer))),
            stream: if writer == 0 { LogStream::SystemError } else { Stdout },
            seq,
            at_ms: 1_000 + seq,
            text: format!("{writer}/{seq}"),
        }
    }

    fn texts(lines: &[LogLine]) -> String {
        lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Goal: the newest lines of all writers come in order, a note that two health managers tell comes once.
    #[test]
    fn pages_are_one_list() {
        let pages = vec![line(1, 1), line(1, 2), line(2, 2), line(2, 3), line(0, 1), line(0, 1)];
        assert_eq!(texts(&newest(pages, 3)), "1/2 2/2 2/3");
    }

    /// Goal: a jump is repaired from the pages; what is in page and stream is shown once; a gap that nobody can fill stays.
    #[test]
    fn a_jump_is_repaired() {
        let mut out = Vec::new();
        let mut merge = Merge::beginning_with(&[line(1, 4), line(1, 5)]);
        assert!(!merge.take(line(1, 5), &mut out) && !merge.take(line(1, 6), &mut out));
        assert!(merge.take(line(1, 9), &mut out) && merge.waits());
        assert_eq!(texts(&out), "1/6");
        merge.repair((1..=9).map(|seq| line(1, seq)).collect(), &mut out);
        assert_eq!(texts(&out), "1/6 1/7 1/8 1/9");
        assert!(merge.take(line(1, 20), &mut out));
        merge.repair(vec![line(1, 18), line(2, 1)], &mut out);
        sort(&mut out);
        assert_eq!(texts(&out), "2/1 1/6 1/7 1/8 1/9 1/18 1/20");
        assert!(!merge.waits());
    }

    proptest! {
        /// Goal: whatever is lost or doubled on the way, as long as the pages have all of it every line is shown once and
        /// in order.
        #[test]
        fn any_loss_is_repaired(fates in proptest::collection::vec(0..4u8, 1..200), seen in 0..20u64) {
            let total = fates.len() as u64 + seen;
            let first: Vec<_> = (1..=seen).map(|seq| line(1, seq)).collect();
            let mut merge = Merge::beginning_with(&first);
            let mut out = Vec::new();
            for (fate, seq) in fates.iter().zip(seen + 1..) {
                let copies = match fate { 0 => 0, 3 => 2, _ => 1 };
                for _ in 0..copies {
                    if merge.take(line(1, seq), &mut out) && *fate == 1 {
                        merge.repair((1..=seq).map(|seq| line(1, seq)).collect(), &mut out);
                    }
                }
            }
            merge.repair((1..=total).map(|seq| line(1, seq)).collect(), &mut out);
            let seqs: Vec<_> = out.iter().map(|line| line.seq).collect();
            prop_assert_eq!(seqs, (seen + 1..=total).collect::<Vec<_>>());
        }
    }
}
