use std::{fs::File, os::unix::fs::FileExt as _};

use proptest::prelude::*;

use super::{device::byte_offset, *};
use crate::{
    ChainError, Device as _, Fault,
    mock::{Bench, FREE, Piece, readable, writable},
};

const SECTORS: u64 = 64;
const STATUS: u64 = FREE + 0x8000;
const DATA: u64 = FREE + 0x1_0000;
const OK: u8 = 0;
const ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

fn image() -> File {
    let image = tempfile::tempfile().unwrap();
    image.write_all_at(&content(0, SECTORS), 0).unwrap();
    image
}

fn content(sector: u64, count: u64) -> Vec<u8> {
    (sector * 512..(sector + count) * 512).map(|at| (at ^ at >> 9).to_le_bytes()[0] | 1).collect()
}

fn bench(writing: Writing) -> (Bench<Block>, File) {
    let image = image();
    let copy = image.try_clone().unwrap();
    let device = Block::new(BlockSettings { image, writing, name: "layers".to_owned() }).unwrap();
    (Bench::new(device), copy)
}

const WRITABLE: Writing = Writing::Allowed(Flush::Synced);

fn header(bench: &Bench<Block>, kind: u32, sector: u64) -> Piece {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bench.write(FREE, &bytes);
    readable(FREE, 16)
}

/// Its status, and how many bytes the device says that it wrote.
fn ask(bench: &mut Bench<Block>, kind: u32, sector: u64, pieces: &[Piece]) -> (u8, u32) {
    bench.write(STATUS, &[0xee]);
    let mut chain = vec![header(bench, kind, sector)];
    chain.extend(pieces);
    chain.push(writable(STATUS, 1));
    let written = bench.request(0, &chain).unwrap();
    (bench.read(STATUS, 1)[0], written)
}

/// A range of sectors, laid out at an address.
fn range(bench: &Bench<Block>, at: u64, sector: u64, sectors: u32, flags: u32) -> Piece {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bench.write(at, &bytes);
    readable(at, 16)
}

#[test]
fn sectors_are_read() {
    let (mut bench, _) = bench(Writing::Never);
    let outcome = ask(&mut bench, IN, 3, &[writable(DATA, 1024)]);
    assert_eq!(outcome, (OK, 1025));
    assert_eq!(bench.read(DATA, 1024), content(3, 2));
    assert_eq!(ask(&mut bench, IN, SECTORS, &[]), (OK, 1));
}

#[test]
fn only_whole_sectors_of_the_disk_are_read() {
    let (mut bench, _) = bench(WRITABLE);
    for kind in [IN, OUT] {
        let piece = if kind == IN { writable } else { readable };
        for (sector, length) in [
            (SECTORS, 512),
            (SECTORS - 1, 1024),
            (SECTORS + 1, 0),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (u64::MAX / 512 + 1, 512),
            (1 << 63, 512),
            (0, 1),
            (0, 513),
        ] {
            let (status, _) = ask(&mut bench, kind, sector, &[piece(DATA, length)]);
            assert_eq!(status, ERROR, "{kind} of {length} at {sector}");
        }
        assert_eq!(ask(&mut bench, kind, SECTORS - 1, &[piece(DATA, 512)]).0, OK);
    }
}

#[test]
fn sectors_are_written() {
    let (mut bench, image) = bench(WRITABLE);
    bench.write(DATA, &[9; 1024]);
    let pieces = [readable(DATA, 100), readable(DATA + 100, 0), readable(DATA + 100, 412)];
    assert_eq!(ask(&mut bench, OUT, 5, &pieces), (OK, 1));
    assert_eq!(ask(&mut bench, FLUSH, 0, &[]), (OK, 1));
    let mut expected = content(0, SECTORS);
    expected[5 * 512..6 * 512].fill(9);
    let mut bytes = vec![0; expected.len()];
    image.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected);
}

#[test]
fn a_disk_that_may_not_be_written_is_not() {
    let (mut bench, image) = bench(Writing::Never);
    let whole = range(&bench, DATA, 0, 64, 0);
    assert_eq!(ask(&mut bench, OUT, 0, &[readable(DATA, 512)]).0, ERROR);
    assert_eq!(ask(&mut bench, DISCARD, 0, &[whole]).0, ERROR);
    assert_eq!(ask(&mut bench, WRITE_ZEROES, 0, &[whole]).0, ERROR);
    assert_eq!(ask(&mut bench, FLUSH, 0, &[]).0, OK);
    let mut bytes = vec![0; 512 * 64];
    image.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == content(0, SECTORS));
    let features = bench.device.identity().features;
    assert_eq!(features & (1 << 5 | 1 << 9 | 1 << 13 | 1 << 14), 1 << 5);
}

#[test]
fn a_disk_has_a_name() {
    let (mut bench, _) = bench(Writing::Never);
    assert_eq!(ask(&mut bench, GET_ID, 0, &[writable(DATA, 20)]), (OK, 21));
    assert_eq!(bench.read(DATA, 20), b"layers\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(ask(&mut bench, GET_ID, 0, &[writable(DATA + 100, 3)]), (OK, 4));
    assert_eq!(bench.read(DATA + 100, 4), b"lay\0");
    assert_eq!(ask(&mut bench, GET_ID, 0, &[writable(DATA, 300)]), (OK, 21));
}

#[test]
fn what_there_is_not_is_unsupported() {
    let (mut bench, _) = bench(WRITABLE);
    for kind in [2, 3, 5, 7, 9, 14, u32::MAX] {
        assert_eq!(ask(&mut bench, kind, 0, &[writable(DATA, 512)]), (UNSUPPORTED, 1));
    }
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let (mut bench, image) = bench(WRITABLE);
    let mut sector = [1; 512];
    let first = range(&bench, DATA, 8, 8, 0);
    let second = range(&bench, DATA + 16, 40, 1, 0);
    assert_eq!(ask(&mut bench, DISCARD, 0, &[first, second]), (OK, 1));
    for (kind, at, flags) in [(WRITE_ZEROES, 24, 1), (WRITE_ZEROES, 26, 0)] {
        let piece = range(&bench, DATA, at, 2, flags);
        let (status, _) = ask(&mut bench, kind, 0, &[piece]);
        // A file system may be unable to, and then says so.
        assert!(status == OK || flags == 0 && status == UNSUPPORTED);
        image.read_exact_at(&mut sector, at * 512).unwrap();
        assert!(status != OK || sector == [0; 512]);
    }
    assert_eq!(image.metadata().unwrap().len(), SECTORS * 512);
    image.read_exact_at(&mut sector, 28 * 512).unwrap();
    assert_eq!(sector[..], content(28, 1));
}

#[test]
fn ranges_have_bounds() {
    let (mut bench, _) = bench(WRITABLE);
    for kind in [DISCARD, WRITE_ZEROES] {
        for (sector, sectors, flags, expected) in [
            (SECTORS, 0, 0, OK),
            (SECTORS, 1, 0, ERROR),
            (SECTORS + 1, 0, 0, ERROR),
            (u64::MAX, 1, 0, ERROR),
            (u64::MAX / 512 + 1, 1, 0, ERROR),
            (0, u32::MAX, 0, ERROR),
            (0, 65, 0, ERROR),
            (0, 1, 2, UNSUPPORTED),
            (0, 1, u32::MAX, UNSUPPORTED),
        ] {
            let piece = range(&bench, DATA, sector, sectors, flags);
            let (status, _) = ask(&mut bench, kind, 0, &[piece]);
            assert_eq!(status, expected, "{kind}: {sectors} at {sector}, {flags}");
        }
        assert_eq!(ask(&mut bench, kind, 0, &[]).0, ERROR);
        assert_eq!(ask(&mut bench, kind, 0, &[readable(DATA, 15)]).0, ERROR);
        assert_eq!(ask(&mut bench, kind, 0, &[readable(DATA, 16 * 17)]).0, ERROR);
    }
    let piece = range(&bench, DATA, 0, 1, 1);
    assert_eq!(ask(&mut bench, DISCARD, 0, &[piece]).0, UNSUPPORTED);
}

#[test]
fn broken_requests_are_faults() {
    let short = [readable(FREE, 15), writable(STATUS, 1)];
    let unanswerable = [readable(FREE, 16)];
    for chain in [&short[..], &unanswerable] {
        let (mut bench, _) = bench(WRITABLE);
        bench.rings[0].offer(&bench.memory, chain);
        let fault = bench.kick(0).unwrap_err();
        let expected = ChainError::TooShort;
        assert!(matches!(fault, Fault::Chain { queue: 0, source } if source == expected));
        assert!(bench.rings[0].take(&bench.memory).is_none());
    }
}

#[test]
fn images_are_whole_sectors() {
    for (length, fits) in [(0, false), (511, false), (513, false), (512, true)] {
        let image = tempfile::tempfile().unwrap();
        image.set_len(length).unwrap();
        let settings = BlockSettings { image, writing: Writing::Never, name: String::new() };
        assert_eq!(Block::new(settings).is_ok(), fits, "{length}");
    }
}

#[test]
fn an_image_that_shrank_is_an_error() {
    let (mut bench, image) = bench(WRITABLE);
    image.set_len(512).unwrap();
    assert_eq!(ask(&mut bench, IN, 0, &[writable(DATA, 1024)]).0, ERROR);
    assert_eq!(ask(&mut bench, IN, 0, &[writable(DATA, 512)]).0, OK);
}

#[test]
fn offsets_at_every_boundary() {
    let near =
        |value: u64| (0..3).flat_map(move |by| [value.wrapping_sub(by), value.wrapping_add(by)]);
    let values: Vec<u64> = [0, 512, 1 << 31, 1 << 32, u64::MAX / 512, 1 << 55, 1 << 63, u64::MAX]
        .into_iter()
        .flat_map(near)
        .collect();
    for &sectors in values.iter().filter(|&&sectors| sectors <= u64::MAX / 512) {
        for &sector in &values {
            for &length in &values {
                let wide = (u128::from(sector) * 512, u128::from(length));
                let fits = length % 512 == 0 && wide.0 + wide.1 <= u128::from(sectors) * 512;
                let expected = fits.then_some(sector.wrapping_mul(512));
                assert_eq!(byte_offset(sectors, sector, length), expected);
            }
        }
    }
}

/// All that there is on small disks, by the rule itself: every byte is one of the disk's.
#[test]
fn offsets_of_all_small_transfers() {
    for sectors in 0..=24 {
        for sector in 0..=26 {
            for length in (0..=26 * 512).filter(|length| (length + 1) % 512 < 3) {
                let whole = length % 512 == 0 && sector <= sectors;
                let inside = (0..length / 512).all(|index| sector + index < sectors);
                let expected = (whole && inside).then_some(sector * 512);
                assert_eq!(byte_offset(sectors, sector, length), expected);
            }
        }
    }
}

/// However much the driver has in the queue, a device that is to be paused gets to hear of it.
#[test]
fn a_turn_is_bounded_by_bytes() {
    let image = tempfile::tempfile().unwrap();
    image.set_len(64 << 20).unwrap();
    let settings = BlockSettings { image, writing: WRITABLE, name: String::new() };
    let mut bench = Bench::new(Block::new(settings).unwrap());
    let piece = writable(DATA, 16 << 20);
    let rest = writable(DATA, (16 << 20) - 512);
    let chain = [header(&bench, IN, 0), piece, piece, piece, rest, writable(STATUS, 1)];
    for _ in 0..3 {
        bench.rings[0].offer(&bench.memory, &chain);
    }
    let mut turns = 0;
    let mut served = 0;
    while served < 3 {
        bench.device.queue_kicked(0, &mut bench.active, &bench.poller).unwrap();
        turns += 1;
        let before = served;
        while bench.rings[0].take(&bench.memory).is_some() {
            served += 1;
        }
        assert!((1..=2).contains(&(served - before)), "{served} after {before}");
        let again: Vec<_> = bench.active.take_unfinished().collect();
        assert!(served == 3 || again == [0], "it comes back for the rest");
    }
    assert!(turns >= 2);
}

proptest! {
    #[test]
    fn requests_may_be_cut_into_any_descriptors(
        header_cut in 0..17usize,
        cuts in prop::collection::vec(0..600usize, 0..5),
        sector in 0..SECTORS - 4,
        with_status in any::<bool>(),
    ) {
        let (mut bench, image) = bench(WRITABLE);
        let total = 3 * 512;
        let mut lengths = Vec::new();
        let mut rest = total;
        for cut in cuts {
            let length = cut.min(rest);
            lengths.push(length);
            rest -= length;
        }
        lengths.push(rest);
        for kind in [IN, OUT] {
            let mut chain = vec![header(&bench, kind, sector)];
            chain[0].length = u32::try_from(header_cut).unwrap();
            let piece = if kind == IN { writable } else { readable };
            // The rest of the header may share a descriptor with data, and the status may as well.
            let mut address = DATA;
            let (address_rest, length_rest) = (FREE + header_cut as u64, 16 - header_cut);
            chain.push(readable(address_rest, length_rest));
            for &length in &lengths {
                chain.push(piece(address, length));
                address += length as u64 + 1;
            }
            if with_status && kind == IN {
                chain.last_mut().unwrap().length += 1;
            } else {
                chain.push(writable(address, 1));
            }
            for (at, &length) in lengths.iter().enumerate() {
                bench.write(chain[at + 2].address, &vec![3; length]);
            }
            bench.request(0, &chain).unwrap();
            let mut got = Vec::new();
            for (at, &length) in lengths.iter().enumerate() {
                got.extend(bench.read(chain[at + 2].address, length));
            }
            if kind == IN {
                prop_assert_eq!(&got, &content(sector, 3));
            } else {
                image.read_exact_at(&mut got, sector * 512).unwrap();
                prop_assert_eq!(&got, &vec![3; total]);
            }
        }
    }
}
