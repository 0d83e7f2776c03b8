//! Ports, device memory, model-specific registers, control registers, memory.

use core::arch::{asm, x86_64::__cpuid_count};

use crate::{
    Orders, attempt,
    machine::{SERIAL, get, in8, in16, in32, out8, out16, out32, put},
    say,
    virtio::{BUFFERS, devices},
};

/// Ports whose misuse ends the machine, which is another attack, or the verdict.
fn is_left_alone(port: u16) -> bool {
    (0x60..=0x64).contains(&port) || (SERIAL - 3..=SERIAL + 7).contains(&port)
}

/// All ports, in every width, and strings of them.
pub fn ports(orders: &mut Orders) {
    let Orders { ref mut random, rounds, .. } = *orders;
    let step = (4_000 / rounds.max(1)).max(1) as usize;
    let first = random.below(step as u64) as u16;
    for port in (first..=0xffff).step_by(step).chain(0..0x80).chain(0xcf0..0xd00) {
        if is_left_alone(port) {
            continue;
        }
        let value = random.next() as u32;
        match random.below(3) {
            0 => {
                out8(port, value as u8);
                in8(port);
            }
            1 => {
                out16(port, value as u16);
                in16(port);
            }
            _ => {
                out32(port, value);
                in32(port);
            }
        }
    }
    for port in [0x80, SERIAL, SERIAL + 5, 0x3f6, 0x3fe, 0x60, 0x61, 0x40, 0x1f0, 0xffff] {
        let count = 300u64;
        unsafe {
            asm!("rep insb", in("dx") port, inout("rdi") BUFFERS => _, inout("rcx") count => _);
            asm!("rep insw", in("dx") port, inout("rdi") BUFFERS => _, inout("rcx") count => _);
            asm!("rep insd", in("dx") port, inout("rdi") BUFFERS => _, inout("rcx") count => _);
        }
        if port == 0x61 || port == 0x40 || port == 0x60 || port == SERIAL || port == 0x3fe {
            continue;
        }
        unsafe {
            asm!("rep outsb", in("dx") port, inout("rsi") BUFFERS => _, inout("rcx") count => _);
            asm!("rep outsw", in("dx") port, inout("rsi") BUFFERS => _, inout("rcx") count => _);
            asm!("rep outsd", in("dx") port, inout("rsi") BUFFERS => _, inout("rcx") count => _);
        }
    }
}

/// Where there is no memory, in every width, across devices, and strings.
pub fn mmio(orders: &mut Orders) {
    let Orders { ref mut random, rounds, memory_end } = *orders;
    for _ in 0..rounds * 4 {
        let at = match random.below(4) {
            0 => 0xc000_0000 + random.below(0x3000_0000),
            1 => 0xd000_0000 + random.below(17) * 0x1000 - random.below(8),
            2 => memory_end + random.below(0x1000_0000),
            _ => (1 << 32) + random.below(1 << 30),
        };
        let value = random.next();
        match random.below(10) {
            0 => drop(get::<u8>(at)),
            1 => drop(get::<u16>(at)),
            2 => drop(get::<u32>(at)),
            3 => drop(get::<u64>(at)),
            4 => put(at, value as u8),
            5 => put(at, value as u16),
            6 => put(at, value as u32),
            7 => put(at, value),
            8 => unsafe { asm!("movdqu xmm0, [{}]", in(reg) at, out("xmm0") _) },
            _ => unsafe { asm!("movdqu [{}], xmm0", in(reg) at) },
        }
        if random.below(8) == 0 {
            let count = random.below(300);
            unsafe {
                asm!("rep movsb", inout("rdi") BUFFERS => _, inout("rsi") at => _, inout("rcx") count => _);
                asm!("rep movsq", inout("rdi") at => _, inout("rsi") BUFFERS => _, inout("rcx") count / 8 => _);
                asm!("rep stosd", inout("rdi") at => _, inout("rcx") count / 4 => _, in("eax") value as u32);
                asm!("lock xadd [{}], eax", in(reg) at, inout("eax") 1 => _);
                asm!("xchg [{}], rax", in(reg) at & !7, inout("rax") value => _);
            }
        }
    }
    // The interrupt controllers: all but what would send an interrupt that ends the guest.
    for _ in 0..rounds * 2 {
        let register = random.below(64) * 16;
        get::<u32>(0xfee0_0000 + register);
        get::<u64>(0xfee0_0000 + random.below(4088));
        if !matches!(register, 0x300 | 0x310 | 0x0b0 | 0x320..=0x370) {
            put(0xfee0_0000 + register, random.next() as u32);
        }
        put(0xfec0_0000, random.below(0x40) as u32);
        get::<u32>(0xfec0_0010);
        put(0xfec0_0010, random.next() as u32 & !0x700 | 1 << 16);
    }
    put(0xfee0_00f0, 0x1ffu32);
}

/// All registers of the serial line with all values; loopback; interrupts enabled and not.
pub fn serial(orders: &mut Orders) {
    let Orders { ref mut random, rounds, .. } = *orders;
    for value in (0..=255u8).step_by(if rounds < 1000 { 5 } else { 1 }) {
        for register in (1..8).rev() {
            out8(SERIAL + register, value);
            in8(SERIAL + register);
        }
    }
    out8(SERIAL + 4, 0x10);
    out8(SERIAL + 3, 3);
    for _ in 0..rounds * 5 {
        out8(SERIAL, b'L');
    }
    for _ in 0..200 {
        in8(SERIAL);
    }
    out8(SERIAL + 4, 8);
    for _ in 0..rounds * 5 {
        out8(SERIAL + 1, random.next() as u8);
        in8(SERIAL + 2);
    }
}

/// More than the console's log takes, in long lines, and without any line at all.
pub fn console(orders: &mut Orders) {
    for count in 0..orders.rounds * 300 {
        let byte = match count % 4096 {
            0..3000 => b'x',
            it if it % 32 == 0 => b'\n',
            it => it as u8 | 0x80,
        };
        out8(SERIAL, byte);
    }
    say!();
}

/// Everything to the keyboard controller but a reset.
pub fn keyboard(orders: &mut Orders) {
    for _ in 0..orders.rounds * 4 {
        let (port, value) =
            (orders.random.one_of(&[0x60, 0x64, 0x61, 0x62]), orders.random.next() as u8);
        if value != 0xfe {
            out8(port, value);
        }
        in8(port);
    }
}

/// Model-specific registers at random. Some tell KVM of memory that it then writes into.
pub fn msr(orders: &mut Orders) {
    let Orders { ref mut random, rounds, memory_end } = *orders;
    for _ in 0..rounds * 8 {
        let register = match random.below(6) {
            0 => random.below(0x2000) as u32,
            1 => 0xc000_0000 + random.below(0x200) as u32,
            2 => 0xc001_0000 + random.below(0x1200) as u32,
            3 => 0x4000_0000 + random.below(0x110) as u32,
            4 => random.one_of(&[
                0x11,
                0x12,
                0x4b56_4d00,
                0x4b56_4d01,
                0x4b56_4d02,
                0x4b56_4d03,
                0x4b56_4d04,
            ]),
            _ => random.next() as u32,
        };
        // Time, the local APIC's place, and the mode that the guest is in.
        if matches!(register, 0x10 | 0x1b | 0x3b | 0x6e0 | 0x800..0x900 | 0xc000_0080) {
            continue;
        }
        let value = match random.below(3) {
            0 => crate::virtio::any_address(random, memory_end) | 1,
            1 => random.below(16),
            _ => crate::virtio::any_address(random, memory_end),
        };
        unsafe {
            attempt!("rdmsr"; in("ecx") register, out("eax") _, out("edx") _);
            attempt!("wrmsr"; in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32);
        }
    }
    // No segment is where it was.
    unsafe { asm!("mov fs, {0:e}", "mov gs, {0:e}", in(reg) 16) }
}

pub fn cpuid(orders: &mut Orders) {
    for base in [0u32, 0x4000_0000, 0x8000_0000, 0xc000_0000] {
        for leaf in base..base + 0x30 {
            for index in 0..3 {
                let _ = __cpuid_count(leaf, index);
            }
        }
    }
    for _ in 0..orders.rounds {
        let number = orders.random.next();
        let _ = __cpuid_count(number as u32, (number >> 32) as u32);
    }
    if __cpuid_count(0x8000_0001, 0).ecx & 4 != 0 || __cpuid_count(1, 0).ecx & 32 != 0 {
        say!("FAIL: the guest could run guests");
    }
}

/// Values that control registers cannot have. CR3 and CR8 are left out: QEMU's emulation of SVM, on
/// which the tests run mostly, takes any CR3, and dies itself of a CR8 while an interrupt waits.
pub fn control(orders: &mut Orders) {
    let random = &mut orders.random;
    for _ in 0..orders.rounds {
        let high = random.next() | 1 << 63;
        unsafe {
            attempt!("mov cr0, {value}"; value = in(reg) high);
            attempt!("mov cr0, {value}"; value = in(reg) 0x8000_0000u64);
            attempt!("mov cr0, {value}"; value = in(reg) 0xa000_0001u64);
            attempt!("mov cr4, {value}"; value = in(reg) high);
            attempt!("mov cr4, {value}"; value = in(reg) 0u64);
            attempt!("mov cr4, {value}"; value = in(reg) 0x2620u64);
            attempt!("mov dr7, {value}"; value = in(reg) high);
            attempt!("xsetbv"; in("ecx") random.below(3) as u32, in("eax") high as u32 & !1, in("edx") (high >> 32) as u32);
            attempt!("wrmsr"; in("ecx") 0xc000_0080u32, in("eax") 0x1500u32, in("edx") 0);
            attempt!("vmrun rax"; in("rax") high);
            attempt!("push rbx", "mov rbx, {high}", "vmmcall", "pop rbx"; high = in(reg) high, inout("rax") random.below(20) => _);
            attempt!("ud2";);
            attempt!("invd";);
            attempt!("monitor"; in("rax") BUFFERS, in("ecx") 0, in("edx") 0);
        }
    }
}

/// Every page that there is.
pub fn memory(orders: &mut Orders) {
    for at in (BUFFERS..orders.memory_end).step_by(4096) {
        put(at, at);
    }
    let mut wrong = 0;
    for at in (BUFFERS..orders.memory_end).step_by(4096) {
        wrong += u64::from(get::<u64>(at) != at);
    }
    if wrong > 0 {
        say!("FAIL: {wrong} pages are not what was written");
    }
    say!("touched {} of {}", orders.memory_end, devices().count());
}
