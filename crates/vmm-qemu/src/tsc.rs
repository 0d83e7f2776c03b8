//! The rate of the host's time stamp counter, which is the guest's under emulation as well.
//!
//! QEMU answers the guest's `rdtsc` with the host's counter plus an offset, so what a guest must
//! be told (`tsc_early_khz=`) is the host's rate. CPUID leaves 0x15 and 0x16 are not asked: they
//! describe the processor, and a hypervisor below us may scale the counter; nor is `cpu MHz` of
//! `/proc/cpuinfo`, which on most hosts is the clock of this instant.

#![expect(unsafe_code, reason = "reading the time stamp counter is an unsafe intrinsic")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// A clock reading and the counter's value at that moment, to some 50 ns.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    ticks: u64,
}

/// A measurement begun early, so that it is done, at no cost, when its result is wanted.
#[derive(Debug)]
pub(crate) struct TscMeasurement {
    first: Sample,
}

/// Reading errors over this span come to some 20 ppm, less than a quartz is off.
const SPAN: Duration = Duration::from_millis(5);

impl TscMeasurement {
    /// Takes the first sample.
    pub(crate) fn begin() -> Self {
        Self { first: Sample::take() }
    }

    /// The rate in kHz: the kernel's own figure where it publishes one, else the measured one.
    /// Sleeps if the measurement began just now.
    pub(crate) fn khz(&self) -> u64 {
        let published = fs::read_to_string("/sys/devices/system/cpu/cpu0/tsc_freq_khz");
        if let Some(khz) = published.ok().and_then(|text| text.trim().parse().ok()) {
            return khz;
        }
        if let Some(early) = SPAN.checked_sub(self.first.at.elapsed()) {
            thread::sleep(early);
        }
        let last = Sample::take();
        rate(last.ticks.wrapping_sub(self.first.ticks), last.at - self.first.at)
    }
}

fn rate(ticks: u64, span: Duration) -> u64 {
    let khz = u128::from(ticks) * 1_000_000 / span.as_nanos().max(1);
    u64::try_from(khz).unwrap_or(u64::MAX)
}

impl Sample {
    /// The tightest of a few tries: a try during which the thread was preempted is a wide one.
    fn take() -> Self {
        let attempt = || {
            let before = Instant::now();
            // SAFETY: every x86-64 CPU has the instruction; that user space may use it follows
            // from the vDSO's clock, read above, doing so.
            let ticks = unsafe { std::arch::x86_64::_rdtsc() };
            let width = before.elapsed();
            (width, Self { at: before + width / 2, ticks })
        };
        let first = attempt();
        (0..7)
            .fold(first, |best, _| {
                let next = attempt();
                if next.0 < best.0 { next } else { best }
            })
            .1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_the_rate() {
        assert_eq!(rate(2_300_000, Duration::from_millis(1)), 2_300_000);
        assert_eq!(rate(0, Duration::ZERO), 0);
    }

    #[test]
    fn measures_something_a_cpu_can_have() {
        let khz = TscMeasurement::begin().khz();
        assert!((100_000..20_000_000).contains(&khz), "{khz}");
    }
}
