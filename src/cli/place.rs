//! Whom a verb means: `web`, `web:2`, `web:*`.

use std::ffi::OsStr;
use std::path::Path;

/// A name that can be part of a path, and be told from a number behind it.
pub(super) fn name(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_alphanumeric() || "._-+@".contains(c);
    if text.is_empty() || text.starts_with('.') || text.len() > 60 || !text.chars().all(fine) {
        return Err(format!("`{text}` is no name; use letters, digits and . _ - +, 60 at most"));
    }
    Ok(text.into())
}

/// What a program's copies are called.
pub(super) fn of_program(path: &OsStr) -> String {
    let base = Path::new(path).file_name().unwrap_or(path).to_string_lossy();
    let fine = |c: char| if c.is_alphanumeric() || "._-+@".contains(c) { c } else { '-' };
    let name: String = base.trim_start_matches('.').chars().take(15).map(fine).collect();
    if name.is_empty() { "run".into() } else { name }
}

/// Some of the copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) name: String,
    /// All unless given.
    pub(super) id: Option<u32>,
}

pub(super) fn who(text: &str) -> Result<Who, String> {
    let refuse = || format!("`{text}` is nobody; type NAME, NAME:2 or NAME:*");
    let (front, id) = match text.split_once(':') {
        None | Some((_, "*")) => (text.trim_end_matches(":*"), None),
        Some((front, id)) => (front, Some(id.parse().map_err(|_| refuse())?)),
    };
    Ok(Who { name: name(front)?, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_is_meant() {
        let one = |name: &str, id| Ok(Who { name: name.into(), id });
        assert_eq!(who("web"), one("web", None));
        assert_eq!(who("web:*"), one("web", None));
        assert_eq!(who("web:2"), one("web", Some(2)));
        for text in ["", ":2", "web:x", "../web", "a/b", ".hidden"] {
            assert!(who(text).is_err(), "{text}");
        }
        assert_eq!(of_program(OsStr::new("/bin/my server")), "my-server");
        assert_eq!(of_program(OsStr::new("..")), "run");
    }
}
