//! A machine's life from the guest's first instruction on: one state, owned by the main thread.
//!
//! ```text
//!   booted                restored
//!     ▼      Pause          ▼              a vCPU's end, words on the console,
//!  Running ◄─────────► Paused              a device's end, the backend's hang-up
//!             Resume          └──────────────► Exit, the last word
//! ```

use std::{
    fs::File,
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
};

use costrel_virtio::GuestMemory;
use costrel_vmm::Exit;
use kvm_ioctls::VmFd;
use rustix::event::{PollFd, PollFlags, poll};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{
    arch::{BoardState, Moment, check_savable},
    bus::Bus,
    console::Console,
    listener::{Control, Heard},
    memory::Backing,
    snapshot::{MachineState, SavingError, write_memory, write_state},
    vcpu::Vcpus,
};
use crate::control::{Answer, Event, Verb};

/// What ends a machine.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The guest reset the machine through the keyboard controller.
    Reset,
    /// A vCPU faulted while it delivered a double fault.
    TripleFault,
    /// The kernel said that it halts.
    Halted,
    /// The machine cannot go on.
    Failed(String),
}

/// How threads tell the main thread of a [`Happening`].
#[derive(Clone, Debug)]
pub(crate) struct Happenings {
    sender: Sender<Happening>,
    wake: Arc<EventFd>,
}

/// The main thread's end of it.
#[derive(Debug)]
pub(crate) struct HappeningQueue {
    receiver: Receiver<Happening>,
    wake: Arc<EventFd>,
}

/// A pair of ends.
pub(crate) fn happenings() -> io::Result<(Happenings, HappeningQueue)> {
    let (sender, receiver) = mpsc::channel();
    let wake = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
    Ok((Happenings { sender, wake: Arc::clone(&wake) }, HappeningQueue { receiver, wake }))
}

impl Happenings {
    pub(crate) fn tell(&self, happening: Happening) {
        // Fails only when the machine's end was decided already.
        let _ = self.sender.send(happening);
        let _ = self.wake.write(1);
    }
}

/// A machine whose threads have been started.
pub(crate) struct Running {
    /// KVM undoes the wiring of interrupts when this is closed.
    pub(crate) vm: VmFd,
    pub(crate) memory: (Arc<GuestMemory>, Backing),
    pub(crate) vcpus: Vcpus,
    pub(crate) bus: Arc<Bus>,
    pub(crate) console: Console,
    pub(crate) happenings: HappeningQueue,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Running,
    Paused,
}

impl Running {
    /// Serves the backend until the machine ends. Says how, and the console's last lines.
    pub(crate) fn live(self, control: &mut Control) -> (Exit, String) {
        let mut state = match self.memory.1 {
            Backing::Anonymous => {
                self.vcpus.resume();
                State::Running
            }
            // Restored: whoever wants it says when.
            Backing::Snapshot => {
                self.bus.pause();
                State::Paused
            }
        };
        let exit = loop {
            if let Some(exit) = self.next_exit() {
                break exit;
            }
            match self.wait(control) {
                Some(Heard::Command(command)) => {
                    let answer = self.obey(command.verb, &mut state, control);
                    control.say(&Event::Answer { id: command.id, answer });
                }
                Some(Heard::HungUp) => break Exit::Killed,
                None => {}
            }
        };
        self.console.finish();
        (exit, self.console.tail())
    }

    fn obey(&self, verb: Verb, state: &mut State, control: &mut Control) -> Answer {
        match (verb, *state) {
            (Verb::Pause, State::Running) => {
                self.vcpus.pause();
                self.bus.pause();
                *state = State::Paused;
            }
            (Verb::Resume, State::Paused) => {
                self.bus.resume();
                self.vcpus.resume();
                *state = State::Running;
            }
            (Verb::Pause, State::Paused) | (Verb::Resume, State::Running) => {}
            (Verb::Console, _) => return Answer::Text(self.console.tail()),
            (Verb::Save, State::Running) => {
                drop(control.files());
                return Answer::NotPaused;
            }
            (Verb::Save, State::Paused) => {
                let files = control.files().ok_or(SavingError::NoFiles);
                if let Err(error) = files.and_then(|[state, memory]| self.save(&state, &memory)) {
                    return Answer::Failed(costrel_vmm::with_sources(&error));
                }
            }
        }
        Answer::Done
    }

    /// Writes all that the machine is. It must be paused.
    fn save(&self, state_file: &File, memory_file: &File) -> Result<(), SavingError> {
        check_savable(&self.vm)?;
        let moment = Moment::now();
        let vcpus = self.vcpus.save(moment)?;
        let board = BoardState::save(&self.vm)?;
        let (serial, devices) = self.bus.save()?;
        let (memory, backing) = &self.memory;
        let memory_bytes = memory.iter().map(|region| region.len()).sum();
        let state = MachineState { memory_bytes, board, vcpus, serial, devices };
        write_memory(memory_file, memory, *backing)?;
        write_state(state_file, &state)
    }

    fn next_exit(&self) -> Option<Exit> {
        let happening = self.happenings.receiver.try_recv().ok()?;
        Some(match (happening, self.console.panic()) {
            // A panicking kernel resets the machine in the end, one way or the other.
            (Happening::Reset | Happening::TripleFault, Some(message)) => Exit::Panic { message },
            (Happening::Reset, None) => Exit::Reboot,
            (Happening::TripleFault, None) => Exit::TripleFault,
            (Happening::Halted, _) => Exit::PowerOff,
            (Happening::Failed(reason), _) => Exit::Monitor { reason },
        })
    }

    fn wait(&self, control: &mut Control) -> Option<Heard> {
        if let Some(heard) = control.heard() {
            return Some(heard);
        }
        let wake = borrowed(&self.happenings.wake);
        let mut polled = [
            PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
        ];
        // An interrupted wait reports nothing; the next one does.
        poll(&mut polled, None).ok()?;
        let [from_backend, from_threads] = polled.map(|fd| !fd.revents().is_empty());
        if from_threads {
            let _ = self.happenings.wake.read();
        }
        if from_backend { control.hear() } else { None }
    }
}

#[expect(unsafe_code, reason = "EventFd has no AsFd")]
fn borrowed(event: &EventFd) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor is the event's own, and lives as long as the borrow of it.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
