//! What the board's parts in the kernel are at a moment: interrupt controllers, timer, clock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use crate::vmm::{BuildError, snapshot::SavingError};

/// What all vCPUs share.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BoardState {
    /// The two PICs and the I/O APIC.
    pub(super) interrupts: Vec<kvm_irqchip>,
    pub(super) timer: kvm_pit_state2,
    /// KVM's own clock for guests, in nanoseconds. It goes on from there: the time in between has
    /// not been.
    pub(super) clock: u64,
}

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

impl BoardState {
    pub(crate) fn save(vm: &VmFd) -> Result<Self, SavingError> {
        let interrupts = CHIPS.into_iter().map(|chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
            vm.get_irqchip(&mut chip).map(|()| chip)
        });
        let interrupts = interrupts
            .collect::<Result<_, _>>()
            .map_err(SavingError::kvm("read the interrupt controllers"))?;
        let timer = vm.get_pit2().map_err(SavingError::kvm("read the timer"))?;
        let clock = vm.get_clock().map_err(SavingError::kvm("read the guest's clock"))?.clock;
        Ok(Self { interrupts, timer, clock })
    }

    /// After the vCPUs, whose local APICs the controllers know.
    pub(crate) fn restore(&self, vm: &VmFd) -> Result<(), BuildError> {
        let clock = kvm_clock_data { clock: self.clock, ..kvm_clock_data::default() };
        vm.set_clock(&clock).map_err(BuildError::kvm("set the guest's clock"))?;
        vm.set_pit2(&self.timer).map_err(BuildError::kvm("set the timer"))?;
        self.interrupts
            .iter()
            .try_for_each(|chip| vm.set_irqchip(chip))
            .map_err(BuildError::kvm("set the interrupt controllers"))
    }
}

#[cfg(test)]
impl BoardState {
    /// One that is like no other.
    pub(crate) fn sample() -> Self {
        let chip = |chip_id| kvm_irqchip { chip_id, pad: 7, ..kvm_irqchip::default() };
        let timer = kvm_pit_state2 { flags: 2, ..kvm_pit_state2::default() };
        Self { interrupts: CHIPS.map(chip).to_vec(), timer, clock: 987_654_321 }
    }
}
