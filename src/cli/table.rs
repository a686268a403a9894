//! How copies fare, as a table, for people and for scripts.

use super::{duration, size};
use crate::control::Row;
use std::fmt::Write;
use std::time::Duration;

const HEAD: [&str; 9] = ["NAME", "ID", "PID", "STATE", "UP", "RESTARTS", "CPU", "RSS", "LAST EXIT"];

/// The same for machines.
const NAMES: [&str; 9] = ["name", "id", "pid", "state", "up", "restarts", "cpu", "rss", "last_exit"];

fn cells(row: &Row) -> [String; 9] {
    let time = |seconds: f64| duration::show(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let mut last = row.last_exit.clone();
    if let (Some(text), Some(ago)) = (&mut last, row.last_exit_ago) {
        let _ = write!(text, " {} ago", time(ago));
    }
    match (row.state.as_str(), row.due) {
        ("backoff", Some(due)) => last = Some(format!("{}, next try in {}", or_dash(last), time(due))),
        ("stopping", Some(due)) => last = Some(format!("SIGKILL in {}", time(due))),
        _ => {}
    }
    if let Some(text) = &row.text {
        last = Some(last.map_or_else(|| format!("({text})"), |last| format!("{last} ({text})")));
    }
    [
        row.name.clone(),
        row.id.to_string(),
        or_dash(row.pid.map(|pid| pid.to_string())),
        row.state.clone(),
        or_dash(row.up.map(time)),
        row.restarts.to_string(),
        or_dash(row.cpu.map(time)),
        or_dash(row.rss.map(size::show)),
        or_dash(last),
    ]
    .map(|cell| cell.replace(|c: char| c.is_control(), " "))
}

/// A column by its name, in the table or in the other forms.
pub(super) fn column(text: &str) -> Result<usize, String> {
    let name = text.to_ascii_lowercase();
    NAMES
        .iter()
        .position(|column| *column == name)
        .ok_or_else(|| format!("there is no column `{text}`; there are {}", NAMES.join(", ")))
}

/// All unless some are named.
fn chosen<T: Clone>(all: &[T], columns: &[usize]) -> Vec<T> {
    if columns.is_empty() { all.to_vec() } else { columns.iter().map(|&at| all[at].clone()).collect() }
}

/// In columns.
pub(super) fn draw(rows: &[Row], columns: &[usize]) -> String {
    let mut all = vec![chosen(&HEAD.map(String::from), columns)];
    all.extend(rows.iter().map(|row| chosen(&cells(row), columns)));
    let widths: Vec<usize> = (0..all[0].len())
        .map(|at| all.iter().map(|row| row[at].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in all {
        let padded: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Separated by tabs: exact seconds and bytes.
pub(super) fn tsv(rows: &[Row], columns: &[usize]) -> String {
    let mut text = chosen(&NAMES, columns).join("\t");
    text.push('\n');
    for row in rows {
        let or_none = |text: Option<String>| text.unwrap_or_default();
        let fields = [
            row.name.clone(),
            row.id.to_string(),
            or_none(row.pid.map(|pid| pid.to_string())),
            row.state.clone(),
            or_none(row.up.map(|up| format!("{up:.3}"))),
            row.restarts.to_string(),
            or_none(row.cpu.map(|cpu| format!("{cpu:.2}"))),
            or_none(row.rss.map(|rss| rss.to_string())),
            or_none(row.last_exit.clone()),
        ];
        text.push_str(&chosen(&fields, columns).join("\t"));
        text.push('\n');
    }
    text
}

/// A line of JSON.
pub(super) fn json(row: &Row, columns: &[usize]) -> String {
    let mut value = serde_json::to_value(row).unwrap_or_default();
    if let (false, Some(fields)) = (columns.is_empty(), value.as_object_mut()) {
        fields.retain(|name, _| columns.iter().any(|&at| NAMES[at] == name));
    }
    format!("{value}\n")
}
