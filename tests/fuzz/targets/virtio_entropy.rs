//! Random bytes: whatever a driver asks for, only the buffers given for them change.
#![no_main]

use costrel_fuzz::guest::{Input, Machine, Manners};
use costrel_virtio::entropy::Entropy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let manners = if input.byte() & 1 == 0 { Manners::Good } else { Manners::None };
    let mut machine = Machine::new(Entropy::default(), manners);
    while !input.is_empty() {
        match input.byte() % 8 {
            0..4 => machine.offer(0, &[], &mut input),
            4 if manners == Manners::None => {
                let address = u64::from(input.short()) * 2;
                machine.put(address, &input.bytes::<16>());
            }
            5 if !machine.runs() || input.byte() == 0 => machine.reset(&mut input),
            _ => machine.kick(0),
        }
    }
    machine.kick(0);
});
