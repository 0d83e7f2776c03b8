//! Where the registers are, and the bits in them (virtio 1.2, 4.2.2 and 2.1).

pub(super) const MAGIC: u64 = 0x00;
pub(super) const VERSION: u64 = 0x04;
pub(super) const DEVICE_ID: u64 = 0x08;
pub(super) const VENDOR_ID: u64 = 0x0c;
pub(super) const DEVICE_FEATURES: u64 = 0x10;
pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x14;
pub(super) const DRIVER_FEATURES: u64 = 0x20;
pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x24;
pub(super) const QUEUE_SELECT: u64 = 0x30;
pub(super) const QUEUE_SIZE_MAX: u64 = 0x34;
pub(super) const QUEUE_SIZE: u64 = 0x38;
pub(super) const QUEUE_READY: u64 = 0x44;
pub(super) const QUEUE_NOTIFY: u64 = 0x50;
pub(super) const INTERRUPT_STATUS: u64 = 0x60;
pub(super) const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
pub(super) const STATUS: u64 = 0x70;
pub(super) const QUEUE_DESCRIPTORS_LOW: u64 = 0x80;
pub(super) const QUEUE_DESCRIPTORS_HIGH: u64 = 0x84;
pub(super) const QUEUE_DRIVER_LOW: u64 = 0x90;
pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x94;
pub(super) const QUEUE_DEVICE_LOW: u64 = 0xa0;
pub(super) const QUEUE_DEVICE_HIGH: u64 = 0xa4;
pub(super) const SHARED_MEMORY_FIRST: u64 = 0xb0;
pub(super) const SHARED_MEMORY_LAST: u64 = 0xbc;
pub(super) const CONFIG_GENERATION: u64 = 0xfc;
pub(super) const CONFIG: u64 = 0x100;

/// "virt"
pub(super) const MAGIC_VALUE: u32 = 0x7472_6976;
/// Neither legacy nor transitional.
pub(super) const VERSION_VALUE: u32 = 2;
/// Nobody's in particular.
pub(super) const VENDOR_VALUE: u32 = 0;

pub(super) const ACKNOWLEDGE: u32 = 1;
pub(super) const DRIVER: u32 = 2;
pub(super) const DRIVER_OK: u32 = 4;
pub(super) const FEATURES_OK: u32 = 8;
pub(super) const FAILED: u32 = 128;

pub(super) const FEATURE_INDIRECT: u64 = 1 << 28;
pub(super) const FEATURE_EVENT_INDEX: u64 = 1 << 29;
pub(super) const FEATURE_VERSION_1: u64 = 1 << 32;
/// The features that are the device's own: bits 0 to 23 and 50 to 63 (virtio 1.2, 2.2).
pub(super) const DEVICE_FEATURE_BITS: u64 = 0xff_ffff | (!0 << 50);
