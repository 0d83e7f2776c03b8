//! Which event is next.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::SystemTime,
};

use tokio::time::Instant;

use crate::{EventSettings, entry::Progress};

/// What is known of an event without reading its entry.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Its entry.
    pub(crate) id: String,
    pub(crate) function: String,
    /// When the event was accepted.
    pub(crate) accepted: SystemTime,
    /// After how many attempts in a row the function has not run.
    pub(crate) refused: u32,
    /// How far it has come, where that could not be written down.
    pub(crate) unnoted: Option<Progress>,
    /// Whether its outcome has been told, so that it only is to be removed.
    pub(crate) told: bool,
}

/// Events that wait, and how many run. Functions take turns.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// By function; none is empty.
    ready: HashMap<String, VecDeque<Ticket>>,
    /// The functions that have events ready, the one whose turn is next first.
    turns: VecDeque<String>,
    delayed: BTreeMap<(Instant, u64), Ticket>,
    running: HashMap<String, usize>,
    sequence: u64,
}

impl Ticket {
    pub(crate) fn new(id: String, function: String, accepted: SystemTime) -> Self {
        Self { id, function, accepted, refused: 0, unnoted: None, told: false }
    }
}

impl Schedule {
    /// An event is to run as soon as it can.
    pub(crate) fn add(&mut self, ticket: Ticket) {
        let queue = self.ready.entry(ticket.function.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(ticket.function.clone());
        }
        queue.push_back(ticket);
    }

    /// An event is to run at that time.
    pub(crate) fn add_later(&mut self, ticket: Ticket, due: Instant) {
        self.sequence += 1;
        self.delayed.insert((due, self.sequence), ticket);
    }

    /// When the next one is due that is not yet.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.delayed.keys().next().map(|(due, _)| *due)
    }

    /// The next one to run now. [`Schedule::ended`] follows.
    pub(crate) fn take(&mut self, now: Instant, settings: &EventSettings) -> Option<Ticket> {
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            let ticket = entry.remove();
            self.add(ticket);
        }
        if self.running() >= settings.concurrency {
            return None;
        }
        for _ in 0..self.turns.len() {
            let function = self.turns.pop_front()?;
            let running = self.running.get(&function).copied().unwrap_or(0);
            let Some(queue) = self.ready.get_mut(&function) else { continue };
            if running >= settings.concurrency_per_function {
                self.turns.push_back(function);
                continue;
            }
            let ticket = queue.pop_front();
            if queue.is_empty() {
                self.ready.remove(&function);
            } else {
                self.turns.push_back(function.clone());
            }
            self.running.insert(function, running + 1);
            return ticket;
        }
        None
    }

    /// One of that function runs no more.
    pub(crate) fn ended(&mut self, function: &str) {
        if let Some(running) = self.running.get_mut(function) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(function);
            }
        }
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.running.values().sum()
    }

    /// When the oldest one that waits was accepted.
    pub(crate) fn oldest(&self) -> Option<SystemTime> {
        let ready = self.ready.values().flatten();
        ready.chain(self.delayed.values()).map(|ticket| ticket.accepted).min()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.delayed.len() + self.ready.values().map(VecDeque::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &mut Schedule, settings: &EventSettings) -> Option<String> {
        schedule.take(Instant::now(), settings).map(|ticket| ticket.id)
    }

    #[test]
    fn functions_take_turns_within_the_limits() {
        let settings = EventSettings {
            concurrency: 4,
            concurrency_per_function: 3,
            ..EventSettings::default()
        };
        let mut schedule = Schedule::default();
        for id in ["a1", "a2", "a3", "a4", "a5", "b1"] {
            schedule.add(Ticket::new(id.to_owned(), id[..1].to_owned(), SystemTime::UNIX_EPOCH));
        }
        let mut take = || next(&mut schedule, &settings);
        assert_eq!([take(), take()], [Some("a1".to_owned()), Some("b1".to_owned())]);
        assert_eq!([take(), take()], [Some("a2".to_owned()), Some("a3".to_owned())]);
        assert_eq!(take(), None, "four run");
        schedule.ended("b");
        assert_eq!(next(&mut schedule, &settings), None, "three of one function run");
        schedule.ended("a");
        assert_eq!(next(&mut schedule, &settings).as_deref(), Some("a4"));
        assert_eq!((schedule.running(), schedule.waiting()), (3, 1));
    }

    #[test]
    fn what_is_due_earlier_comes_earlier() {
        let settings = EventSettings::default();
        let mut schedule = Schedule::default();
        let now = Instant::now();
        let second = std::time::Duration::from_secs(1);
        let ticket = |id: &str, accepted| Ticket::new(id.to_owned(), "f".to_owned(), accepted);
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(schedule.oldest(), None);
        schedule.add_later(ticket("late", epoch), now + 2 * second);
        schedule.add_later(ticket("early", epoch + second), now + second);
        assert_eq!(schedule.oldest(), Some(epoch));
        assert!(schedule.take(now, &settings).is_none());
        assert_eq!(schedule.next_due(), Some(now + second));
        let ids: Vec<_> = std::iter::from_fn(|| schedule.take(now + 2 * second, &settings))
            .map(|ticket| ticket.id)
            .collect();
        assert_eq!(ids, ["early", "late"]);
    }
}
