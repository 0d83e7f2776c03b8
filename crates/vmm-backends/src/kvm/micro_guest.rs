//! A virtual machine of 48 KiB that runs the trial guest, and cannot hang whoever asks for it.

#![expect(unsafe_code, reason = "guest memory is registered by address, exits are unions")]

use std::{
    fs::File,
    io,
    os::fd::{FromRawFd as _, IntoRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::{
    ioctl::ioctl_with_ref,
    signal::{Killable as _, SIGRTMIN, block_signal},
};

use super::{
    GuestStep, GuestStop, KvmFailure, Trial,
    guest_code::{self, DONE, DONE_PORT, STEP_PORT, layout},
};

/// How long a thread may take to return from a guest that was interrupted.
const RETURN_LIMIT: Duration = Duration::from_secs(1);

/// Runs the guest. `Err` says why it could not be tried, or that it did not end in time.
///
/// The guest runs in a thread of its own, which a signal calls back: KVM unblocks that signal
/// while the guest runs and only then, so no handler needs to be installed in this process.
pub(super) fn run(device: File, limit: Duration) -> Result<Trial, String> {
    run_program(device, guest_code::program(), limit)
}

fn run_program(device: File, program: &'static [u8], limit: Duration) -> Result<Trial, String> {
    let (sender, result) = mpsc::channel();
    let recall = Arc::new(Recall::default());
    let heard = Arc::clone(&recall);
    let thread = thread::Builder::new()
        .name("costrel-kvm-trial".to_owned())
        .spawn(move || {
            // Fails only if nobody waits any longer.
            let _ = sender.send(run_here(device, program, &heard).map_err(|e| e.to_string()));
        })
        .map_err(|error| error.to_string())?;
    match result.recv_timeout(limit) {
        Ok(trial) => trial,
        Err(RecvTimeoutError::Timeout) => {
            recall.recalled.store(true, Ordering::SeqCst);
            if recall.listening.load(Ordering::SeqCst) {
                // Fails only if it has just ended. Where even this doesn't help, it is left alone.
                let _ = thread.kill(SIGRTMIN());
                let _ = result.recv_timeout(RETURN_LIMIT);
            }
            Err(format!("the trial guest did not end within {} ms", limit.as_millis()))
        }
        Err(RecvTimeoutError::Disconnected) => Err("the trial panicked".to_owned()),
    }
}

/// Whether the guest's thread is to stop, and whether the signal may be sent: before the thread
/// listens, it would end the process. Each side sets its flag, then looks at the other's, so at
/// least one of them notices.
#[derive(Default)]
struct Recall {
    listening: AtomicBool,
    recalled: AtomicBool,
}

fn run_here(device: File, program: &[u8], recall: &Recall) -> io::Result<Trial> {
    let mut guest = MicroGuest::new(device, program)?;
    guest.listen_for_the_signal()?;
    recall.listening.store(true, Ordering::SeqCst);
    if recall.recalled.load(Ordering::SeqCst) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    guest.run()
}

const PAGE: usize = 0x1000;

#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; PAGE]);

/// Fields are dropped in this order: the memory outlives the machine that uses it.
struct MicroGuest {
    vcpu: VcpuFd,
    _machine: VmFd,
    _memory: Vec<Page>,
}

impl MicroGuest {
    fn new(device: File, program: &[u8]) -> io::Result<Self> {
        // SAFETY: the descriptor is open and nobody else's. If it is not KVM's, its ioctls fail.
        let kvm = unsafe { Kvm::from_raw_fd(device.into_raw_fd()) };
        let machine = kvm.create_vm()?;
        // Intel's KVM wants three pages that no guest memory is at.
        machine.set_tss_address(0xfffb_d000)?;
        let memory = memory(program);
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: layout::SIZE as u64,
            userspace_addr: memory.as_ptr().addr() as u64,
        };
        // SAFETY: the memory is page-aligned, of this size, owned by the same struct as the
        // machine, dropped after it, and never accessed by us again.
        unsafe { machine.set_user_memory_region(region)? };
        let vcpu = machine.create_vcpu(0)?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        const XSAVE: u32 = 1 << 26;
        let has_xsave = cpuid.as_slice().iter().any(|e| e.function == 1 && e.ecx & XSAVE != 0);
        vcpu.set_cpuid2(&cpuid)?;
        vcpu.set_sregs(&special_registers(vcpu.get_sregs()?, has_xsave))?;
        if has_xsave {
            vcpu.set_xcrs(&x87_and_sse())?;
        }
        vcpu.set_regs(&kvm_regs {
            rip: layout::CODE as u64,
            rsp: layout::STACK_TOP as u64,
            rflags: 2,
            r15: u64::from(has_xsave),
            ..kvm_regs::default()
        })?;
        Ok(Self { vcpu, _machine: machine, _memory: memory })
    }

    /// Blocks the signal in this thread but for the time that the guest runs.
    fn listen_for_the_signal(&self) -> io::Result<()> {
        // linux/kvm.h: KVM_SET_SIGNAL_MASK, _IOW(KVMIO, 0x8b, struct kvm_signal_mask), a `__u32`
        // length and as many bytes of the kernel's signal set.
        const KVM_SET_SIGNAL_MASK: u64 = 0x4004_ae8b;
        #[repr(C, packed)]
        struct SignalMask {
            length: u32,
            signals: u64,
        }
        block_signal(SIGRTMIN()).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mask = SignalMask { length: 8, signals: !(1 << (SIGRTMIN() - 1)) };
        // SAFETY: the argument is what this request reads: the length, and that many bytes.
        match unsafe { ioctl_with_ref(&self.vcpu, KVM_SET_SIGNAL_MASK, &mask) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn run(&mut self) -> io::Result<Trial> {
        let mut step = GuestStep::Start;
        // Each exit is a step further, or the last.
        loop {
            let stop = match self.vcpu.run()? {
                VcpuExit::IoOut(STEP_PORT, &[number]) => match guest_code::step(number) {
                    Some(next) => {
                        step = next;
                        continue;
                    }
                    None => GuestStop::WrongResult,
                },
                VcpuExit::IoOut(DONE_PORT, bytes)
                    if step == GuestStep::Finish && bytes == DONE.to_le_bytes() =>
                {
                    return self.expect_halt();
                }
                VcpuExit::Hlt => GuestStop::WrongResult,
                VcpuExit::Shutdown => GuestStop::Shutdown,
                VcpuExit::FailEntry(reason, _) => GuestStop::FailedEntry { reason },
                VcpuExit::InternalError => GuestStop::InternalError { suberror: self.suberror() },
                _ => GuestStop::StrayExit,
            };
            return Ok(Trial::Fails(KvmFailure { step, stop }));
        }
    }

    fn expect_halt(&mut self) -> io::Result<Trial> {
        Ok(match self.vcpu.run()? {
            VcpuExit::Hlt => Trial::Works,
            _ => Trial::Fails(KvmFailure { step: GuestStep::Finish, stop: GuestStop::StrayExit }),
        })
    }

    fn suberror(&mut self) -> u32 {
        // SAFETY: the exit was an internal error, for which KVM fills in this member; any value
        // of it would be valid.
        unsafe { self.vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror }
    }
}

/// Guest memory as the guest finds it.
fn memory(program: &[u8]) -> Vec<Page> {
    let mut memory = Image(vec![Page([0; PAGE]); layout::SIZE / PAGE]);
    const PRESENT_AND_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    memory.put(layout::PML4, layout::PDPT as u64 | PRESENT_AND_WRITABLE);
    // The first gigabyte twice.
    for entry in 0..2 {
        let directory = layout::PAGE_DIRECTORY as u64 | PRESENT_AND_WRITABLE;
        memory.put(layout::PDPT + 8 * entry, directory);
    }
    memory.put(layout::PAGE_DIRECTORY, PRESENT_AND_WRITABLE | LARGE);
    // Null, 64-bit code, data, as special_registers() loads them.
    memory.put(layout::GDT + 8, 0x00af_9b00_0000_ffff);
    memory.put(layout::GDT + 16, 0x00cf_9300_0000_ffff);
    // Vector 3: a present 64-bit interrupt gate into the code segment.
    let handler = (layout::CODE + guest_code::breakpoint_handler()) as u64;
    let gate = (handler & 0xffff) | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
    memory.put(layout::IDT + 3 * 16, gate);
    for (offset, &byte) in program.iter().enumerate() {
        memory.put_byte(layout::CODE + offset, byte);
    }
    memory.0
}

struct Image(Vec<Page>);

impl Image {
    fn put_byte(&mut self, address: usize, byte: u8) {
        self.0[address / PAGE].0[address % PAGE] = byte;
    }

    fn put(&mut self, address: usize, value: u64) {
        for (offset, byte) in value.to_le_bytes().into_iter().enumerate() {
            self.put_byte(address + offset, byte);
        }
    }
}

/// XCR0. Set from here since a hypervisor below may let `xsetbv` pass by its KVM.
fn x87_and_sse() -> kvm_xcrs {
    let mut registers = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
    registers.xcrs[0].value = 0b11;
    registers
}

/// The state of a CPU in 64-bit mode; the rest is as after a reset.
fn special_registers(reset: kvm_sregs, has_xsave: bool) -> kvm_sregs {
    const CR0_PE_MP_ET_NE_WP_PG: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
    const CR4_PAE_OSFXSR_OSXMMEXCPT: u64 = 1 << 5 | 1 << 9 | 1 << 10;
    const CR4_OSXSAVE: u64 = 1 << 18;
    const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
    let flat = |selector, type_, l| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1 - l,
        s: 1,
        l,
        g: 1,
        ..kvm_segment::default()
    };
    let data = flat(16, 3, 0);
    let mut registers = kvm_sregs {
        cs: flat(8, 11, 1),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        cr0: CR0_PE_MP_ET_NE_WP_PG,
        cr3: layout::PML4 as u64,
        cr4: CR4_PAE_OSFXSR_OSXMMEXCPT | if has_xsave { CR4_OSXSAVE } else { 0 },
        efer: EFER_LME_LMA,
        ..reset
    };
    registers.gdt.base = layout::GDT as u64;
    registers.gdt.limit = 3 * 8 - 1;
    registers.idt.base = layout::IDT as u64;
    registers.idt.limit = 4 * 16 - 1;
    registers
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    #[expect(clippy::print_stderr, reason = "this is how a skipped test says so")]
    fn a_guest_that_spins_is_called_back() {
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/kvm") else {
            eprintln!("SKIPPED: lacks a /dev/kvm that opens");
            return;
        };
        // 1: jmp 1b
        let error = run_program(device, &[0xeb, 0xfe], Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("did not end within 50 ms"), "{error}");
        let spins = || {
            let threads = std::fs::read_dir("/proc/self/task").unwrap();
            threads.flatten().any(|thread| {
                // A thread that ended since has no name.
                let name = std::fs::read_to_string(thread.path().join("comm"));
                name.is_ok_and(|name| name.starts_with("costrel-kvm-tri"))
            })
        };
        let waits = (0..10_000).take_while(|_| spins());
        waits.for_each(|_| thread::sleep(Duration::from_millis(1)));
        assert!(!spins(), "its thread still runs");
    }
}
