//! Where the guest's accesses to ports and device registers end.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use costrel_virtio::{
    MmioTransport, Paused, block::BlockState, entropy::EntropyState, vsock::VsockState,
};
use vm_superio::{I8042Device, Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::EventFd;

use super::{
    arch::{SERIAL_PORTS, device_window},
    console::ConsoleWriter,
    life::{Happening, Happenings},
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

/// What a device was when it stopped.
#[expect(dead_code, reason = "snapshots will save them")]
pub(crate) enum PausedDevice {
    Block(Paused<BlockState>),
    Vsock(Paused<VsockState>),
    Entropy(Paused<EntropyState>),
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
    ) -> Self {
        Self {
            serial: Mutex::new(Serial::new(interrupt, console)),
            keyboard: Mutex::new(I8042Device::new(ResetLine(happenings))),
            devices: devices.into_iter().map(Mutex::new).collect(),
        }
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
    pub(crate) fn pause(&self) -> Vec<Option<PausedDevice>> {
        self.devices.iter().map(|device| lock(device).pause()).collect()
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

    fn pause(&self) -> Option<PausedDevice> {
        match self {
            Self::Block(transport) => transport.device().pause().map(PausedDevice::Block),
            Self::Vsock(transport) => transport.device().pause().map(PausedDevice::Vsock),
            Self::Entropy(transport) => transport.device().pause().map(PausedDevice::Entropy),
        }
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
