//! QEMU's command line and the kernel's.
//!
//! Files and sockets are handed over as descriptors, so no path of the host appears here, whatever
//! commas it may contain.

use std::os::fd::RawFd;

use costrel_vmm::{BootError, DiskAccess, GuestPort, MachineSpec};
use serde_json::json;

/// The numbers of the descriptors that QEMU inherits.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// A file in memory that is the guest's memory, unless that is QEMU's alone.
    pub(crate) memory: Option<RawFd>,
    /// A connected socket that takes the serial console's output.
    pub(crate) console: RawFd,
    /// A connected socket for the monitor protocol.
    pub(crate) qmp: RawFd,
    /// As [`MachineSpec::disks`].
    pub(crate) disks: Vec<RawFd>,
    /// Listening sockets, as [`MachineSpec::ports`].
    pub(crate) ports: Vec<RawFd>,
}

/// What a machine starts from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A kernel's descriptor, and the kernel's arguments.
    Kernel { kernel: RawFd, arguments: String },
    /// What another machine was; its memory is mapped privately. It comes later, by a command.
    Snapshot,
}

/// The board has eight virtio-mmio slots; one is the serial device's, one the entropy's.
const MOST_DISKS: usize = 6;
/// virtio-serial has 31 ports, and port 0 is for consoles.
const MOST_PORTS: usize = 30;
/// Linux' `COMMAND_LINE_SIZE` on x86, less the final NUL and the up to eight
/// `virtio_mmio.device=512@0xfeb00e00:12` that QEMU appends.
const MOST_KERNEL_ARGUMENT_BYTES: usize = 2047 - 8 * 40;

/// The kernel's arguments.
///
/// `tsc_early_khz` is vital: calibration against an emulated timer fails on a busy host. The APIC's
/// timer is calibrated against it as well, which a single CPU is spared (`nolapic_timer`: it is
/// served by the PIT's interrupt instead).
pub(crate) fn kernel_arguments(spec: &MachineSpec, tsc_khz: u64) -> Result<String, BootError> {
    let mut arguments = format!(
        "console=ttyS0 reboot=t panic=-1 quiet tsc_early_khz={tsc_khz} tsc=reliable no_timer_check"
    );
    if spec.vcpus.get() == 1 {
        // Nor are lock prefixes worth patching out where they cost nothing.
        arguments.push_str(" nolapic_timer noreplace-smp");
    }
    arguments.push_str(" root=/dev/vda ro rootfstype=ext4 costrel.transport=virtio-serial");
    for argument in &spec.kernel_arguments {
        arguments.push(' ');
        arguments.push_str(argument);
    }
    within("bytes of kernel arguments", arguments.len(), MOST_KERNEL_ARGUMENT_BYTES)?;
    Ok(arguments)
}

/// QEMU's arguments.
pub(crate) fn command_line(
    spec: &MachineSpec,
    descriptors: &Descriptors,
    origin: &Origin,
) -> Result<Vec<String>, BootError> {
    within("disks", spec.disks.len(), MOST_DISKS)?;
    within("guest ports", spec.ports.len(), MOST_PORTS)?;
    let mut line = CommandLine::default();
    // The PIC and the PIT are what makes up for the missing ACPI; without them boots take thrice
    // the CPU time.
    let board = "microvm,accel=tcg,pit=on,pic=on,rtc=on,acpi=off";
    match descriptors.memory {
        None => line.add("-M", board),
        Some(memory) => {
            line.add("-M", format!("{board},memory-backend=memory"));
            line.add("-object", memory_backend(spec, memory, origin));
            // Whether the machine ran when it was saved is nothing to go by: it never did.
            line.add("-global", "migration.store-global-state=off");
        }
    }
    line.add("-cpu", "max");
    line.add("-m", format!("{}M", spec.memory.as_mib()));
    line.add("-smp", spec.vcpus.get().to_string());
    line.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]);
    line.add("-display", "none");
    line.add("-sandbox", SANDBOX);
    line.add("-global", "virtio-mmio.force-legacy=off");

    line.add("-chardev", format!("socket,id=console,fd={}", descriptors.console));
    line.add("-serial", "chardev:console");
    line.add("-chardev", format!("socket,id=qmp,fd={}", descriptors.qmp));
    line.add("-mon", "chardev=qmp,mode=control");

    match origin {
        Origin::Kernel { kernel, arguments } => {
            line.add("-kernel", format!("/proc/self/fd/{kernel}"));
            line.add("-append", arguments);
        }
        Origin::Snapshot => {
            line.add("-incoming", "defer");
            line.flags(&["-S"]);
        }
    }

    // Port 0 is for consoles. Each port costs the guest two queues at boot: no more than needed.
    let ports = spec.ports.len() + 1;
    line.add("-device", format!("virtio-serial-device,id=ports,max_ports={ports}"));
    for (&port, &fd) in spec.ports.iter().zip(&descriptors.ports) {
        line.add("-chardev", format!("socket,id=port{port},fd={fd},server=on,wait=off"));
        let name = port_name(port);
        line.add("-device", format!("virtserialport,bus=ports.0,chardev=port{port},name={name}"));
    }
    line.add("-object", "rng-builtin,id=entropy");
    line.add("-device", "virtio-rng-device,rng=entropy");
    // Linux finds the devices in the order in which they are named here.
    for (index, (disk, fd)) in spec.disks.iter().zip(&descriptors.disks).enumerate() {
        line.add("-add-fd", format!("fd={fd},set={index}"));
        line.add("-blockdev", blockdev(index, disk.access));
        let serial = disk.name.as_str();
        line.add("-device", format!("virtio-blk-device,drive=disk{index},serial={serial}"));
    }
    Ok(line.0)
}

/// The name under which the guest finds a port in `/sys/class/virtio-ports/*/name`.
pub(crate) fn port_name(port: GuestPort) -> String {
    format!("costrel.{port}")
}

/// QEMU never needs to start a program, to change its user or to reschedule itself.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

fn memory_backend(spec: &MachineSpec, memory: RawFd, origin: &Origin) -> String {
    let share = match origin {
        Origin::Kernel { .. } => "on",
        Origin::Snapshot => "off",
    };
    let mib = spec.memory.as_mib();
    format!(
        "memory-backend-file,id=memory,size={mib}M,mem-path=/proc/self/fd/{memory},share={share}"
    )
}

fn blockdev(index: usize, access: DiskAccess) -> String {
    let read_only = access == DiskAccess::ReadOnly;
    json!({
        "driver": "file",
        "node-name": format!("disk{index}"),
        "filename": format!("/dev/fdset/{index}"),
        "read-only": read_only,
        "cache": { "no-flush": access == DiskAccess::Scratch },
        "discard": if read_only { "ignore" } else { "unmap" },
    })
    .to_string()
}

fn within(what: &'static str, given: usize, most: usize) -> Result<(), BootError> {
    if given <= most { Ok(()) } else { Err(BootError::Limit { what, given, most }) }
}

#[derive(Default)]
struct CommandLine(Vec<String>);

impl CommandLine {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.to_owned(), value.into()]);
    }

    fn flags(&mut self, options: &[&str]) {
        self.0.extend(options.iter().map(|&option| option.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use costrel_vmm::{Console, Disk, DiskName, KernelImage, Memory, Saving, VcpuCount};

    use super::*;

    fn spec() -> MachineSpec {
        let disk = |name: &str, access| Disk {
            name: DiskName::new(name).unwrap(),
            path: "/a,b=c/-x \"y\"".into(),
            access,
        };
        MachineSpec {
            vcpus: VcpuCount::ONE,
            memory: Memory::mib(256).unwrap(),
            kernel: KernelImage { path: "/k,readonly=on".into() },
            kernel_arguments: vec!["init=/sbin/vminitd".into()],
            disks: vec![disk("init", DiskAccess::ReadOnly), disk("scratch", DiskAccess::Scratch)],
            ports: vec![GuestPort(1024)],
            saving: Saving::Never,
            console: Console { path: "/c,d".into(), limit: 1 },
            directory: "/tmp/x,y".into(),
        }
    }

    fn descriptors(spec: &MachineSpec) -> Descriptors {
        let numbers = |count: usize| (20..).take(count).collect();
        Descriptors {
            memory: None,
            console: 11,
            qmp: 12,
            disks: numbers(spec.disks.len()),
            ports: numbers(spec.ports.len()),
        }
    }

    fn line(spec: &MachineSpec) -> Result<Vec<String>, BootError> {
        let origin = Origin::Kernel { kernel: 10, arguments: "quiet".to_owned() };
        command_line(spec, &descriptors(spec), &origin)
    }

    fn values<'a>(line: &'a [String], option: &str) -> Vec<&'a str> {
        line.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn no_path_reaches_the_command_line() {
        let line = line(&spec()).unwrap();
        for argument in &line {
            let path =
                argument.contains("a,b") || argument.contains("k,") || argument.contains("x,y");
            assert!(!path, "{argument}");
        }
    }

    #[test]
    fn disks_come_in_order_and_only_the_writable_one_is() {
        let line = line(&spec()).unwrap();
        let blockdevs = values(&line, "-blockdev");
        assert!(blockdevs[1].contains(r#""filename":"/dev/fdset/1""#), "{}", blockdevs[1]);
        assert!(blockdevs[1].contains(r#""read-only":false"#), "{}", blockdevs[1]);
        assert!(blockdevs[0].contains(r#""read-only":true"#), "{}", blockdevs[0]);
        let devices = values(&line, "-device");
        assert!(devices.last().unwrap().ends_with("drive=disk1,serial=scratch"));
        assert_eq!(values(&line, "-add-fd"), ["fd=20,set=0", "fd=21,set=1"]);
    }

    #[test]
    fn a_restored_machine_has_the_saved_one_s_devices_and_memory_of_its_own() {
        let spec = spec();
        let descriptors = Descriptors { memory: Some(9), ..descriptors(&spec) };
        let origin = Origin::Kernel { kernel: 10, arguments: "quiet".to_owned() };
        let saved = command_line(&spec, &descriptors, &origin).unwrap();
        let restored = command_line(&spec, &descriptors, &Origin::Snapshot).unwrap();
        let object = values(&saved, "-object")[0];
        assert!(object.ends_with("mem-path=/proc/self/fd/9,share=on"), "{object}");
        assert_eq!(values(&restored, "-object")[0], object.replace("share=on", "share=off"));
        assert_eq!(values(&restored, "-device"), values(&saved, "-device"));
        assert_eq!(values(&restored, "-M"), values(&saved, "-M"));
        assert_eq!(values(&restored, "-kernel"), Vec::<&str>::new());
        assert_eq!(values(&restored, "-incoming"), ["defer"]);
    }

    #[test]
    fn kernel_arguments_end_with_the_owner_s() {
        let mut spec = spec();
        let arguments = kernel_arguments(&spec, 2_300_000).unwrap();
        assert!(arguments.contains(" tsc_early_khz=2300000 "));
        assert!(arguments.contains(" nolapic_timer "));
        assert!(arguments.ends_with(" costrel.transport=virtio-serial init=/sbin/vminitd"));
        spec.vcpus = VcpuCount::new(2).unwrap();
        assert!(!kernel_arguments(&spec, 1).unwrap().contains("nolapic_timer"));
    }

    #[test]
    fn limits_are_named() {
        let limit = |result: Result<_, BootError>| match result.map(drop) {
            Err(BootError::Limit { what, given, .. }) => (what, given),
            other => panic!("{other:?}"),
        };
        let mut spec = spec();
        spec.disks = vec![spec.disks[0].clone(); 7];
        assert_eq!(limit(line(&spec).map(drop)), ("disks", 7));
        spec.disks.clear();
        spec.ports = (0..31).map(GuestPort).collect();
        assert_eq!(limit(line(&spec).map(drop)), ("guest ports", 31));
        spec.kernel_arguments = vec!["x".repeat(2000)];
        assert_eq!(limit(kernel_arguments(&spec, 1).map(drop)).0, "bytes of kernel arguments");
    }
}
