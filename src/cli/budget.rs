//! Limits as they are typed: `memory=512M`.

use super::{duration, size};
use crate::program::Limit;
use std::str::FromStr;

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Budget {
    /// The kernel's to enforce.
    Of(Limit),
    /// Bytes that a process may print: ours.
    Output(u64),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is no limit; type for example memory=512M"))?;
        Ok(Self::Of(match key {
            "memory" => Limit::Memory(size::parse(value)?),
            "cpu-time" => Limit::CpuTime(duration::parse(value)?),
            "nofile" => Limit::OpenFiles(value.parse().map_err(|_| format!("`{value}` is no number"))?),
            "fsize" => Limit::FileSize(size::parse(value)?),
            "core" => Limit::CoreSize(size::parse(value)?),
            "output" => return Ok(Self::Output(size::parse(value)?)),
            _ => {
                return Err(format!(
                    "there is no limit `{key}`; those there are: memory, cpu-time, nofile, fsize, core, output"
                ));
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_nonsense_is_refused() {
        assert_eq!("memory=1G".parse(), Ok(Budget::Of(Limit::Memory(1 << 30))));
        assert_eq!("output=64K".parse(), Ok(Budget::Output(65536)));
        assert!(
            ["memori=1G", "memory", "nofile=many", "="].iter().all(|text| text.parse::<Budget>().is_err())
        );
    }
}
