//! `costrel snapshot prune`.

use clap::Args;

use crate::{config::Config, environment::Environment, failure::Outcome, host, tables};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// All that nothing uses now, however little room they take
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let snapshots = host::snapshots(environment, &Config::read(environment)?)?;
    snapshots.sweep()?;
    let removed = snapshots.prune(if arguments.all { 0 } else { snapshots.limit() })?;
    let freed = removed.iter().map(|entry| entry.allocated_size).sum();
    println!("removed {} ({})", tables::plural(removed.len(), "snapshot"), tables::bytes(freed));
    Ok(())
}
