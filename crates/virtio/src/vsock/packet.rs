//! A packet's header (virtio 1.2, 5.10.6).

/// The host's address.
pub(super) const HOST_CID: u64 = 2;
/// The only type of socket that was negotiated.
pub(super) const STREAM: u16 = 1;

/// What a packet is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(super) enum Operation {
    /// To open a connection.
    Request = 1,
    /// To accept one.
    Response = 2,
    /// To refuse or end one.
    Reset = 3,
    /// To say that one's sender will not receive or send any more.
    Shutdown = 4,
    /// Data.
    Data = 5,
    /// To say how much the sender has room for.
    CreditUpdate = 6,
    /// To ask for that.
    CreditRequest = 7,
}

/// Flags of [`Operation::Shutdown`], which add up over a connection's life.
pub(super) mod ended {
    /// The sender will not receive any more.
    pub(in super::super) const RECEIVING: u32 = 1;
    /// The sender will not send any more.
    pub(in super::super) const SENDING: u32 = 2;
    /// Neither.
    pub(in super::super) const BOTH: u32 = RECEIVING | SENDING;
}

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    /// Of the data that follows, in bytes.
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) operation: u16,
    pub(super) flags: u32,
    /// How many bytes the sender can hold (`buf_alloc`).
    pub(super) buffer: u32,
    /// How many bytes the sender has ever let go of, modulo 2³² (`fwd_cnt`).
    pub(super) forwarded: u32,
}

impl Operation {
    pub(super) fn of(header: &Header) -> Option<Self> {
        Some(match header.operation {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

impl Header {
    pub(super) const BYTES: usize = 44;

    pub(super) fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let (source_cid, rest) = split(bytes);
        let (destination_cid, rest) = split(rest);
        let (source_port, rest) = split(rest);
        let (destination_port, rest) = split(rest);
        let (length, rest) = split(rest);
        let (kind, rest) = split(rest);
        let (operation, rest) = split(rest);
        let (flags, rest) = split(rest);
        let (buffer, rest) = split(rest);
        let (forwarded, _) = split(rest);
        Self {
            source_cid: u64::from_le_bytes(source_cid),
            destination_cid: u64::from_le_bytes(destination_cid),
            source_port: u32::from_le_bytes(source_port),
            destination_port: u32::from_le_bytes(destination_port),
            length: u32::from_le_bytes(length),
            kind: u16::from_le_bytes(kind),
            operation: u16::from_le_bytes(operation),
            flags: u32::from_le_bytes(flags),
            buffer: u32::from_le_bytes(buffer),
            forwarded: u32::from_le_bytes(forwarded),
        }
    }

    pub(super) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&self.source_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.destination_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.source_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.destination_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buffer.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.forwarded.to_le_bytes());
        bytes
    }
}

/// The next `N` bytes; zeroes if there are not as many, which [`Header::BYTES`] excludes.
fn split<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    bytes.split_first_chunk().map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_44_bytes_with_its_fields_in_order() {
        let bytes: [u8; Header::BYTES] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let header = Header::decode(&bytes);
        assert_eq!(header.source_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.destination_port, 0x1716_1514);
        assert_eq!((header.kind, header.operation), (0x1d1c, 0x1f1e));
        assert_eq!(header.forwarded, 0x2b2a_2928);
        assert_eq!(header.encode(), bytes);
    }
}
