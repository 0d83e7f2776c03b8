//! The maps of sparse files.

use super::{number::decimal, pax::Records};

/// Where the data of a sparse file is; the rest is holes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SparseMap {
    /// Offsets and lengths, ascending, none of them empty.
    pub(crate) data: Vec<(u64, u64)>,
    /// The size of the file.
    pub(crate) size: u64,
}

impl SparseMap {
    /// Checks a map: ascending, within the file, and with as much data as is stored.
    pub(crate) fn new(segments: Vec<(u64, u64)>, size: u64, stored: u64) -> Option<Self> {
        let mut end = 0;
        let mut total = 0_u64;
        for (offset, length) in &segments {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            total = total.checked_add(*length)?;
        }
        let data = segments.into_iter().filter(|(_, length)| *length > 0).collect();
        (end <= size && total == stored).then_some(Self { data, size })
    }

    /// The map of PAX formats 0.0 and 0.1, which is in the records; `None` if it is malformed.
    pub(crate) fn of_records(records: &Records, stored: u64) -> Option<Self> {
        let numbers: Vec<u64> = match records.get("GNU.sparse.map") {
            Some(map) => map.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>()?,
            None => records.sparse.iter().map(|text| decimal(text)).collect::<Option<_>>()?,
        };
        let size = decimal(records.get("GNU.sparse.size")?)?;
        let (pairs, []) = numbers.as_chunks() else { return None };
        Self::new(pairs.iter().map(|[offset, length]| (*offset, *length)).collect(), size, stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_maps() {
        assert!(SparseMap::new(vec![(0, 5), (10, 5)], 20, 10).is_some());
        assert!(SparseMap::new(vec![(0, 5), (4, 5)], 20, 10).is_none(), "overlapping");
        assert!(SparseMap::new(vec![(0, 5)], 4, 5).is_none(), "beyond the end");
        assert!(SparseMap::new(vec![(0, 5)], 5, 6).is_none(), "more stored than mapped");
        assert!(SparseMap::new(vec![(u64::MAX, 2)], 5, 2).is_none(), "overflowing");
    }
}
