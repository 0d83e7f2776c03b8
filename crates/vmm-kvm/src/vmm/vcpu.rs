//! vCPUs, each on a thread of its own, and how all of them are stopped.
//!
//! A vCPU's thread has the kick signal blocked, but for the time that it is in `KVM_RUN`. So a kick
//! is never lost: it interrupts the guest, or keeps it from being entered. And a thread only stops
//! after `KVM_RUN` was interrupted, which is when KVM has completed the instruction whose access
//! the bus had answered before.
//!
//! A vCPU that stands still says what it is when it is asked ([`Vcpus::save`]): only its own thread
//! may look.

#![expect(unsafe_code, reason = "signals and KVM's signal mask have no safe interface")]

use std::{
    io,
    os::{fd::AsRawFd as _, unix::thread::JoinHandleExt as _},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{
    BuildError,
    arch::{Moment, Vcpu, VcpuState},
    bus::Bus,
    life::{Happening, Happenings},
    seccomp::Filter,
    snapshot::SavingError,
};

/// All vCPUs of a machine. They stand still at first.
pub(crate) struct Vcpus {
    threads: Vec<VcpuThread>,
    gate: Arc<Gate>,
}

/// A vCPU's thread, and the way to give it its vCPU.
struct VcpuThread {
    handle: JoinHandle<()>,
    vcpu: Sender<(Vcpu, Arc<Bus>)>,
}

/// Where vCPUs stand still.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open: bool,
    /// How many stand before it, or have ended.
    standing: usize,
    /// How many have ended.
    ended: usize,
    /// How often they were asked what they are, and as of when the last time.
    asked: u64,
    moment: Option<Moment>,
    /// What they have said since, by their numbers.
    said: Vec<Said>,
}

/// A vCPU's number, and what it is.
type Said = (usize, Result<VcpuState, SavingError>);

impl Vcpus {
    /// Starts a thread for each. It applies `filter` and waits for its vCPU.
    pub(crate) fn start(
        count: u8,
        happenings: &Happenings,
        filter: &Filter,
    ) -> Result<Self, BuildError> {
        let gate = Arc::new(Gate::default());
        let mut threads = Vec::with_capacity(count.into());
        for index in 0..count.into() {
            let (sender, vcpu) = mpsc::channel();
            let (gate, happenings, filter) =
                (Arc::clone(&gate), happenings.clone(), filter.clone());
            let body = move || {
                let happening = match block_kick().and_then(|()| filter.apply()) {
                    Ok(()) => live(index, &vcpu, &gate),
                    Err(error) => Happening::Failed(format!("a vCPU's thread failed: {error}")),
                };
                gate.leave();
                happenings.tell(happening);
            };
            let name = format!("vcpu-{index}");
            let thread = thread::Builder::new().name(name).spawn(body);
            let handle = thread.map_err(BuildError::host("start a vCPU's thread"))?;
            threads.push(VcpuThread { handle, vcpu: sender });
        }
        Ok(Self { threads, gate })
    }

    /// Gives the threads their vCPUs, and returns when all stand before the guest's next
    /// instruction.
    pub(crate) fn hand_over(&self, vcpus: Vec<Vcpu>, bus: &Arc<Bus>) {
        for (thread, vcpu) in self.threads.iter().zip(vcpus) {
            // Fails if the thread has failed, which ends the machine.
            let _ = thread.vcpu.send((vcpu, Arc::clone(bus)));
        }
        // Only then may the main thread say that all filters are in force.
        self.gate.wait_until_standing(self.threads.len());
    }

    /// Lets all run.
    pub(crate) fn resume(&self) {
        self.gate.open();
    }

    /// Returns when all stand still.
    pub(crate) fn pause(&self) {
        self.gate.close();
        for thread in &self.threads {
            // SAFETY: the thread was not joined, so its handle is good even if it has ended.
            unsafe { libc::pthread_kill(thread.handle.as_pthread_t(), kick_signal()) };
        }
        self.gate.wait_until_standing(self.threads.len());
    }

    /// What all are, in the order of their numbers. They must stand still.
    pub(crate) fn save(&self, moment: Moment) -> Result<Vec<VcpuState>, SavingError> {
        let mut said = self.gate.ask(moment, self.threads.len())?;
        said.sort_by_key(|&(index, _)| index);
        said.into_iter().map(|(_, state)| state).collect()
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) {
        self.lock().open = true;
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().open = false;
    }

    fn stand_while_closed(&self, index: usize, vcpu: &Vcpu) {
        let mut state = self.lock();
        if state.open {
            return;
        }
        state.standing += 1;
        let mut heard = state.asked;
        self.changed.notify_all();
        while !state.open {
            if let Some(moment) = state.moment.filter(|_| state.asked != heard) {
                heard = state.asked;
                drop(state);
                let what = vcpu.save(moment);
                state = self.lock();
                state.said.push((index, what));
                self.changed.notify_all();
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.standing -= 1;
    }

    /// Has all say what they are.
    fn ask(&self, moment: Moment, count: usize) -> Result<Vec<Said>, SavingError> {
        let mut state = self.lock();
        state.asked += 1;
        state.moment = Some(moment);
        state.said.clear();
        self.changed.notify_all();
        while state.said.len() + state.ended < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended > 0 {
            return Err(SavingError::VcpuEnded);
        }
        Ok(std::mem::take(&mut state.said))
    }

    /// A vCPU that has ended stands still for good.
    fn leave(&self) {
        let mut state = self.lock();
        state.standing += 1;
        state.ended += 1;
        self.changed.notify_all();
    }

    fn wait_until_standing(&self, count: usize) {
        let mut state = self.lock();
        while state.standing < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The body of a vCPU's thread, once it is confined.
fn live(index: usize, vcpu: &Receiver<(Vcpu, Arc<Bus>)>, gate: &Gate) -> Happening {
    let Ok((mut vcpu, bus)) = vcpu.recv() else {
        return Happening::Failed("the machine could not be built".to_owned());
    };
    gate.stand_while_closed(index, &vcpu);
    run(index, &mut vcpu, &bus, gate)
}

/// Runs the guest until it ends or fails.
fn run(index: usize, vcpu: &mut Vcpu, bus: &Bus, gate: &Gate) -> Happening {
    loop {
        match vcpu.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => bus.port_read(port, data),
            Ok(VcpuExit::IoOut(port, data)) => bus.port_write(port, data),
            Ok(VcpuExit::MmioRead(address, data)) => bus.memory_read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => bus.memory_write(address, data),
            Ok(VcpuExit::Shutdown) => return Happening::TripleFault,
            Ok(VcpuExit::SystemEvent(kind, _)) => {
                return match kind {
                    KVM_SYSTEM_EVENT_SHUTDOWN => Happening::Halted,
                    KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_CRASH => Happening::Reset,
                    _ => Happening::Failed(format!("KVM reports the unknown event {kind}")),
                };
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return Happening::Failed(format!(
                    "KVM could not enter the guest: hardware reason {reason:#x}"
                ));
            }
            Ok(VcpuExit::InternalError) => return internal_error(&mut vcpu.fd),
            // Nothing that KVM does when it interrupts and halts vCPUs itself.
            Ok(other) => return Happening::Failed(format!("KVM made an exit unasked: {other:?}")),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                take_kick();
                gate.stand_while_closed(index, vcpu);
            }
            Err(error) => return Happening::Failed(format!("KVM_RUN failed: {error}")),
        }
    }
}

fn internal_error(vcpu: &mut VcpuFd) -> Happening {
    // SAFETY: the exit that was just made is the one whose data this part of the union holds.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let meaning = if suberror == 1 { " (an instruction that it cannot emulate)" } else { "" };
    Happening::Failed(format!("KVM failed internally, suberror {suberror}{meaning}"))
}

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

fn kick_set() -> libc::sigset_t {
    // SAFETY: sigemptyset(3) initializes the set, and both calls touch nothing else.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, kick_signal());
        set
    }
}

/// Blocks the kick in the calling thread.
fn block_kick() -> io::Result<()> {
    let set = kick_set();
    // SAFETY: both pointers are valid or null, as the call allows.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Takes a kick that waits, if one does.
fn take_kick() {
    let set = kick_set();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointers are valid or null, as the call allows. An error is that none waits.
    unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const now) };
}

/// While in `KVM_RUN`, a vCPU takes the kick and no other signal (KVM API, 4.18).
pub(super) fn set_signal_mask(vcpu: &VcpuFd) -> io::Result<()> {
    /// The kernel's `sigset_t` has 64 bits.
    #[repr(C)]
    struct SignalMask {
        length: u32,
        set: [u8; 8],
    }
    /// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)`, of whose size only the length counts.
    const KVM_SET_SIGNAL_MASK: libc::Ioctl = 0x4004_ae8b;
    let blocked = !(1u64 << (kick_signal() - 1));
    let mask = SignalMask { length: 8, set: blocked.to_ne_bytes() };
    // SAFETY: the structure is the one that the request reads.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &raw const mask) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
