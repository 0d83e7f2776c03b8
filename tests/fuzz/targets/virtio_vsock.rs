//! Streams: whatever a driver does with the queues and clients with their sockets, only the buffers
//! given to the device change.
#![no_main]

use std::{
    cell::OnceCell,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
};

use costrel_fuzz::{
    directory,
    guest::{Input, Machine, Manners},
};
use costrel_virtio::vsock::{Vsock, VsockSettings, VsockState};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static LISTENER: OnceCell<UnixListener> = const { OnceCell::new() };
}

fn settings() -> VsockSettings {
    let listener = LISTENER.with(|listener| {
        let listener = listener
            .get_or_init(|| UnixListener::bind(directory().join("vsock")).expect("a listener"));
        listener.set_nonblocking(true).expect("a listener");
        while listener.accept().is_ok() {}
        listener.try_clone().expect("a listener")
    });
    VsockSettings { guest_cid: 3, listener }
}

/// A header of which most is what it should be.
fn header(input: &mut Input<'_>) -> [u8; 44] {
    let mut header = [0; 44];
    header[0] = 3;
    header[8] = 2;
    header[16] = input.byte() % 4;
    header[20] = input.byte() % 8;
    header[23] = 0x40;
    header[24..26].copy_from_slice(&input.short().to_le_bytes());
    header[28] = 1;
    header[30] = input.byte() % 9;
    header[32] = input.byte() % 4;
    header[36..38].copy_from_slice(&input.short().to_le_bytes());
    header[40] = input.byte() % 16;
    let spoilt = usize::from(input.byte());
    if let Some(byte) = header.get_mut(spoilt) {
        *byte = input.byte();
    }
    header
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let kind = input.byte();
    let manners = if kind & 1 == 0 { Manners::Good } else { Manners::None };
    let device = if kind & 2 == 0 {
        Vsock::new(settings())
    } else {
        Vsock::restored(settings(), &VsockState { guest_cid: 3, next_port: 0 })
    };
    let mut machine = Machine::new(device.expect("a device"), manners);
    let mut clients: Vec<UnixStream> = Vec::new();
    while !input.is_empty() {
        let which = input.byte();
        let (count, at) = (clients.len(), usize::from(which >> 4));
        let client = clients.get_mut(at);
        match (which % 16, client) {
            (0 | 1, _) if count < 16 => {
                let mut client = UnixStream::connect(directory().join("vsock")).expect("a client");
                client.set_nonblocking(true).expect("a client");
                let line = format!("CONNECT {}\n", input.byte() % 4);
                client.write_all(line.as_bytes()).expect("a client");
                clients.push(client);
                machine.turn();
            }
            (2, Some(client)) => {
                let length = usize::from(input.short());
                let _ = client.write(&vec![1; length]);
            }
            (3, Some(client)) => {
                let _ = client.read(&mut [0; 5000]);
            }
            (4, Some(_)) => drop(clients.swap_remove(at)),
            (5, Some(client)) => {
                let _ = client.write(&input.bytes::<5>());
            }
            (6..9, _) => {
                let header = header(&mut input);
                machine.offer(1, &header, &mut input);
                machine.kick(1);
            }
            (9, _) => {
                for _ in 0..input.byte() % 8 {
                    machine.offer_pieces(
                        0,
                        &[(input.address(), input.length().saturating_add(44), 2)],
                    );
                }
                machine.kick(0);
            }
            (10, _) => machine.offer(usize::from(input.byte() % 3), &[], &mut input),
            (11, _) => {
                machine.offer_pieces(2, &[(input.address(), 4, 2)]);
                machine.kick(2);
            }
            (12, _) if manners == Manners::None => {
                let address = u64::from(input.short()) * 2;
                machine.put(address, &input.bytes::<16>());
            }
            (13, _) if !machine.runs() || input.byte() == 0 => machine.reset(&mut input),
            (14, _) => machine.kick(usize::from(input.byte() % 3)),
            _ => {
                machine.turn();
            }
        }
    }
    drop(clients);
    // What clients did is taken in within so many turns, and then it is quiet.
    for _ in 0..100 {
        if machine.turn() == 0 {
            return;
        }
    }
    panic!("the device is never quiet");
});
