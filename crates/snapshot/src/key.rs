//! What a snapshot is of.

use std::fmt;

use costrel_store::{EntryName, Hasher};
use serde::{Deserialize, Serialize};

use crate::Refusal;

/// Something that a snapshot depends on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fact {
    /// What it is, a word or two for people: `kernel`, `memory`, ….
    pub name: String,
    /// Its value, as text for people. What is secret stands here as a digest.
    pub value: String,
}

/// All that a snapshot depends on: two machines with the same key go on alike from the same
/// snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotKey {
    facts: Vec<Fact>,
}

impl Fact {
    /// A fact.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

impl SnapshotKey {
    /// A key of these facts, whose order counts.
    #[must_use]
    pub fn new(facts: Vec<Fact>) -> Self {
        Self { facts }
    }

    /// The facts.
    #[must_use]
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// The value of a fact.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|fact| fact.name == name).map(|fact| fact.value.as_str())
    }

    /// The name of its entry in the store.
    #[must_use]
    pub fn entry(&self) -> EntryName {
        let mut hasher = Hasher::new();
        hasher.field(b"snapshot");
        for fact in &self.facts {
            hasher.field(fact.name.as_bytes());
            hasher.field(fact.value.as_bytes());
        }
        EntryName::of_digest(&hasher.finish())
    }

    /// Whether a snapshot of `found` can stand for one of this key.
    pub(crate) fn admits(&self, found: &Self) -> Result<(), Refusal> {
        for wanted in &self.facts {
            let value = found.fact(&wanted.name).unwrap_or("nothing known of it");
            if value != wanted.value {
                return Err(Refusal::Foreign {
                    fact: wanted.name.clone(),
                    found: value.to_owned(),
                    wanted: wanted.value.clone(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(facts: &[(&str, &str)]) -> SnapshotKey {
        SnapshotKey::new(facts.iter().map(|(name, value)| Fact::new(*name, *value)).collect())
    }

    #[test]
    fn every_part_counts() {
        let one = key(&[("kernel", "a"), ("memory", "b")]);
        assert_eq!(one.entry(), one.clone().entry());
        for other in [
            key(&[("kernel", "a"), ("memory", "c")]),
            key(&[("kernel", "ab"), ("memory", "")]),
            key(&[("kernel", "a")]),
            key(&[("kernela", ""), ("memory", "b")]),
        ] {
            assert_ne!(one.entry(), other.entry(), "{other:?}");
        }
    }

    #[test]
    fn another_is_refused_by_name() {
        let wanted = key(&[("kernel", "a"), ("processor", "b")]);
        assert_eq!(wanted.admits(&wanted), Ok(()));
        let refusal = wanted.admits(&key(&[("kernel", "a"), ("processor", "x")])).unwrap_err();
        assert_eq!(refusal.to_string(), "it was taken with another processor: x, not b");
        let refusal = wanted.admits(&key(&[("kernel", "a")])).unwrap_err();
        assert!(refusal.to_string().contains("another processor: nothing known"), "{refusal}");
    }
}
