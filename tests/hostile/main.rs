//! A guest that breaks every rule it can. It is entered by PVH, attacks its devices, its processor
//! and its ports in the ways that its command line names, says so on the serial console, and
//! reboots: see `tests/tests/hostile_guests.rs`.
//!
//! `hostile=NAME,NAME,… seed=NUMBER rounds=NUMBER memory=MIB`
//!
//! Not a package: `scripts/test-inputs.sh` has the compiler make a program without an operating
//! system of it.

#![no_std]
#![no_main]

mod devices;
mod endings;
mod machine;
mod processor;
mod queues;
mod virtio;
mod vsock;

use core::{
    arch::global_asm,
    panic::PanicInfo,
    sync::atomic::{AtomicU64, Ordering},
};

use machine::{Random, get, out8, put, reboot};

global_asm!(include_str!("boot.s"), options(att_syntax));

// What the compiler's own library was compiled with; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

// What the compiler expects of a C library.
global_asm!(
    ".section .text",
    ".global memcpy, memmove, memset, memcmp, bcmp",
    "memcpy: mov rax, rdi; mov rcx, rdx; rep movsb; ret",
    "memmove: mov rax, rdi; mov rcx, rdx; mov r8, rdi; sub r8, rsi; cmp r8, rdx; jb 2f",
    "rep movsb; ret",
    "2: lea rdi, [rdi + rdx - 1]; lea rsi, [rsi + rdx - 1]; std; rep movsb; cld; ret",
    "memset: mov r8, rdi; mov eax, esi; mov rcx, rdx; rep stosb; mov rax, r8; ret",
    "memcmp: bcmp: xor eax, eax; mov rcx, rdx; test rcx, rcx; repe cmpsb; je 3f",
    "movzx eax, byte ptr [rdi - 1]; movzx ecx, byte ptr [rsi - 1]; sub eax, ecx; 3: ret",
);

unsafe extern "C" {
    static START_INFO: u64;
}

/// What the attacks are given.
pub struct Orders {
    pub random: Random,
    /// How often what is random is tried.
    pub rounds: u64,
    /// Where memory ends.
    pub memory_end: u64,
}

type Attack = (&'static str, fn(&mut Orders));

const ATTACKS: &[Attack] = &[
    ("check", devices::check),
    ("registers", devices::registers),
    ("placement", queues::placement),
    ("chains", queues::chains),
    ("chaos", queues::chaos),
    ("race", queues::race),
    ("block", devices::block),
    ("entropy", devices::entropy),
    ("kicks", devices::kicks),
    ("resets", devices::resets),
    ("interrupts", devices::interrupts),
    ("packets", vsock::packets),
    ("mute", vsock::mute),
    ("flood", vsock::flood),
    ("ports", processor::ports),
    ("mmio", processor::mmio),
    ("serial", processor::serial),
    ("console", processor::console),
    ("keyboard", processor::keyboard),
    ("msr", processor::msr),
    ("cpuid", processor::cpuid),
    ("control", processor::control),
    ("memory", processor::memory),
    ("halt", endings::halt),
    ("spin", endings::spin),
    ("storm", endings::storm),
    ("triple", endings::triple),
    ("jump", endings::jump),
    ("emulate", endings::emulate),
    ("init", endings::init),
    ("smi", endings::smi),
    ("suicide", endings::suicide),
];

/// What the second processor is to do: mutate 64-bit words from the address on, forever.
static MUTATE_FROM: AtomicU64 = AtomicU64::new(0);
static MUTATE_LENGTH: AtomicU64 = AtomicU64::new(0);

/// Has the second processor, if there is one, write garbage into memory from now on.
pub fn mutate(from: u64, length: u64) {
    MUTATE_LENGTH.store(length, Ordering::SeqCst);
    MUTATE_FROM.store(from, Ordering::SeqCst);
}

#[unsafe(no_mangle)]
extern "C" fn enter(second: u64) -> ! {
    machine::catch_exceptions();
    if second != 0 {
        mutate_forever();
    }
    let arguments = unsafe { get::<u64>(START_INFO + 24) };
    let number = |name| {
        argument(arguments, name).and_then(|(at, length)| {
            (0..length).try_fold(0u64, |sum, index| {
                let digit =
                    u64::from(get::<u8>(at + index)).checked_sub(48).filter(|&it| it < 10)?;
                Some(sum * 10 + digit)
            })
        })
    };
    let seed = number(b" seed=").unwrap_or(1);
    let memory_end = number(b" memory=").unwrap_or(64) << 20;
    let rounds = number(b" rounds=").unwrap_or(100);
    let Some((mut at, length)) = argument(arguments, b" hostile=") else {
        say!("FAIL: no attack is asked for");
        reboot();
    };
    let end = at + length;
    let mut count = 0;
    BYSTANDER.step_by(8).for_each(|at| put(at, !at));
    while at < end {
        let length = (at..end).position(|at| get::<u8>(at) == b',').unwrap_or((end - at) as usize);
        let name = unsafe { core::slice::from_raw_parts(at as *const u8, length) };
        match ATTACKS.iter().find(|attack| attack.0.as_bytes() == name) {
            Some((name, attack)) => {
                say!("begin {name}");
                let began = machine::now();
                attack(&mut Orders { random: Random(seed), rounds, memory_end });
                calm();
                check_bystander();
                say!("end {name} {}", (machine::now() - began) / 1_000_000);
                count += 1;
            }
            None => say!("FAIL: there is no such attack"),
        }
        at += length as u64 + 1;
    }
    say!("verdict: survived {count}");
    reboot();
}

/// Memory that no device was ever given, below all that they were: whatever wraps around or comes
/// out too short on the host would show here.
const BYSTANDER: core::ops::Range<u64> = 4 << 20..virtio::ARENA;

fn check_bystander() {
    if let Some(at) = BYSTANDER.step_by(8).find(|&at| get::<u64>(at) != !at) {
        say!("FAIL: something wrote to {at:#x}, which no device was given");
    }
}

/// Brings what attacks leave behind into order.
fn calm() {
    mutate(0, 0);
    virtio::devices().for_each(virtio::Device::reset);
    calm_serial();
}

fn calm_serial() {
    for (register, value) in [(3, 3), (1, 0), (4, 8)] {
        out8(machine::SERIAL + register, value);
    }
}

/// Where an argument's value is, and how long.
fn argument(arguments: u64, name: &[u8]) -> Option<(u64, u64)> {
    let end = (arguments..).find(|&at| get::<u8>(at) == 0)?;
    let fits = |&at: &u64| name.iter().zip(at..).all(|(&byte, at)| get::<u8>(at) == byte);
    let start = (arguments..end).find(fits)? + name.len() as u64;
    let length = (start..end).position(|at| get::<u8>(at) == b' ');
    Some((start, length.map_or(end - start, |length| length as u64)))
}

fn mutate_forever() -> ! {
    let mut random = Random(77);
    loop {
        let (from, length) =
            (MUTATE_FROM.load(Ordering::SeqCst), MUTATE_LENGTH.load(Ordering::SeqCst));
        if from != 0 && length >= 8 {
            queues::spoil(&mut random, from, length);
        } else {
            core::hint::spin_loop();
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn unexpected(vector: u32, first: u64, second: u64) -> ! {
    calm_serial();
    say!("FAIL: exception {vector}, {first:#x} {second:#x}");
    reboot();
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    calm_serial();
    say!("FAIL: {info}");
    reboot();
}
