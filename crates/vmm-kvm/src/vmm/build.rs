//! Builds a machine, stage by stage: what a stage has done, the next can rely on.
//!
//! ```text
//!  Order ─► Bare ─load─► Loaded ─wire─► Wired ─start─► Running
//!           VM          memory, kernel   vCPUs, devices  threads, filters
//! ```
//! A machine is restored by the same stages: its memory is a snapshot's instead of a kernel's, and
//! vCPUs and devices begin as the saved ones ended. Interrupt controllers come after the vCPUs, with
//! whose local APICs they deal, and devices come last: they raise their interrupts anew.

use std::{
    fs::File,
    io,
    os::{fd::IntoRawFd as _, unix::net::UnixListener},
    sync::Arc,
    thread,
};

use costrel_virtio::{
    Device, GuestMemory, Interrupt, MmioTransport, Worker, WorkerHandle,
    block::{Block, BlockSettings, BlockState, Flush, OpenError, Writing},
    entropy::Entropy,
    vsock::{Vsock, VsockSettings},
};
use costrel_vmm::{IsolationError, JailReport, MeasureName, Standing, Strictness};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{
    arch::{self, BootLayout, Moment, Vcpu, VcpuMismatch, VcpuTemplate},
    bus::{Bus, BusDevice, InterruptLine},
    console::Console,
    inherited, kernel,
    life::{HappeningQueue, Happenings, Running, happenings},
    memory::{self, Backing},
    seccomp::{Filter, Filters},
    snapshot::{DeviceState, MachineState, SnapshotError, check_length, read_state},
    vcpu::Vcpus,
};
use crate::control::{Fault, Order, OrderedAccess, OrderedDisk, Start};

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("cannot understand what is asked for")]
    Control(#[source] io::Error),
    #[error("cannot {operation}")]
    Host {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("a piece of the kernel lies outside the guest's memory")]
    KernelOutsideMemory,
    #[error("the kernel's arguments take {bytes} bytes, and there is room for 2047")]
    ArgumentsTooLong { bytes: usize },
    #[error("what the kernel is told at its start lies outside the guest's memory")]
    OutsideMemory,
    #[error("KVM does not let MSR {index:#x} be set")]
    Msr { index: u32 },
    #[error("cannot use the image of disk {name}")]
    Disk {
        name: String,
        #[source]
        source: OpenError,
    },
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl From<VcpuMismatch> for BuildError {
    fn from(mismatch: VcpuMismatch) -> Self {
        Self::Snapshot(mismatch.into())
    }
}

impl BuildError {
    pub(crate) fn whose(&self) -> Fault {
        if matches!(self, Self::Snapshot(_)) { Fault::Snapshot } else { Fault::Machine }
    }

    pub(crate) fn host(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { operation, source }
    }
}

/// A VM without memory.
pub(crate) struct Bare {
    order: Order,
    kvm: Kvm,
    vm: VmFd,
}

/// A VM with its memory, and what the guest begins with in it.
pub(crate) struct Loaded {
    order: Order,
    vm: VmFd,
    template: VcpuTemplate,
    memory: Arc<GuestMemory>,
    beginning: Beginning,
}

/// How vCPUs and devices begin.
enum Beginning {
    Boot(BootLayout),
    Restored(Box<MachineState>),
}

/// A machine that is complete but for its threads.
pub(crate) struct Wired {
    order: Order,
    vm: VmFd,
    vcpus: Vec<Vcpu>,
    memory: (Arc<GuestMemory>, Backing),
    bus: Arc<Bus>,
    workers: Vec<DeviceThread>,
    console: Console,
    happenings: (Happenings, HappeningQueue),
}

/// A device's thread to be.
struct DeviceThread {
    name: String,
    kind: ThreadKind,
    body: Box<dyn FnOnce() + Send>,
}

#[derive(Clone, Copy)]
enum ThreadKind {
    Block,
    Vsock,
    Entropy,
}

impl Bare {
    pub(crate) fn new(order: Order) -> Result<Self, BuildError> {
        let device = take(order.kvm)?;
        let kvm = kvm_of(device);
        let vm = kvm.create_vm().map_err(BuildError::kvm("create a virtual machine"))?;
        arch::prepare_vm(&vm)?;
        Ok(Self { order, kvm, vm })
    }

    pub(crate) fn load(self) -> Result<Loaded, BuildError> {
        let Self { order, kvm, vm } = self;
        let template = VcpuTemplate::new(&kvm, &vm, order.vcpus)?;
        let (memory, beginning) = match &order.start {
            Start::Kernel { image, entry, segments, arguments } => {
                let memory = memory::map(order.memory_bytes, order.huge_pages)?;
                kernel::load(&memory, &take(*image)?, segments)?;
                let devices = device_count(&order);
                let arguments = kernel_arguments(arguments, devices);
                let boot =
                    arch::write_boot_data(&memory, *entry, &arguments, order.vcpus, devices)?;
                (memory, Beginning::Boot(boot))
            }
            Start::Snapshot { state, memory } => {
                let state = read_state(&take(*state)?)?;
                check_shape(&state, &order)?;
                let file = take(*memory)?;
                check_length(&file, order.memory_bytes)?;
                let memory = memory::map_file(order.memory_bytes, &file)?;
                (memory, Beginning::Restored(Box::new(state)))
            }
        };
        let memory = Arc::new(memory);
        memory::give(&vm, &memory)?;
        Ok(Loaded { order, vm, template, memory, beginning })
    }
}

/// The given ones, and where the devices are: `virtio_mmio.device=SIZE@ADDRESS:INTERRUPT`.
fn kernel_arguments(given: &str, devices: usize) -> String {
    let mut arguments = given.to_owned();
    for index in 0..devices {
        let window = arch::device_window(index);
        let size = (window.end - window.start) >> 10;
        let interrupt = arch::device_interrupt(index);
        arguments += &format!(" virtio_mmio.device={size}K@{:#x}:{interrupt}", window.start);
    }
    arguments
}

/// Whether a saved machine is made of as much as the ordered one.
fn check_shape(state: &MachineState, order: &Order) -> Result<(), SnapshotError> {
    for (what, saved, wanted) in [
        ("vCPUs", state.vcpus.len() as u64, order.vcpus.into()),
        ("bytes of memory", state.memory_bytes, order.memory_bytes),
        ("devices", state.devices.len() as u64, device_count(order) as u64),
    ] {
        if saved != wanted {
            return Err(SnapshotError::Shape { what, saved, wanted });
        }
    }
    Ok(())
}

/// The disks, the vsock and the entropy device.
fn device_count(order: &Order) -> usize {
    order.disks.len() + 2
}

impl Loaded {
    pub(crate) fn wire(self) -> Result<Wired, BuildError> {
        let Self { order, vm, template, memory, beginning } = self;
        let vcpus = vcpus(&vm, &template, order.vcpus, &beginning)?;
        let restored = match &beginning {
            Beginning::Boot(_) => None,
            Beginning::Restored(state) => Some(&**state),
        };
        if let Some(state) = restored {
            state.board.restore(&vm)?;
        }

        let (sender, queue) = happenings().map_err(BuildError::host("make an eventfd"))?;
        let console = Console::new(take(order.console)?, order.console_limit);
        let mut wiring =
            Wiring { vm: &vm, memory: &memory, devices: Vec::new(), workers: Vec::new() };
        // Linux names disks in the order of their interrupts' numbers, hence of these calls.
        for (index, disk) in order.disks.iter().enumerate() {
            let device = block(disk)?;
            if let Some(state) = restored {
                check_disk(&state.devices[index], device.state(), &disk.name)?;
            }
            let name = format!("block-{}", disk.name);
            wiring.add(device, name, ThreadKind::Block, BusDevice::Block)?;
        }
        let vsock = UnixListener::from(std::os::fd::OwnedFd::from(take(order.vsock)?));
        let vsock = vsock_device(vsock, restored)
            .map_err(BuildError::host("listen for vsock connections"))?;
        wiring.add(vsock, "vsock".to_owned(), ThreadKind::Vsock, BusDevice::Vsock)?;
        let name = "entropy".to_owned();
        wiring.add(Entropy::default(), name, ThreadKind::Entropy, BusDevice::Entropy)?;
        let Wiring { mut devices, workers, .. } = wiring;

        let serial = event()?;
        vm.register_irqfd(&serial, arch::SERIAL_INTERRUPT)
            .map_err(BuildError::kvm("wire the serial line's interrupt"))?;
        if let Some(state) = restored {
            for ((device, saved), worker) in devices.iter_mut().zip(&state.devices).zip(&workers) {
                device.restore(saved, &worker.name)?;
            }
        }
        let registers = restored.map(|state| &state.serial);
        let writer = console.writer(sender.clone());
        let bus = Bus::new(InterruptLine(serial), writer, sender.clone(), devices, registers)?;
        let bus = Arc::new(bus);
        let backing = if restored.is_some() { Backing::Snapshot } else { Backing::Anonymous };
        let memory = (memory, backing);
        Ok(Wired { order, vm, vcpus, memory, bus, workers, console, happenings: (sender, queue) })
    }
}

fn vcpus(
    vm: &VmFd,
    template: &VcpuTemplate,
    count: u8,
    beginning: &Beginning,
) -> Result<Vec<Vcpu>, BuildError> {
    let create = |id: u8| vm.create_vcpu(id.into()).map_err(BuildError::kvm("create a vCPU"));
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

/// Whether a disk is what the saved one was.
fn check_disk(saved: &DeviceState, here: BlockState, name: &str) -> Result<(), SnapshotError> {
    match saved {
        DeviceState::Block { device, .. } if *device == here => Ok(()),
        DeviceState::Block { device, .. } => Err(SnapshotError::Disk {
            name: name.to_owned(),
            saved: device.sectors,
            saved_writable: device.writable,
            here: here.sectors,
            here_writable: here.writable,
        }),
        _ => Err(SnapshotError::Device { device: name.to_owned() }),
    }
}

/// New, or with news for the guest: its connections of before are dead.
fn vsock_device(listener: UnixListener, restored: Option<&MachineState>) -> io::Result<Vsock> {
    let settings = VsockSettings { guest_cid: GUEST_CID, listener };
    let saved = restored.and_then(|state| {
        state.devices.iter().find_map(|device| match device {
            DeviceState::Vsock { device, .. } => Some(device),
            _ => None,
        })
    });
    match saved {
        Some(state) => Vsock::restored(settings, state),
        None => Vsock::new(settings),
    }
}

/// The guest's address among vsock's. Each machine has a vsock of its own, so all have the same.
const GUEST_CID: u64 = 3;

struct Wiring<'a> {
    vm: &'a VmFd,
    memory: &'a Arc<GuestMemory>,
    devices: Vec<BusDevice>,
    workers: Vec<DeviceThread>,
}

impl Wiring<'_> {
    /// Connects a device's queues and interrupt with the VM.
    fn add<D: Device>(
        &mut self,
        device: D,
        name: String,
        kind: ThreadKind,
        on_bus: fn(MmioTransport<D::State>) -> BusDevice,
    ) -> Result<(), BuildError> {
        let index = self.devices.len();
        let interrupt = Arc::new(Interrupt::new(event()?));
        self.vm
            .register_irqfd(interrupt.line(), arch::device_interrupt(index))
            .map_err(BuildError::kvm("wire a device's interrupt"))?;
        let (worker, handle) = Worker::new(device, Arc::clone(self.memory), interrupt)
            .map_err(BuildError::host("make a device's eventfds"))?;
        self.wire_kicks(index, &handle)?;
        self.devices.push(on_bus(MmioTransport::new(handle, Arc::clone(self.memory))));
        self.workers.push(DeviceThread { name, kind, body: Box::new(move || worker.run()) });
        Ok(())
    }

    fn wire_kicks<S>(&self, index: usize, handle: &WorkerHandle<S>) -> Result<(), BuildError> {
        let register = arch::device_window(index).start + MmioTransport::<S>::QUEUE_NOTIFY;
        let address = IoEventAddress::Mmio(register);
        let wired = match handle.kicks() {
            // Whatever is written is for the only queue: such events KVM finds faster.
            [only] => self.vm.register_ioevent(only, &address, NoDatamatch),
            several => (0u32..)
                .zip(several)
                .try_for_each(|(queue, kick)| self.vm.register_ioevent(kick, &address, queue)),
        };
        wired.map_err(BuildError::kvm("wire a device's notifications"))
    }
}

fn block(disk: &OrderedDisk) -> Result<Block, BuildError> {
    let writing = match disk.access {
        OrderedAccess::ReadOnly => Writing::Never,
        OrderedAccess::Scratch => Writing::Allowed(Flush::Ignored),
        OrderedAccess::ReadWrite => Writing::Allowed(Flush::Synced),
    };
    let image = take(disk.image)?;
    Block::new(BlockSettings { image, writing, name: disk.name.clone() })
        .map_err(|source| BuildError::Disk { name: disk.name.clone(), source })
}

impl Wired {
    /// Starts all threads; each confines itself before the guest's first instruction. Then enters
    /// what the process can only enter itself of its jail, and says what is in force of it.
    pub(crate) fn start(self) -> Result<(Running, JailReport), BuildError> {
        let Self { order, vm, vcpus, memory, bus, workers, console, happenings } = self;
        let (sender, queue) = happenings;
        let jail = costrel_vmm_process::restrict_self();
        let filters =
            Filters::new().map_err(BuildError::host("compile the system call filters"))?;
        for worker in workers {
            let filter = filters.of(worker.kind).clone();
            let failed = sender.clone();
            let body = move || match filter.apply() {
                Ok(()) => (worker.body)(),
                Err(error) => failed.tell(super::life::Happening::Failed(format!(
                    "a device's thread could not be confined: {error}"
                ))),
            };
            thread::Builder::new()
                .name(worker.name)
                .spawn(body)
                .map_err(BuildError::host("start a device's thread"))?;
        }
        let vcpus = Vcpus::start(vcpus, &bus, &sender, &filters.vcpu)?;
        let jail = enter_filter(jail, &filters.main, order.strictness)?;
        Ok((Running { vm, vcpus, memory, bus, console, happenings: queue }, jail))
    }
}

/// Enters the jail of a machine's main thread without a machine, and says what is in force.
pub(crate) fn enter_jail(strictness: Strictness) -> Result<JailReport, BuildError> {
    let jail = costrel_vmm_process::restrict_self();
    let filters = Filters::new().map_err(BuildError::host("compile the system call filters"))?;
    enter_filter(jail, &filters.main, strictness)
}

fn enter_filter(
    mut jail: JailReport,
    filter: &Filter,
    strictness: Strictness,
) -> Result<JailReport, BuildError> {
    filter.apply().map_err(BuildError::host("enter the system call filter"))?;
    jail.set(MeasureName::Seccomp, Standing::with_detail("a filter a thread"));
    jail.check(strictness)?;
    Ok(jail)
}

impl Filters {
    fn of(&self, kind: ThreadKind) -> &Filter {
        match kind {
            ThreadKind::Block => &self.block,
            ThreadKind::Vsock => &self.vsock,
            ThreadKind::Entropy => &self.entropy,
        }
    }
}

fn event() -> Result<EventFd, BuildError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(BuildError::host("make an eventfd"))
}

fn take(number: std::os::fd::RawFd) -> Result<File, BuildError> {
    inherited(number).map(File::from).map_err(BuildError::host("take over a descriptor"))
}

#[expect(unsafe_code, reason = "kvm-ioctls takes a device by number only")]
fn kvm_of(device: File) -> Kvm {
    use std::os::fd::FromRawFd as _;
    // SAFETY: the descriptor is owned here, and given away.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}
