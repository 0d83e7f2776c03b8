//! Which system calls each thread may make. Any other kills the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::arch::KVM_GET_DEVICE_ATTR;

/// The filter of a kind of thread.
#[derive(Clone, Debug)]
pub(crate) struct Filter(BpfProgram);

/// The filters of all kinds of threads.
#[derive(Debug)]
pub(crate) struct Filters {
    pub(crate) main: Filter,
    pub(crate) vcpu: Filter,
    pub(crate) block: Filter,
    pub(crate) vsock: Filter,
    pub(crate) entropy: Filter,
}

impl Filter {
    /// Confines the calling thread, for good.
    pub(crate) fn apply(&self) -> io::Result<()> {
        seccompiler::apply_filter(&self.0).map_err(io::Error::other)
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What any thread does: wait, wake, allocate, report its own end.
const ALL_THREADS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What threads that wait for events do besides.
const EVENT_LOOP: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_ctl];

const MAIN: &[i64] = &[
    libc::SYS_ppoll,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_pwrite64,
    libc::SYS_mincore,
    libc::SYS_sysinfo,
];
const VCPU: &[i64] = &[libc::SYS_rt_sigtimedwait, libc::SYS_lseek];
const BLOCK: &[i64] =
    &[libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_fdatasync, libc::SYS_fallocate];
const VSOCK: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_timerfd_settime,
    libc::SYS_getrandom,
];
const ENTROPY: &[i64] = &[libc::SYS_getrandom];

const KVM_RUN: u64 = 0xae80;
/// By which a vCPU is saved.
const READ_VCPU: [u64; 12] = [
    0x8004_ae98, // KVM_GET_MP_STATE
    0x8090_ae81, // KVM_GET_REGS
    0x8138_ae83, // KVM_GET_SREGS
    0x9000_aea4, // KVM_GET_XSAVE
    0x8188_aea6, // KVM_GET_XCRS
    0x8080_aea1, // KVM_GET_DEBUGREGS
    0x8400_ae8e, // KVM_GET_LAPIC
    0xc008_ae88, // KVM_GET_MSRS
    0x8040_ae9f, // KVM_GET_VCPU_EVENTS
    0xaea3,      // KVM_GET_TSC_KHZ
    KVM_GET_DEVICE_ATTR,
    KVM_RUN,
];
/// By which the rest of a machine is saved.
const READ_VM: [u64; 4] = [
    0xae03,      // KVM_CHECK_EXTENSION
    0xc208_ae62, // KVM_GET_IRQCHIP
    0x8070_ae9f, // KVM_GET_PIT2
    0x8030_ae7c, // KVM_GET_CLOCK
];

impl Filters {
    /// Compiles all of them, which takes some microseconds.
    pub(crate) fn new() -> io::Result<Self> {
        let requests = |requests: &[u64]| -> io::Result<_> {
            let rules = requests.iter().map(|&request| argument(1, request));
            Ok(vec![(libc::SYS_ioctl, rules.collect::<io::Result<_>>()?)])
        };
        Ok(Self {
            main: filter(&[MAIN, &[libc::SYS_tgkill]], requests(&READ_VM)?)?,
            vcpu: filter(&[VCPU], requests(&READ_VCPU)?)?,
            block: filter(&[EVENT_LOOP, BLOCK], Vec::new())?,
            vsock: filter(&[EVENT_LOOP, VSOCK], Vec::new())?,
            entropy: filter(&[EVENT_LOOP, ENTROPY], Vec::new())?,
        })
    }
}

fn filter(lists: &[&[i64]], special: Vec<(i64, Vec<SeccompRule>)>) -> io::Result<Filter> {
    let always: BTreeSet<i64> =
        lists.iter().chain([&ALL_THREADS]).flat_map(|list| list.iter().copied()).collect();
    let mut rules = Rules::new();
    // Memory may be had for anything but code.
    let not_executable = || {
        let protection = SeccompCmpOp::MaskedEq(u64::from(libc::PROT_EXEC.cast_unsigned()));
        rule(SeccompCondition::new(2, SeccompCmpArgLen::Dword, protection, 0))
    };
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    rules.insert(libc::SYS_madvise, vec![argument(2, libc::MADV_DONTNEED.cast_unsigned().into())?]);
    // By which a panic ends the process.
    rules.insert(libc::SYS_tgkill, vec![argument(2, libc::SIGABRT.cast_unsigned().into())?]);
    rules.extend(special);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .map_err(io::Error::other)?;
    let by_arguments: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    let always: Vec<i64> = always.into_iter().collect();
    let mut program = allow_always(&always)?;
    program.extend(by_arguments);
    Ok(Filter(program))
}

/// Allows these calls, which are in order, and goes on behind for all others.
///
/// A call is found by halving. When a thread enters a filter, the kernel tries every call that there
/// is: that takes 0.8 ms in the lab with a filter that compares with one after the other, as
/// seccompiler makes them.
fn allow_always(calls: &[i64]) -> io::Result<BpfProgram> {
    /// Where `struct seccomp_data` has them.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    let mut tree = halve(calls)?;
    let length = tree.len();
    for (at, instruction) in tree.iter_mut().enumerate() {
        if instruction.code == JUMP {
            instruction.k = u32::try_from(length - at - 1).map_err(io::Error::other)?;
        }
    }
    let past = u8::try_from(length + 1).map_err(io::Error::other)?;
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(IF_EQUAL, 0, past, AUDIT_ARCH_X86_64),
        instruction(LOAD, 0, 0, NUMBER),
    ];
    program.extend(tree);
    Ok(program)
}

/// Allows these calls. All jumps are to lead behind it.
fn halve(calls: &[i64]) -> io::Result<BpfProgram> {
    const FEW: usize = 3;
    let number = |call: i64| u32::try_from(call).map_err(io::Error::other);
    if calls.len() <= FEW {
        let mut program = Vec::new();
        for &call in calls {
            program.push(instruction(IF_EQUAL, 0, 1, number(call)?));
            program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
        }
        program.push(instruction(JUMP, 0, 0, 0));
        return Ok(program);
    }
    let (below, above) = calls.split_at(calls.len() / 2);
    let (middle, below, above) = (number(above[0])?, halve(below)?, halve(above)?);
    let over = u8::try_from(below.len()).map_err(io::Error::other)?;
    Ok([vec![instruction(IF_AT_LEAST, over, 0, middle)], below, above].concat())
}

/// Instructions of classic BPF (linux/bpf_common.h).
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The call with this value in its argument of that number.
fn argument(number: u8, value: u64) -> io::Result<SeccompRule> {
    rule(SeccompCondition::new(number, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value))
}

fn rule(condition: Result<SeccompCondition, seccompiler::BackendError>) -> io::Result<SeccompRule> {
    SeccompRule::new(vec![condition.map_err(io::Error::other)?]).map_err(io::Error::other)
}

#[cfg(test)]
#[expect(unsafe_code, reason = "a child process is made to try what kills it")]
mod tests {
    use super::*;

    /// Has a child enter the filter and make a call. The signal that ended it, if one did.
    fn ended_by(filter: &Filter, call: impl Fn()) -> Option<libc::c_int> {
        // SAFETY: the child makes system calls only and ends by one.
        match unsafe { libc::fork() } {
            -1 => panic!("cannot fork: {}", io::Error::last_os_error()),
            0 => {
                if filter.apply().is_ok() {
                    call();
                }
                // SAFETY: it ends the child without a word to the test harness.
                unsafe { libc::_exit(0) }
            }
            child => {
                let mut status = 0;
                // SAFETY: the child is ours, and the status lives here.
                let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert_eq!(waited, child);
                libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
            }
        }
    }

    fn all() -> [(&'static str, Filter); 5] {
        let Filters { main, vcpu, block, vsock, entropy } = Filters::new().unwrap();
        [("main", main), ("vcpu", vcpu), ("block", block), ("vsock", vsock), ("entropy", entropy)]
    }

    fn syscall(number: libc::c_long, arguments: [libc::c_long; 3]) {
        let [a, b, c] = arguments;
        // SAFETY: none of the calls in these tests does anything with these arguments but fail.
        unsafe { libc::syscall(number, a, b, c) };
    }

    /// What becomes of a call, by the instructions alone: how many are left to go on with, or none
    /// if it is allowed.
    fn left_after(program: &BpfProgram, call: u32, architecture: u32) -> Option<usize> {
        let (mut at, mut value) = (0, 0);
        while let Some(it) = program.get(at) {
            at += 1;
            match it.code {
                LOAD => value = if it.k == 0 { call } else { architecture },
                JUMP => at += it.k as usize,
                RETURN => return None,
                IF_EQUAL => at += usize::from(if value == it.k { it.jt } else { it.jf }),
                IF_AT_LEAST => at += usize::from(if value >= it.k { it.jt } else { it.jf }),
                other => panic!("{other:#x}"),
            }
        }
        Some(at - program.len())
    }

    #[test]
    fn calls_are_found_by_halving() {
        const X86_64: u32 = 0xc000_003e;
        for calls in [vec![7], vec![0, 1, 2, 3], (0..40).map(|call| call * 9).collect()] {
            let program = allow_always(&calls).unwrap();
            for call in (0..500).chain([0x4000_0000, u32::MAX]) {
                let is_allowed = left_after(&program, call, X86_64).is_none();
                assert_eq!(is_allowed, calls.contains(&i64::from(call)), "{call} in {calls:?}");
                let elsewhere = left_after(&program, call, 0x4000_0003);
                assert_eq!(elsewhere, Some(0), "{call} of another architecture");
            }
        }
    }

    #[test]
    fn what_no_thread_may_do_kills() {
        for (name, filter) in all() {
            for (call, arguments) in [
                (libc::SYS_openat, [-1, 0, 0]),
                (libc::SYS_socket, [0, 0, 0]),
                (libc::SYS_execve, [0, 0, 0]),
                (libc::SYS_clone3, [0, 0, 0]),
                (libc::SYS_ptrace, [-1, 0, 0]),
                (libc::SYS_kill, [0, 0, 0]),
                (libc::SYS_mprotect, [0, 0, libc::PROT_EXEC.into()]),
                (libc::SYS_mmap, [0, 0, (libc::PROT_EXEC | libc::PROT_READ).into()]),
                // KVM_CREATE_VM
                (libc::SYS_ioctl, [-1, 0xae01, 0]),
                // KVM_SET_MSRS
                (libc::SYS_ioctl, [-1, 0x4008_ae89, 0]),
            ] {
                let signal = ended_by(&filter, || syscall(call, arguments));
                assert_eq!(signal, Some(libc::SIGSYS), "{name}: system call {call}");
            }
        }
    }

    #[test]
    fn a_thread_may_do_its_own_work_and_no_other_s() {
        let own = [
            ("main", libc::SYS_ppoll, [0, 0, 0]),
            ("main", libc::SYS_ioctl, [-1, libc::c_long::try_from(READ_VM[1]).unwrap(), 0]),
            ("main", libc::SYS_pwrite64, [-1, 0, 0]),
            ("vcpu", libc::SYS_ioctl, [-1, libc::c_long::try_from(READ_VCPU[0]).unwrap(), 0]),
            ("vcpu", libc::SYS_ioctl, [-1, libc::c_long::try_from(KVM_RUN).unwrap(), 0]),
            ("block", libc::SYS_pwritev, [-1, 0, 0]),
            ("vsock", libc::SYS_accept4, [-1, 0, 0]),
            ("entropy", libc::SYS_getrandom, [0, 0, 0]),
        ];
        for (name, filter) in all() {
            for (whose, call, arguments) in own {
                let signal = ended_by(&filter, || {
                    // Waits for nothing, since something is wrong with the arguments.
                    if call == libc::SYS_ppoll {
                        syscall(call, [0, libc::c_long::MAX, 0]);
                    } else {
                        syscall(call, arguments);
                    }
                });
                let allowed = name == whose || (name, whose) == ("vsock", "entropy");
                assert_eq!(signal.is_none(), allowed, "{name}: {whose}'s system call {call}");
            }
            assert_eq!(ended_by(&filter, || syscall(libc::SYS_getpid, [0; 3])), None);
        }
    }
}
