//! What is said to workers of `--mode json`, and what they answer: a line each, with the number of the task.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, from_slice, to_vec};

/// A worker's line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To the task with this number, from 0: a JSON value and a newline.
    Ok(u64, Vec<u8>),
    /// It could not be done: why, and whether it is to be tried again, if the worker knows.
    Error(u64, Vec<u8>, Option<bool>),
    /// It only says that it lives.
    Beat,
}

#[derive(Deserialize)]
struct Line<'a> {
    id: Option<u64>,
    /// `null` is an answer, too.
    #[serde(borrow, default, deserialize_with = "present")]
    ok: Option<&'a RawValue>,
    error: Option<String>,
    retry: Option<bool>,
    progress: Option<Value>,
    ready: Option<Value>,
    beat: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// A task that is JSON itself is passed on as it is, any other as a string.
pub(crate) fn request(number: u64, task: &[u8], attempt: u32) -> Vec<u8> {
    let is_value = from_slice::<&RawValue>(task).is_ok() && !task.contains(&b'\n');
    let value = if is_value { task.to_vec() } else { string(task) };
    let mut line = format!("{{\"id\":{number},\"task\":").into_bytes();
    line.extend_from_slice(&value);
    line.extend_from_slice(format!(",\"attempt\":{attempt}}}\n").as_bytes());
    line
}

/// Bytes as a JSON string; what is no UTF-8 is replaced.
pub(crate) fn string(bytes: &[u8]) -> Vec<u8> {
    to_vec(&String::from_utf8_lossy(bytes)).unwrap_or_else(|_| b"null".to_vec())
}

/// What a line means; `None` if it breaks the protocol.
pub(crate) fn answer(line: &[u8]) -> Option<Answer> {
    if line.trim_ascii().is_empty() {
        return Some(Answer::Beat);
    }
    let line: Line<'_> = from_slice(line).ok()?;
    let lives = line.progress.is_some() || line.ready.is_some() || line.beat.is_some();
    match (line.id, line.ok, line.error) {
        (Some(id), Some(ok), None) => {
            let mut value = ok.get().as_bytes().to_vec();
            value.push(b'\n');
            Some(Answer::Ok(id.checked_sub(1)?, value))
        }
        (Some(id), None, Some(error)) => {
            Some(Answer::Error(id.checked_sub(1)?, (error + "\n").into_bytes(), line.retry))
        }
        (_, None, None) if lives => Some(Answer::Beat),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_go_out_and_answers_come_in() {
        assert_eq!(request(17, b"a \"b\"", 1), b"{\"id\":17,\"task\":\"a \\\"b\\\"\",\"attempt\":1}\n");
        assert_eq!(request(1, b"{\"x\": [1]}", 2), b"{\"id\":1,\"task\":{\"x\": [1]},\"attempt\":2}\n");
        let table: [(&str, Option<Answer>); 9] = [
            (r#"{"id":17,"ok":{"n":1}}"#, Some(Answer::Ok(16, b"{\"n\":1}\n".to_vec()))),
            (r#"{"id":17,"ok":null,"more":[]}"#, Some(Answer::Ok(16, b"null\n".to_vec()))),
            (
                r#"{"id":17,"error":"bad","retry":false}"#,
                Some(Answer::Error(16, b"bad\n".to_vec(), Some(false))),
            ),
            (r#"{"id":17,"error":"bad"}"#, Some(Answer::Error(16, b"bad\n".to_vec(), None))),
            (r#"{"progress":0.4,"id":17}"#, Some(Answer::Beat)),
            (r#"{"ready":true}"#, Some(Answer::Beat)),
            (r#"{"id":0,"ok":1}"#, None),
            (r#"{"id":1,"ok":1,"error":"both"}"#, None),
            ("not json", None),
        ];
        for (line, meaning) in table {
            assert_eq!(answer(line.as_bytes()), meaning, "{line}");
        }
    }
}
