//! Who may send how much (virtio 1.2, 5.10.6.3). All counts are of bytes, modulo 2³².

/// What a connection holds for its client at most, and says to the guest that it does.
pub(super) const BUFFER: u32 = 256 * 1024;
/// How much room the guest may not know of before it is told without having asked.
const UNTOLD: u32 = BUFFER / 4;

/// The guest broke the rules of credit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Violation;

/// What goes to the guest.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Sending {
    sent: u32,
    /// What the guest said last.
    buffer: u32,
    forwarded: u32,
}

impl Sending {
    /// What the guest says with each packet.
    pub(super) fn heard(&mut self, buffer: u32, forwarded: u32) -> Result<(), Violation> {
        // It can neither let go of what it never got, nor get back what it let go of.
        if forwarded.wrapping_sub(self.forwarded) > self.in_flight() {
            return Err(Violation);
        }
        *self = Self { sent: self.sent, buffer, forwarded };
        Ok(())
    }

    /// How many bytes may be sent. A guest may take back room that it gave.
    pub(super) fn credit(&self) -> u32 {
        self.buffer.saturating_sub(self.in_flight())
    }

    pub(super) fn sent(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    fn in_flight(&self) -> u32 {
        self.sent.wrapping_sub(self.forwarded)
    }
}

/// What comes from the guest.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Receiving {
    received: u32,
    forwarded: u32,
    told: u32,
}

impl Receiving {
    /// The guest sent so many bytes.
    pub(super) fn received(&mut self, count: u32) -> Result<(), Violation> {
        let held = self.received.wrapping_sub(self.forwarded);
        if count > BUFFER - held {
            return Err(Violation);
        }
        self.received = self.received.wrapping_add(count);
        Ok(())
    }

    /// So many of them are not held any more.
    pub(super) fn forwarded(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
    }

    /// None of them is.
    pub(super) fn forwarded_all(&mut self) {
        self.forwarded = self.received;
    }

    /// What a packet to the guest says.
    pub(super) fn tell(&mut self) -> u32 {
        self.told = self.forwarded;
        self.told
    }

    /// Whether the guest has to be told, even if there is nothing else to say. As at most so much is
    /// untold, a guest that waits for credit always gets some when the client reads.
    pub(super) fn is_stale(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= UNTOLD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_let_go_of_what_it_never_got() {
        let mut sending = Sending::default();
        sending.heard(100, 0).unwrap();
        sending.sent(60);
        assert_eq!(sending.credit(), 40);
        sending.heard(100, 50).unwrap();
        assert_eq!(sending.heard(100, 49), Err(Violation));
        assert_eq!(sending.heard(100, 61), Err(Violation));
        sending.heard(5, 60).unwrap();
        assert_eq!(sending.credit(), 5);
    }

    #[test]
    fn a_guest_that_takes_room_back_gets_nothing_more() {
        let mut sending = Sending::default();
        sending.heard(100, 0).unwrap();
        sending.sent(60);
        sending.heard(10, 0).unwrap();
        assert_eq!(sending.credit(), 0);
    }

    #[test]
    fn counts_wrap_around() {
        let mut sending = Sending { sent: u32::MAX - 5, buffer: 100, forwarded: u32::MAX - 5 };
        sending.sent(20);
        assert_eq!(sending.credit(), 80);
        sending.heard(100, 14).unwrap();
        assert_eq!(sending.credit(), 100);

        let mut receiving = Receiving { received: u32::MAX, forwarded: u32::MAX, told: u32::MAX };
        receiving.received(BUFFER).unwrap();
        assert_eq!(receiving.received(1), Err(Violation));
        receiving.forwarded(BUFFER);
        assert!(receiving.is_stale());
        assert_eq!(receiving.tell(), BUFFER - 1);
        assert!(!receiving.is_stale());
    }
}
