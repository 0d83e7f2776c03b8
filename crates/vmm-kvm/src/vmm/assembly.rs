//! Puts a VM together: what of a machine is KVM's.

use std::{
    fs::File,
    os::fd::IntoRawFd as _,
    sync::{Arc, mpsc::Receiver},
};

use costrel_virtio::{GuestMemory, Interrupt, MmioTransport};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::{
    BuildError,
    arch::{self, BootLayout, Moment, Vcpu, VcpuTemplate},
    bus::{Bus, BusDevice, InterruptLine},
    console::ConsoleWriter,
    life::Happenings,
    memory,
    snapshot::MachineState,
    vcpu::set_signal_mask,
};

/// What a VM is put together from.
pub(super) struct Parts {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) beginning: Beginning,
    /// With names for people.
    pub(super) devices: Vec<(String, BusDevice)>,
    /// The serial line's interrupt.
    pub(super) serial: EventFd,
    pub(super) console: ConsoleWriter,
    pub(super) happenings: Happenings,
}

/// How vCPUs and devices begin.
pub(super) enum Beginning {
    Boot(BootLayout),
    Restored(Arc<MachineState>),
}

/// A VM that is complete.
pub(super) struct Assembled {
    pub(super) vm: VmFd,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) bus: Arc<Bus>,
}

impl Beginning {
    pub(super) fn restored(&self) -> Option<&MachineState> {
        match self {
            Self::Boot(_) => None,
            Self::Restored(state) => Some(state),
        }
    }
}

/// Creates a VM, and puts it together once there are parts.
///
/// Of a restored machine interrupt controllers come after the vCPUs, with whose local APICs they
/// deal, and devices come last: they raise their interrupts anew.
pub(super) fn assemble(
    device: File,
    count: u8,
    parts: &Receiver<Parts>,
) -> Result<Assembled, BuildError> {
    let kvm = kvm_of(device);
    let vm = kvm.create_vm().map_err(BuildError::kvm("create a virtual machine"))?;
    arch::prepare_vm(&vm)?;
    let template = VcpuTemplate::new(&kvm, &vm, count)?;
    // The main thread has failed, and says why.
    let parts = parts.recv().map_err(|_| BuildError::Assembly)?;
    let Parts { memory, beginning, mut devices, serial, console, happenings } = parts;
    memory::give(&vm, &memory)?;
    let vcpus = vcpus(&vm, &template, count, &beginning)?;
    let restored = beginning.restored();
    if let Some(state) = restored {
        state.board.restore(&vm)?;
    }
    vm.register_irqfd(&serial, arch::SERIAL_INTERRUPT)
        .map_err(BuildError::kvm("wire the serial line's interrupt"))?;
    for (index, (_, device)) in devices.iter().enumerate() {
        let (interrupt, kicks) = device.lines();
        wire(&vm, index, interrupt, kicks)?;
    }
    if let Some(state) = restored {
        for ((name, device), saved) in devices.iter_mut().zip(&state.devices) {
            device.restore(saved, name)?;
        }
    }
    let devices = devices.into_iter().map(|(_, device)| device).collect();
    let registers = restored.map(|state| &state.serial);
    let bus = Bus::new(InterruptLine(serial), console, happenings, devices, registers)?;
    Ok(Assembled { vm, vcpus, bus: Arc::new(bus) })
}

fn vcpus(
    vm: &VmFd,
    template: &VcpuTemplate,
    count: u8,
    beginning: &Beginning,
) -> Result<Vec<Vcpu>, BuildError> {
    let create = |id: u8| -> Result<_, BuildError> {
        let fd = vm.create_vcpu(id.into()).map_err(BuildError::kvm("create a vCPU"))?;
        set_signal_mask(&fd).map_err(BuildError::host("set a vCPU's signal mask"))?;
        Ok(fd)
    };
    match beginning {
        Beginning::Boot(boot) => {
            (0..count).map(|id| template.boot(create(id)?, id, *boot)).collect()
        }
        Beginning::Restored(state) => {
            // All there before the first is made what it was: the moment is one for all.
            let fds = (0..count).map(create).collect::<Result<Vec<_>, _>>()?;
            let moment = Moment::now();
            let states = fds.into_iter().zip(&state.vcpus);
            states.map(|(fd, state)| template.restore(fd, state, moment)).collect()
        }
    }
}

/// Connects a device's queues and interrupt with the VM.
fn wire(
    vm: &VmFd,
    index: usize,
    interrupt: &Interrupt,
    kicks: &[EventFd],
) -> Result<(), BuildError> {
    vm.register_irqfd(interrupt.line(), arch::device_interrupt(index))
        .map_err(BuildError::kvm("wire a device's interrupt"))?;
    let register = arch::device_window(index).start + MmioTransport::<()>::QUEUE_NOTIFY;
    let address = IoEventAddress::Mmio(register);
    let wired = match kicks {
        // Whatever is written is for the only queue: such events KVM finds faster.
        [only] => vm.register_ioevent(only, &address, NoDatamatch),
        several => (0u32..)
            .zip(several)
            .try_for_each(|(queue, kick)| vm.register_ioevent(kick, &address, queue)),
    };
    wired.map_err(BuildError::kvm("wire a device's notifications"))
}

#[expect(unsafe_code, reason = "kvm-ioctls takes a device by number only")]
fn kvm_of(device: File) -> Kvm {
    use std::os::fd::FromRawFd as _;
    // SAFETY: the descriptor is owned here, and given away.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}
