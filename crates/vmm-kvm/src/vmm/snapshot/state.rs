//! All that is saved of a machine but its memory: the payload of a state file.

use costrel_virtio::{TransportState, block::BlockState, entropy::EntropyState, vsock::VsockState};
use serde::{Deserialize, Serialize};
use vm_superio::SerialState;

use crate::vmm::arch::{BoardState, VcpuState};

/// What a machine was. Postcard writes the fields in this order, without their names: any change
/// here or in what they are made of is another version.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    pub(crate) memory_bytes: u64,
    pub(crate) board: BoardState,
    pub(crate) vcpus: Vec<VcpuState>,
    pub(crate) serial: SerialRegisters,
    /// In the order of their windows.
    pub(crate) devices: Vec<DeviceState>,
}

/// A device with its transport.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum DeviceState {
    Block { transport: TransportState, device: BlockState },
    Vsock { transport: TransportState, device: VsockState },
    Entropy { transport: TransportState, device: EntropyState },
}

/// The serial line's registers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SerialRegisters {
    pub(crate) divisor_low: u8,
    pub(crate) divisor_high: u8,
    pub(crate) interrupt_enable: u8,
    pub(crate) interrupt_identification: u8,
    pub(crate) line_control: u8,
    pub(crate) line_status: u8,
    pub(crate) modem_control: u8,
    pub(crate) modem_status: u8,
    pub(crate) scratch: u8,
    pub(crate) received: Vec<u8>,
}

impl From<SerialState> for SerialRegisters {
    fn from(state: SerialState) -> Self {
        Self {
            divisor_low: state.baud_divisor_low,
            divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }
}

impl From<&SerialRegisters> for SerialState {
    fn from(registers: &SerialRegisters) -> Self {
        Self {
            baud_divisor_low: registers.divisor_low,
            baud_divisor_high: registers.divisor_high,
            interrupt_enable: registers.interrupt_enable,
            interrupt_identification: registers.interrupt_identification,
            line_control: registers.line_control,
            line_status: registers.line_status,
            modem_control: registers.modem_control,
            modem_status: registers.modem_status,
            scratch: registers.scratch,
            in_buffer: registers.received.clone(),
        }
    }
}
