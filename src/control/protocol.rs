//! What is said at the socket: a line of JSON each.

use crate::supervise::{Happening, HappeningKind, PlaceStatus, stamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::SystemTime;

/// What is wanted. No `ids` means all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    Stop {
        #[serde(default)]
        ids: Vec<u32>,
    },
    Restart {
        #[serde(default)]
        ids: Vec<u32>,
    },
    Start {
        #[serde(default)]
        ids: Vec<u32>,
    },
    Scale {
        copies: u32,
    },
    Signal {
        #[serde(default)]
        ids: Vec<u32>,
        signal: i32,
    },
    Events,
    Logs {
        #[serde(default)]
        ids: Vec<u32>,
        lines: usize,
        follow: bool,
    },
}

/// How a copy fares; times in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) pid: Option<u32>,
    pub(crate) state: String,
    pub(crate) up: Option<f64>,
    pub(crate) restarts: u32,
    pub(crate) due: Option<f64>,
    pub(crate) cpu: Option<f64>,
    pub(crate) rss: Option<u64>,
    pub(crate) last_exit: Option<String>,
    pub(crate) last_exit_ago: Option<f64>,
    pub(crate) text: Option<String>,
}

impl Row {
    /// Is it up: ready, if it says so at all?
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state.as_str(), "running" | "ready")
    }

    pub(crate) fn lives(&self) -> bool {
        self.pid.is_some()
    }
}

impl From<PlaceStatus> for Row {
    fn from(status: PlaceStatus) -> Self {
        Self {
            name: status.name,
            id: status.id,
            pid: status.pid,
            state: status.state.word().into(),
            up: status.up.map(|time| time.as_secs_f64()),
            restarts: status.restarts,
            due: status.due.map(|time| time.as_secs_f64()),
            cpu: status.cpu.map(|time| time.as_secs_f64()),
            rss: status.rss,
            last_exit: status.last.map(|(cause, _)| cause.to_string()),
            last_exit_ago: status.last.map(|(_, ago)| ago.as_secs_f64()),
            text: status.text,
        }
    }
}

/// What the server says back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Row(Row),
    Done(bool),
    Error(String),
}

/// A line of it.
pub(super) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// An event as a line of JSON.
pub(crate) fn event(happening: &Happening) -> Vec<u8> {
    let mut event = json!({
        "v": 1, "t": stamp(SystemTime::now()), "ev": happening.kind.word(), "name": happening.name, "id": happening.id,
    });
    let mut add = |key: &str, value: Value| {
        if let Some(fields) = event.as_object_mut() {
            fields.insert(key.into(), value);
        }
    };
    match &happening.kind {
        HappeningKind::Spawn { pid } => add("pid", json!(pid)),
        HappeningKind::Exit { cause } | HappeningKind::GaveUp { cause } | HappeningKind::Failed { cause } => {
            add("cause", json!(cause.word()));
            add("text", json!(cause.to_string()));
        }
        HappeningKind::Backoff { cause, delay, count } => {
            add("cause", json!(cause.word()));
            add("delay", json!(delay.as_secs_f64()));
            add("count", json!(count));
        }
        HappeningKind::Leak { count } => add("count", json!(count)),
        HappeningKind::TooLarge { rss } => add("rss", json!(rss)),
        HappeningKind::Warning(text) => add("text", json!(text)),
        HappeningKind::Ready
        | HappeningKind::Stopping
        | HappeningKind::Killing
        | HappeningKind::Late
        | HappeningKind::Verbose => {}
    }
    line(&event)
}

/// What a copy has printed, a line of JSON for each line; in `hex` where it is no text.
pub(crate) fn printed(name: &str, id: u32, err: bool, text: &[u8]) -> Vec<u8> {
    let stream = if err { "err" } else { "out" };
    let now = stamp(SystemTime::now());
    let one = |part: &[u8]| {
        let bare = part.strip_suffix(b"\n").unwrap_or(part);
        let mut record = json!({ "v": 1, "t": now, "name": name, "id": id, "stream": stream });
        let (key, value) = match std::str::from_utf8(bare) {
            Ok(text) => ("text", text.to_owned()),
            Err(_) => ("hex", bare.iter().map(|byte| format!("{byte:02x}")).collect()),
        };
        if let Some(fields) = record.as_object_mut() {
            fields.insert(key.into(), value.into());
        }
        line(&record)
    };
    text.split_inclusive(|&b| b == b'\n').flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = serde_json::from_slice::<Request>(&bytes);
            let _ = serde_json::from_slice::<Reply>(&bytes);
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let read = serde_json::from_str::<Request>;
        assert_eq!(read(r#"{"verb":"stop"}"#).expect("a request"), Request::Stop { ids: Vec::new() });
        for text in [
            r#"{"verb":"stop","who":1}"#,
            r#"{"verb":"dance"}"#,
            "[]",
            "{}",
            r#"{"verb":"scale","copies":-1}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
