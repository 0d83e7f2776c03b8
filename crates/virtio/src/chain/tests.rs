use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use proptest::prelude::*;
use virtio_queue::QueueOwnedT as _;
use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::mock::{FREE, Piece, Ring, memory, readable, writable};

const SIZE: u16 = 16;
const INDIRECT: u16 = 4;
const NEXT: u16 = 1;

fn load_head(ring: &Ring, memory: &GuestMemory) -> Result<ChainBuffers, ChainError> {
    let mut buffers = ChainBuffers::default();
    let mut queue = ring.queue(false);
    let chain = queue.iter(memory).unwrap().next().unwrap();
    let outcome = buffers.load(memory, chain);
    if outcome.is_err() {
        assert_eq!((buffers.readable_length(), buffers.writable_length()), (0, 0));
    }
    outcome.map(|()| buffers)
}

fn load(pieces: &[Piece]) -> Result<ChainBuffers, ChainError> {
    let memory = memory();
    let mut ring = Ring::new(0, SIZE);
    ring.offer(&memory, pieces);
    load_head(&ring, &memory)
}

#[test]
fn lengths_are_those_of_each_direction() {
    let pieces =
        [readable(FREE, 3), readable(FREE, 0), writable(FREE + 10, 5), writable(FREE + 20, 0)];
    let buffers = load(&pieces).unwrap();
    assert_eq!((buffers.readable_length(), buffers.writable_length()), (3, 5));
}

#[test]
fn what_is_read_comes_before_what_is_written() {
    let chain = [writable(FREE, 1), readable(FREE, 1)];
    assert_eq!(load(&chain).unwrap_err(), ChainError::Order);
}

#[test]
fn buffers_outside_the_memory_are_refused() {
    for (address, length) in
        [(32 << 20, 1), ((32 << 20) - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 100), (1 << 63, 4096)]
    {
        for piece in [readable(address, length), writable(address, length)] {
            let error = load(&[piece]).unwrap_err();
            assert!(matches!(error, ChainError::Address { .. }), "{address:#x} {error}");
        }
    }
    load(&[readable((32 << 20) - 1, 1)]).unwrap();
}

#[test]
fn nothing_anywhere_is_nothing() {
    let buffers = load(&[readable(u64::MAX, 0), writable(1 << 40, 0)]);
    if let Ok(buffers) = buffers {
        assert_eq!((buffers.readable_length(), buffers.writable_length()), (0, 0));
    }
}

#[test]
fn a_loop_is_refused() {
    let memory = memory();
    let mut ring = Ring::new(0, SIZE);
    let piece = Piece { flags: NEXT, ..readable(FREE, 1) };
    ring.descriptor(&memory, 0, piece, 1);
    ring.descriptor(&memory, 1, piece, 0);
    ring.offer_head(&memory, 0);
    assert_eq!(load_head(&ring, &memory).unwrap_err(), ChainError::Broken);
}

#[test]
fn indices_out_of_range_are_refused() {
    let memory = memory();
    for next in [SIZE, u16::MAX] {
        let mut ring = Ring::new(0, SIZE);
        ring.descriptor(&memory, 0, Piece { flags: NEXT, ..readable(FREE, 1) }, next);
        ring.offer_head(&memory, 0);
        assert_eq!(load_head(&ring, &memory).unwrap_err(), ChainError::Broken);
        let mut ring = Ring::new(0, SIZE);
        ring.offer_head(&memory, next);
        assert_eq!(load_head(&ring, &memory).unwrap_err(), ChainError::Broken);
    }
}

/// A chain of one descriptor that stands for a table.
fn load_table(
    length: usize,
    fill: impl Fn(&dyn Fn(u64, Piece, u16)),
) -> Result<ChainBuffers, ChainError> {
    let memory = memory();
    let mut ring = Ring::new(0, SIZE);
    let mut table = Ring::new(0, SIZE);
    table.base = FREE + 0x10_0000;
    fill(&|index, piece, next| {
        table.descriptor(&memory, u16::try_from(index).unwrap(), piece, next);
    });
    ring.offer(&memory, &[Piece { flags: INDIRECT, ..readable(table.base, length) }]);
    load_head(&ring, &memory)
}

#[test]
fn a_table_may_hold_more_than_the_ring() {
    let buffers = load_table(16 * 300, |put| {
        for index in 0..300u16 {
            let last = index == 299;
            let flags = if last { 2 } else { NEXT };
            put(u64::from(index), Piece { flags, ..readable(FREE, 2) }, index + 1);
        }
    });
    let buffers = buffers.unwrap();
    assert_eq!((buffers.readable_length(), buffers.writable_length()), (598, 2));
}

#[test]
fn broken_tables_are_refused() {
    let one = |put: &dyn Fn(u64, Piece, u16)| put(0, readable(FREE, 1), 0);
    load_table(16, one).unwrap();
    for length in [0, 1, 15, 17] {
        assert_eq!(load_table(length, one).unwrap_err(), ChainError::Broken, "{length}");
    }
    // A table in a table.
    let nested = |put: &dyn Fn(u64, Piece, u16)| {
        put(0, Piece { flags: INDIRECT, ..readable(FREE, 16) }, 0);
    };
    assert_eq!(load_table(16, nested).unwrap_err(), ChainError::Broken);
    // Beyond its end.
    let far = |put: &dyn Fn(u64, Piece, u16)| put(0, Piece { flags: NEXT, ..readable(FREE, 1) }, 1);
    assert_eq!(load_table(16, far).unwrap_err(), ChainError::Broken);
    // A loop in it.
    let around =
        |put: &dyn Fn(u64, Piece, u16)| put(0, Piece { flags: NEXT, ..readable(FREE, 1) }, 0);
    assert_eq!(load_table(160, around).unwrap_err(), ChainError::Broken);
    // Outside the memory.
    let memory = memory();
    let mut ring = Ring::new(0, SIZE);
    ring.offer(&memory, &[Piece { flags: INDIRECT, ..readable(1 << 40, 16) }]);
    assert_eq!(load_head(&ring, &memory).unwrap_err(), ChainError::Broken);
}

#[test]
fn chains_have_bounds() {
    let many = |count: u16, length: usize| {
        load_table(16 * usize::from(count), move |put| {
            for index in 0..count {
                let flags = if index == count - 1 { 0 } else { NEXT };
                put(u64::from(index), Piece { flags, ..readable(FREE, length) }, index + 1);
            }
        })
    };
    many(1024, 1).unwrap();
    assert_eq!(many(1025, 1).unwrap_err(), ChainError::TooLong);
    many(4, 16 << 20).unwrap();
    assert_eq!(many(5, 16 << 20).unwrap_err(), ChainError::TooLong);
    assert_eq!(many(1024, 16 << 20).unwrap_err(), ChainError::TooLong);
    // Nor may there be any number of empty ones: 65535 a chain, they keep a device from all else.
    many(1024, 0).unwrap();
    assert_eq!(many(1025, 0).unwrap_err(), ChainError::TooLong);
}

#[test]
fn a_status_is_the_last_byte() {
    let memory = memory();
    let mut ring = Ring::new(0, SIZE);
    ring.offer(&memory, &[writable(FREE, 4), writable(FREE + 8, 0)]);
    let mut buffers = load_head(&ring, &memory).unwrap();
    let status = buffers.take_status(&memory).unwrap();
    assert_eq!(buffers.writable_length(), 3);
    buffers.put(&memory, &[7, 7, 7]).unwrap();
    assert_eq!(buffers.put(&memory, &[7]), Err(ChainError::TooShort));
    status.set(&memory, 9);
    assert_eq!(memory.read_obj::<u32>(GuestAddress(FREE)).unwrap(), 0x0907_0707);
    assert_eq!(buffers.take_status(&memory).unwrap_err(), ChainError::TooShort);
    let mut empty = load(&[readable(FREE, 4)]).unwrap();
    assert_eq!(empty.take_status(&memory).unwrap_err(), ChainError::TooShort);
}

/// Pieces of these lengths with a gap between each two.
fn pieces(from: u64, lengths: &[usize], piece: fn(u64, usize) -> Piece) -> Vec<Piece> {
    let mut address = from;
    let mut pieces = Vec::new();
    for &length in lengths {
        pieces.push(piece(address, length));
        address += length as u64 + 1;
    }
    pieces
}

fn gather(memory: &GuestMemory, pieces: &[Piece]) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in pieces {
        let start = all.len();
        all.resize(start + piece.length as usize, 0);
        memory.read_slice(&mut all[start..], GuestAddress(piece.address)).unwrap();
    }
    all
}

proptest! {
    #[test]
    fn bytes_are_in_order_however_they_are_cut(
        lengths in prop::collection::vec(0..40usize, 1..7),
        cuts in prop::collection::vec(0..50usize, 0..6),
        limit in 0..300usize,
    ) {
        let memory = memory();
        let sources = pieces(FREE, &lengths, readable);
        let targets = pieces(FREE + 0x1000, &lengths, writable);
        let total: usize = lengths.iter().sum();
        let content: Vec<u8> = (1..=total).map(|at| u8::try_from(at % 251 + 1).unwrap()).collect();
        let mut at = 0;
        for piece in &sources {
            let end = at + piece.length as usize;
            memory.write_slice(&content[at..end], GuestAddress(piece.address)).unwrap();
            at = end;
        }
        let mut ring = Ring::new(0, SIZE);
        ring.offer(&memory, &[&sources[..], &targets[..]].concat());
        let mut buffers = load_head(&ring, &memory).unwrap();

        buffers.truncate_readable(limit);
        let expected = &content[..limit.min(total)];
        let mut got = Vec::new();
        for cut in cuts {
            let mut bytes = vec![0; cut];
            let fits = cut <= buffers.readable_length();
            prop_assert_eq!(buffers.take_into(&memory, &mut bytes).is_ok(), fits);
            if fits {
                got.extend(bytes);
            }
        }
        let (mut receiver, sender) = UnixStream::pair().unwrap();
        while buffers.readable_length() > 0 {
            buffers.send_to(&memory, sender.as_fd()).unwrap();
        }
        drop(sender);
        receiver.read_to_end(&mut got).unwrap();
        prop_assert_eq!(&got[..], expected);

        buffers.truncate_writable(limit);
        let room = buffers.writable_length();
        prop_assert_eq!(room, expected.len());
        let header = room.min(5);
        buffers.set_aside(header).unwrap();
        prop_assert_eq!(buffers.set_aside(room + 1), Err(ChainError::TooShort));
        let middle = (room - header) / 2;
        buffers.put(&memory, &expected[header..header + middle]).unwrap();
        let (mut sender, receiver) = UnixStream::pair().unwrap();
        sender.write_all(&expected[header + middle..]).unwrap();
        sender.write_all(b"too much").unwrap();
        while buffers.writable_length() > 0 {
            buffers.receive_from(&memory, receiver.as_fd()).unwrap();
        }
        buffers.put_aside(&memory, &expected[..header]);
        let mut written = gather(&memory, &targets);
        prop_assert!(written.split_off(room).iter().all(|&byte| byte == 0));
        prop_assert_eq!(&written[..], expected);
        // The gaps were left alone.
        for piece in &targets {
            let gap = GuestAddress(piece.address + u64::from(piece.length));
            prop_assert_eq!(memory.read_obj::<u8>(gap).unwrap(), 0);
        }
    }
}

#[test]
fn files_are_read_and_written_by_offset() {
    let memory = memory();
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    let mut ring = Ring::new(0, SIZE);
    ring.offer(&memory, &[writable(FREE, 2), writable(FREE + 10, 0), writable(FREE + 20, 3)]);
    let mut buffers = load_head(&ring, &memory).unwrap();
    buffers.read_from(&memory, file.as_fd(), 4).unwrap();
    assert_eq!(memory.read_obj::<u16>(GuestAddress(FREE)).unwrap().to_le_bytes(), *b"45");
    let mut buffers = load_head(&ring, &memory).unwrap();
    let error = buffers.read_from(&memory, file.as_fd(), 6).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

    let mut ring = Ring::new(0, SIZE);
    ring.offer(&memory, &[readable(FREE + 19, 1), readable(FREE + 20, 3)]);
    let mut buffers = load_head(&ring, &memory).unwrap();
    assert_eq!(buffers.take(&memory), Ok([0]));
    buffers.write_to(&memory, file.as_fd(), 1).unwrap();
    let mut content = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut content).unwrap();
    // What the failed read got before the end of the file is in the buffers, too.
    assert_eq!(content, "0898456789");
}
