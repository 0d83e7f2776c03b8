//! Where the guest's accesses to ports and device registers end.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use costrel_virtio::{
    Interrupt, MmioTransport, block::BlockState, entropy::EntropyState, vsock::VsockState,
};
use vm_superio::{I8042Device, Serial, SerialState, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::EventFd;

use super::{
    arch::{SERIAL_PORTS, device_window},
    console::ConsoleWriter,
    life::{Happening, Happenings},
    snapshot::{DeviceState, SavingError, SerialRegisters, SnapshotError},
};

/// Everything that the guest can reach but its memory.
pub(crate) struct Bus {
    serial: Mutex<SerialLine>,
    keyboard: Mutex<I8042Device<ResetLine>>,
    devices: Vec<Mutex<BusDevice>>,
}

type SerialLine = Serial<InterruptLine, NoEvents, ConsoleWriter>;

/// A virtio device of any kind, by its registers.
pub(crate) enum BusDevice {
    Block(MmioTransport<BlockState>),
    Vsock(MmioTransport<VsockState>),
    Entropy(MmioTransport<EntropyState>),
}

/// An eventfd that raises an interrupt.
pub(crate) struct InterruptLine(pub(crate) EventFd);

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The keyboard controller's line to the CPU's reset.
struct ResetLine(Happenings);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.tell(Happening::Reset);
        Ok(())
    }
}

const KEYBOARD_DATA: u16 = 0x60;
const KEYBOARD_COMMAND: u16 = 0x64;

impl Bus {
    pub(crate) fn new(
        interrupt: InterruptLine,
        console: ConsoleWriter,
        happenings: Happenings,
        devices: Vec<BusDevice>,
        registers: Option<&SerialRegisters>,
    ) -> Result<Self, SnapshotError> {
        let state = registers.map(SerialState::from).unwrap_or_default();
        // Fails if it has received more than it has room for.
        let serial = Serial::from_state(&state, interrupt, NoEvents, console)
            .map_err(|_| SnapshotError::SerialLine)?;
        Ok(Self {
            serial: Mutex::new(serial),
            // It has no state.
            keyboard: Mutex::new(I8042Device::new(ResetLine(happenings))),
            devices: devices.into_iter().map(Mutex::new).collect(),
        })
    }

    /// A vCPU reads a port. What nobody answers reads as all ones, as on an empty bus.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let [byte] = data else { return };
        if let Some(offset) = serial_offset(port) {
            *byte = lock(&self.serial).read(offset);
        } else if let Some(offset) = keyboard_offset(port) {
            *byte = lock(&self.keyboard).read(offset);
        }
    }

    /// A vCPU writes a port.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) {
        let &[byte] = data else { return };
        if let Some(offset) = serial_offset(port) {
            // An error is one of the interrupt's eventfd, which blocks never.
            let _ = lock(&self.serial).write(offset, byte);
        } else if let Some(offset) = keyboard_offset(port) {
            let _ = lock(&self.keyboard).write(offset, byte);
        }
    }

    /// A vCPU reads where there is no memory.
    pub(crate) fn memory_read(&self, address: u64, data: &mut [u8]) {
        match self.device(address) {
            Some((device, offset)) => lock(device).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A vCPU writes where there is no memory.
    pub(crate) fn memory_write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.device(address) {
            lock(device).write(offset, data);
        }
    }

    fn device(&self, address: u64) -> Option<(&Mutex<BusDevice>, u64)> {
        let offset = address.checked_sub(device_window(0).start)?;
        let index = usize::try_from(offset / MmioTransport::<()>::SIZE).ok()?;
        let device = self.devices.get(index)?;
        Some((device, offset % MmioTransport::<()>::SIZE))
    }

    /// Stops all devices. The vCPUs must stand still.
    pub(crate) fn pause(&self) {
        for device in &self.devices {
            // One whose thread has ended stands still as well.
            let _ = lock(device).save();
        }
    }

    /// What the serial line and all devices are. They must stand still.
    pub(crate) fn save(&self) -> Result<(SerialRegisters, Vec<DeviceState>), SavingError> {
        let devices = self.devices.iter().map(|device| lock(device).save());
        let devices = devices.collect::<Option<_>>().ok_or(SavingError::DeviceEnded)?;
        Ok((lock(&self.serial).state().into(), devices))
    }

    /// Lets all devices go on.
    pub(crate) fn resume(&self) {
        for device in &self.devices {
            lock(device).resume();
        }
    }
}

impl BusDevice {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self {
            Self::Block(transport) => transport.read(offset, data),
            Self::Vsock(transport) => transport.read(offset, data),
            Self::Entropy(transport) => transport.read(offset, data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match self {
            Self::Block(transport) => transport.write(offset, data),
            Self::Vsock(transport) => transport.write(offset, data),
            Self::Entropy(transport) => transport.write(offset, data),
        }
    }

    /// What connects it with a VM: its interrupt, and its queues' notifications.
    pub(crate) fn lines(&self) -> (&Interrupt, &[EventFd]) {
        match self {
            Self::Block(it) => (it.device().interrupt(), it.device().kicks()),
            Self::Vsock(it) => (it.device().interrupt(), it.device().kicks()),
            Self::Entropy(it) => (it.device().interrupt(), it.device().kicks()),
        }
    }

    /// Stops it, and says what it is.
    fn save(&self) -> Option<DeviceState> {
        Some(match self {
            Self::Block(it) => {
                let paused = it.device().pause()?;
                DeviceState::Block { transport: it.state(&paused), device: paused.state }
            }
            Self::Vsock(it) => {
                let paused = it.device().pause()?;
                DeviceState::Vsock { transport: it.state(&paused), device: paused.state }
            }
            Self::Entropy(it) => {
                let paused = it.device().pause()?;
                DeviceState::Entropy { transport: it.state(&paused), device: paused.state }
            }
        })
    }

    /// Makes a new device what a saved one was. `name` is for people.
    pub(crate) fn restore(&mut self, state: &DeviceState, name: &str) -> Result<(), SnapshotError> {
        let restored = match (self, state) {
            (Self::Block(it), DeviceState::Block { transport, .. }) => it.restore(transport),
            (Self::Vsock(it), DeviceState::Vsock { transport, .. }) => it.restore(transport),
            (Self::Entropy(it), DeviceState::Entropy { transport, .. }) => it.restore(transport),
            _ => return Err(SnapshotError::Device { device: name.to_owned() }),
        };
        restored.map_err(|source| SnapshotError::Transport { device: name.to_owned(), source })
    }

    fn resume(&self) {
        match self {
            Self::Block(transport) => transport.device().resume(),
            Self::Vsock(transport) => transport.device().resume(),
            Self::Entropy(transport) => transport.device().resume(),
        }
    }
}

fn serial_offset(port: u16) -> Option<u8> {
    SERIAL_PORTS.contains(&port).then(|| u8::try_from(port - SERIAL_PORTS.start).unwrap_or(0))
}

fn keyboard_offset(port: u16) -> Option<u8> {
    match port {
        KEYBOARD_DATA => Some(0),
        KEYBOARD_COMMAND => Some(4),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
