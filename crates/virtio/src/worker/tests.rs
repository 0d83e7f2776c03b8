use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use virtio_queue::QueueT as _;

use super::*;
use crate::{
    entropy::{Entropy, EntropyState},
    mock::{FREE, Ring, memory, writable},
};

type Handle = WorkerHandle<EntropyState>;

fn start() -> (Handle, Arc<GuestMemory>, Ring, JoinHandle<()>) {
    let memory = memory();
    let interrupt = Arc::new(Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap()));
    let (worker, handle) = Worker::new(Entropy::default(), Arc::clone(&memory), interrupt).unwrap();
    let thread = std::thread::spawn(move || worker.run());
    let ring = Ring::new(0, 8);
    handle.activate(Activation { queues: vec![ring.queue(true)], features: 0 });
    (handle, memory, ring, thread)
}

fn offer(ring: &mut Ring, memory: &GuestMemory, handle: &Handle) {
    ring.offer(memory, &[writable(FREE, 60), writable(FREE + 100, 4)]);
    handle.kicks()[0].write(1).unwrap();
}

fn take(ring: &mut Ring, memory: &GuestMemory) -> u32 {
    let start = Instant::now();
    loop {
        if let Some((_, written)) = ring.take(memory) {
            return written;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
}

#[test]
fn random_bytes_come() {
    let (handle, memory, mut ring, thread) = start();
    let mut seen = Vec::new();
    for _ in 0..20 {
        offer(&mut ring, &memory, &handle);
        assert_eq!(take(&mut ring, &memory), 64);
        let bytes: [u8; 60] = vm_memory::Bytes::read_obj(&*memory, vm_memory::GuestAddress(FREE))
            .map(|halves: [u32; 15]| std::array::from_fn(|at| halves[at / 4].to_le_bytes()[at % 4]))
            .unwrap();
        assert!(!seen.contains(&bytes));
        seen.push(bytes);
    }
    assert!(handle.interrupt().line().read().unwrap() > 0);
    handle.end();
    thread.join().unwrap();
}

#[test]
fn a_device_that_stands_still_touches_nothing() {
    let (handle, memory, mut ring, thread) = start();
    let paused = handle.pause().unwrap();
    assert_eq!(paused.queues.unwrap()[0].next_avail(), 0);
    offer(&mut ring, &memory, &handle);
    assert_eq!(handle.pause().unwrap().queues.unwrap()[0].next_avail(), 0);
    std::thread::sleep(Duration::from_millis(20));
    assert!(ring.take(&memory).is_none());
    // What was asked for meanwhile is not lost, and to go on twice is to go on.
    handle.resume();
    handle.resume();
    assert_eq!(take(&mut ring, &memory), 64);
    handle.end();
    thread.join().unwrap();
    assert!(handle.pause().is_none());
    handle.reset();
}

#[test]
fn a_device_ends_while_it_stands_still() {
    let (handle, _, _, thread) = start();
    handle.pause().unwrap();
    handle.end();
    thread.join().unwrap();
}

#[test]
fn a_device_whose_users_are_gone_ends() {
    let (handle, _, _, thread) = start();
    let wake = Arc::clone(&handle.wake);
    drop(handle);
    wake.write(1).unwrap();
    thread.join().unwrap();
}

#[test]
fn nobody_pauses_in_vain_while_a_driver_never_stops() {
    let (handle, memory, mut ring, thread) = start();
    let stop = Arc::new(AtomicBool::new(false));
    let driver = {
        let (handle, memory, stop) = (handle.clone(), Arc::clone(&memory), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut served = 0u32;
            while !stop.load(Ordering::Relaxed) {
                while ring.has_room(2) {
                    offer(&mut ring, &memory, &handle);
                }
                while ring.take(&memory).is_some() {
                    served += 1;
                }
            }
            served
        })
    };
    let mut last = None;
    for _ in 0..50 {
        let started = Instant::now();
        let queues = handle.pause().unwrap().queues.unwrap();
        assert!(started.elapsed() < Duration::from_secs(5));
        last = Some(queues[0].next_avail());
        handle.resume();
        std::thread::sleep(Duration::from_millis(2));
    }
    handle.reset();
    stop.store(true, Ordering::Relaxed);
    assert!(driver.join().unwrap() > 0);
    assert!(last.is_some());
    handle.end();
    thread.join().unwrap();
}
