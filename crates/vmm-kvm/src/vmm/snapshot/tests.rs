//! State files: one that is kept, and what is refused.

use std::{io::Write as _, os::unix::fs::FileExt as _};

use costrel_virtio::{
    QueueRegisters, TransportState, block::BlockState, entropy::EntropyState, vsock::VsockState,
};

use super::*;
use crate::vmm::arch::{BoardState, VcpuState};

/// What version 1 looks like. It changes only with the version.
const GOLDEN: &[u8] = include_bytes!("../../../tests-data/state-1");

fn sample() -> MachineState {
    let queue = QueueRegisters {
        size: 256,
        ready: true,
        descriptors: 0x10_0000,
        driver: 0x10_1000,
        device: 0x10_2000,
        event_index: true,
        next_available: 65535,
        next_used: 17,
    };
    let transport = |queues| TransportState {
        status: 15,
        driver_features: 1 << 32 | 1 << 29,
        device_features_select: 1,
        driver_features_select: 1,
        queue_select: 2,
        interrupt_status: 1,
        queues: vec![queue; queues],
    };
    MachineState {
        memory_bytes: 256 << 20,
        board: BoardState::sample(),
        vcpus: vec![VcpuState::sample(), VcpuState::sample()],
        serial: SerialRegisters {
            divisor_low: 1,
            divisor_high: 2,
            interrupt_enable: 3,
            interrupt_identification: 4,
            line_control: 5,
            line_status: 6,
            modem_control: 7,
            modem_status: 8,
            scratch: 9,
            received: b"typed".to_vec(),
        },
        devices: vec![
            DeviceState::Block {
                transport: transport(1),
                device: BlockState { sectors: 2048, writable: true },
            },
            DeviceState::Vsock {
                transport: transport(3),
                device: VsockState { guest_cid: 3, next_port: 1 << 30 },
            },
            DeviceState::Entropy { transport: transport(1), device: EntropyState {} },
        ],
    }
}

/// With `COSTREL_WRITE_GOLDEN=1`, writes the file instead: for a new version, whose file gets another
/// name.
#[test]
fn the_form_is_what_it_was() {
    let encoded = sample().encode().unwrap();
    if std::env::var_os("COSTREL_WRITE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests-data/state-1");
        std::fs::write(path, &encoded).unwrap();
        return;
    }
    assert!(encoded == GOLDEN, "encoding has changed: that takes another version");
    // Each field is encoded, so what is encoded the same is the same.
    let decoded = MachineState::decode(GOLDEN).unwrap();
    assert!(decoded.encode().unwrap() == GOLDEN, "{decoded:?}");
    assert_eq!(decoded.devices, sample().devices);
    assert_eq!(decoded.serial, sample().serial);
}

#[test]
fn what_is_cut_off_is_refused() {
    for length in 0..GOLDEN.len() {
        let error = MachineState::decode(&GOLDEN[..length]).unwrap_err();
        match length {
            0..16 => assert_eq!(error, FormatError::Magic),
            16..32 => assert_eq!(error, FormatError::Length { given: length, wanted: 32 }),
            _ => assert_eq!(error, FormatError::Length { given: length, wanted: GOLDEN.len() }),
        }
    }
    let longer = [GOLDEN, b"x"].concat();
    let wanted = FormatError::Length { given: GOLDEN.len() + 1, wanted: GOLDEN.len() };
    assert_eq!(MachineState::decode(&longer).unwrap_err(), wanted);
}

#[test]
fn every_flipped_byte_is_noticed() {
    let mut bytes = GOLDEN.to_vec();
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            bytes[at] ^= flip;
            let error = MachineState::decode(&bytes).unwrap_err();
            match at {
                0..16 => assert_eq!(error, FormatError::Magic),
                16..32 => assert_eq!(error, FormatError::Header),
                _ => assert_eq!(error, FormatError::Sum),
            }
            bytes[at] ^= flip;
        }
    }
}

#[test]
fn another_version_is_named() {
    let mut bytes = GOLDEN.to_vec();
    bytes[16] = 2;
    let sum = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&sum.to_le_bytes());
    let error = MachineState::decode(&bytes).unwrap_err();
    assert_eq!(error, FormatError::Version { given: 2 });
    assert_eq!(error.to_string(), "it is of version 2, and this program understands version 1");
}

#[test]
fn a_content_that_makes_no_sense_is_refused() {
    let payload = unseal(GOLDEN).unwrap();
    for length in 0..payload.len() {
        let error = MachineState::decode(&seal(&payload[..length])).unwrap_err();
        assert!(matches!(error, FormatError::Content { .. }), "{length}: {error:?}");
    }
    let error = MachineState::decode(&seal(&[payload, b"x"].concat())).unwrap_err();
    assert_eq!(error.to_string(), "its content makes no sense: 1 bytes are left over");
    // Whatever it says, nothing panics, and nothing is allocated that is not there.
    let mut bytes = payload.to_vec();
    for at in 0..bytes.len() {
        for value in [0, 0x7f, 0xff] {
            let was = std::mem::replace(&mut bytes[at], value);
            let _ = MachineState::decode(&seal(&bytes));
            bytes[at] = was;
        }
    }
}

#[test]
fn files() {
    let file = tempfile::tempfile().unwrap();
    write_state(&file, &sample()).unwrap();
    for _ in 0..2 {
        assert!(read_state(&file).unwrap().encode().unwrap() == GOLDEN);
    }
    file.write_all_at(b"C", 0).unwrap();
    let error = read_state(&file).unwrap_err();
    let said = "its state is not one: it is no state of a machine on KVM";
    assert_eq!(costrel_vmm::with_sources(&error), said);

    let mut memory = tempfile::tempfile().unwrap();
    memory.write_all(&[0; 8192]).unwrap();
    check_length(&memory, 8192).unwrap();
    let error = check_length(&memory, 4096).unwrap_err();
    assert_eq!(error.to_string(), "its memory is 8192 bytes long, and should be 4096");
}
