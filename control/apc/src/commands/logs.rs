//! `apc app logs`: what a job wrote, and what it writes.
//!
//! Deliberately absent: colours for instances; the short id is in front of each line.

use crate::cli::LogFlags;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::session::Session;
use futures_util::StreamExt;
use wire::Job;
use wire::logs::{LogLine, RING_LINES_MAX};

/// Lines that are shown when a start fails.
const LAST_LINES: usize = 10;

/// Runs the command.
pub(super) async fn logs(session: &Session, flags: &LogFlags) -> Result<(), Failure> {
    let job = session.job(&flags.name).await?;
    let lines = flags.lines.min(RING_LINES_MAX);
    let follow = if flags.follow { "&follow=true" } else { "" };
    let path = format!("/jobs/{}/logs?lines={lines}{follow}", job.uuid);
    let mut stream = std::pin::pin!(session.client()?.lines(&path).await?);
    while let Some(text) = stream.next().await {
        let text = text?;
        // A server keeps a silent connection open with empty lines.
        if text.is_empty() {
            continue;
        }
        if session.globals.json {
            Screen::data(&format!("{text}\n"));
        } else if let Some(line) = shown(&text) {
            Screen::data(&format!("{line}\n"));
        }
    }
    Ok(())
}

/// The newest lines; nothing if they cannot be had.
pub(super) async fn last_lines(session: &Session, job: &Job) -> Vec<String> {
    let Ok(client) = session.client() else { return Vec::new() };
    let path = format!("/jobs/{}/logs?lines={LAST_LINES}", job.uuid);
    let Ok(stream) = client.lines(&path).await else { return Vec::new() };
    let stream = std::pin::pin!(stream.take(LAST_LINES));
    stream
        .filter_map(|line| std::future::ready(line.ok().as_deref().and_then(shown)))
        .collect()
        .await
}

/// `[stdout][a2434d21] text`. What an application writes may colour its text, but not move the cursor about.
fn shown(text: &str) -> Option<String> {
    let line: LogLine = serde_json::from_str(text).ok()?;
    let plain =
        |c: char| if c.is_control() && !matches!(c, '\t' | '\u{1b}') { '\u{fffd}' } else { c };
    Some(line.shown().chars().map(plain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the documented forms of a line.
    #[test]
    fn forms_of_a_line() {
        let line = r#"{"job":"3b0a6209-5dcf-408c-8941-cf9f44295f58","instance":"a2434d21-5dcf-408c-8941-cf9f44295f58","stream":"stdout","seq":1,"at_ms":0,"text":"hello\rx"}"#;
        assert_eq!(shown(line).unwrap(), "[stdout][a2434d21] hello\u{fffd}x");
        let note = r#"{"job":"3b0a6209-5dcf-408c-8941-cf9f44295f58","stream":"system-error","seq":1,"at_ms":0,"text":"flaps"}"#;
        assert_eq!(shown(note).unwrap(), "[system-error] flaps");
        assert_eq!(shown("junk"), None);
    }
}
