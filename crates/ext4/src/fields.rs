//! Little-endian fields at fixed offsets, as the on-disk format has them.

/// Writes a 16-bit field.
pub(crate) fn put16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes a 32-bit field.
pub(crate) fn put32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// The lower 16 bits.
pub(crate) fn low16(value: u32) -> u16 {
    (value & 0xffff) as u16
}

/// The upper 16 bits.
pub(crate) fn high16(value: u32) -> u16 {
    (value >> 16) as u16
}

/// The lower 32 bits.
pub(crate) fn low32(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// The upper 32 bits.
pub(crate) fn high32(value: u64) -> u32 {
    (value >> 32) as u32
}
