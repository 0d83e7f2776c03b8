//! Where an invocation's time went, drawn to scale.

use std::{fmt::Write as _, time::Duration};

use super::html::{Text, duration};
use crate::{HistoryEntry, HistoryPhase};

/// The kinds of phases, each of a colour of its own, in the order of the legend.
const KINDS: [&str; 7] = ["wait", "stage", "boot", "restore", "init", "handler", "other"];

/// What a phase is for the one who looks at it.
fn kind(phase: &HistoryPhase) -> &'static str {
    match phase.name {
        "wait" => "wait",
        "stage" | "code" | "image" => "stage",
        "boot" | "mount" => "boot",
        "restore" | "wake" | "resume" => "restore",
        "init" | "hooks" => "init",
        "invoke" => "handler",
        _ => "other",
    }
}

/// The name that a phase is shown with.
fn label(phase: &HistoryPhase) -> &'static str {
    if phase.name == "invoke" { "handler" } else { phase.name }
}

/// The whole that the phases are parts of.
fn whole(entry: &HistoryEntry) -> Duration {
    let ends = entry.phases.iter().map(|phase| phase.began + phase.took);
    ends.chain([entry.took]).max().unwrap_or_default().max(Duration::from_nanos(1))
}

fn percent(part: Duration, whole: Duration) -> f64 {
    (part.as_secs_f64() / whole.as_secs_f64() * 100.0).clamp(0.0, 100.0)
}

/// All phases in one bar.
pub(super) fn bar(entry: &HistoryEntry) -> String {
    let whole = whole(entry);
    let mut svg =
        format!("<svg class=\"bar\" role=\"img\" aria-label=\"{}\">", Text(&spoken(entry)));
    svg += "<rect class=\"ground\" width=\"100%\" height=\"100%\"/>";
    for phase in &entry.phases {
        svg += &rectangle(phase, whole, 0, 14);
    }
    svg + "</svg>"
}

/// A bar and a row for each phase.
pub(super) fn rows(entry: &HistoryEntry) -> String {
    let whole = whole(entry);
    let mut table = "<table class=\"waterfall\"><thead><tr><th scope=\"col\">Phase</th>\
                     <th scope=\"col\" class=\"wide\">When</th>\
                     <th scope=\"col\" class=\"number\">Took</th></tr></thead><tbody>"
        .to_owned();
    for phase in &entry.phases {
        let _ = write!(
            table,
            "<tr data-phase=\"{0}\" class=\"{1}\"><th scope=\"row\"><i class=\"dot {1}\"></i>{0}</th>\
             <td><svg class=\"bar\" aria-hidden=\"true\">{2}</svg></td>\
             <td class=\"number\">{3}</td></tr>",
            label(phase),
            kind(phase),
            rectangle(phase, whole, 2, 10),
            duration(phase.took)
        );
    }
    let _ = write!(
        table,
        "<tr class=\"total\"><th scope=\"row\">total</th><td></td><td class=\"number\">{}</td></tr>",
        duration(entry.took)
    );
    table + "</tbody></table>"
}

fn rectangle(phase: &HistoryPhase, whole: Duration, y: u32, height: u32) -> String {
    // Something took place, however short it was.
    let width = percent(phase.took, whole).max(0.4);
    let from = percent(phase.began, whole).min(100.0 - width);
    format!(
        "<rect class=\"{}\" data-phase=\"{}\" x=\"{from:.2}%\" y=\"{y}\" width=\"{width:.2}%\" \
         height=\"{height}\" rx=\"2\"><title>{}: {}</title></rect>",
        kind(phase),
        label(phase),
        label(phase),
        duration(phase.took)
    )
}

/// The same in words.
pub(super) fn spoken(entry: &HistoryEntry) -> String {
    let phases =
        entry.phases.iter().map(|phase| format!("{} {}", label(phase), duration(phase.took)));
    let phases: Vec<String> = phases.collect();
    if phases.is_empty() { "no phases".to_owned() } else { phases.join(", ") }
}

/// What the colours mean.
pub(super) fn legend() -> String {
    let mut list = "<ul class=\"legend\" aria-label=\"Colours\">".to_owned();
    for kind in KINDS {
        let _ = write!(list, "<li><i class=\"dot {kind}\"></i>{kind}</li>");
    }
    list + "</ul>"
}
