//! Registers: whatever is written, the status goes its way, and what is saved can be restored.
#![no_main]

use std::sync::Arc;

use costrel_fuzz::guest::Input;
use costrel_virtio::{
    GuestMemory, Interrupt, MmioTransport, Paused, Worker,
    entropy::{Entropy, EntropyState},
};
use libfuzzer_sys::fuzz_target;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const STATUS: u64 = 0x70;
const NEEDS_RESET: u32 = 64;

/// A transport whose device has ended already: nobody waits for anybody.
fn transport(memory: &Arc<GuestMemory>) -> MmioTransport<EntropyState> {
    let interrupt = Arc::new(Interrupt::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd")));
    let worker = Worker::new(Entropy::default(), Arc::clone(memory), interrupt);
    let (worker, handle) = worker.expect("a worker");
    drop(worker);
    MmioTransport::new(handle, Arc::clone(memory))
}

fn read(transport: &MmioTransport<EntropyState>, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    transport.read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn save(transport: &MmioTransport<EntropyState>) -> costrel_virtio::TransportState {
    transport.state(&Paused { state: EntropyState {}, queues: None })
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).expect("memory");
    let memory = Arc::new(memory);
    let mut used = transport(&memory);
    while !input.is_empty() {
        let what = input.byte();
        let offset = match what {
            0xff => u64::from_le_bytes(input.bytes()),
            0xfe => u64::from(input.short()),
            what => u64::from(what & 0x3f) * 4,
        };
        let value: [u8; 8] = match input.byte() {
            0xff => input.bytes(),
            value => [value, 0, 0, 0, 0, 0, 0, 0],
        };
        let width = if what & 0xc0 == 0xc0 { usize::from(input.byte() % 9) } else { 4 };
        let before = read(&used, STATUS);
        if what & 0x40 == 0 {
            used.write(offset, &value[..width]);
        } else {
            used.read(offset, &mut vec![0; width]);
        }
        let after = read(&used, STATUS);
        assert!(after == 0 || before & !after == 0, "{before:#x} became {after:#x}");
        // Each step needs those before it.
        for (bit, needed) in [(2, 1), (8, 2), (4, 8), (NEEDS_RESET, 4)] {
            assert!(after & bit == 0 || after & needed != 0, "{after:#x}");
        }
        if after == 0 {
            assert_eq!(read(&used, 0x44), 0);
        }
    }
    let saved = save(&used);
    let mut restored = transport(&memory);
    restored.restore(&saved).expect("its own state");
    assert_eq!(save(&restored), saved);
});
