//! Ways to end, and ways not to. None of them returns but by mistake.

use core::arch::asm;

use crate::{
    Orders,
    machine::{get, put, send_interrupt, start_second},
    mutate,
    queues::disk,
    say,
    virtio::{BUFFERS, WRITE},
};

/// No more instructions, and no interrupt that could change that.
pub fn halt(_: &mut Orders) {
    say!("now");
    loop {
        unsafe { asm!("cli", "hlt") }
    }
}

/// Nothing but instructions, interrupts off.
pub fn spin(_: &mut Orders) {
    say!("now");
    unsafe { asm!("cli", "2: jmp 2b", options(noreturn)) }
}

/// Both processors without a pause: accesses to devices, and a disk with as much to do as there can
/// be.
pub fn storm(_: &mut Orders) {
    start_second();
    mutate(0xd000_0ff0, 64);
    let (_, ring) = disk(1);
    put(BUFFERS, 0u64);
    put(BUFFERS + 8, 0u64);
    ring.chain(&[
        (BUFFERS, 16, 0),
        (BUFFERS + (1 << 20), 1 << 20, WRITE),
        (BUFFERS + 32, 1, WRITE),
    ]);
    say!("now");
    loop {
        // As if the device had taken what it has not.
        let left = ring.available_index().wrapping_sub(ring.used_index());
        (left..ring.size).for_each(|_| ring.offer(0));
        ring.kick();
    }
}

pub fn triple(_: &mut Orders) {
    let none = [0u64; 2];
    unsafe { asm!("lidt [{}]", "int3", in(reg) none.as_ptr()) }
}

/// Executes what is no memory.
pub fn jump(_: &mut Orders) {
    unsafe { asm!("jmp {}", in(reg) 0xd000_0000u64) }
}

/// An instruction on device memory that KVM has no emulation for.
pub fn emulate(_: &mut Orders) {
    unsafe { asm!("fxrstor64 [{}]", "pshufb xmm0, [{0}]", in(reg) 0xc800_0000u64) }
}

/// Resets its own processor, whose first instruction is no memory then.
pub fn init(_: &mut Orders) {
    send_interrupt(0, 0x4500);
}

/// System management mode, with nothing there.
pub fn smi(_: &mut Orders) {
    send_interrupt(0, 0x4200);
}

/// Has a disk read garbage over the guest's own program.
pub fn suicide(_: &mut Orders) {
    let (_, ring) = disk(0);
    put(BUFFERS, 0u64);
    put(BUFFERS + 8, 0u64);
    ring.chain(&[(BUFFERS, 16, 0), (0, 0xff000, WRITE), (BUFFERS + 32, 1, WRITE)]);
    ring.submit(0);
    ring.chain(&[(BUFFERS, 16, 0), (0x20_0000, 1 << 20, WRITE), (BUFFERS + 32, 1, WRITE)]);
    ring.submit(0);
    loop {
        core::hint::black_box(get::<u64>(BUFFERS));
    }
}
