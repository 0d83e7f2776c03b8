//! What a vCPU is at a moment, read from KVM and given to it again.
//!
//! The time stamp counters of a machine's vCPUs stay in step: all are saved as of the same moment of
//! the host's counter, and set as offsets to it, computed for one moment again. Counters that are
//! written as MSRs, KVM takes for ones that are meant to be in step with those of a moment ago, and
//! writes something else.

#![expect(unsafe_code, reason = "kvm-ioctls lacks attributes of vCPUs on x86; XSAVE; RDTSC")]

use std::{io, os::fd::AsRawFd as _, sync::Arc};

use kvm_bindings::{
    CpuId, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_cpuid_entry2, kvm_debugregs,
    kvm_device_attr, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use crate::vmm::{BuildError, snapshot::SavingError};

/// A vCPU, and what it takes to save it.
pub(crate) struct Vcpu {
    pub(crate) fd: VcpuFd,
    pub(super) cpuid: CpuId,
    pub(super) msrs: Arc<[u32]>,
}

/// What a vCPU is at a moment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VcpuState {
    pub(super) cpuid: Vec<kvm_cpuid_entry2>,
    pub(super) mp_state: kvm_mp_state,
    pub(super) regs: kvm_regs,
    pub(super) sregs: kvm_sregs,
    pub(super) xsave: Box<kvm_xsave>,
    pub(super) xcrs: kvm_xcrs,
    pub(super) debug: kvm_debugregs,
    pub(super) local_apic: Box<kvm_lapic_state>,
    /// The time stamp counter at the moment.
    pub(super) tsc: u64,
    /// How fast it counts, in kHz.
    pub(super) tsc_khz: u32,
    /// When the local APIC's timer is due, by the time stamp counter; 0 if it is not.
    pub(super) tsc_deadline: u64,
    /// All others, by their numbers.
    pub(super) msrs: Vec<(u32, u64)>,
    pub(super) events: kvm_vcpu_events,
}

/// A moment, by the host's time stamp counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(u64);

/// Why a vCPU cannot be what was saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VcpuMismatch {
    #[error("its time stamp counter counted at {saved} kHz, and this host's at {here} kHz")]
    TscFrequency { saved: u32, here: u32 },
    #[error("KVM does not let MSR {index:#x} be {value:#x}")]
    Msr { index: u32, value: u64 },
    #[error("its CPUID has more leaves than KVM takes")]
    Cpuid,
}

const MSR_TSC: u32 = 0x10;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// What KVM keeps and does not list: memory types.
const UNLISTED_MSRS: [u32; 29] = [
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c,
    0x20d, 0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e,
    0x26f, 0x277, 0x2ff,
];
/// Hyper-V's, which are offered to no guest here; to touch one makes KVM set all of it up.
const HYPER_V_MSRS: std::ops::Range<u32> = 0x4000_0000..0x4000_0200;
/// What KVM takes in a call.
const MSRS_AT_ONCE: usize = 256;
const READ_MSRS: &str = "read a vCPU's MSRs";
const SET_MSRS: &str = "set a vCPU's MSRs";

const APIC_LVT_TIMER: usize = 0x320;
const APIC_MASKED: u32 = 1 << 16;
const APIC_TIMER_MODE: u32 = 3 << 17;
const APIC_TIMER_TSC_DEADLINE: u32 = 2 << 17;

/// KVM does not scale a counter that is this close, in millionths.
const TSC_TOLERANCE: u64 = 250;

impl Moment {
    pub(crate) fn now() -> Self {
        // SAFETY: every x86-64 processor has the instruction, and KVM needs it.
        Self(unsafe { core::arch::x86_64::_rdtsc() })
    }
}

/// The MSRs that are saved.
pub(super) fn saved_msrs(kvm: &Kvm) -> Result<Arc<[u32]>, BuildError> {
    let listed =
        kvm.get_msr_index_list().map_err(BuildError::kvm("ask for the MSRs that there are"))?;
    let own = |index: &u32| !matches!(*index, MSR_TSC | MSR_TSC_DEADLINE);
    let mut indices: Vec<u32> = listed.as_slice().iter().copied().chain(UNLISTED_MSRS).collect();
    indices.retain(|index| own(index) && !HYPER_V_MSRS.contains(index));
    indices.sort_unstable();
    indices.dedup();
    Ok(indices.into())
}

/// Whether [`kvm_xsave`] has room for all that a guest's registers can be.
pub(crate) fn check_savable(vm: &VmFd) -> Result<(), SavingError> {
    let bytes = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
    if bytes > size_of::<kvm_xsave>() { Err(SavingError::Registers { bytes }) } else { Ok(()) }
}

impl Vcpu {
    /// What it is. It must not run.
    pub(crate) fn save(&self, moment: Moment) -> Result<VcpuState, SavingError> {
        let fd = &self.fd;
        let failed = SavingError::kvm;
        // Pending events are settled by reading this first (KVM API, 4.38).
        let mp_state = fd.get_mp_state().map_err(failed("read a vCPU's state"))?;
        let regs = fd.get_regs().map_err(failed("read a vCPU's registers"))?;
        let sregs = fd.get_sregs().map_err(failed("read a vCPU's segments"))?;
        let xsave = fd.get_xsave().map_err(failed("read a vCPU's floating point unit"))?;
        let xcrs = fd.get_xcrs().map_err(failed("read a vCPU's extended control registers"))?;
        let debug = fd.get_debug_regs().map_err(failed("read a vCPU's debug registers"))?;
        let local_apic = fd.get_lapic().map_err(failed("read a vCPU's local APIC"))?;
        let tsc_khz = fd.get_tsc_khz().map_err(failed("read a vCPU's TSC frequency"))?;
        let offset = tsc_offset(fd).map_err(|source| SavingError::Host {
            operation: "read a vCPU's TSC offset, which takes Linux 5.16",
            source,
        })?;
        let tsc = moment.0.wrapping_add(offset);
        let deadline = read_msrs(fd, &[MSR_TSC_DEADLINE])?.first().map_or(0, |&(_, value)| value);
        let tsc_deadline = due(deadline, tsc, timer_lvt(&local_apic));
        let msrs = read_msrs(fd, &self.msrs)?;
        let events = fd.get_vcpu_events().map_err(failed("read a vCPU's pending events"))?;
        Ok(VcpuState {
            cpuid: self.cpuid.as_slice().to_vec(),
            mp_state,
            regs,
            sregs,
            xsave: Box::new(xsave),
            xcrs,
            debug,
            local_apic: Box::new(local_apic),
            tsc,
            tsc_khz,
            tsc_deadline,
            msrs,
            events,
        })
    }
}

/// When the timer is due. KVM says 0 of one that is, and whose interrupt it has not delivered yet:
/// that would be lost, and the guest would wait for it. An interrupt too many does no harm.
fn due(deadline: u64, now: u64, lvt: u32) -> u64 {
    let by_deadline = lvt & APIC_TIMER_MODE == APIC_TIMER_TSC_DEADLINE && lvt & APIC_MASKED == 0;
    if deadline == 0 && by_deadline { now } else { deadline }
}

fn timer_lvt(apic: &kvm_lapic_state) -> u32 {
    let register = &apic.regs[APIC_LVT_TIMER..APIC_LVT_TIMER + 4];
    register.iter().rev().fold(0, |value, byte| value << 8 | u32::from(byte.cast_unsigned()))
}

/// Of those MSRs the ones that can be read.
fn read_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, SavingError> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let now = &rest[..rest.len().min(MSRS_AT_ONCE)];
        let mut msrs =
            to_msrs(now.iter().map(|&index| (index, 0))).map_err(SavingError::host(READ_MSRS))?;
        let read = fd.get_msrs(&mut msrs).map_err(SavingError::kvm(READ_MSRS))?;
        found.extend(msrs.as_slice()[..read].iter().map(|entry| (entry.index, entry.data)));
        // KVM stops at one that there is not.
        rest = &rest[read + usize::from(read < now.len())..];
    }
    Ok(found)
}

fn to_msrs(entries: impl Iterator<Item = (u32, u64)>) -> io::Result<Msrs> {
    let entry = |(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
    let entries: Vec<_> = entries.map(entry).collect();
    // Fails only if there are more of them than fit.
    Msrs::from_entries(&entries).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl VcpuState {
    /// The vCPU's CPUID.
    pub(crate) fn cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.cpuid
    }

    /// Makes a new vCPU what this one was. The machine must have its memory already. Whoever calls
    /// has checked the CPUID.
    pub(super) fn restore(&self, fd: &VcpuFd, moment: Moment) -> Result<CpuId, BuildError> {
        let failed = BuildError::kvm;
        let cpuid = CpuId::from_entries(&self.cpuid).map_err(|_| VcpuMismatch::Cpuid)?;
        fd.set_cpuid2(&cpuid).map_err(failed("set a vCPU's CPUID"))?;
        self.restore_tsc(fd, moment)?;
        fd.set_mp_state(self.mp_state).map_err(failed("set a vCPU's state"))?;
        fd.set_regs(&self.regs).map_err(failed("set a vCPU's registers"))?;
        fd.set_sregs(&self.sregs).map_err(failed("set a vCPU's segments"))?;
        // SAFETY: KVM reads more than the structure has only where features were enabled that this
        // program does not enable (`check_savable`).
        unsafe { fd.set_xsave(&self.xsave) }.map_err(failed("set a vCPU's floating point unit"))?;
        fd.set_xcrs(&self.xcrs).map_err(failed("set a vCPU's extended control registers"))?;
        fd.set_debug_regs(&self.debug).map_err(failed("set a vCPU's debug registers"))?;
        fd.set_lapic(&self.local_apic).map_err(failed("set a vCPU's local APIC"))?;
        write_msrs(fd, &self.msrs)?;
        // The local APIC must know by then that its timer goes by this, and the counter be right.
        write_msrs(fd, &[(MSR_TSC_DEADLINE, self.tsc_deadline)])?;
        fd.set_vcpu_events(&self.events).map_err(failed("set a vCPU's pending events"))?;
        Ok(cpuid)
    }

    fn restore_tsc(&self, fd: &VcpuFd, moment: Moment) -> Result<(), BuildError> {
        let here = fd.get_tsc_khz().map_err(BuildError::kvm("read a vCPU's TSC frequency"))?;
        let difference = u64::from(self.tsc_khz.abs_diff(here));
        if difference * 1_000_000 > u64::from(here) * TSC_TOLERANCE {
            return Err(VcpuMismatch::TscFrequency { saved: self.tsc_khz, here }.into());
        }
        set_tsc_offset(fd, self.tsc.wrapping_sub(moment.0))
            .map_err(BuildError::host("set a vCPU's TSC offset, which takes Linux 5.16"))
    }
}

fn write_msrs(fd: &VcpuFd, entries: &[(u32, u64)]) -> Result<(), BuildError> {
    let mut rest = entries;
    while !rest.is_empty() {
        let now = &rest[..rest.len().min(MSRS_AT_ONCE)];
        let msrs = to_msrs(now.iter().copied()).map_err(BuildError::host(SET_MSRS))?;
        let set = fd.set_msrs(&msrs).map_err(BuildError::kvm(SET_MSRS))?;
        if let Some(&(index, value)) = now.get(set) {
            // One that cannot be set does no harm if it has the value already.
            let found = read_msrs(fd, &[index]).unwrap_or_default();
            if found != [(index, value)] {
                return Err(VcpuMismatch::Msr { index, value }.into());
            }
            rest = &rest[set + 1..];
        } else {
            rest = &rest[now.len()..];
        }
    }
    Ok(())
}

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`
const KVM_SET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee1;
/// `_IOW(KVMIO, 0xe2, struct kvm_device_attr)`
pub(crate) const KVM_GET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee2;

/// What is added to the host's counter.
fn tsc_offset(fd: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0u64;
    let attribute = tsc_attribute((&raw mut offset).expose_provenance());
    // SAFETY: KVM writes the eight bytes that the attribute points to.
    match unsafe { libc::ioctl(fd.as_raw_fd(), KVM_GET_DEVICE_ATTR, &raw const attribute) } {
        0 => Ok(offset),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_tsc_offset(fd: &VcpuFd, offset: u64) -> io::Result<()> {
    let attribute = tsc_attribute((&raw const offset).expose_provenance());
    // SAFETY: KVM reads the eight bytes that the attribute points to.
    match unsafe { libc::ioctl(fd.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn tsc_attribute(address: usize) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: address as u64,
        ..kvm_device_attr::default()
    }
}

#[cfg(test)]
impl VcpuState {
    /// One that is like no other.
    pub(crate) fn sample() -> Self {
        let leaf = |function, eax| kvm_cpuid_entry2 { function, eax, ..Default::default() };
        let mut xsave = kvm_xsave::default();
        (xsave.region[0], xsave.region[1023]) = (0x37f, 0xdead_beef);
        let mut local_apic = kvm_lapic_state::default();
        (local_apic.regs[0x20], local_apic.regs[1023]) = (1, -1);
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = 7;
        let sregs = kvm_sregs { cr3: 0x1234_5000, apic_base: 0xfee0_0900, ..Default::default() };
        Self {
            cpuid: vec![leaf(0, 0xd), leaf(1, 0x60_0f12)],
            mp_state: kvm_mp_state { mp_state: 3 },
            regs: kvm_regs { rip: 0xffff_ffff_8100_0000, rflags: 2, ..Default::default() },
            sregs,
            xsave: Box::new(xsave),
            xcrs,
            debug: kvm_debugregs { dr6: 0xffff_0ff0, dr7: 0x400, ..Default::default() },
            local_apic: Box::new(local_apic),
            tsc: 123_456_789_012,
            tsc_khz: 2_100_000,
            tsc_deadline: 123_456_999_999,
            msrs: vec![(0x174, 0x10), (0xc000_0081, 0x23_0010 << 32)],
            events: kvm_vcpu_events { flags: 1, ..Default::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_is_due_fires_after_all() {
        assert_eq!(due(0, 7, APIC_TIMER_TSC_DEADLINE | 0xec), 7);
        assert_eq!(due(9, 7, APIC_TIMER_TSC_DEADLINE | 0xec), 9);
        assert_eq!(due(0, 7, APIC_TIMER_TSC_DEADLINE | APIC_MASKED), 0, "it is not used");
        assert_eq!(due(0, 7, 0xec), 0, "it goes by its own count");
        let mut apic = kvm_lapic_state::default();
        apic.regs[APIC_LVT_TIMER..][..4].copy_from_slice(&[0xec_u8.cast_signed(), 0, 4, 0]);
        assert_eq!(timer_lvt(&apic), APIC_TIMER_TSC_DEADLINE | 0xec);
    }
}
