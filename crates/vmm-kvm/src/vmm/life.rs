//! A machine's life from the guest's first instruction on: one state, owned by the main thread.
//!
//! ```text
//!             Pause                        a vCPU's end, words on the console,
//!  Running ◄─────────► Paused              a device's end, the backend's hang-up
//!             Resume          └──────────────► Exit, the last word
//! ```

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
};

use costrel_vmm::Exit;
use kvm_ioctls::VmFd;
use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{bus::Bus, console::Console, vcpu::Vcpus};
use crate::control::{Command, Event, Request, Verb};

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
    #[expect(dead_code, reason = "held open; snapshots will read it")]
    pub(crate) vm: VmFd,
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
        self.vcpus.resume();
        let mut state = State::Running;
        let exit = loop {
            if let Some(exit) = self.next_exit() {
                break exit;
            }
            match self.wait(control) {
                Some(Heard::Command(command)) => {
                    let text = self.obey(command.verb, &mut state);
                    control.say(&Event::Answer { id: command.id, text });
                }
                Some(Heard::HungUp) => break Exit::Killed,
                None => {}
            }
        };
        self.console.finish();
        (exit, self.console.tail())
    }

    fn obey(&self, verb: Verb, state: &mut State) -> String {
        match (verb, *state) {
            (Verb::Pause, State::Running) => {
                self.vcpus.pause();
                drop(self.bus.pause());
                *state = State::Paused;
            }
            (Verb::Resume, State::Paused) => {
                self.bus.resume();
                self.vcpus.resume();
                *state = State::Running;
            }
            (Verb::Pause, State::Paused) | (Verb::Resume, State::Running) => {}
            (Verb::Console, _) => return self.console.tail(),
        }
        String::new()
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
            PollFd::from_borrowed_fd(control.socket.as_fd(), PollFlags::IN),
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

/// What came from the backend.
pub(crate) enum Heard {
    Command(Command),
    HungUp,
}

/// The socket to the backend.
#[derive(Debug)]
pub(crate) struct Control {
    socket: UnixStream,
    received: Vec<u8>,
}

/// Commands are some dozen bytes, an order some hundred. The backend is trusted; this is for a
/// descriptor that is something else.
const MOST_BYTES: usize = 64 << 10;

impl Control {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self { socket, received: Vec::new() }
    }

    /// Waits for the first line.
    pub(crate) fn request(&mut self) -> io::Result<Request> {
        loop {
            if let Some(line) = self.line() {
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
            if !self.receive()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub(crate) fn say(&mut self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        // Fails if the backend has gone, which is heard of next.
        let _ = self.socket.write_all(&line);
    }

    fn heard(&mut self) -> Option<Heard> {
        let line = self.line()?;
        // A backend that talks nonsense is as good as gone.
        Some(serde_json::from_slice(&line).map_or(Heard::HungUp, Heard::Command))
    }

    /// Takes in what has come.
    fn hear(&mut self) -> Option<Heard> {
        match self.receive() {
            Ok(true) => self.heard(),
            Ok(false) | Err(_) => Some(Heard::HungUp),
        }
    }

    /// False at the stream's end.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(count) => {
                    self.received.extend(&buffer[..count]);
                    return Ok(count > 0 && self.received.len() <= MOST_BYTES);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.received.iter().position(|&byte| byte == b'\n')?;
        Some(self.received.drain(..=end).collect())
    }
}
