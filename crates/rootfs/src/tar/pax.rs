//! PAX extended headers: `LENGTH KEY=VALUE\n`, again and again.

use std::collections::HashMap;

/// The records that hold for an entry, the last of each key. Those of GNU sparse files, which
/// come several times, are apart.
#[derive(Clone, Default, Debug)]
pub(crate) struct Records {
    values: HashMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.offset` and `GNU.sparse.numbytes`, by turns.
    pub(crate) sparse: Vec<Vec<u8>>,
}

impl Records {
    /// Adds the records of a header. `None` if it is malformed.
    pub(crate) fn add(&mut self, mut header: &[u8]) -> Option<()> {
        while !header.is_empty() {
            let space = header.iter().take(20).position(|byte| *byte == b' ')?;
            let length = usize::try_from(super::number::decimal(&header[..space])?).ok()?;
            let record = header.get(space + 1..length)?.strip_suffix(b"\n")?;
            header = &header[length..];
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes" {
                self.sparse.push(value.to_vec());
            } else {
                self.values.insert(key.to_vec(), value.to_vec());
            }
        }
        Some(())
    }

    /// These records, and others that win over them.
    pub(crate) fn overridden_by(&self, other: Self) -> Self {
        let mut all = self.clone();
        all.values.extend(other.values);
        all.sparse = other.sparse;
        all
    }

    /// The value of a key; an empty value means that there is none.
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key.as_bytes()).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// The extended attributes, by name.
    pub(crate) fn attributes(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut attributes: Vec<_> = self
            .values
            .iter()
            .filter_map(|(key, value)| {
                Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone()))
            })
            .collect();
        attributes.sort();
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_records() {
        let mut records = Records::default();
        records.add(b"12 path=a/b\n31 SCHILY.xattr.user.x=a\nb=c\0\xff\n").unwrap();
        assert_eq!(records.get("path"), Some(&b"a/b"[..]));
        assert_eq!(records.attributes(), [(b"user.x".to_vec(), b"a\nb=c\0\xff".to_vec())]);
    }

    #[test]
    fn refuses_malformed_records() {
        for header in [
            &b"x"[..],
            b"12 path=a/b",
            b"13 path=a/b\n",
            b"5 a=b\n",
            b"0 a=b\n",
            b"3 \n",
            b" a=b\n",
            b"99999999999999999999 a=b\n",
            b"18446744073709551615 a=b\n",
            b"6 ab\n\n",
        ] {
            assert!(Records::default().add(header).is_none(), "{header:?}");
        }
    }
}
