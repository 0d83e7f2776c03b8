//! How many invocations may be under way at a time.

use std::collections::HashMap;

use crate::Throttle;

/// Counts invocations, those that wait among them, against the account's concurrency and what of
/// it is reserved.
#[derive(Debug)]
pub(crate) struct Concurrency {
    limit: u32,
    reserved: HashMap<String, u32>,
    /// Only functions with invocations under way.
    running: HashMap<String, u32>,
}

impl Concurrency {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, reserved: HashMap::new(), running: HashMap::new() }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// All invocations under way.
    pub(crate) fn total(&self) -> u32 {
        self.running.values().sum()
    }

    pub(crate) fn reserve(&mut self, function: &str, reserved: Option<u32>) {
        match reserved {
            Some(reserved) => self.reserved.insert(function.to_owned(), reserved),
            None => self.reserved.remove(function),
        };
    }

    /// Counts an invocation in, unless there is no room for it.
    pub(crate) fn enter(&mut self, function: &str) -> Result<(), Throttle> {
        let running = self.running.get(function).copied().unwrap_or(0);
        match self.reserved.get(function) {
            Some(reserved) if running >= *reserved => return Err(Throttle::ReservedConcurrency),
            Some(_) => {}
            None => {
                // Few functions run at a time, compared to how many there are.
                let others =
                    self.running.iter().filter(|(name, _)| !self.reserved.contains_key(*name));
                let unreserved: u32 = others.map(|(_, count)| count).sum();
                let reserved =
                    self.reserved.values().fold(0, |sum: u32, it| sum.saturating_add(*it));
                if unreserved >= self.limit.saturating_sub(reserved) {
                    return Err(Throttle::AccountConcurrency);
                }
            }
        }
        self.running.insert(function.to_owned(), running + 1);
        Ok(())
    }

    /// Counts one out that was counted in.
    pub(crate) fn leave(&mut self, function: &str) {
        let Some(running) = self.running.get_mut(function) else { return };
        *running -= 1;
        if *running == 0 {
            self.running.remove(function);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_nobody_elses() {
        let mut concurrency = Concurrency::new(3);
        concurrency.reserve("a", Some(2));
        assert_eq!(concurrency.enter("b"), Ok(()));
        assert_eq!(concurrency.enter("b"), Err(Throttle::AccountConcurrency));
        assert_eq!(concurrency.enter("c"), Err(Throttle::AccountConcurrency));
        assert_eq!(concurrency.enter("a"), Ok(()));
        assert_eq!(concurrency.enter("a"), Ok(()));
        assert_eq!(concurrency.enter("a"), Err(Throttle::ReservedConcurrency));
        assert_eq!(concurrency.total(), 3);
        concurrency.leave("a");
        assert_eq!(concurrency.enter("a"), Ok(()));
        concurrency.leave("b");
        assert_eq!(concurrency.enter("c"), Ok(()));
    }

    #[test]
    fn none_reserved_is_none_allowed() {
        let mut concurrency = Concurrency::new(3);
        concurrency.reserve("a", Some(0));
        assert_eq!(concurrency.enter("a"), Err(Throttle::ReservedConcurrency));
        concurrency.reserve("a", None);
        assert_eq!(concurrency.enter("a"), Ok(()));
    }

    #[test]
    fn a_reservation_of_more_than_there_is_leaves_nothing_to_others() {
        let mut concurrency = Concurrency::new(3);
        concurrency.reserve("a", Some(u32::MAX));
        concurrency.reserve("b", Some(7));
        assert_eq!(concurrency.enter("c"), Err(Throttle::AccountConcurrency));
    }
}
