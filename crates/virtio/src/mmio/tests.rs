use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use vmm_sys_util::{
    epoll::EventSet,
    eventfd::{EFD_NONBLOCK, EventFd},
};

use super::{registers as reg, *};
use crate::{
    ActiveQueues, ChainBuffers, Device, DeviceKind, Fault, GuestMemory, Identity, Interrupt,
    Poller, Token, Worker,
    interrupt::NEEDS_RESET,
    mock::{FREE, Ring, memory, readable},
};

const FEATURES: u64 = 0b101;
const SIZES: &[u16] = &[4, 8];
const CONFIG_BYTES: &[u8] = b"0123456789";
const SET_UP: u32 = reg::ACKNOWLEDGE | reg::DRIVER | reg::FEATURES_OK;
const ALL: u32 = SET_UP | reg::DRIVER_OK;

/// A device that says what is done to it.
struct Probe {
    log: Sender<String>,
    buffers: ChainBuffers,
}

impl Device for Probe {
    type State = u32;

    fn identity(&self) -> Identity {
        Identity {
            kind: DeviceKind::Entropy,
            features: FEATURES,
            queue_sizes: SIZES,
            config: CONFIG_BYTES.to_vec(),
        }
    }

    fn activate(&mut self, active: &mut ActiveQueues, _: &Poller) -> Result<(), Fault> {
        let _ = self.log.send(format!("activate {:#x}", active.features));
        Ok(())
    }

    fn queue_kicked(
        &mut self,
        queue: usize,
        active: &mut ActiveQueues,
        _: &Poller,
    ) -> Result<(), Fault> {
        let log = &self.log;
        active.serve(queue, &mut self.buffers, |_, buffers| {
            let _ = log.send(format!("queue {queue}: {}", buffers.readable_length()));
            Ok(0)
        })
    }

    fn event(
        &mut self,
        _: Token,
        _: EventSet,
        _: &mut ActiveQueues,
        _: &Poller,
    ) -> Result<(), Fault> {
        Ok(())
    }

    fn reset(&mut self, _: &Poller) {
        let _ = self.log.send("reset".to_owned());
    }

    fn state(&self) -> u32 {
        7
    }
}

struct Machine {
    transport: MmioTransport<u32>,
    memory: Arc<GuestMemory>,
    log: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    fn new() -> Self {
        Self::of(memory())
    }

    fn of(memory: Arc<GuestMemory>) -> Self {
        let (sender, log) = mpsc::channel();
        let probe = Probe { log: sender, buffers: ChainBuffers::default() };
        let interrupt = Arc::new(Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap()));
        let (worker, handle) = Worker::new(probe, Arc::clone(&memory), interrupt).unwrap();
        let transport = MmioTransport::new(handle, Arc::clone(&memory));
        Self { transport, memory, log, thread: Some(std::thread::spawn(move || worker.run())) }
    }

    fn read(&self, offset: u64) -> u32 {
        let mut bytes = [0xff; 4];
        self.transport.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn accept(&mut self, features: u64) {
        for half in 0..2 {
            self.write(reg::DRIVER_FEATURES_SELECT, half);
            let bits = features >> (32 * half) & u64::from(u32::MAX);
            self.write(reg::DRIVER_FEATURES, u32::try_from(bits).unwrap());
        }
    }

    fn negotiate(&mut self, features: u64) {
        self.write(reg::STATUS, reg::ACKNOWLEDGE);
        self.write(reg::STATUS, reg::ACKNOWLEDGE | reg::DRIVER);
        self.accept(features);
        self.write(reg::STATUS, SET_UP);
    }

    fn set_up(&mut self, index: usize) -> Ring {
        let ring = Ring::new(index, SIZES[index]);
        ring.clear(&self.memory);
        let low = |address: u64| u32::try_from(address).unwrap();
        self.write(reg::QUEUE_SELECT, low(index as u64));
        // In no particular order.
        self.write(reg::QUEUE_DEVICE_LOW, low(ring.used_ring()));
        self.write(reg::QUEUE_DRIVER_HIGH, 0);
        self.write(reg::QUEUE_DESCRIPTORS_LOW, low(ring.base));
        self.write(reg::QUEUE_DRIVER_LOW, low(ring.available()));
        self.write(reg::QUEUE_SIZE, u32::from(ring.size));
        self.write(reg::QUEUE_DESCRIPTORS_HIGH, 0);
        self.write(reg::QUEUE_DEVICE_HIGH, 0);
        self.write(reg::QUEUE_READY, 1);
        ring
    }

    fn start(&mut self) -> Ring {
        self.negotiate(reg::FEATURE_VERSION_1 | reg::FEATURE_EVENT_INDEX | 1);
        let ring = self.set_up(1);
        self.write(reg::STATUS, ALL);
        self.expect("activate 0x1");
        ring
    }

    fn offer(&mut self, ring: &mut Ring, length: usize) {
        ring.offer(&self.memory, &[readable(FREE, length)]);
        self.write(reg::QUEUE_NOTIFY, 1);
    }

    fn expect(&self, what: &str) {
        assert_eq!(self.log.recv_timeout(Duration::from_secs(10)).unwrap(), what);
    }

    fn nothing_happens(&self) {
        let state = self.transport.device().pause().unwrap();
        self.transport.device().resume();
        assert_eq!(state.state, 7);
        assert!(self.log.try_recv().is_err());
    }

    /// Until the device gives up.
    fn wait_for_needs_reset(&self) {
        for _ in 0..1000 {
            if self.read(reg::STATUS) & NEEDS_RESET != 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the device goes on");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.transport.device().end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_device_says_what_it_is() {
    let mut machine = Machine::new();
    assert_eq!(machine.read(reg::MAGIC).to_le_bytes(), *b"virt");
    assert_eq!((machine.read(reg::VERSION), machine.read(reg::DEVICE_ID)), (2, 4));
    for (half, expected) in [(0, 0x3000_0005), (1, 1), (2, 0), (u32::MAX, 0)] {
        machine.write(reg::DEVICE_FEATURES_SELECT, half);
        assert_eq!(machine.read(reg::DEVICE_FEATURES), expected, "{half}");
    }
    for (queue, expected) in [(0, 4), (1, 8), (2, 0), (u32::MAX, 0)] {
        machine.write(reg::QUEUE_SELECT, queue);
        assert_eq!(machine.read(reg::QUEUE_SIZE_MAX), expected);
    }
    assert_eq!(machine.read(reg::SHARED_MEMORY_FIRST), u32::MAX);
}

#[test]
fn any_offset_and_width_can_be_tried() {
    let mut machine = Machine::new();
    let offsets: Vec<u64> = (0..0x210).chain([0xffc, 0xfff, 0x1000, 1 << 32, u64::MAX]).collect();
    for offset in offsets {
        for width in 0..=9 {
            let mut bytes = vec![0xaa; width];
            machine.transport.read(offset, &mut bytes);
            if offset < reg::CONFIG && width != 4 {
                assert!(bytes.iter().all(|&byte| byte == 0), "{offset:#x} {width}");
            }
            machine.transport.write(offset, &vec![0; width]);
        }
    }
    let mut bytes = [0xaa; 4];
    machine.transport.read(reg::CONFIG + 8, &mut bytes);
    assert_eq!(bytes, *b"89\0\0");
    let mut byte = [0];
    machine.transport.read(reg::CONFIG + 3, &mut byte);
    assert_eq!(byte, *b"3");
    machine.nothing_happens();
}

#[test]
fn the_status_goes_its_way_only() {
    let mut machine = Machine::new();
    for value in [reg::DRIVER, reg::FEATURES_OK, reg::DRIVER_OK, 16, 64] {
        machine.write(reg::STATUS, value);
        assert_eq!(machine.read(reg::STATUS), 0, "{value}");
    }
    machine.write(reg::STATUS, reg::ACKNOWLEDGE);
    machine.write(reg::STATUS, reg::ACKNOWLEDGE | reg::FEATURES_OK);
    assert_eq!(machine.read(reg::STATUS), reg::ACKNOWLEDGE);
    // Bits are not taken away one by one.
    machine.write(reg::STATUS, reg::DRIVER);
    assert_eq!(machine.read(reg::STATUS), reg::ACKNOWLEDGE | reg::DRIVER);
    machine.write(reg::STATUS, reg::FAILED);
    machine.write(reg::STATUS, ALL);
    assert_eq!(machine.read(reg::STATUS), reg::ACKNOWLEDGE | reg::DRIVER | reg::FAILED);
    machine.write(reg::STATUS, 0);
    assert_eq!(machine.read(reg::STATUS), 0);
    machine.nothing_happens();
}

#[test]
fn only_features_that_were_offered_are_accepted() {
    for (features, accepted) in [
        (reg::FEATURE_VERSION_1, true),
        (reg::FEATURE_VERSION_1 | 5, true),
        (reg::FEATURE_VERSION_1 | 2, false),
        (reg::FEATURE_VERSION_1 | 1 << 33, false),
        // A driver of before 1.0.
        (5, false),
    ] {
        let mut machine = Machine::new();
        machine.negotiate(features);
        let ok = machine.read(reg::STATUS) & reg::FEATURES_OK != 0;
        assert_eq!(ok, accepted, "{features:#x}");
        // Then it is too late.
        if ok {
            machine.accept(reg::FEATURE_VERSION_1 | 2);
            machine.write(reg::STATUS, ALL);
            machine.expect(&format!("activate {:#x}", features & 5));
        }
    }
}

#[test]
fn queues_are_set_up_between_features_and_driver_only() {
    let mut machine = Machine::new();
    machine.set_up(1);
    assert_eq!(machine.read(reg::QUEUE_READY), 0);
    machine.negotiate(reg::FEATURE_VERSION_1);
    machine.write(reg::QUEUE_SELECT, 2);
    machine.write(reg::QUEUE_READY, 1);
    assert_eq!(machine.read(reg::QUEUE_READY), 0);
    machine.set_up(1);
    assert_eq!(machine.read(reg::QUEUE_READY), 1);
    // Sizes that there are not change nothing.
    for size in [0, 3, 16, 0x1_0004, u32::MAX] {
        machine.write(reg::QUEUE_SIZE, size);
    }
    machine.write(reg::STATUS, ALL);
    machine.expect("activate 0x0");
    machine.write(reg::QUEUE_READY, 0);
    assert_eq!(machine.read(reg::QUEUE_READY), 1);
    let paused = machine.transport.device().pause().unwrap();
    let state = machine.transport.state(&paused);
    assert_eq!((state.queues[0].ready, state.queues[1].ready), (false, true));
    assert_eq!(state.queues[1].size, 8);
    machine.transport.device().resume();
}

#[test]
fn a_queue_outside_the_memory_is_not_used() {
    let mut machine = Machine::new();
    machine.negotiate(reg::FEATURE_VERSION_1);
    machine.set_up(1);
    machine.write(reg::QUEUE_DEVICE_HIGH, 1);
    machine.write(reg::STATUS, ALL);
    assert_eq!(machine.read(reg::STATUS), ALL | NEEDS_RESET);
    assert_eq!(machine.read(reg::INTERRUPT_STATUS), 2);
    machine.nothing_happens();
    machine.write(reg::STATUS, 0);
    assert_eq!(machine.read(reg::STATUS), 0);
    machine.expect("reset");
    machine.start();
}

#[test]
fn kicks_reach_a_device_that_runs() {
    let mut machine = Machine::new();
    for queue in [0, 1, 2, u32::MAX] {
        machine.write(reg::QUEUE_NOTIFY, queue);
    }
    machine.nothing_happens();
    let mut ring = machine.start();
    machine.offer(&mut ring, 5);
    machine.expect("queue 1: 5");
    machine.nothing_happens();
    assert!(ring.take(&machine.memory).is_some());
    assert_eq!(machine.read(reg::INTERRUPT_STATUS), 1);
    machine.write(reg::INTERRUPT_ACKNOWLEDGE, 1);
    assert_eq!(machine.read(reg::INTERRUPT_STATUS), 0);
    // A queue that the driver left out.
    machine.write(reg::QUEUE_NOTIFY, 0);
    machine.nothing_happens();
}

#[test]
fn a_reset_stops_a_device_that_runs() {
    let mut machine = Machine::new();
    let mut ring = machine.start();
    machine.offer(&mut ring, 5);
    machine.write(reg::STATUS, 0);
    let log: Vec<_> = machine.log.try_iter().collect();
    assert_eq!(log.last().unwrap(), "reset");
    assert_eq!(machine.read(reg::INTERRUPT_STATUS), 0);
    assert_eq!(machine.read(reg::QUEUE_READY), 0);
    machine.offer(&mut ring, 6);
    machine.nothing_happens();
    let mut ring = machine.start();
    machine.offer(&mut ring, 7);
    machine.expect("queue 1: 7");
}

#[test]
fn a_driver_that_breaks_a_queue_has_to_reset() {
    let mut machine = Machine::new();
    let ring = machine.start();
    let mut broken = ring;
    broken.offer_head(&machine.memory, 100);
    machine.write(reg::QUEUE_NOTIFY, 1);
    machine.wait_for_needs_reset();
    machine.expect("reset");
    assert_eq!(machine.read(reg::INTERRUPT_STATUS) & 2, 2);
    machine.write(reg::QUEUE_NOTIFY, 1);
    machine.nothing_happens();
    // It is saved as it is: it has no place in its queues any more.
    let paused = machine.transport.device().pause().unwrap();
    assert!(paused.queues.is_none());
    let state = machine.transport.state(&paused);
    machine.transport.device().resume();
    let mut restored = Machine::of(Arc::clone(&machine.memory));
    restored.transport.restore(&state).unwrap();
    assert_eq!(restored.read(reg::STATUS), ALL | NEEDS_RESET);
    restored.nothing_happens();
    for mut machine in [machine, restored] {
        machine.write(reg::STATUS, 0);
        machine.expect("reset");
        let mut ring = machine.start();
        machine.offer(&mut ring, 9);
        machine.expect("queue 1: 9");
    }
}

#[test]
fn what_is_saved_goes_on_elsewhere() {
    let mut machine = Machine::new();
    let mut ring = machine.start();
    machine.offer(&mut ring, 5);
    machine.expect("queue 1: 5");
    let paused = machine.transport.device().pause().unwrap();
    // Kicked, but not seen before the pause.
    ring.offer(&machine.memory, &[readable(FREE, 6)]);
    machine.write(reg::QUEUE_SELECT, 1);
    let state = machine.transport.state(&paused);
    assert_eq!((state.queues[1].next_available, state.queues[1].next_used), (1, 1));
    machine.transport.device().end();

    let mut restored = Machine::of(Arc::clone(&machine.memory));
    restored.transport.restore(&state).unwrap();
    restored.expect("activate 0x1");
    restored.expect("queue 1: 6");
    assert_eq!(restored.read(reg::STATUS), ALL);
    assert_eq!(restored.read(reg::QUEUE_READY), 1);
    assert_eq!(restored.read(reg::INTERRUPT_STATUS), 1);
    let paused = restored.transport.device().pause().unwrap();
    let again = restored.transport.state(&paused);
    assert_eq!((again.queues[1].next_available, again.queues[1].next_used), (2, 2));
    restored.transport.device().resume();
}

#[test]
fn a_transport_without_driver_is_saved_as_well() {
    let mut machine = Machine::new();
    machine.negotiate(reg::FEATURE_VERSION_1 | 4);
    machine.set_up(0);
    let paused = machine.transport.device().pause().unwrap();
    let state = machine.transport.state(&paused);
    machine.transport.device().resume();
    let mut restored = Machine::of(Arc::clone(&machine.memory));
    restored.transport.restore(&state).unwrap();
    restored.nothing_happens();
    let paused = restored.transport.device().pause().unwrap();
    assert_eq!(restored.transport.state(&paused), state);
    restored.transport.device().resume();
    restored.write(reg::STATUS, ALL);
    restored.expect("activate 0x4");
}

#[test]
fn features_that_were_not_accepted_do_not_keep_a_transport_from_being_restored() {
    let mut machine = Machine::new();
    machine.negotiate(reg::FEATURE_VERSION_1 | 2);
    let paused = machine.transport.device().pause().unwrap();
    let state = machine.transport.state(&paused);
    machine.transport.device().resume();
    let mut restored = Machine::new();
    restored.transport.restore(&state).unwrap();
    restored.write(reg::STATUS, SET_UP);
    assert_eq!(restored.read(reg::STATUS), reg::ACKNOWLEDGE | reg::DRIVER);
}

#[test]
fn states_of_other_devices_are_refused() {
    let mut machine = Machine::new();
    machine.start();
    let paused = machine.transport.device().pause().unwrap();
    let state = machine.transport.state(&paused);
    machine.transport.device().resume();
    let mut fewer = state.clone();
    fewer.queues.pop();
    let mut more = state.clone();
    more.driver_features |= 2;
    let mut elsewhere = state.clone();
    elsewhere.queues[1].device = 1 << 40;
    let mut larger = state;
    larger.queues[1].size = 16;
    for (state, expected) in [
        (fewer, TransportError::Queues { given: 1, wanted: 2 }),
        (more, TransportError::Features),
        (elsewhere, TransportError::Queue { queue: 1 }),
        (larger, TransportError::Queue { queue: 1 }),
    ] {
        let mut other = Machine::new();
        assert_eq!(other.transport.restore(&state), Err(expected));
        assert_eq!(other.read(reg::STATUS), 0);
        other.nothing_happens();
    }
}
