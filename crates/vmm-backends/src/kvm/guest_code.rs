//! The trial guest's program: in 64-bit mode, what a stock kernel does early and an instruction
//! emulator lacks.

#![expect(unsafe_code, reason = "the bounds of assembled code are extern statics")]

use std::{arch::global_asm, slice};

use super::GuestStep;

/// To be raised whenever the guest changes, so that verdicts on an earlier one no longer hold.
pub(super) const VERSION: u32 = 1;

/// The guest writes the number of a step here before it begins it.
pub(super) const STEP_PORT: u16 = 0x80;
/// The guest writes [`DONE`] here, 32 bits, when all went well.
pub(super) const DONE_PORT: u16 = 0xf4;
/// A value that no accident writes.
pub(super) const DONE: u32 = 0x600d_c0de;

/// Where in guest memory things are.
pub(super) mod layout {
    pub(in super::super) const PML4: usize = 0x1000;
    pub(in super::super) const PDPT: usize = 0x2000;
    pub(in super::super) const PAGE_DIRECTORY: usize = 0x3000;
    pub(in super::super) const GDT: usize = 0x4000;
    pub(in super::super) const IDT: usize = 0x5000;
    pub(in super::super) const CODE: usize = 0x6000;
    pub(in super::super) const STACK_TOP: usize = 0x8000;
    /// Three pages that the program names by number: 0x9000 for paging, 0xa000 for the exchange,
    /// 0xb000 for the extended state.
    pub(in super::super) const SIZE: usize = 0xc000;
}

// R15 is 1 if the CPU has XSAVE. The first gigabyte of addresses appears again above itself.
global_asm!(
    ".pushsection .rodata.costrel_trial_guest, \"a\"",
    ".global costrel_trial_guest_begin",
    ".global costrel_trial_guest_breakpoint",
    ".global costrel_trial_guest_end",
    "costrel_trial_guest_begin:",
    "mov al, 1",
    "out 0x80, al",
    "mov rax, 0x0123456789abcdef",
    "mov esi, 0x9000",
    "mov [rsi], rax",
    "mov esi, 0x40009000",
    "cmp [rsi], rax",
    "jne 9f",
    // The zero in memory is what it expects there.
    "mov al, 2",
    "out 0x80, al",
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, 0x1111",
    "mov ecx, 0x2222",
    "mov edi, 0xa000",
    "lock cmpxchg16b [rdi]",
    "jnz 9f",
    "cmp qword ptr [rdi + 8], 0x2222",
    "jne 9f",
    // The handler counts in R8.
    "mov al, 3",
    "out 0x80, al",
    "xor r8d, r8d",
    "int3",
    "cmp r8d, 1",
    "jne 9f",
    // XCR0 comprises x87 and SSE.
    "mov al, 4",
    "out 0x80, al",
    "test r15d, r15d",
    "jz 1f",
    "xor edx, edx",
    "mov eax, 3",
    "mov rbx, 0x5566778899aabbcc",
    "movq xmm1, rbx",
    "mov edi, 0xb000",
    "xsave [rdi]",
    "pxor xmm1, xmm1",
    "xrstor [rdi]",
    "movq rax, xmm1",
    "cmp rax, rbx",
    "jne 9f",
    "1:",
    "mov al, 5",
    "out 0x80, al",
    "mov eax, {done}",
    "out {done_port}, eax",
    "9:",
    "hlt",
    "jmp 9b",
    "costrel_trial_guest_breakpoint:",
    "inc r8d",
    "iretq",
    "costrel_trial_guest_end:",
    ".popsection",
    done = const DONE,
    done_port = const DONE_PORT,
);

unsafe extern "C" {
    static costrel_trial_guest_begin: u8;
    static costrel_trial_guest_breakpoint: u8;
    static costrel_trial_guest_end: u8;
}

/// The program, position-independent.
pub(super) fn program() -> &'static [u8] {
    let begin = &raw const costrel_trial_guest_begin;
    let end = &raw const costrel_trial_guest_end;
    // SAFETY: the two symbols bound one piece of read-only data, defined above.
    unsafe { slice::from_raw_parts(begin, end.addr() - begin.addr()) }
}

/// Where in the program the breakpoint's handler is.
pub(super) fn breakpoint_handler() -> usize {
    let begin = &raw const costrel_trial_guest_begin;
    let handler = &raw const costrel_trial_guest_breakpoint;
    handler.addr() - begin.addr()
}

/// The step of this number.
pub(super) fn step(number: u8) -> Option<GuestStep> {
    Some(match number {
        1 => GuestStep::Paging,
        2 => GuestStep::CompareExchange,
        3 => GuestStep::Breakpoint,
        4 => GuestStep::ExtendedState,
        5 => GuestStep::Finish,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_into_its_page() {
        assert!((100..0x1000).contains(&program().len()));
        // inc r8d; iretq
        assert_eq!(program()[breakpoint_handler()..], [0x41, 0xff, 0xc0, 0x48, 0xcf]);
    }
}
