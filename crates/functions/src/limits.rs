//! The quantities of a function that AWS bounds.

use std::time::Duration;

/// What kernel and agent take of a machine's memory, in MB: it comes on top of the function's.
const SYSTEM_MEMORY: u32 = 128;

/// A quantity outside of AWS's bounds.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} of {value} {unit} is out of range: it must be between {least} and {most} {unit}")]
pub struct LimitError {
    what: &'static str,
    value: u64,
    unit: &'static str,
    least: u64,
    most: u64,
}

fn check(
    what: &'static str,
    unit: &'static str,
    value: u64,
    least: u32,
    most: u32,
) -> Result<u32, LimitError> {
    u32::try_from(value).ok().filter(|value| (least..=most).contains(value)).ok_or(LimitError {
        what,
        value,
        unit,
        least: least.into(),
        most: most.into(),
    })
}

/// A function's memory: 128 to 10240 MB (of 2^20 bytes, as AWS counts).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FunctionMemory(u32);

/// The time that an invocation may take: 1 to 900 s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FunctionTimeout(u32);

/// The size of /tmp: 512 to 10240 MB (of 2^20 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EphemeralStorage(u32);

impl FunctionMemory {
    /// Checks an amount in MB.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn megabytes(value: u64) -> Result<Self, LimitError> {
        check("a function memory", "MB", value, 128, 10240).map(Self)
    }

    /// The amount in MB.
    #[must_use]
    pub fn as_megabytes(self) -> u32 {
        self.0
    }

    /// The amount in bytes.
    #[must_use]
    pub fn as_bytes(self) -> u64 {
        u64::from(self.0) << 20
    }

    /// The memory of a machine that runs such a function, in bytes: kernel and agent take theirs.
    #[must_use]
    pub fn machine_bytes(self) -> u64 {
        u64::from(self.0 + SYSTEM_MEMORY) << 20
    }
}

impl FunctionTimeout {
    /// Checks a time in seconds.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn seconds(value: u64) -> Result<Self, LimitError> {
        check("a function timeout", "s", value, 1, 900).map(Self)
    }

    /// The time.
    #[must_use]
    pub fn as_duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl EphemeralStorage {
    /// Checks a size in MB.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn megabytes(value: u64) -> Result<Self, LimitError> {
        check("an ephemeral storage", "MB", value, 512, 10240).map(Self)
    }

    /// The size in bytes.
    #[must_use]
    pub fn as_bytes(self) -> u64 {
        u64::from(self.0) << 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_awss() {
        assert_eq!(
            FunctionMemory::megabytes(127).unwrap_err().to_string(),
            "a function memory of 127 MB is out of range: it must be between 128 and 10240 MB"
        );
        assert!(FunctionMemory::megabytes(10241).is_err());
        assert!(FunctionTimeout::seconds(0).is_err());
        assert!(FunctionTimeout::seconds(901).is_err());
        assert!(EphemeralStorage::megabytes(511).is_err());
        assert_eq!(EphemeralStorage::megabytes(512).unwrap().as_bytes(), 512 << 20);
    }
}
