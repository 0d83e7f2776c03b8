//! Builds a machine, stage by stage: what a stage has done, the next can rely on.
//!
//! ```text
//!  main thread   Order ─► Bare ─load─► Loaded ─wire─► Wired ─start─► Running
//!                  │      memory, kernel   devices,       filter         ▲
//!                  │                       threads, filters              │
//!  "vm"            └─ create the VM ························ assemble ───┘
//! ```
//! A VM is created on a thread of its own ([`assembly`](super::assembly)), which ends before the
//! guest runs: the kernel moves a helper of its own into our control groups meanwhile, and waits up
//! to two of its ticks for all processors to notice. All that takes time and no VM is done in that
//! time.
//!
//! A machine is restored by the same stages: its memory is a snapshot's instead of a kernel's, and
//! vCPUs and devices begin as the saved ones ended.

use std::{
    fs::File,
    io,
    os::unix::net::UnixListener,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use costrel_virtio::{
    Device, GuestMemory, Interrupt, MmioTransport, Worker,
    block::{Block, BlockSettings, BlockState, Flush, OpenError, Writing},
    entropy::Entropy,
    vsock::{Vsock, VsockSettings},
};
use costrel_vmm::{IsolationError, JailReport, MeasureName, Standing, Strictness};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{
    arch::{self, VcpuMismatch},
    assembly::{Assembled, Beginning, Parts, assemble},
    bus::BusDevice,
    console::Console,
    inherited, kernel,
    life::{Happening, HappeningQueue, Happenings, Running, happenings},
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
    #[error("the thread that puts the machine together has ended")]
    Assembly,
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

/// An order whose VM is being created.
pub(crate) struct Bare {
    order: Order,
    jail: JailReport,
    vm: Assembly,
}

/// The thread that creates the VM and puts it together.
struct Assembly {
    thread: JoinHandle<Result<Assembled, BuildError>>,
    parts: Sender<Parts>,
}

/// A machine's memory, and what the guest begins with in it.
pub(crate) struct Loaded {
    order: Order,
    jail: JailReport,
    vm: Assembly,
    memory: Arc<GuestMemory>,
    beginning: Beginning,
}

/// A machine whose threads stand ready; its VM is being put together.
pub(crate) struct Wired {
    strictness: Strictness,
    jail: JailReport,
    thread: JoinHandle<Result<Assembled, BuildError>>,
    filter: Filter,
    vcpus: Vcpus,
    memory: (Arc<GuestMemory>, Backing),
    console: Console,
    happenings: HappeningQueue,
}

#[derive(Clone, Copy)]
enum ThreadKind {
    Block,
    Vsock,
    Entropy,
}

impl Bare {
    /// Enters what the process can only enter itself of its jail, but for system call filters.
    pub(crate) fn new(order: Order) -> Result<Self, BuildError> {
        let jail = costrel_vmm_process::restrict_self();
        let (device, vcpus) = (take(order.kvm)?, order.vcpus);
        let (parts, received) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("vm".to_owned())
            .spawn(move || assemble(device, vcpus, &received))
            .map_err(BuildError::host("start a thread"))?;
        // It has the longer way, and may have to share a processor with this one.
        thread::yield_now();
        Ok(Self { order, jail, vm: Assembly { thread, parts } })
    }

    pub(crate) fn load(self) -> Result<Loaded, BuildError> {
        let Self { order, jail, vm } = self;
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
                (memory, Beginning::Restored(Arc::new(state)))
            }
        };
        Ok(Loaded { order, jail, vm, memory: Arc::new(memory), beginning })
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
        let Self { order, jail, vm, memory, beginning } = self;
        let filters =
            Filters::new().map_err(BuildError::host("compile the system call filters"))?;
        let (sender, queue) = happenings().map_err(BuildError::host("make an eventfd"))?;
        let console = Console::new(take(order.console)?, order.console_limit);
        let vcpus = Vcpus::start(order.vcpus, &sender, &filters.vcpu)?;

        let restored = beginning.restored();
        let mut wiring =
            Wiring { memory: &memory, filters: &filters, happenings: &sender, devices: Vec::new() };
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

        let backing = if restored.is_some() { Backing::Snapshot } else { Backing::Anonymous };
        let devices = wiring.devices;
        let writer = console.writer(sender.clone());
        let parts = Parts {
            memory: Arc::clone(&memory),
            beginning,
            devices,
            serial: event()?,
            console: writer,
            happenings: sender,
        };
        let Assembly { thread, parts: to_vm } = vm;
        // Fails if the thread has failed, which is heard of when it is waited for.
        let _ = to_vm.send(parts);
        Ok(Wired {
            strictness: order.strictness,
            jail,
            thread,
            filter: filters.main,
            vcpus,
            memory: (memory, backing),
            console,
            happenings: queue,
        })
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
    memory: &'a Arc<GuestMemory>,
    filters: &'a Filters,
    happenings: &'a Happenings,
    devices: Vec<(String, BusDevice)>,
}

impl Wiring<'_> {
    /// Starts a device's thread, which confines itself and waits for its driver.
    fn add<D: Device>(
        &mut self,
        device: D,
        name: String,
        kind: ThreadKind,
        on_bus: fn(MmioTransport<D::State>) -> BusDevice,
    ) -> Result<(), BuildError> {
        let interrupt = Arc::new(Interrupt::new(event()?));
        let (worker, handle) = Worker::new(device, Arc::clone(self.memory), interrupt)
            .map_err(BuildError::host("make a device's eventfds"))?;
        let filter = self.filters.of(kind).clone();
        let failed = self.happenings.clone();
        let body = move || match filter.apply() {
            Ok(()) => worker.run(),
            Err(error) => failed.tell(Happening::Failed(format!(
                "a device's thread could not be confined: {error}"
            ))),
        };
        thread::Builder::new()
            .name(name.clone())
            .spawn(body)
            .map_err(BuildError::host("start a device's thread"))?;
        self.devices.push((name, on_bus(MmioTransport::new(handle, Arc::clone(self.memory)))));
        Ok(())
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
    /// Confines the main thread, and says what of the jail is in force. All is there then, and the
    /// guest's first instruction is the next thing to happen.
    pub(crate) fn start(self) -> Result<(Running, JailReport), BuildError> {
        let Self { strictness, jail, thread, filter, vcpus, memory, console, happenings } = self;
        let jail = enter_filter(jail, &filter, strictness)?;
        // A thread that panics takes the process along.
        let assembled = thread.join().map_err(|_| BuildError::Assembly)?;
        let Assembled { vm, vcpus: made, bus } = assembled?;
        vcpus.hand_over(made, &bus);
        Ok((Running { vm, vcpus, memory, bus, console, happenings }, jail))
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

pub(super) fn event() -> Result<EventFd, BuildError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(BuildError::host("make an eventfd"))
}

pub(super) fn take(number: std::os::fd::RawFd) -> Result<File, BuildError> {
    inherited(number).map(File::from).map_err(BuildError::host("take over a descriptor"))
}
