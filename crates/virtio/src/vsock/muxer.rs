//! All connections, and the two queues for their packets.

use std::{
    collections::{HashMap, VecDeque},
    os::unix::net::UnixStream,
    sync::Arc,
    time::Instant,
};

use vmm_sys_util::epoll::EventSet;

use super::{
    connection::{Connection, Fate, Next},
    packet::{HOST_CID, Header, Operation, STREAM},
};
use crate::{ActiveQueues, ChainBuffers, ChainError, Fault, GuestMemory, Poller, Token};

/// The most connections at a time, those included that have not said yet where they want to go.
pub(super) const MOST_CONNECTIONS: usize = 1023;
/// The queue of packets for the guest.
pub(super) const RECEIVE: usize = 0;
/// The queue of packets from the guest.
pub(super) const TRANSMIT: usize = 1;

/// The host's ports, each for one connection. They are also its token.
const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = (1 << 31) - 1;
/// How many packets are served before the device listens to others.
const PACKETS_AT_ONCE: usize = 256;
/// How many RSTs for connections that there are not may wait before the guest is not heard any more.
const MOST_STRAYS: usize = 64;

#[derive(Debug)]
pub(super) struct Muxer {
    guest_cid: u64,
    next_port: u32,
    connections: HashMap<u32, Connection>,
    /// Those that have something to say, each once.
    line: VecDeque<u32>,
    /// RSTs for connections that there are not, or no more. Bounded by [`MOST_STRAYS`] and what
    /// connections there are: they go first, so none can be asked for in the guest meanwhile.
    strays: VecDeque<Header>,
    /// Whether packets of the guest's wait until there are fewer strays.
    deaf: bool,
    /// Whether the guest may have to confirm a connection's end.
    lingering: bool,
    received: ChainBuffers,
    transmitted: ChainBuffers,
}

impl Muxer {
    pub(super) fn new(guest_cid: u64, next_port: u32) -> Self {
        Self {
            guest_cid,
            next_port: next_port.clamp(FIRST_PORT, LAST_PORT),
            connections: HashMap::new(),
            line: VecDeque::new(),
            strays: VecDeque::new(),
            deaf: false,
            lingering: false,
            received: ChainBuffers::default(),
            transmitted: ChainBuffers::default(),
        }
    }

    pub(super) fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    pub(super) fn next_port(&self) -> u32 {
        self.next_port
    }

    /// Takes in a client, unless there are too many.
    pub(super) fn admit(&mut self, client: UnixStream, poller: &Poller) {
        if self.connections.len() >= MOST_CONNECTIONS {
            return;
        }
        let port = self.free_port();
        self.connections.insert(port, Connection::new(client, port));
        self.conclude(port, Fate::Lives, poller);
    }

    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = if port == LAST_PORT { FIRST_PORT } else { port + 1 };
            // There are far more ports than connections.
            if !self.connections.contains_key(&port) {
                return port;
            }
        }
    }

    /// Something happened to a client's socket.
    pub(super) fn stirred(&mut self, port: u32, events: EventSet, poller: &Poller) {
        // It may have been there when the events were asked for.
        let Some(connection) = self.connections.get_mut(&port) else { return };
        let fate = connection.client_stirred(events);
        self.conclude(port, fate, poller);
    }

    /// Takes packets from the guest, as many as is good for the others.
    pub(super) fn take(&mut self, active: &mut ActiveQueues, poller: &Poller) -> Result<(), Fault> {
        let memory = Arc::clone(&active.memory);
        let mut buffers = std::mem::take(&mut self.transmitted);
        self.deaf = false;
        for _ in 0..PACKETS_AT_ONCE {
            if self.strays.len() >= MOST_STRAYS {
                self.deaf = true;
                break;
            }
            let Some(head) = active.pop(TRANSMIT, &memory, &mut buffers)? else {
                active.notify(TRANSMIT)?;
                if active.listen(TRANSMIT)? {
                    continue;
                }
                self.transmitted = buffers;
                return Ok(());
            };
            let header = buffers.take(&memory).map_err(|source| broken(TRANSMIT, source))?;
            self.hear(&Header::decode(&header), &memory, &mut buffers, poller);
            active.give_back(TRANSMIT, head, 0)?;
        }
        self.transmitted = buffers;
        if !self.deaf {
            active.come_back(TRANSMIT);
        }
        active.notify(TRANSMIT)
    }

    fn hear(
        &mut self,
        header: &Header,
        memory: &GuestMemory,
        buffers: &mut ChainBuffers,
        poller: &Poller,
    ) {
        // Who claims to be somebody else gets no answer: it would not know what to do with it.
        if header.source_cid != self.guest_cid {
            return;
        }
        let port = header.destination_port;
        let connection = self.connections.get_mut(&port).filter(|connection| {
            header.destination_cid == HOST_CID
                && header.kind == STREAM
                && connection.guest_port() == Some(header.source_port)
        });
        if let Some(connection) = connection {
            let fate = connection.guest_said(header, memory, buffers);
            self.conclude(port, fate, poller);
        } else if Operation::of(header) != Some(Operation::Reset) {
            self.strays.push_back(Header {
                source_cid: header.destination_cid,
                destination_cid: header.source_cid,
                source_port: header.destination_port,
                destination_port: header.source_port,
                kind: header.kind,
                operation: Operation::Reset as u16,
                ..Header::default()
            });
        }
    }

    /// Gives packets to the guest, one connection after the other, while it has buffers for them.
    /// When it has none, it says so by kicking that queue once it has.
    pub(super) fn give(&mut self, active: &mut ActiveQueues, poller: &Poller) -> Result<(), Fault> {
        let memory = Arc::clone(&active.memory);
        let mut left = PACKETS_AT_ONCE;
        while !self.strays.is_empty() || !self.line.is_empty() {
            if left == 0 {
                active.come_back(RECEIVE);
                break;
            }
            left -= 1;
            let Some(head) = active.pop(RECEIVE, &memory, &mut self.received)? else {
                if active.listen(RECEIVE)? {
                    continue;
                }
                break;
            };
            // The header is known only when it is known how many bytes follow it.
            let aside = self.received.set_aside(Header::BYTES);
            aside.map_err(|source| broken(RECEIVE, source))?;
            let header = match self.strays.pop_front() {
                Some(stray) => Some(stray),
                None => self.take_turn(&memory, poller)?,
            };
            if let Some(header) = header {
                self.received.put_aside(&memory, &header.encode());
                let written = u32::try_from(Header::BYTES).unwrap_or(0) + header.length;
                active.give_back(RECEIVE, head, written)?;
            } else {
                active.put_back(RECEIVE);
            }
        }
        if self.deaf && self.strays.len() < MOST_STRAYS {
            active.come_back(TRANSMIT);
        }
        active.notify(RECEIVE)
    }

    /// Has the first in line say one thing, if it still has something to say.
    fn take_turn(
        &mut self,
        memory: &GuestMemory,
        poller: &Poller,
    ) -> Result<Option<Header>, Fault> {
        let Some(port) = self.line.pop_front() else { return Ok(None) };
        let Some(connection) = self.connections.get_mut(&port) else { return Ok(None) };
        connection.queued = false;
        let mut header = None;
        if let Some(Next::Data(most)) = connection.next() {
            if self.received.writable_length() == 0 {
                return Err(broken(RECEIVE, ChainError::TooShort));
            }
            header = connection
                .receive(most, memory, &mut self.received)
                .map(|count| connection.header(Operation::Data, count));
        }
        // There may have been no data after all, but an end.
        if header.is_none()
            && let Some(Next::Control(operation)) = connection.next()
        {
            header = Some(connection.header(operation, 0));
        }
        let header = header.map(|header| Header {
            source_cid: HOST_CID,
            destination_cid: self.guest_cid,
            kind: STREAM,
            ..header
        });
        self.lingering |= connection.deadline().is_some();
        self.conclude(port, Fate::Lives, poller);
        Ok(header)
    }

    /// Does what follows from what a connection has come to.
    fn conclude(&mut self, port: u32, fate: Fate, poller: &Poller) {
        let Some(connection) = self.connections.get_mut(&port) else { return };
        let mut fate = fate;
        if fate == Fate::Lives {
            if !connection.queued && connection.next().is_some() {
                connection.queued = true;
                self.line.push_back(port);
            }
            if wait(connection, Token(port), poller).is_ok() {
                return;
            }
            // Out of memory for it: better no connection than one that hangs.
            fate = Fate::Reset;
        }
        if let (Fate::Reset, Some(guest_port)) = (fate, connection.guest_port()) {
            self.strays.push_back(Header {
                source_cid: HOST_CID,
                destination_cid: self.guest_cid,
                source_port: port,
                destination_port: guest_port,
                kind: STREAM,
                operation: Operation::Reset as u16,
                ..Header::default()
            });
        }
        if connection.interest.is_some() {
            let _ = poller.remove(connection.fd());
        }
        if connection.queued {
            self.line.retain(|&other| other != port);
        }
        self.connections.remove(&port);
    }

    /// Whether [`Muxer::tick`] has to be called in a while.
    pub(super) fn is_lingering(&self) -> bool {
        self.lingering
    }

    /// Ends the connections whose end the guest has not confirmed in time.
    pub(super) fn tick(&mut self, now: Instant, poller: &Poller) {
        let late = |connection: &Connection| connection.deadline().is_some_and(|end| end <= now);
        let ports = self.connections.iter().filter(|(_, connection)| late(connection));
        for port in ports.map(|(&port, _)| port).collect::<Vec<_>>() {
            self.conclude(port, Fate::Reset, poller);
        }
        self.lingering =
            self.connections.values().any(|connection| connection.deadline().is_some());
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.connections.values().map(Connection::held).sum()
    }

    /// Ends all connections without a word to the guest.
    pub(super) fn clear(&mut self, poller: &Poller) {
        for connection in self.connections.values().filter(|it| it.interest.is_some()) {
            let _ = poller.remove(connection.fd());
        }
        *self = Self::new(self.guest_cid, self.next_port);
    }
}

/// Waits for what the connection wants.
fn wait(connection: &mut Connection, token: Token, poller: &Poller) -> std::io::Result<()> {
    let wanted = connection.wanted_interest();
    if wanted == connection.interest {
        return Ok(());
    }
    match (connection.interest, wanted) {
        (None, Some(events)) => poller.add(connection.fd(), token, events)?,
        (Some(_), Some(events)) => poller.modify(connection.fd(), token, events)?,
        (_, None) => poller.remove(connection.fd())?,
    }
    connection.interest = wanted;
    Ok(())
}

fn broken(queue: usize, source: ChainError) -> Fault {
    Fault::Chain { queue, source }
}
