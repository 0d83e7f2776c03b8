//! Sets a vCPU up: CPUID, MSRs, local APIC, and for the boot processor the state in which PVH
//! enters a kernel.

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::{
    boot::BootLayout,
    cpuid::{fingerprint, lacking, vcpu_cpuid},
    state::{Moment, Vcpu, VcpuState, saved_msrs},
};
use crate::vmm::{BuildError, snapshot::SnapshotError};

/// What all vCPUs of a machine have in common.
#[derive(Debug)]
pub(crate) struct VcpuTemplate {
    supported: CpuId,
    msrs: Arc<[u32]>,
    tsc_deadline: bool,
    count: u8,
}

const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
/// All memory is cached write-back where no range says otherwise, and there are no ranges.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const FLAGS_ALWAYS: u64 = 2;

const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const APIC_MODE_NMI: u32 = 4;
const APIC_MODE_EXTERNAL: u32 = 7;

impl VcpuTemplate {
    /// What this host's KVM has to offer to `count` vCPUs.
    pub(crate) fn new(kvm: &Kvm, vm: &VmFd, count: u8) -> Result<Self, BuildError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(BuildError::kvm("ask for the supported CPUID"))?;
        let msrs = saved_msrs(kvm)?;
        let tsc_deadline = vm.check_extension(Cap::TscDeadlineTimer);
        Ok(Self { supported, msrs, tsc_deadline, count })
    }

    /// Makes vCPU `id` as it is before a kernel runs. All but the first wait for the first to start
    /// them.
    pub(crate) fn boot(&self, fd: VcpuFd, id: u8, boot: BootLayout) -> Result<Vcpu, BuildError> {
        let cpuid = vcpu_cpuid(&self.supported, id, self.count, self.tsc_deadline);
        fd.set_cpuid2(&cpuid).map_err(BuildError::kvm("set a vCPU's CPUID"))?;
        set_msrs(&fd)?;
        set_local_apic(&fd)?;
        if id == 0 {
            enter_kernel(&fd, boot)?;
        }
        Ok(Vcpu { fd, cpuid, msrs: Arc::clone(&self.msrs) })
    }

    /// Makes a vCPU what a saved one was.
    pub(crate) fn restore(
        &self,
        fd: VcpuFd,
        state: &VcpuState,
        moment: Moment,
    ) -> Result<Vcpu, BuildError> {
        if let Some(reason) = lacking(state.cpuid(), self.supported.as_slice()) {
            return Err(SnapshotError::Processor { reason }.into());
        }
        let cpuid = state.restore(&fd, moment)?;
        Ok(Vcpu { fd, cpuid, msrs: Arc::clone(&self.msrs) })
    }
}

/// This host's processor as its KVM shows it, for people, and a sum of all that guests see of it.
pub(crate) fn processor(kvm: &Kvm) -> Result<(String, u32), kvm_ioctls::Error> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map(|supported| fingerprint(&supported))
}

fn set_msrs(vcpu: &VcpuFd) -> Result<(), BuildError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
    let entries =
        [entry(MSR_MISC_ENABLE, FAST_STRINGS), entry(MSR_MTRR_DEFAULT, MTRR_ENABLED_WRITE_BACK)];
    let msrs =
        Msrs::from_entries(&entries).map_err(|_| BuildError::Msr { index: entries[0].index })?;
    let set = vcpu.set_msrs(&msrs).map_err(BuildError::kvm("set a vCPU's MSRs"))?;
    if set < entries.len() {
        return Err(BuildError::Msr { index: entries[set].index });
    }
    Ok(())
}

/// The first two lines of a local APIC are wired as on every PC.
fn set_local_apic(vcpu: &VcpuFd) -> Result<(), BuildError> {
    let mut apic = vcpu.get_lapic().map_err(BuildError::kvm("read a vCPU's local APIC"))?;
    for (at, mode) in [(APIC_LVT0, APIC_MODE_EXTERNAL), (APIC_LVT1, APIC_MODE_NMI)] {
        let register = &mut apic.regs[at..at + 4];
        let mut value = 0u32;
        for (shift, byte) in register.iter().enumerate() {
            value |= u32::from(byte.cast_unsigned()) << (8 * shift);
        }
        value = value & !0x700 | mode << 8;
        for (byte, new) in register.iter_mut().zip(value.to_le_bytes()) {
            *byte = new.cast_signed();
        }
    }
    vcpu.set_lapic(&apic).map_err(BuildError::kvm("set a vCPU's local APIC"))
}

/// 32-bit protected mode, flat segments, paging off, the start info's address in EBX
/// (docs/misc/pvh.pandoc of Xen).
fn enter_kernel(vcpu: &VcpuFd, boot: BootLayout) -> Result<(), BuildError> {
    let regs = kvm_regs {
        rflags: FLAGS_ALWAYS,
        rip: boot.entry,
        rbx: boot.start_info,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs).map_err(BuildError::kvm("set the boot vCPU's registers"))?;
    let mut sregs = vcpu.get_sregs().map_err(BuildError::kvm("read the boot vCPU's segments"))?;
    let flat =
        kvm_segment { limit: 0xffff_ffff, present: 1, db: 1, s: 1, g: 1, ..kvm_segment::default() };
    // Executable and readable; writable; a busy 32-bit task state segment.
    sregs.cs = kvm_segment { selector: 0x8, type_: 0xb, ..flat };
    let data = kvm_segment { selector: 0x10, type_: 0x3, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { selector: 0x18, type_: 0xb, limit: 0x67, s: 0, db: 0, g: 0, ..flat };
    sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    (sregs.cr4, sregs.efer) = (0, 0);
    vcpu.set_sregs(&sregs).map_err(BuildError::kvm("set the boot vCPU's segments"))?;
    // As after FNINIT, with all exceptions masked.
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..kvm_fpu::default() };
    vcpu.set_fpu(&fpu).map_err(BuildError::kvm("set the boot vCPU's floating point unit"))
}
