//! The page's content: functions, instances, recent invocations.

use std::fmt::Write as _;

use costrel_fleet::{FleetStatus, InstanceState};
use jiff::Timestamp;

use super::{
    FunctionOrigin, FunctionRow, Shown,
    html::{Segment, Text, age, duration, memory},
    waterfall,
};
use crate::{HistoryEntry, HistoryOutcome};

/// How many of the recent invocations are shown.
const SHOWN: usize = 50;

/// How many functions and instances are shown.
const ROWS: usize = 500;

pub(super) fn content(shown: &Shown) -> String {
    let functions = shown.source.functions();
    let fleet = shown.source.fleet();
    let recent = shown.history.recent();
    let mut html = figures(&functions, &fleet);
    html += &invocations(recent.iter().map(AsRef::as_ref).take(SHOWN));
    html += &instances(&fleet);
    html + &function_table(&functions)
}

fn figures(functions: &[FunctionRow], fleet: &FleetStatus) -> String {
    let waiting: usize = fleet.waiting.iter().map(|(_, count)| count).sum();
    let figure = |id: &str, name: &str, value: String, of: String| {
        format!("<div id=\"{id}\"><dt>{name}</dt><dd>{value}<small>{of}</small></dd></div>")
    };
    let mut html = "<dl class=\"figures\">".to_owned();
    html += &figure("figure-functions", "Functions", functions.len().to_string(), String::new());
    html +=
        &figure("figure-instances", "Instances", fleet.instances.len().to_string(), String::new());
    html += &figure(
        "figure-concurrency",
        "Under way",
        fleet.concurrency.to_string(),
        format!(" of {}", fleet.concurrency_limit),
    );
    html += &figure("figure-waiting", "Waiting", waiting.to_string(), String::new());
    html += &figure(
        "figure-memory",
        "Machines’ memory",
        memory(fleet.memory),
        format!(" of {}", memory(fleet.memory_limit)),
    );
    html + "</dl>"
}

/// A section with a table, or with what stands in place of an empty one.
fn section(id: &str, title: &str, head: &[(&str, &str)], rows: &[String], empty: &str) -> String {
    let mut html =
        format!("<section aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title}</h2>");
    if rows.is_empty() {
        let _ = write!(html, "<p class=\"empty\">{empty}</p>");
    } else {
        let _ = write!(html, "<div class=\"scroll\"><table id=\"{id}\"><thead><tr>");
        for (name, class) in head {
            let _ = write!(html, "<th scope=\"col\" class=\"{class}\">{name}</th>");
        }
        html += "</tr></thead><tbody>";
        rows.iter().take(ROWS).for_each(|row| html += row);
        html += "</tbody></table></div>";
        if rows.len() > ROWS {
            let _ = write!(html, "<p class=\"empty\">and {} more</p>", rows.len() - ROWS);
        }
    }
    html + "</section>"
}

fn invocations<'a>(recent: impl Iterator<Item = &'a HistoryEntry>) -> String {
    let rows: Vec<String> = recent.map(invocation).collect();
    let head = [
        ("When", ""),
        ("Function", ""),
        ("Start", ""),
        ("Where its time went", "wide"),
        ("Took", "number"),
        ("Outcome", ""),
    ];
    let legend = if rows.is_empty() { String::new() } else { waterfall::legend() };
    section("invocations", "Recent invocations", &head, &rows, "None yet.") + &legend
}

/// When it was, on the wall: unlike how long ago, that does not change with every look.
fn when(at: Timestamp) -> String {
    format!("<time datetime=\"{at:.3}\">{}</time>", at.strftime("%H:%M:%S UTC"))
}

fn invocation(entry: &HistoryEntry) -> String {
    let link = Segment(&entry.request_id);
    format!(
        "<tr data-request=\"{}\"><td>{}</td><th scope=\"row\"><a href=\"/_costrel/invocations/{link}\">{}</a> \
         <small>{}</small></th><td>{}</td><td>{}</td><td class=\"number\">{}</td><td>{}</td></tr>",
        Text(&entry.request_id),
        when(entry.at),
        Text(&entry.function),
        Text(&entry.version),
        entry.start.unwrap_or("–"),
        waterfall::bar(entry),
        duration(entry.took),
        outcome(&entry.outcome)
    )
}

pub(super) fn outcome(outcome: &HistoryOutcome) -> String {
    match outcome {
        HistoryOutcome::Succeeded => "<span class=\"badge good\">ok</span>".to_owned(),
        HistoryOutcome::FunctionError(kind) if kind.is_empty() => {
            "<span class=\"badge bad\">error</span>".to_owned()
        }
        HistoryOutcome::FunctionError(kind) => {
            format!("<span class=\"badge bad\">{}</span>", Text(kind))
        }
        HistoryOutcome::Refused(name) => {
            format!("<span class=\"badge warn\">{}</span>", Text(name))
        }
    }
}

fn instances(fleet: &FleetStatus) -> String {
    let mut rows = Vec::new();
    for instance in &fleet.instances {
        let (state, class, request) = match &instance.state {
            InstanceState::Starting => ("starting", "warn", None),
            InstanceState::Busy(request) => ("busy", "good", Some(request)),
            InstanceState::Idle => ("idle", "calm", None),
            InstanceState::Stopping => ("stopping", "warn", None),
        };
        let request = request.map(|id| format!(" <small>{}</small>", Text(id))).unwrap_or_default();
        let provisioned = if instance.provisioned { " <small>provisioned</small>" } else { "" };
        rows.push(format!(
            "<tr data-instance=\"{id}\"><th scope=\"row\">{function} <small>{version}</small></th>\
             <td><span class=\"badge {class}\">{state}</span>{request}{provisioned}</td>\
             <td class=\"number\">{since}</td><td class=\"number\">{memory}</td>\
             <td><code>{id}</code></td></tr>",
            id = instance.id,
            function = Text(&instance.version.function),
            version = Text(&instance.version.version),
            since = age(instance.since.elapsed()),
            memory = memory(instance.memory),
        ));
    }
    for (version, count) in &fleet.waiting {
        rows.push(format!(
            "<tr data-waiting=\"{count}\"><th scope=\"row\">{} <small>{}</small></th>\
             <td><span class=\"badge warn\">{count} waiting</span></td><td></td><td></td><td></td></tr>",
            Text(&version.function),
            Text(&version.version),
        ));
    }
    let head = [
        ("Function", ""),
        ("State", ""),
        ("Since", "number"),
        ("Memory", "number"),
        ("Instance", ""),
    ];
    section("instances", "Instances and queues", &head, &rows, "No machine runs.")
}

fn function_table(functions: &[FunctionRow]) -> String {
    let head = [
        ("Function", ""),
        ("State", ""),
        ("Runtime", ""),
        ("Memory", "number"),
        ("Timeout", "number"),
        ("Versions", ""),
        ("Aliases", ""),
        ("URL", ""),
    ];
    let rows: Vec<String> = functions.iter().map(function).collect();
    let empty = "None yet: <code>aws lambda create-function</code> makes one, \
                 <code>costrel serve PATH</code> declares some.";
    section("functions", "Functions", &head, &rows, empty)
}

fn function(function: &FunctionRow) -> String {
    let class = match &*function.state {
        "Active" => "good",
        "Failed" => "bad",
        _ => "warn",
    };
    let declared = match function.origin {
        FunctionOrigin::Declared => " <small>declared</small>",
        FunctionOrigin::Created => "",
    };
    let versions = match &function.versions[..] {
        [] => "$LATEST".to_owned(),
        [one] => format!("$LATEST, {one}"),
        [.., last] => {
            format!("$LATEST, {last} <small>and {} before</small>", function.versions.len() - 1)
        }
    };
    let aliases = function
        .aliases
        .iter()
        .map(|(alias, version)| format!("{} <small>→ {}</small>", Text(alias), Text(version)));
    let url = match &function.url {
        // Another scheme is none that this server has made.
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            format!("<a href=\"{0}\" rel=\"noreferrer\">{0}</a>", Text(url))
        }
        _ => "–".to_owned(),
    };
    format!(
        "<tr data-function=\"{name}\"><th scope=\"row\">{name}{declared}</th>\
         <td><span class=\"badge {class}\">{state}</span></td><td>{runtime}</td>\
         <td class=\"number\">{memory} MB</td><td class=\"number\">{timeout} s</td>\
         <td>{versions}</td><td>{aliases}</td><td>{url}</td></tr>",
        name = Text(&function.name),
        state = Text(&function.state),
        runtime = Text(&function.runtime),
        memory = function.memory,
        timeout = function.timeout,
        aliases = if function.aliases.is_empty() {
            "–".to_owned()
        } else {
            aliases.collect::<Vec<_>>().join(", ")
        },
    )
}
