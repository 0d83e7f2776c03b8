//! `costrel snapshot rm`.

use clap::Args;
use costrel_snapshot::SnapshotInfo;
use costrel_store::Removal;

use crate::{
    config::Config,
    environment::Environment,
    failure::{Failure, Outcome},
    host, tables,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The beginnings of their ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let snapshots = host::snapshots(environment, &Config::read(environment)?)?;
    let entries = snapshots.entries()?;
    let meant = arguments.ids.iter().map(|id| find(&entries, id)).collect::<Result<Vec<_>, _>>()?;
    for entry in meant {
        match snapshots.remove(&entry.name)? {
            Removal::InUse => {
                let name = &entry.name;
                return Err(anyhow::anyhow!("the snapshot {name} is in use").into());
            }
            Removal::Removed | Removal::Absent => {
                println!("removed {} ({})", entry.name, tables::bytes(entry.allocated_size));
            }
        }
    }
    Ok(())
}

fn find<'a>(entries: &'a [SnapshotInfo], id: &str) -> Result<&'a SnapshotInfo, Failure> {
    let mut found = entries.iter().filter(|entry| entry.name.as_str().starts_with(id));
    match (found.next(), found.count()) {
        (Some(entry), 0) => Ok(entry),
        (None, _) => {
            Err(anyhow::anyhow!("there is no snapshot whose id begins with {id:?}").into())
        }
        (Some(_), more) => Err(Failure::usage(format!(
            "there are {} snapshots whose ids begin with {id:?}",
            more + 1
        ))),
    }
}
