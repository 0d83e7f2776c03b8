//! What a vCPU says of itself: what KVM supports, with this machine's topology.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const MONITOR: u32 = 5;
const PERFORMANCE: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const SGX: u32 = 0x12;
const TOPOLOGY_2: u32 = 0x1f;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const SIZES: u32 = 0x8000_0008;
const SVM: u32 = 0x8000_000a;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;

/// Leaf 1, ECX.
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX.
const HYPER_THREADING: u32 = 1 << 28;
/// Leaf 8000_0001, ECX.
const AMD_SVM: u32 = 1 << 2;
const AMD_LEGACY_MULTICORE: u32 = 1 << 1;

/// The CPUID of vCPU `id` of `count`. Each vCPU is a core with one thread, all in one package, with
/// caches of its own but for the last level.
///
/// Guests run no guests of their own, and do not count cycles: what would serve that is taken out.
pub(super) fn vcpu_cpuid(supported: &CpuId, id: u8, count: u8, tsc_deadline: bool) -> CpuId {
    let mut cpuid = supported.clone();
    cpuid.retain(|entry| !matches!(entry.function, TOPOLOGY | TOPOLOGY_2 | SGX | SVM));
    for entry in cpuid.as_mut_slice() {
        adapt(entry, id, count, tsc_deadline);
    }
    if supported.as_slice().iter().any(|entry| entry.function == TOPOLOGY) {
        for entry in extended_topology(id, count) {
            // Fails when there are more entries than KVM takes, which is far more than there are.
            let _ = cpuid.push(entry);
        }
    }
    cpuid
}

fn adapt(entry: &mut kvm_cpuid_entry2, id: u8, count: u8, tsc_deadline: bool) {
    let (id, count) = (u32::from(id), u32::from(count));
    match entry.function {
        FEATURES => {
            entry.ebx = entry.ebx & 0xffff | count << 16 | id << 24;
            entry.ecx = entry.ecx & !VMX | HYPERVISOR;
            if tsc_deadline {
                entry.ecx |= TSC_DEADLINE;
            }
            entry.edx &= !HYPER_THREADING;
            if count > 1 {
                entry.edx |= HYPER_THREADING;
            }
        }
        CACHES if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 { count } else { 1 };
            entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14 | (count - 1) << 26;
        }
        AMD_CACHES if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 { count } else { 1 };
            entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14;
        }
        MONITOR | PERFORMANCE => clear(entry),
        EXTENDED_FEATURES => {
            entry.ecx &= !(AMD_SVM | AMD_LEGACY_MULTICORE);
            if count > 1 {
                entry.ecx |= AMD_LEGACY_MULTICORE;
            }
        }
        SIZES => {
            let bits = bits_for(count);
            entry.ecx = entry.ecx & !0xf0ff | bits << 12 | (count - 1);
        }
        AMD_TOPOLOGY => {
            entry.eax = id;
            // One thread a core; one node.
            (entry.ebx, entry.ecx) = (id, 0);
        }
        _ => {}
    }
}

/// Leaf 0xb: threads of a core, then cores of the package.
fn extended_topology(id: u8, count: u8) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    let level = |index: u32, shift: u32, processors: u32, kind: u32| kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: kind | index,
        edx: u32::from(id),
        ..kvm_cpuid_entry2::default()
    };
    let count = u32::from(count);
    [level(0, 0, 1, THREADS), level(1, bits_for(count), count, CORES), level(2, 0, 0, 0)]
}

/// How many bits tell `count` things apart.
fn bits_for(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// What a guest takes for granted once it has seen it: leaf, subleaf, and masks of EAX to EDX.
const FEATURE_BITS: [(u32, u32, [u32; 4]); 13] = [
    // Without OSXSAVE, which follows the guest's own doing.
    (FEATURES, 0, [0, 0, !(1 << 27 | TSC_DEADLINE | HYPERVISOR), !HYPER_THREADING]),
    // Without OSPKE, likewise.
    (7, 0, [0, !0, !(1 << 4), !0]),
    (7, 1, [!0, !0, !0, !0]),
    (7, 2, [0, 0, 0, !0]),
    (0xd, 0, [!0, 0, 0, !0]),
    (0xd, 1, [!0, 0, !0, !0]),
    (0x14, 0, [0, !0, !0, 0]),
    (0x4000_0001, 0, [!0, 0, 0, 0]),
    (EXTENDED_FEATURES, 0, [0, 0, !AMD_LEGACY_MULTICORE, !0]),
    (0x8000_0007, 0, [0, !0, 0, !0]),
    (SIZES, 0, [0, !0, 0, 0]),
    (0x8000_0021, 0, [!0, 0, 0, 0]),
    (0x8000_0022, 0, [!0, 0, 0, 0]),
];

/// What of a saved CPUID this host has not got, for people.
pub(super) fn lacking(saved: &[kvm_cpuid_entry2], here: &[kvm_cpuid_entry2]) -> Option<String> {
    let registers = |entries: &[kvm_cpuid_entry2], function, index| {
        let found = entries.iter().find(|it| it.function == function && it.index == index);
        found.map_or([0; 4], |it| [it.eax, it.ebx, it.ecx, it.edx])
    };
    for (what, function, of) in
        [("vendor", 0, [0, !0, !0, !0]), ("family, model or stepping", FEATURES, [!0, 0, 0, 0])]
    {
        let [was, is] = [saved, here].map(|entries| registers(entries, function, 0));
        if (0..4).any(|at: usize| (was[at] ^ is[at]) & of[at] != 0) {
            return Some(format!("the processor is of another {what}"));
        }
    }
    for (function, index, masks) in FEATURE_BITS {
        let [was, is] = [saved, here].map(|entries| registers(entries, function, index));
        for ((register, mask), (was, is)) in
            ["EAX", "EBX", "ECX", "EDX"].into_iter().zip(masks).zip(was.into_iter().zip(is))
        {
            let lost = was & !is & mask;
            if lost != 0 {
                return Some(format!(
                    "the processor lacks bits {lost:#x} of {register} in leaf {function:#x}.{index}"
                ));
            }
        }
    }
    None
}

/// What a machine relies on of this host's processor: who made it, and a sum of what it can do.
pub(super) fn fingerprint(supported: &CpuId) -> (String, u32) {
    let entries = vcpu_cpuid(supported, 0, 1, true);
    let mut sum = 0;
    for entry in entries.as_slice() {
        // Which core's caches these are is chance where there are several kinds.
        if matches!(entry.function, CACHES | AMD_CACHES) {
            continue;
        }
        let kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, .. } = *entry;
        for word in [function, index, eax, ebx, ecx, edx] {
            sum = crc32c::crc32c_append(sum, &word.to_le_bytes());
        }
    }
    let find = |function| entries.as_slice().iter().find(|entry| entry.function == function);
    let mut name = Vec::new();
    for entry in (0x8000_0002..=0x8000_0004).filter_map(find) {
        for word in [entry.eax, entry.ebx, entry.ecx, entry.edx] {
            name.extend(word.to_le_bytes());
        }
    }
    let name = String::from_utf8_lossy(&name);
    let name = name.trim_matches(|letter: char| letter == '\0' || letter.is_whitespace());
    let signature = find(FEATURES).map_or(0, |entry| entry.eax);
    (format!("{name}, signature {signature:#x}"), sum)
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let entry = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..kvm_cpuid_entry2::default()
        };
        CpuId::from_entries(&[
            entry(FEATURES, 0, 0x5508_0800, VMX, HYPER_THREADING),
            entry(CACHES, 0xfc00_4121, 0, 0, 0),
            entry(CACHES, 0xfc1f_c163, 0, 0, 0),
            entry(TOPOLOGY, 1, 2, 0x100, 7),
            entry(EXTENDED_FEATURES, 0, 0, AMD_SVM, 0),
            entry(SIZES, 48, 0, 0x7003, 0),
        ])
        .unwrap()
    }

    fn find(cpuid: &CpuId, function: u32) -> Vec<kvm_cpuid_entry2> {
        cpuid.as_slice().iter().copied().filter(|entry| entry.function == function).collect()
    }

    #[test]
    fn tells_the_machine_s_topology_and_not_the_host_s() {
        let cpuid = vcpu_cpuid(&supported(), 2, 3, true);
        let features = find(&cpuid, FEATURES)[0];
        assert_eq!((features.ebx >> 16 & 0xff, features.ebx >> 24), (3, 2));
        assert_eq!(features.ecx, TSC_DEADLINE | HYPERVISOR);
        let caches = find(&cpuid, CACHES);
        assert_eq!((caches[0].eax >> 14 & 0xfff, caches[0].eax >> 26), (0, 2));
        assert_eq!((caches[1].eax >> 14 & 0xfff, caches[1].eax >> 26), (2, 2));
        let levels = find(&cpuid, TOPOLOGY);
        assert_eq!(levels.iter().map(|level| level.eax).collect::<Vec<_>>(), [0, 2, 0]);
        assert_eq!(levels.iter().map(|level| level.ebx).collect::<Vec<_>>(), [1, 3, 0]);
        assert!(levels.iter().all(|level| level.edx == 2));
        assert_eq!(find(&cpuid, SIZES)[0].ecx, 0x2002);
        assert_eq!(find(&cpuid, EXTENDED_FEATURES)[0].ecx & AMD_SVM, 0, "no guests of its own");
    }

    #[test]
    fn what_is_lost_is_named() {
        let here = vcpu_cpuid(&supported(), 0, 1, true);
        let mut saved = here.as_slice().to_vec();
        assert_eq!(lacking(&saved, here.as_slice()), None);
        saved[0].ecx |= 1 << 9;
        let said = lacking(&saved, here.as_slice()).unwrap();
        assert_eq!(said, "the processor lacks bits 0x200 of ECX in leaf 0x1.0");
        assert_eq!(lacking(here.as_slice(), &saved), None, "more is as good");
        saved[0].eax ^= 0x10;
        let said = lacking(&saved, here.as_slice()).unwrap();
        assert_eq!(said, "the processor is of another family, model or stepping");
    }

    #[test]
    fn the_fingerprint_does_not_hang_on_the_core() {
        let mut other = supported();
        other.as_mut_slice()[0].ebx ^= 0x0300_0000;
        other.as_mut_slice()[3].edx ^= 1;
        assert_eq!(fingerprint(&other), fingerprint(&supported()));
        other.as_mut_slice()[0].ecx |= 1;
        assert_ne!(fingerprint(&other), fingerprint(&supported()));
    }

    #[test]
    fn one_processor_is_alone() {
        let cpuid = vcpu_cpuid(&supported(), 0, 1, false);
        let features = find(&cpuid, FEATURES)[0];
        assert_eq!((features.ebx >> 16, features.ecx & TSC_DEADLINE, features.edx), (1, 0, 0));
        assert_eq!(find(&cpuid, TOPOLOGY)[1].eax, 0);
    }
}
