//! The device.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{SocketFlags, accept_with},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use virtio_queue::QueueT as _;
use vmm_sys_util::epoll::EventSet;

use super::{
    muxer::{Muxer, RECEIVE, TRANSMIT},
    state::VsockState,
};
use crate::{ActiveQueues, ChainBuffers, Device, DeviceKind, Fault, Identity, Poller, Token};

/// Of each of the queues for packets.
const QUEUE_SIZE: u16 = 256;
/// Of the queue for events, of which there is one kind.
const EVENT_QUEUE_SIZE: u16 = 16;
const EVENTS: usize = 2;
const FEATURE_STREAM: u64 = 1;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`
const TRANSPORT_RESET: [u8; 4] = 0u32.to_le_bytes();

/// Other tokens are the host's ports of connections, which are greater.
const LISTENER: Token = Token(0);
const TIMER: Token = Token(1);
/// How many clients are taken in before the device listens to others.
const CLIENTS_AT_ONCE: usize = 64;
/// How often it is looked after what waits for time to pass.
const TICK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A way into the guest to be.
#[derive(Debug)]
pub struct VsockSettings {
    /// The guest's address, 3 or more.
    pub guest_cid: u64,
    /// Where the host's clients dial in. Whoever can connect can reach every port of the guest.
    pub listener: UnixListener,
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    listener: UnixListener,
    timer: OwnedFd,
    is_listening: bool,
    is_ticking: bool,
    news: News,
    events: ChainBuffers,
    muxer: Muxer,
}

/// What the guest has to hear of its connections from before it was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum News {
    None,
    /// That they are dead, as soon as there is a buffer for it.
    Due,
    /// It was said, when the driver had given so many buffers. When it gives another one it has
    /// heard: until then it might take new connections for old ones and end them.
    Said {
        driver_index: u16,
    },
}

impl Vsock {
    /// A device without connections.
    ///
    /// # Errors
    /// What the system said; it may be out of descriptors.
    pub fn new(settings: VsockSettings) -> io::Result<Self> {
        Self::with(settings, 0, News::None)
    }

    /// A device of a restored machine: when its transport is restored, the guest is told that its
    /// connections are dead. Clients are served when it has heard. Its address may be another than
    /// before: with the news the driver reads it again.
    ///
    /// # Errors
    /// As [`Vsock::new`].
    pub fn restored(settings: VsockSettings, state: &VsockState) -> io::Result<Self> {
        Self::with(settings, state.next_port, News::Due)
    }

    fn with(settings: VsockSettings, next_port: u32, news: News) -> io::Result<Self> {
        let VsockSettings { guest_cid, listener } = settings;
        listener.set_nonblocking(true)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            listener,
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            is_listening: false,
            is_ticking: false,
            news,
            events: ChainBuffers::default(),
            muxer: Muxer::new(guest_cid, next_port),
        })
    }

    fn listen(&mut self, poller: &Poller) -> Result<(), Fault> {
        if !self.is_listening {
            let added = poller.add(self.listener.as_fd(), LISTENER, EventSet::IN);
            added.map_err(host("wait for clients"))?;
            self.is_listening = true;
        }
        Ok(())
    }

    /// Has the timer run for as long as anything needs it.
    fn tick_if_needed(&mut self) -> Result<(), Fault> {
        if !self.is_ticking && (self.muxer.is_lingering() || !self.is_listening) {
            let once = Itimerspec { it_interval: Timespec::default(), it_value: TICK };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
                .map_err(|error| host("set a timer")(error.into()))?;
            self.is_ticking = true;
        }
        Ok(())
    }

    fn ticked(&mut self, poller: &Poller) -> Result<(), Fault> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut count);
        self.is_ticking = false;
        self.muxer.tick(Instant::now(), poller);
        // Descriptors may have become free, and a driver that does not want to hear the news must
        // not keep clients out.
        self.listen(poller)
    }

    fn admit_clients(&mut self, poller: &Poller) {
        for _ in 0..CLIENTS_AT_ONCE {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(client) => self.muxer.admit(UnixStream::from(client), poller),
                Err(Errno::AGAIN) => return,
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => {
                    // Out of descriptors or memory, of which the listener would tell without end.
                    // The next tick tries again.
                    let _ = poller.remove(self.listener.as_fd());
                    self.is_listening = false;
                    return;
                }
            }
        }
    }

    /// Tells the guest the news, or hears that it has heard.
    fn serve_events(&mut self, active: &mut ActiveQueues, poller: &Poller) -> Result<(), Fault> {
        if self.news == News::Due {
            let memory = std::sync::Arc::clone(&active.memory);
            let head = loop {
                if let Some(head) = active.pop(EVENTS, &memory, &mut self.events)? {
                    break head;
                }
                if !active.listen(EVENTS)? {
                    return Ok(());
                }
            };
            let put = self.events.put(&memory, &TRANSPORT_RESET);
            put.map_err(|source| Fault::Chain { queue: EVENTS, source })?;
            self.news = News::Said { driver_index: active.driver_index(EVENTS)? };
            active.give_back(EVENTS, head, u32::try_from(TRANSPORT_RESET.len()).unwrap_or(0))?;
            active.notify(EVENTS)?;
        }
        if let News::Said { driver_index } = self.news
            && active.listen_beyond(EVENTS, driver_index)?
        {
            self.news = News::None;
            self.listen(poller)?;
        }
        Ok(())
    }
}

#[cfg(test)]
impl Vsock {
    /// How many bytes it holds for clients.
    pub(super) fn held(&self) -> usize {
        self.muxer.held()
    }

    /// Has that much time pass.
    pub(super) fn tick(&mut self, now: Instant, poller: &Poller) {
        self.muxer.tick(now, poller);
    }
}

impl Device for Vsock {
    type State = VsockState;

    fn identity(&self) -> Identity {
        Identity {
            kind: DeviceKind::Vsock,
            features: FEATURE_STREAM,
            queue_sizes: &[QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE],
            config: self.muxer.guest_cid().to_le_bytes().to_vec(),
        }
    }

    fn activate(&mut self, active: &mut ActiveQueues, poller: &Poller) -> Result<(), Fault> {
        if !active.queues.iter().all(|queue| queue.ready()) {
            return Err(Fault::Protocol("it left out a virtqueue"));
        }
        poller.add(self.timer.as_fd(), TIMER, EventSet::IN).map_err(host("wait for a timer"))?;
        if self.news == News::None {
            self.listen(poller)?;
        }
        self.tick_if_needed()
    }

    fn queue_kicked(
        &mut self,
        queue: usize,
        active: &mut ActiveQueues,
        poller: &Poller,
    ) -> Result<(), Fault> {
        match queue {
            RECEIVE => self.muxer.give(active, poller)?,
            TRANSMIT => {
                self.muxer.take(active, poller)?;
                self.muxer.give(active, poller)?;
            }
            _ => self.serve_events(active, poller)?,
        }
        self.tick_if_needed()
    }

    fn event(
        &mut self,
        token: Token,
        events: EventSet,
        active: &mut ActiveQueues,
        poller: &Poller,
    ) -> Result<(), Fault> {
        match token {
            LISTENER => self.admit_clients(poller),
            TIMER => self.ticked(poller)?,
            Token(port) => self.muxer.stirred(port, events, poller),
        }
        self.muxer.give(active, poller)?;
        self.tick_if_needed()
    }

    fn reset(&mut self, poller: &Poller) {
        self.muxer.clear(poller);
        if self.is_listening {
            let _ = poller.remove(self.listener.as_fd());
        }
        // It is not there if the driver was never ready.
        let _ = poller.remove(self.timer.as_fd());
        self.is_listening = false;
        self.is_ticking = false;
        self.news = News::None;
    }

    fn state(&self) -> VsockState {
        VsockState { guest_cid: self.muxer.guest_cid(), next_port: self.muxer.next_port() }
    }
}

fn host(operation: &'static str) -> impl Fn(io::Error) -> Fault {
    move |source| Fault::Host { operation, source }
}
