//! `--timings`: where the time went, drawn to scale.

use std::time::{Duration, Instant};

use costrel_functions::Timeline;

const WIDTH: usize = 48;

/// Prints one line a phase to standard error.
pub(super) fn print(timeline: &Timeline) {
    for line in draw(timeline) {
        eprintln!("{line}");
    }
}

fn draw(timeline: &Timeline) -> Vec<String> {
    let phases = timeline.phases();
    let Some(began) = phases.iter().map(|phase| phase.began).min() else { return Vec::new() };
    let ended = phases.iter().map(|phase| phase.ended).max().unwrap_or(began);
    let total = ended - began;
    let column = |at: Instant| scale(at - began, total);
    let mut lines: Vec<String> = phases
        .iter()
        .map(|phase| {
            let (from, to) = (column(phase.began), column(phase.ended));
            // Something took place, however short it was.
            let from = from.min(WIDTH - 1);
            let bar = format!("{}{}", " ".repeat(from), "█".repeat((to - from.min(to)).max(1)));
            format!(
                "  {:<8} ▏{bar:<WIDTH$} {:>9.1} ms",
                phase.name,
                milliseconds(phase.ended - phase.began)
            )
        })
        .collect();
    lines.push(format!("  {:<8} ▏{:<WIDTH$} {:>9.1} ms", "total", "", milliseconds(total)));
    lines
}

fn scale(part: Duration, whole: Duration) -> usize {
    let columns = part.as_nanos() * WIDTH as u128 / whole.as_nanos().max(1);
    usize::try_from(columns).unwrap_or(WIDTH).min(WIDTH)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_drawn_to_scale() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut timeline = Timeline::default();
        timeline.add("stage", at(0), at(0));
        timeline.add("boot", at(0), at(50));
        timeline.add("invoke", at(50), at(100));
        let lines = draw(&timeline);
        assert_eq!(lines[0], format!("  stage    ▏█{}       0.0 ms", " ".repeat(47)));
        assert_eq!(
            lines[1],
            format!("  boot     ▏{}{}      50.0 ms", "█".repeat(24), " ".repeat(24))
        );
        assert_eq!(
            lines[2],
            format!("  invoke   ▏{}{}      50.0 ms", " ".repeat(24), "█".repeat(24))
        );
        assert!(lines[3].ends_with(" 100.0 ms"));
        assert!(draw(&Timeline::default()).is_empty());
    }
}
