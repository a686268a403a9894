//! A copy's log: a file that never grows beyond its size, and a few older ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where logs lie, and how much of them.
///
/// The newest is `NAME.ID.log`, the one before `NAME.ID.log.1`, and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDir {
    pub(super) dir: PathBuf,
    pub(super) size: u64,
    pub(super) keep: u32,
}

impl LogDir {
    /// Logs in a directory, which is made unless it is there: 10 MiB each, and 5 older ones.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self { dir: dir.as_ref().to_owned(), size: 10 << 20, keep: 5 }
    }

    /// No file gets larger than so many bytes; at least 1.
    #[must_use]
    pub const fn size(mut self, bytes: u64) -> Self {
        self.size = if bytes == 0 { 1 } else { bytes };
        self
    }

    /// So many older files are kept.
    #[must_use]
    pub const fn keep(mut self, files: u32) -> Self {
        self.keep = files;
        self
    }

    /// Can logs be written there?
    pub(super) fn check(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let probe = self.dir.join(format!(".procession-{}", std::process::id()));
        File::create(&probe)?;
        fs::remove_file(probe)
    }
}

#[derive(Debug)]
pub(super) struct Log {
    settings: LogDir,
    path: PathBuf,
    file: Option<File>,
    len: u64,
    /// So many bytes found no room since the last that did.
    lost: u64,
}

/// What is to be told of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// From here on bytes are lost.
    Full(String),
    /// There is room again; so many were lost.
    Over(u64),
}

impl Log {
    pub(super) fn new(settings: LogDir, name: &str, id: u32) -> Self {
        let path = settings.dir.join(format!("{name}.{id}.log"));
        Self { settings, path, file: None, len: 0, lost: 0 }
    }

    /// Somebody else may have moved it: it is opened anew.
    pub(super) fn reopen(&mut self) {
        self.file = None;
    }

    /// Whole lines stay together, unless one is larger than a file may be.
    pub(super) fn write(&mut self, text: &[u8]) -> Option<Trouble> {
        let mut rest = text;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) => {
                    let first = self.lost == 0;
                    self.lost += rest.len() as u64;
                    let path = self.path.display();
                    return first.then(|| {
                        Trouble::Full(format!(
                            "cannot write {path}: {error}; lines are lost until there is room"
                        ))
                    });
                }
            }
        }
        let lost = std::mem::take(&mut self.lost);
        (lost > 0).then_some(Trouble::Over(lost))
    }

    fn write_some(&mut self, text: &[u8]) -> io::Result<usize> {
        let room = self.settings.size.saturating_sub(self.open()?.1);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let fits = text.len().min(room);
        let lines = if fits == text.len() {
            fits
        } else {
            text[..fits].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1)
        };
        let part = match lines {
            0 if self.len > 0 => {
                self.rotate()?;
                return Ok(0);
            }
            0 => &text[..fits],
            lines => &text[..lines],
        };
        let (file, _) = self.open()?;
        let written = (&*file).write(part)?;
        self.len += written as u64;
        if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
    }

    fn open(&mut self) -> io::Result<(&File, u64)> {
        if self.file.is_none() {
            let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            self.len = file.metadata()?.len();
            self.file = Some(file);
        }
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok((file, self.len))
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        self.len = 0;
        let older = |number: u32| match number {
            0 => self.path.clone(),
            number => PathBuf::from(format!("{}.{number}", self.path.display())),
        };
        if self.settings.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (0..self.settings.keep).rev() {
            match fs::rename(older(number), older(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes(dir: &Path) -> Vec<u64> {
        let mut all: Vec<_> = fs::read_dir(dir).expect("a directory").flatten().collect();
        all.sort_by_key(fs::DirEntry::file_name);
        all.iter().map(|entry| entry.metadata().expect("a file").len()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn it_never_grows_beyond(
            size in 1_u64..50, keep in 0_u32..4, parts in proptest::collection::vec("[a\n]{0,60}", 0..20),
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let mut log = Log::new(LogDir::new(dir.path()).size(size).keep(keep), "web", 0);
            for part in &parts {
                prop_assert_eq!(log.write(part.as_bytes()), None);
                let sizes = sizes(dir.path());
                prop_assert!(sizes.len() <= keep as usize + 1 && sizes.iter().all(|&one| one <= size), "{:?}", sizes);
            }
            let all: u64 = sizes(dir.path()).iter().sum();
            let written: usize = parts.iter().map(String::len).sum();
            prop_assert!(all <= written as u64);
            if written as u64 <= size {
                prop_assert_eq!(all, written as u64);
            }
        }
    }

    #[test]
    fn lines_stay_together() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = Log::new(LogDir::new(dir.path()).size(10).keep(2), "web", 3);
        for line in ["one\n", "two\n", "three\n"] {
            log.write(line.as_bytes());
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("a file");
        assert_eq!((read("web.3.log"), read("web.3.log.1")), ("three\n".into(), "one\ntwo\n".into()));
    }

    #[test]
    fn a_full_disk_is_told_once_and_its_end_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = Log::new(LogDir::new(dir.path().join("later")), "web", 0);
        assert!(matches!(log.write(b"lost\n"), Some(Trouble::Full(text)) if text.contains("web.0.log")));
        assert_eq!(log.write(b"lost\n"), None);
        fs::create_dir(dir.path().join("later")).expect("a directory");
        assert_eq!(log.write(b"kept\n"), Some(Trouble::Over(10)));
        assert_eq!(log.write(b"kept\n"), None);
    }
}
