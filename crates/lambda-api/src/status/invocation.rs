//! One invocation: its figures, its waterfall, its log.

use std::fmt::Write as _;

use costrel_logs::{LogLine, Source};

use super::{
    html::{Text, duration},
    overview::outcome,
    waterfall,
};
use crate::HistoryEntry;

/// How much of a log is shown, in lines.
const LINES: usize = 2_000;

pub(super) fn content(entry: &HistoryEntry, log: &Result<Vec<LogLine>, String>) -> String {
    let mut html = format!(
        "<nav><a href=\"/_costrel\">← All invocations</a></nav>\
         <h1>{} <small>{}</small></h1><dl class=\"figures\">",
        Text(&entry.function),
        Text(&entry.version)
    );
    let mut figure = |name: &str, value: &str| {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    figure("Outcome", &outcome(&entry.outcome));
    figure("Took", &duration(entry.took));
    figure("Start", entry.start.unwrap_or("–"));
    figure("Asked for as", &entry.mode.name().replace('_', " "));
    figure(
        "At",
        &format!(
            "<time datetime=\"{:.3}\">{}</time>",
            entry.at,
            entry.at.strftime("%Y-%m-%d %H:%M:%S UTC")
        ),
    );
    html += "</dl>";
    let _ = write!(
        html,
        "<p class=\"ids\">Request <code>{}</code><br>Trace <code>{}</code></p>\
         <section aria-labelledby=\"time-title\"><h2 id=\"time-title\">Where its time went</h2>{}</section>\
         <section aria-labelledby=\"log-title\"><h2 id=\"log-title\">Log</h2>{}</section>",
        Text(&entry.request_id),
        Text(&entry.trace_id),
        waterfall::rows(entry),
        lines(log)
    );
    html
}

fn lines(log: &Result<Vec<LogLine>, String>) -> String {
    let log = match log {
        Ok(log) if log.is_empty() => {
            return "<p class=\"empty\">Nothing was logged.</p>".to_owned();
        }
        Ok(log) => log,
        Err(error) => return format!("<p class=\"empty\">{}</p>", Text(error)),
    };
    let mut html = String::new();
    if log.len() > LINES {
        let _ = write!(
            html,
            "<p class=\"empty\">The last {LINES} of {} lines; <code>costrel logs --request</code> \
             shows all.</p>",
            log.len()
        );
    }
    html += "<pre id=\"log\" tabindex=\"0\">";
    for line in &log[log.len().saturating_sub(LINES)..] {
        let class = match line.source {
            Source::Platform => "platform",
            Source::Stdout | Source::Extension => "out",
            Source::Stderr => "err",
            Source::Notice => "notice",
        };
        // Runtimes part the lines of one entry with carriage returns.
        let text = line.text().replace('\r', "\n");
        let _ = writeln!(html, "<span class=\"{class}\">{}</span>", Text(&text));
    }
    html + "</pre>"
}

pub(super) fn unknown(request_id: &str) -> String {
    format!(
        "<nav><a href=\"/_costrel\">← All invocations</a></nav><h1>Unknown invocation</h1>\
         <p class=\"empty\"><code>{}</code> is not among the recent ones. \
         <code>costrel logs --request</code> may still have what it logged.</p>",
        Text(request_id)
    )
}
