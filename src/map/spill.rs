//! What a task prints, until it may be printed: in memory as long as it is little, then in a file without a name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// So much of one task stays in memory.
const IN_MEMORY: usize = 256 << 10;

/// Bytes, wherever they are.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    memory: Vec<u8>,
    /// What came before `memory`.
    file: Option<File>,
    filed: u64,
}

impl Spill {
    pub(crate) const fn len(&self) -> u64 {
        self.filed + self.memory.len() as u64
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has not gone to disk.
    pub(crate) fn memory(&mut self) -> &mut Vec<u8> {
        &mut self.memory
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.extend_from_slice(bytes);
        self.settle()
    }

    fn settle(&mut self) -> io::Result<()> {
        if self.memory.len() <= IN_MEMORY {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(nameless()?);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.memory)?;
        }
        self.filed += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Writes all of it, in pieces.
    ///
    /// # Errors
    /// Those of either file.
    pub(crate) fn write_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.seek(SeekFrom::Start(0))?;
            let copied = io::copy(&mut file.take(self.filed), out)?;
            if copied < self.filed {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        out.write_all(&self.memory)
    }

    /// All of it, in memory.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn bytes(&mut self) -> io::Result<Vec<u8>> {
        if self.file.is_none() {
            return Ok(std::mem::take(&mut self.memory));
        }
        let mut all = Vec::new();
        self.write_to(&mut all)?;
        Ok(all)
    }
}

/// A file that nobody else can find, in the directory for such.
fn nameless() -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let dir = std::env::temp_dir();
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".procession-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let text = format!(
                    "cannot keep results in {}: {error}; set TMPDIR to a disk with room",
                    dir.display()
                );
                return Err(io::Error::new(error.kind(), text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_in_comes_out_from_memory_and_from_disk() {
        for size in [0, 1, IN_MEMORY, IN_MEMORY + 1, 3 * IN_MEMORY + 17] {
            let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut spill = Spill::default();
            bytes.chunks(100_000).for_each(|chunk| spill.push(chunk).unwrap());
            assert_eq!(spill.len(), bytes.len() as u64);
            let mut out = Vec::new();
            spill.write_to(&mut out).unwrap();
            assert!(out == bytes && spill.bytes().unwrap() == bytes);
        }
    }
}
