//! `costrel snapshot ls`.

use std::time::SystemTime;

use clap::Args;
use costrel_snapshot::SnapshotInfo;

use crate::{config::Config, environment::Environment, failure::Outcome, host, tables};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print ids whole
    #[arg(long)]
    no_trunc: bool,
    /// Tell all that each snapshot depends on, as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let entries = host::snapshots(environment, &Config::read(environment)?)?.entries()?;
    if arguments.json {
        let entries: Vec<_> = entries.iter().map(json).collect();
        println!("{}", serde_json::to_string_pretty(&entries)?);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let id = entry.name.as_str();
            vec![
                if arguments.no_trunc { id } else { &id[..id.len().min(12)] }.to_owned(),
                fact(entry, "function"),
                fact(entry, "backend"),
                tables::age(entry.created),
                tables::age(Some(entry.last_used)),
                tables::bytes(entry.allocated_size),
                tables::bytes(entry.apparent_size),
            ]
        })
        .collect();
    let header = ["ID", "FUNCTION", "BACKEND", "TAKEN", "USED", "ALLOCATED", "APPARENT"];
    tables::print(&header, &rows);
    Ok(())
}

fn fact(entry: &SnapshotInfo, name: &str) -> String {
    let fact = entry.facts.iter().find(|fact| fact.name == name);
    fact.map_or_else(|| "-".to_owned(), |fact| fact.value.clone())
}

fn json(entry: &SnapshotInfo) -> serde_json::Value {
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH).map(|passed| passed.as_secs()).unwrap_or(0)
    };
    let facts: serde_json::Map<_, _> =
        entry.facts.iter().map(|fact| (fact.name.clone(), fact.value.clone().into())).collect();
    serde_json::json!({
        "id": entry.name.as_str(),
        "takenAt": entry.created.map(seconds),
        "usedAt": seconds(entry.last_used),
        "allocatedBytes": entry.allocated_size,
        "apparentBytes": entry.apparent_size,
        "facts": facts,
    })
}
