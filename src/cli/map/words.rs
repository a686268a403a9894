//! Values of options, as they are typed.

use super::{duration, not_found};
use crate::cause::Cause;
use crate::map::{Halt, RetryOn};
use crate::sys::{EACCES, ENOENT};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// How many at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Jobs {
    Exactly(usize),
    Percent(u32),
    More(usize),
    Fewer(usize),
}

impl Jobs {
    pub(super) fn count(self) -> usize {
        let cpus = crate::cpu_count();
        let count = match self {
            Self::Exactly(count) => count,
            Self::Percent(percent) => cpus * percent as usize / 100,
            Self::More(more) => cpus + more,
            Self::Fewer(fewer) => cpus.saturating_sub(fewer),
        };
        count.max(1)
    }
}

impl FromStr for Jobs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is no number of jobs; type for example 4, 50%, +2 or -1");
        let number = |text: &str| text.parse::<u32>().map_err(|_| refuse());
        let jobs = if let Some(percent) = text.strip_suffix('%') {
            Self::Percent(number(percent)?)
        } else if let Some(more) = text.strip_prefix('+') {
            Self::More(number(more)? as usize)
        } else if let Some(fewer) = text.strip_prefix('-') {
            Self::Fewer(number(fewer)? as usize)
        } else {
            Self::Exactly(number(text)? as usize)
        };
        if jobs == Self::Exactly(0) || jobs == Self::Percent(0) { Err(refuse()) } else { Ok(jobs) }
    }
}

/// A time limit for an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Timeout {
    Fixed(Duration),
    Percent(u32),
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent) if percent > 0 => Ok(Self::Percent(percent)),
                _ => Err(format!("`{text}` is no percentage; type for example 300%")),
            },
            None => duration::parse(text).map(Self::Fixed),
        }
    }
}

/// The pause between two starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate(pub(super) Duration);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is no rate; type for example 5/s, 100/m or 0.5/s");
        let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
        let unit = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(refuse()),
        };
        let count: f64 = count.parse().map_err(|_| refuse())?;
        if count <= 0.0 || !count.is_finite() {
            return Err(refuse());
        }
        Duration::try_from_secs_f64(unit / count).map(Self).map_err(|_| refuse())
    }
}

/// Something, or never.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<T>(pub(super) Option<T>);

pub(super) fn halt(text: &str) -> Result<Bound<Halt>, String> {
    match text {
        "never" => Ok(Bound(None)),
        text => {
            text.parse().map(|halt| Bound(Some(halt))).map_err(|error: crate::map::NoHalt| error.to_string())
        }
    }
}

pub(super) fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        b"\\n" => Ok(b'\n'),
        b"\\t" => Ok(b'\t'),
        b"\\0" => Ok(0),
        [b'\\', b'x', digits @ ..] if digits.len() == 2 => u8::from_str_radix(&text[2..], 16)
            .map_err(|_| format!("`{text}` is no byte; type for example \\x1e")),
        _ => Err(format!("`{text}` is not one byte; type a character, or \\n \\t \\0 \\xHH")),
    }
}

pub(super) fn retry_on(text: &str) -> Result<RetryOn, String> {
    let mut on = RetryOn { crash: false, timeout: false, oom: false, fail: false, codes: Vec::new() };
    for word in text.split(',') {
        match word {
            "crash" => on.crash = true,
            "timeout" => on.timeout = true,
            "oom" => on.oom = true,
            "fail" => on.fail = true,
            "all" => (on.crash, on.timeout, on.oom, on.fail) = (true, true, true, true),
            code => match code.parse::<u8>() {
                Ok(code) if code > 0 => on.codes.push(code.into()),
                _ => {
                    return Err(format!(
                        "`{word}` is none of crash, timeout, oom, fail, all, an exit code from 1 to 255"
                    ));
                }
            },
        }
    }
    Ok(on)
}

pub(super) fn signal(text: &str) -> Result<i32, String> {
    let refuse = || format!("there is no signal `{text}`; type for example TERM, INT, HUP or a number");
    if let Ok(number) = text.parse::<i32>() {
        return crate::sys::pidfd::signal_name(number).map(|_| number).ok_or_else(refuse);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let has_name =
        |number: &i32| crate::sys::pidfd::signal_name(*number).is_some_and(|found| &found[3..] == name);
    (1..65).find(has_name).ok_or_else(refuse)
}

/// Is there such a program, and may it be executed? What can only be known by trying is not said.
pub(super) fn find(name: &OsStr) -> Result<(), Cause> {
    let look = |path: &Path| match std::fs::metadata(path) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(EACCES),
        Err(_) => Err(ENOENT),
    };
    let bytes = name.as_bytes();
    if bytes.contains(&b'/') || bytes.is_empty() {
        return look(Path::new(name)).map_err(not_found);
    }
    let dirs = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut worst = ENOENT;
    for dir in std::env::split_paths(&dirs) {
        let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
        match look(&dir.join(name)) {
            Ok(()) => return Ok(()),
            Err(EACCES) => worst = EACCES,
            Err(_) => {}
        }
    }
    Err(not_found(worst))
}

/// A shell's script with variables for places, each so that what it stands for stays one word: whether the place has quotes around
/// it or not.
pub(super) fn with_variables(script: &[u8], places: &[(&[u8], &str)]) -> Vec<u8> {
    let (mut out, mut quote, mut rest) = (Vec::with_capacity(script.len() + 16), None, script);
    while let [first, more @ ..] = rest {
        if let Some((place, variable)) =
            places.iter().find(|(place, _)| !place.is_empty() && rest.starts_with(place))
        {
            let (before, after) = match quote {
                None => ("\"", "\""),
                Some(b'"') => ("", ""),
                Some(_) => ("'\"", "\"'"),
            };
            out.extend_from_slice(format!("{before}${{{variable}}}{after}").as_bytes());
            rest = &rest[place.len()..];
            continue;
        }
        match (first, quote) {
            (b'\\', None | Some(b'"')) if !more.is_empty() => {
                out.extend_from_slice(&rest[..2]);
                rest = &rest[2..];
                continue;
            }
            (b'"' | b'\'', None) => quote = Some(*first),
            (byte, Some(open)) if *byte == open => quote = None,
            _ => {}
        }
        out.push(*first);
        rest = more;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_nonsense_is_refused() {
        assert_eq!("50%".parse::<Jobs>(), Ok(Jobs::Percent(50)));
        assert_eq!("-1".parse::<Jobs>(), Ok(Jobs::Fewer(1)));
        assert!(["0", "x", "", "-"].iter().all(|text| text.parse::<Jobs>().is_err()));
        assert_eq!("4/s".parse::<Rate>(), Ok(Rate(Duration::from_millis(250))));
        assert!(["0", "-1/s", "4/x", "nan"].iter().all(|text| text.parse::<Rate>().is_err()));
        assert_eq!((signal("TERM"), signal("sigint"), signal("9")), (Ok(15), Ok(2), Ok(9)));
        assert!(signal("NOPE").is_err() && signal("99").is_err());
        assert_eq!((delimiter(","), delimiter("\\0"), delimiter("\\x1e")), (Ok(b','), Ok(0), Ok(0x1e)));
        assert!(retry_on("crash,75").is_ok() && retry_on("crash,0").is_err() && retry_on("x").is_err());
        assert_eq!(find(OsStr::new("/nowhere/x")).unwrap_err().exit_code(), 127);
        assert_eq!(find(OsStr::new("/etc/passwd")).unwrap_err().exit_code(), 126);
        assert!(find(OsStr::new("sh")).is_ok());
    }

    #[test]
    fn a_place_in_a_script_is_one_word_however_it_is_quoted() {
        let table = [
            ("wc {}", r#"wc "${1}""#),
            (r#"wc "{}""#, r#"wc "${1}""#),
            (r#"echo "a {}" {}"#, r#"echo "a ${1}" "${1}""#),
            ("echo 'a {}'", r#"echo 'a '"${1}"''"#),
            (r#"echo \"{} "{}""#, r#"echo \""${1}" "${1}""#),
            ("echo {#}", r#"echo "${SEQ}""#),
        ];
        for (script, wanted) in table {
            let made = with_variables(script.as_bytes(), &[(b"{}", "1"), (b"{#}", "SEQ")]);
            assert_eq!(String::from_utf8(made).unwrap(), wanted, "{script}");
        }
    }
}
