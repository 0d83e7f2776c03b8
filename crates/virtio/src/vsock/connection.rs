//! One stream between a client and the guest.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::net::{SendFlags, send};
use vmm_sys_util::epoll::EventSet;

use super::{
    backlog::Backlog,
    credit::{BUFFER, Receiving, Sending},
    greeting::{Greeting, Heard},
    packet::{Header, Operation, ended},
};
use crate::{ChainBuffers, GuestMemory};

/// How long the guest may take to confirm the end of a connection.
const LINGER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The client has not said yet where it wants to go.
    Greeting(Greeting),
    /// The guest is to be asked.
    Wanted,
    /// The guest was asked.
    Requested,
    /// Bytes flow.
    Open,
    /// The guest has ended the connection. What it had sent before is the client's still.
    Orphaned,
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Fate {
    Lives,
    /// It is over, and the guest knows.
    Ends,
    /// It is over, and the guest is to be told by a RST.
    Reset,
}

/// What is to be said to the guest next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// A packet without data.
    Control(Operation),
    /// Data, of at most so many bytes.
    Data(u32),
}

#[derive(Debug)]
pub(super) struct Connection {
    client: UnixStream,
    host_port: u32,
    guest_port: u32,
    phase: Phase,
    sending: Sending,
    receiving: Receiving,
    backlog: Backlog,
    /// What either side does no more ([`ended`]), and what the other was told of it.
    client_ended: u32,
    client_ended_told: u32,
    guest_ended: u32,
    guest_ended_told: u32,
    /// The client has sent something, or its end, that was not read yet.
    readable: bool,
    /// The client is gone. Its last bytes can be read still, without waiting.
    hung_up: bool,
    /// The guest wants to know its credit.
    credit_owed: bool,
    /// The guest was asked for credit and has not given any yet.
    credit_requested: bool,
    deadline: Option<Instant>,
    /// What the device waits for now; none if it does not wait.
    pub(super) interest: Option<EventSet>,
    /// Whether it stands in the line of those that have something to say.
    pub(super) queued: bool,
}

impl Connection {
    pub(super) fn new(client: UnixStream, host_port: u32) -> Self {
        Self {
            client,
            host_port,
            guest_port: 0,
            phase: Phase::Greeting(Greeting::default()),
            sending: Sending::default(),
            receiving: Receiving::default(),
            backlog: Backlog::default(),
            client_ended: 0,
            client_ended_told: 0,
            guest_ended: 0,
            guest_ended_told: 0,
            readable: false,
            hung_up: false,
            credit_owed: false,
            credit_requested: false,
            deadline: None,
            interest: None,
            queued: false,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }

    /// The guest's port, if the guest knows of the connection.
    pub(super) fn guest_port(&self) -> Option<u32> {
        matches!(self.phase, Phase::Requested | Phase::Open).then_some(self.guest_port)
    }

    /// Until when the guest may take to confirm the end.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What to wait for. Only once a client is gone there is nothing: that it is would be told again
    /// and again.
    pub(super) fn wanted_interest(&self) -> Option<EventSet> {
        if self.hung_up {
            return None;
        }
        Some(match self.phase {
            Phase::Greeting(_) => EventSet::IN,
            Phase::Wanted | Phase::Requested => EventSet::empty(),
            Phase::Open => {
                let mut events = EventSet::empty();
                events.set(EventSet::IN, self.client_sends() && !self.readable);
                events.set(EventSet::OUT, !self.backlog.is_empty());
                events
            }
            Phase::Orphaned => EventSet::OUT,
        })
    }

    fn client_sends(&self) -> bool {
        self.client_ended & ended::SENDING == 0
    }

    /// Something happened to the client's socket.
    pub(super) fn client_stirred(&mut self, events: EventSet) -> Fate {
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            match self.phase {
                Phase::Greeting(_) | Phase::Wanted | Phase::Orphaned => return Fate::Ends,
                Phase::Requested => return Fate::Reset,
                Phase::Open => {}
            }
            self.hung_up = true;
            self.readable = true;
            self.client_left();
            return self.settle();
        }
        match &mut self.phase {
            Phase::Greeting(greeting) => match greeting.read(&self.client) {
                Heard::Part => {}
                Heard::Garbage => return Fate::Ends,
                Heard::Port(port) => {
                    self.guest_port = port;
                    self.phase = Phase::Wanted;
                }
            },
            Phase::Wanted | Phase::Requested => {}
            Phase::Open | Phase::Orphaned => {
                self.readable |= events.contains(EventSet::IN);
                if events.contains(EventSet::OUT) {
                    self.flush();
                }
            }
        }
        self.settle()
    }

    fn flush(&mut self) {
        match self.backlog.send(&self.client) {
            // Bounded by the credit, which is less.
            Ok(count) => self.receiving.forwarded(u32::try_from(count).unwrap_or(BUFFER)),
            Err(_) => self.client_left(),
        }
    }

    /// The client takes nothing any more.
    fn client_left(&mut self) {
        self.client_ended |= ended::RECEIVING;
        self.backlog.clear();
        self.receiving.forwarded_all();
    }

    /// The guest sent a packet of this connection, of which the data is in `buffers`.
    pub(super) fn guest_said(
        &mut self,
        header: &Header,
        memory: &GuestMemory,
        buffers: &mut ChainBuffers,
    ) -> Fate {
        let operation = Operation::of(header);
        if operation == Some(Operation::Reset) {
            self.phase = Phase::Orphaned;
            return self.settle();
        }
        if self.sending.heard(header.buffer, header.forwarded).is_err() {
            return Fate::Reset;
        }
        self.credit_requested &= self.sending.credit() == 0;
        match (self.phase, operation) {
            (Phase::Requested, Some(Operation::Response)) => {
                self.phase = Phase::Open;
                let line = format!("OK {}\n", self.host_port);
                // Nothing was sent before, so there is room for all of it.
                match send(&self.client, line.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
                {
                    Ok(count) if count == line.len() => {}
                    _ => return Fate::Reset,
                }
            }
            (Phase::Open, Some(Operation::Data)) => {
                if self.take_data(header.length, memory, buffers).is_err() {
                    return Fate::Reset;
                }
            }
            (Phase::Open, Some(Operation::Shutdown)) => {
                self.guest_ended |= header.flags & ended::BOTH;
                if self.guest_ended & ended::RECEIVING != 0 {
                    // What the client sends is for nobody, and it had better know.
                    let _ = self.client.shutdown(Shutdown::Read);
                    self.client_ended |= ended::SENDING;
                }
            }
            (Phase::Open, Some(Operation::CreditUpdate)) => {}
            (Phase::Open, Some(Operation::CreditRequest)) => self.credit_owed = true,
            _ => return Fate::Reset,
        }
        self.settle()
    }

    fn take_data(
        &mut self,
        length: u32,
        memory: &GuestMemory,
        buffers: &mut ChainBuffers,
    ) -> Result<(), Broken> {
        let bytes = length as usize;
        if self.guest_ended & ended::SENDING != 0 || buffers.readable_length() < bytes {
            return Err(Broken);
        }
        buffers.truncate_readable(bytes);
        self.receiving.received(length).map_err(|_| Broken)?;
        if self.client_ended & ended::RECEIVING != 0 {
            self.receiving.forwarded_all();
            return Ok(());
        }
        if self.backlog.is_empty() && bytes > 0 {
            match buffers.send_to(memory, self.client.as_fd()) {
                Ok(count) => self.receiving.forwarded(u32::try_from(count).unwrap_or(length)),
                Err(error) if is_for_later(&error) => {}
                Err(_) => {
                    self.client_left();
                    return Ok(());
                }
            }
        }
        if buffers.readable_length() > 0 {
            self.backlog.push(memory, buffers).map_err(|_| Broken)?;
        }
        Ok(())
    }

    /// What follows from all that was said so far.
    fn settle(&mut self) -> Fate {
        if !self.backlog.is_empty() {
            return Fate::Lives;
        }
        if matches!(self.phase, Phase::Orphaned) {
            return Fate::Ends;
        }
        if self.guest_ended == ended::BOTH {
            return Fate::Reset;
        }
        let news = self.guest_ended & !self.guest_ended_told;
        if news & ended::SENDING != 0 {
            let _ = self.client.shutdown(Shutdown::Write);
        }
        self.guest_ended_told |= news;
        Fate::Lives
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.backlog.len()
    }

    /// What is to be said to the guest next. Every packet tells the guest its credit.
    pub(super) fn next(&self) -> Option<Next> {
        match self.phase {
            Phase::Wanted => return Some(Next::Control(Operation::Request)),
            Phase::Open => {}
            Phase::Greeting(_) | Phase::Requested | Phase::Orphaned => return None,
        }
        if self.readable && self.client_sends() {
            match self.sending.credit() {
                0 if self.credit_requested => {}
                0 => return Some(Next::Control(Operation::CreditRequest)),
                credit => return Some(Next::Data(credit)),
            }
        }
        let operation = if self.client_ended & !self.client_ended_told != 0 {
            Operation::Shutdown
        } else if self.credit_owed || self.receiving.is_stale() {
            Operation::CreditUpdate
        } else {
            return None;
        };
        Some(Next::Control(operation))
    }

    /// Receives at most `most` bytes from the client into what can be written, if there are any.
    pub(super) fn receive(
        &mut self,
        most: u32,
        memory: &GuestMemory,
        buffers: &mut ChainBuffers,
    ) -> Option<u32> {
        buffers.truncate_writable(most as usize);
        let room = buffers.writable_length();
        match buffers.receive_from(memory, self.client.as_fd()) {
            Ok(count) if count > 0 => {
                // That there is more would be told. But not once the client is gone.
                self.readable = self.hung_up || count == room;
                let count = u32::try_from(count).unwrap_or(most);
                self.sending.sent(count);
                return Some(count);
            }
            Err(error) if is_for_later(&error) && !self.hung_up => {}
            Ok(_) | Err(_) => self.client_ended |= ended::SENDING,
        }
        self.readable = false;
        None
    }

    /// The header of a packet that is about to be said.
    pub(super) fn header(&mut self, operation: Operation, length: u32) -> Header {
        let mut flags = 0;
        match operation {
            Operation::Request => self.phase = Phase::Requested,
            Operation::CreditRequest => self.credit_requested = true,
            Operation::Shutdown => {
                flags = self.client_ended;
                self.client_ended_told = flags;
                if flags == ended::BOTH {
                    self.deadline = Some(Instant::now() + LINGER);
                }
            }
            Operation::Response | Operation::Reset | Operation::Data | Operation::CreditUpdate => {}
        }
        self.credit_owed = false;
        Header {
            source_port: self.host_port,
            destination_port: self.guest_port,
            length,
            operation: operation as u16,
            flags,
            buffer: BUFFER,
            forwarded: self.receiving.tell(),
            ..Header::default()
        }
    }
}

/// The guest broke the connection's rules.
struct Broken;

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
