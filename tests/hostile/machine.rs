//! What a guest can do without a device: ports, device memory, instructions that may fault, time.

use core::{
    arch::{asm, x86_64::_rdtsc},
    fmt,
};

unsafe extern "C" {
    /// Where to go on after an exception; 0 if there must not be any.
    pub static mut FIXUP: u64;
}

pub fn out8(port: u16, value: u8) {
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) }
}

pub fn out16(port: u16, value: u16) {
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack)) }
}

pub fn out32(port: u16, value: u32) {
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) }
}

pub fn in8(port: u16) -> u8 {
    let value;
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack)) }
    value
}

pub fn in16(port: u16) -> u16 {
    let value;
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack)) }
    value
}

pub fn in32(port: u16) -> u32 {
    let value;
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack)) }
    value
}

/// Reads memory or a register of `T`'s width, in one instruction.
pub fn get<T: Copy>(address: u64) -> T {
    unsafe { (address as *const T).read_volatile() }
}

pub fn put<T>(address: u64, value: T) {
    unsafe { (address as *mut T).write_volatile(value) }
}

pub fn fill(address: u64, value: u8, count: u64) {
    unsafe {
        asm!("rep stosb", inout("rdi") address => _, inout("rcx") count => _, in("al") value);
    }
}

/// Executes instructions that may fault; then what follows the fault is left out.
#[macro_export]
macro_rules! attempt {
    ($($code:literal),+ ; $($operand:tt)*) => {
        core::arch::asm!(
            "lea {landing}, [rip + 77f]",
            "mov [{fixup}], {landing}",
            $($code,)+
            "77:",
            "mov qword ptr [{fixup}], 0",
            landing = out(reg) _,
            fixup = sym $crate::machine::FIXUP,
            $($operand)*
        )
    };
}

/// Time, in cycles. About a second in two thousand million.
pub fn now() -> u64 {
    unsafe { _rdtsc() }
}

pub const SECOND: u64 = 2_000_000_000;

/// Numbers that only the seed decides.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

pub const SERIAL: u16 = 0x3f8;

/// The serial console.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out8(SERIAL, byte));
        Ok(())
    }
}

#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::machine::Serial, $($argument)*);
    }};
}

/// Resets the machine by the keyboard controller.
pub fn reboot() -> ! {
    out8(0x64, 0xfe);
    loop {
        unsafe { asm!("cli", "hlt") }
    }
}

unsafe extern "C" {
    static stubs: u8;
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Where the table of exceptions is: below 1 MiB, where nothing else is by now.
const TABLE: u64 = 0x9000;

pub fn catch_exceptions() {
    let base = &raw const stubs as u64;
    for vector in 0..256 {
        let handler = base + vector * 16;
        let low = handler & 0xffff | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        put(TABLE + vector * 16, low);
        put(TABLE + vector * 16 + 8, handler >> 32);
    }
    let pointer = Pointer { limit: 4095, base: TABLE };
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer) }
}

unsafe extern "C" {
    static second_start: u8;
    static second_end: u8;
}

const LOCAL_APIC: u64 = 0xfee0_0000;

/// Sends an interrupt of any kind (Intel SDM 3A, 11.6.1).
pub fn send_interrupt(target: u32, command: u32) {
    put(LOCAL_APIC + 0x310, target << 24);
    put(LOCAL_APIC + 0x300, command);
}

/// Starts the second processor.
pub fn start_second() {
    let (from, to) = (&raw const second_start as u64, &raw const second_end as u64);
    for (offset, at) in (from..to).enumerate() {
        put(0x8000 + offset as u64, get::<u8>(at));
    }
    put(LOCAL_APIC + 0xf0, 0x1ffu32);
    send_interrupt(1, 0x4500);
    send_interrupt(1, 0x4608);
    send_interrupt(1, 0x4608);
}
