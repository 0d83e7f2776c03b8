//! The manifest of a snapshot: a line with format, length and checksum of what follows, then JSON.
//!
//! ```text
//! costrel-snapshot 1 143 ec562df5
//! {"created":…,"facts":[…],"files":[{"name":"state","length":…,"checksum":…},…]}
//! ```

use serde::{Deserialize, Serialize};

use crate::{Refusal, SnapshotKey};

/// Changes whenever files of the old form would be misread.
pub(crate) const FORMAT: u32 = 1;
const MAGIC: &str = "costrel-snapshot";

/// What a snapshot says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// When it was taken, in seconds since 1970.
    pub(crate) created: u64,
    /// What its taker wants to be told when a machine is restored from it.
    pub(crate) note: String,
    /// What it is of.
    #[serde(rename = "facts")]
    pub(crate) key: SnapshotKey,
    /// Its other files.
    pub(crate) files: Vec<FileRecord>,
}

/// One of the files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) name: String,
    /// In bytes.
    pub(crate) length: u64,
    /// See [`crate::checksum`].
    pub(crate) checksum: u32,
}

impl Manifest {
    pub(crate) fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let body = serde_json::to_string(self)?;
        let (length, sum) = (body.len(), crc32c::crc32c(body.as_bytes()));
        Ok(format!("{MAGIC} {FORMAT} {length} {sum:08x}\n{body}\n").into_bytes())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Manifest)?;
        let (head, rest) = text.split_once('\n').ok_or(Refusal::Manifest)?;
        let words: Vec<&str> = head.split(' ').collect();
        let [MAGIC, format, length, sum] = words[..] else { return Err(Refusal::Manifest) };
        let found: u32 = format.parse().map_err(|_| Refusal::Manifest)?;
        if found != FORMAT {
            return Err(Refusal::Format { found, known: FORMAT });
        }
        let length: usize = length.parse().map_err(|_| Refusal::Manifest)?;
        let body = rest.get(..length).ok_or(Refusal::Manifest)?;
        let sum = u32::from_str_radix(sum, 16).map_err(|_| Refusal::Manifest)?;
        if rest.get(length..) != Some("\n") || sum != crc32c::crc32c(body.as_bytes()) {
            return Err(Refusal::Manifest);
        }
        serde_json::from_str(body).map_err(|_| Refusal::Manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fact;

    fn manifest() -> Manifest {
        Manifest {
            created: 1_700_000_000,
            note: "n".into(),
            key: SnapshotKey::new(vec![Fact::new("kernel", "6.1 \"x\"\n")]),
            files: vec![FileRecord { name: "state".into(), length: 7, checksum: 0xdead_beef }],
        }
    }

    /// The form must not change without its number.
    const GOLDEN: &str = "costrel-snapshot 1 143 ec562df5\n{\"created\":1700000000,\"note\":\"n\",\"facts\":[{\
        \"name\":\"kernel\",\"value\":\"6.1 \\\"x\\\"\\n\"}],\"files\":[{\"name\":\"state\",\
        \"length\":7,\"checksum\":3735928559}]}\n";

    #[test]
    fn reads_and_writes_the_golden_file() {
        let encoded = String::from_utf8(manifest().encode().unwrap()).unwrap();
        assert_eq!(encoded, GOLDEN);
        assert_eq!(Manifest::decode(GOLDEN.as_bytes()), Ok(manifest()));
    }

    #[test]
    fn damage_is_refused_wherever_it_is() {
        let whole = manifest().encode().unwrap();
        for length in 0..whole.len() {
            assert!(Manifest::decode(&whole[..length]).is_err(), "cut at {length}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                // A digit's letter may change its case, which means the same.
                let decoded = Manifest::decode(&damaged);
                assert!(decoded.is_err() || decoded == Ok(manifest()), "byte {at}, bit {bit}");
            }
        }
        let other = GOLDEN.replacen("snapshot 1", "snapshot 2", 1);
        let refusal = Manifest::decode(other.as_bytes()).unwrap_err();
        assert_eq!(refusal.to_string(), "its format is 2, and this program reads 1");
    }
}
