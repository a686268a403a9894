//! A command with places for its task.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A part of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    /// `{}`
    Task,
    /// `{#}`: the task's number, from 1.
    Number,
    /// `{%}`: the slot it runs in, from 1.
    Slot,
}

/// The program and its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    words: Vec<Vec<Part>>,
    fixed: bool,
    /// A task is several arguments, with a NUL between them.
    several: bool,
}

impl Template {
    /// `place` is what stands for the task, `{}` unless told otherwise. If no word has a place, the task is appended, if
    /// `append`.
    pub(crate) fn new(words: &[OsString], place: &[u8], append: bool) -> Self {
        let mut words: Vec<_> = words.iter().map(|word| parts(word.as_bytes(), place)).collect();
        let is_text = |word: &Vec<Part>| word.iter().all(|part| matches!(part, Part::Text(_)));
        let fixed = words.first().is_none_or(is_text);
        if append && words.iter().all(is_text) {
            words.push(vec![Part::Task]);
        }
        Self { words, fixed, several: false }
    }

    /// A task is several arguments, with a NUL between them; a word that is nothing but the task becomes so many.
    pub(crate) const fn several(mut self, yes: bool) -> Self {
        self.several = yes;
        self
    }

    /// Is it the same program for every task?
    pub(crate) const fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// For one task: the program and its arguments.
    pub(crate) fn fill(&self, task: &[u8], number: u64, slot: usize) -> Vec<OsString> {
        let fill = |word: &Vec<Part>| {
            let mut bytes = Vec::with_capacity(task.len() + 8);
            for part in word {
                match part {
                    Part::Text(text) => bytes.extend_from_slice(text),
                    Part::Task => bytes.extend_from_slice(task),
                    Part::Number => bytes.extend_from_slice(number.to_string().as_bytes()),
                    Part::Slot => bytes.extend_from_slice(slot.to_string().as_bytes()),
                }
            }
            OsString::from_vec(bytes)
        };
        if !self.several {
            return self.words.iter().map(fill).collect();
        }
        let spread = |word: &Vec<Part>| match word.as_slice() {
            [Part::Task] => {
                task.split(|byte| *byte == 0).map(|one| OsString::from_vec(one.to_vec())).collect()
            }
            // In the midst of a word they stand side by side.
            _ => {
                let word = fill(word).into_vec();
                let spaced = word.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
                vec![OsString::from_vec(spaced)]
            }
        };
        self.words.iter().flat_map(spread).collect()
    }
}

fn parts(mut word: &[u8], place: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = Vec::new();
    while !word.is_empty() {
        let places = [(place, Part::Task), (b"{#}", Part::Number), (b"{%}", Part::Slot)];
        match places.into_iter().find(|(place, _)| !place.is_empty() && word.starts_with(place)) {
            Some((place, part)) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(part);
                word = &word[place.len()..];
            }
            None => {
                text.push(word[0]);
                word = &word[1..];
            }
        }
    }
    if !text.is_empty() || parts.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

#[cfg(any(test, feature = "cli"))]
/// A command as a shell would have to be told it.
pub(crate) fn quoted(words: &[OsString]) -> Vec<u8> {
    let words: Vec<_> = words.iter().map(|word| quote(word)).collect();
    words.join(&b' ')
}

#[cfg(any(test, feature = "cli"))]
fn quote(word: &std::ffi::OsStr) -> Vec<u8> {
    let bytes = word.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(byte) || *byte >= 0x80;
    if std::str::from_utf8(bytes).is_err() || bytes.iter().any(u8::is_ascii_control) {
        return [b"$'".as_slice(), &escaped(bytes, b'\''), b"'"].concat();
    }
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return bytes.to_vec();
    }
    [b"'".as_slice(), &bytes.split(|&byte| byte == b'\'').collect::<Vec<_>>().join(&b"'\\''"[..]), b"'"]
        .concat()
}

#[cfg(any(test, feature = "cli"))]
/// Bytes as printable text of one line: `\\`, `\t`, `\n`, `\r`, `\xHH`, and one more character escaped.
pub(crate) fn escaped(bytes: &[u8], quote: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            match byte {
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\\' => out.extend_from_slice(b"\\\\"),
                byte if byte == quote => out.extend_from_slice(&[b'\\', byte]),
                byte if byte.is_ascii_control() => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
                byte => out.push(byte),
            }
        }
        chunk.invalid().iter().for_each(|byte| out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()));
    }
    out
}

#[cfg(any(test, feature = "cli"))]
/// What [`escaped`] was given; `None` if it cannot have made that.
pub(crate) fn unescaped(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        text = rest;
        if first != b'\\' {
            out.push(first);
            continue;
        }
        let (&which, rest) = text.split_first()?;
        text = rest;
        match which {
            b't' => out.push(b'\t'),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b'x' => {
                let digits = std::str::from_utf8(text.get(..2)?).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                text = &text[2..];
            }
            other => out.push(other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(words: &[&str], place: &str) -> Vec<OsString> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Template::new(&words, place.as_bytes(), true).fill(b"a b", 7, 2)
    }

    #[test]
    fn places_are_filled_and_without_one_the_task_is_appended() {
        assert_eq!(fill(&["echo"], "{}"), ["echo", "a b"]);
        assert_eq!(fill(&["echo", "{}", "<{}{}>.{#}.{%}"], "{}"), ["echo", "a b", "<a ba b>.7.2"]);
        assert_eq!(fill(&["echo", "{#}"], "{}"), ["echo", "7"]);
        assert_eq!(fill(&["echo", "{}", "%"], "%"), ["echo", "{}", "a b"]);
        assert_eq!(fill(&["echo", ""], "{}"), ["echo", "", "a b"]);
    }

    #[test]
    fn a_shell_can_be_told() {
        let words = ["a b", "it's", "", "x\ny", "plain-1.2"].map(OsString::from);
        assert_eq!(quoted(&words), b"'a b' 'it'\\''s' '' $'x\\ny' plain-1.2");
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = escaped(&bytes, b'\t');
            prop_assert!(!text.iter().any(u8::is_ascii_control));
            prop_assert_eq!(unescaped(&text), Some(bytes));
        }
    }
}
