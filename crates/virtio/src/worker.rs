//! The thread of a device.

use std::{
    io,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
};

use virtio_queue::{Queue, QueueT as _};
use vmm_sys_util::{
    epoll::{ControlOperation, EpollEvent, EventSet},
    eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd},
};

use crate::{ActiveQueues, Device, GuestMemory, Identity, Interrupt, Poller, Token};

/// What a driver hands over when it is ready.
#[derive(Debug)]
pub struct Activation {
    /// The virtqueues, as the driver set them up.
    pub queues: Vec<Queue>,
    /// The negotiated features of the device's own.
    pub features: u64,
}

enum Order<S> {
    Activate(Activation),
    Reset(Sender<()>),
    /// Answered with the device's state and the queues as they are.
    Pause(Sender<Paused<S>>),
    Resume,
    End,
}

/// A device that stands still.
#[derive(Debug)]
pub struct Paused<S> {
    /// Its state.
    pub state: S,
    /// Where it is in its virtqueues; none if no driver uses it.
    pub queues: Option<Vec<Queue>>,
}

/// A device with its thread's loop. [`Worker::run`] is for a thread of its own.
pub struct Worker<D: Device> {
    device: D,
    orders: Receiver<Order<D::State>>,
    wake: Arc<EventFd>,
    kicks: Arc<[EventFd]>,
    memory: Arc<GuestMemory>,
    interrupt: Arc<Interrupt>,
    poller: Poller,
    active: Option<ActiveQueues>,
}

/// The way to a device's thread.
#[derive(Debug)]
pub struct WorkerHandle<S> {
    identity: Identity,
    orders: Sender<Order<S>>,
    wake: Arc<EventFd>,
    kicks: Arc<[EventFd]>,
    interrupt: Arc<Interrupt>,
}

impl<S> Clone for WorkerHandle<S> {
    fn clone(&self) -> Self {
        Self {
            identity: self.identity.clone(),
            orders: self.orders.clone(),
            wake: Arc::clone(&self.wake),
            kicks: Arc::clone(&self.kicks),
            interrupt: Arc::clone(&self.interrupt),
        }
    }
}

/// Tokens from here on are the worker's own: one for its orders, the others for the queues' kicks.
const ORDERS: u64 = 1 << 32;
const KICKS: u64 = ORDERS + 1;

/// How many events are taken in at once. What is left comes with the next call.
const EVENTS: usize = 16;

impl<D: Device> Worker<D> {
    /// A device that waits for its driver, and the way to it.
    ///
    /// # Errors
    /// What the system said; it may be out of descriptors.
    pub fn new(
        device: D,
        memory: Arc<GuestMemory>,
        interrupt: Arc<Interrupt>,
    ) -> io::Result<(Self, WorkerHandle<D::State>)> {
        let identity = device.identity();
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let wake = Arc::new(event()?);
        let kicks: Arc<[EventFd]> =
            identity.queue_sizes.iter().map(|_| event()).collect::<io::Result<_>>()?;
        let poller = Poller::new()?;
        let own = wake_tokens(&wake, &kicks);
        for (fd, token) in own {
            let event = EpollEvent::new(EventSet::IN, token);
            poller.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event)?;
        }
        let (sender, orders) = mpsc::channel();
        let handle = WorkerHandle {
            identity,
            orders: sender,
            wake: Arc::clone(&wake),
            kicks: Arc::clone(&kicks),
            interrupt: Arc::clone(&interrupt),
        };
        let worker = Self { device, orders, wake, kicks, memory, interrupt, poller, active: None };
        Ok((worker, handle))
    }

    /// Serves the driver until it is told to end, or nobody could tell it any more.
    pub fn run(mut self) {
        let mut events = [EpollEvent::default(); EVENTS];
        loop {
            let unfinished = self.active.as_ref().is_some_and(ActiveQueues::is_unfinished);
            let timeout = if unfinished { 0 } else { -1 };
            let count = match self.poller.epoll.wait(timeout, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing that epoll_wait(2) names can happen here.
                Err(_) => break,
            };
            for event in &events[..count] {
                let token = event.data();
                if token == ORDERS {
                    let _ = self.wake.read();
                    if self.obey().is_err() {
                        self.device.reset(&self.poller);
                        return;
                    }
                } else {
                    self.serve(token, event.event_set());
                }
            }
            if let Some(active) = &mut self.active {
                for queue in active.take_unfinished() {
                    self.serve(KICKS + queue as u64, EventSet::IN);
                }
            }
        }
    }

    /// What the driver or the world wants of the device.
    fn serve(&mut self, token: u64, events: EventSet) {
        let queue = token.checked_sub(KICKS).and_then(|queue| usize::try_from(queue).ok());
        if let Some(kick) = queue.and_then(|queue| self.kicks.get(queue)) {
            let _ = kick.read();
        }
        // Left over from before a reset.
        let Some(active) = &mut self.active else { return };
        let outcome = match (queue, u32::try_from(token)) {
            (Some(queue), _) if active.queues[queue].ready() => {
                self.device.queue_kicked(queue, active, &self.poller)
            }
            (None, Ok(token)) => self.device.event(Token(token), events, active, &self.poller),
            _ => Ok(()),
        };
        if outcome.is_err() {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.active = None;
        self.device.reset(&self.poller);
        self.interrupt.needs_reset();
    }

    /// Does what the other threads want. `Err` is the end.
    fn obey(&mut self) -> Result<(), ()> {
        while let Some(order) = self.next_order()? {
            match order {
                Order::Activate(activation) => self.activate(activation),
                Order::Reset(done) => {
                    self.active = None;
                    self.device.reset(&self.poller);
                    let _ = done.send(());
                }
                Order::Pause(paused) => {
                    let state = self.device.state();
                    let queues = self.active.as_ref().map(copy_of_queues);
                    let _ = paused.send(Paused { state, queues });
                    self.stand_still()?;
                }
                Order::Resume => {}
                Order::End => return Err(()),
            }
        }
        Ok(())
    }

    fn next_order(&self) -> Result<Option<Order<D::State>>, ()> {
        match self.orders.try_recv() {
            Ok(order) => Ok(Some(order)),
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err(()),
        }
    }

    /// Touches nothing until it may go on.
    fn stand_still(&mut self) -> Result<(), ()> {
        loop {
            match self.orders.recv().map_err(drop)? {
                Order::Resume => return Ok(()),
                Order::End => return Err(()),
                Order::Pause(paused) => {
                    let queues = self.active.as_ref().map(copy_of_queues);
                    let _ = paused.send(Paused { state: self.device.state(), queues });
                }
                // vCPUs stand still as well, so no driver can want this.
                Order::Activate(_) => {}
                Order::Reset(done) => {
                    let _ = done.send(());
                }
            }
        }
    }

    fn activate(&mut self, activation: Activation) {
        let Activation { queues, features } = activation;
        let (memory, interrupt) = (Arc::clone(&self.memory), Arc::clone(&self.interrupt));
        let mut active = ActiveQueues::new(memory, queues, interrupt, features);
        match self.device.activate(&mut active, &self.poller) {
            Ok(()) => {
                self.active = Some(active);
                // A driver may put buffers into a queue before it says that it is ready.
                for queue in 0..self.kicks.len() {
                    self.serve(KICKS + queue as u64, EventSet::IN);
                }
            }
            Err(_) => self.give_up(),
        }
    }
}

fn copy_of_queues(active: &ActiveQueues) -> Vec<Queue> {
    // A queue was checked when it became active, so its copy is as good.
    active.queues.iter().filter_map(|queue| Queue::try_from(queue.state()).ok()).collect()
}

fn wake_tokens<'a>(
    wake: &'a EventFd,
    kicks: &'a [EventFd],
) -> impl Iterator<Item = (&'a EventFd, u64)> {
    std::iter::once((wake, ORDERS)).chain(kicks.iter().zip(KICKS..))
}

impl<S> WorkerHandle<S> {
    /// What the driver sees of the device.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The eventfds by which the driver notifies the device, one a virtqueue.
    #[must_use]
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The device's interrupt.
    #[must_use]
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    pub(crate) fn activate(&self, activation: Activation) {
        self.order(Order::Activate(activation));
    }

    /// Returns when the device touches guest memory no more.
    pub(crate) fn reset(&self) {
        let (done, reset) = mpsc::channel();
        self.order(Order::Reset(done));
        // An error is an ended thread, which touches nothing either.
        let _ = reset.recv();
    }

    /// Returns when the device stands still, with what is to be saved of it. None if its thread has
    /// ended. The vCPUs must stand still already.
    #[must_use]
    pub fn pause(&self) -> Option<Paused<S>> {
        let (sender, paused) = mpsc::channel();
        self.order(Order::Pause(sender));
        paused.recv().ok()
    }

    /// Lets the device go on.
    pub fn resume(&self) {
        self.order(Order::Resume);
    }

    /// Ends the device's thread.
    pub fn end(&self) {
        self.order(Order::End);
    }

    fn order(&self, order: Order<S>) {
        // Fails only if the thread has ended.
        let _ = self.orders.send(order);
        let _ = self.wake.write(1);
    }
}

#[cfg(test)]
mod tests;
