//! `costrel inspect`: the sandboxes that run.

use clap::Args;

use crate::{
    environment::Environment,
    failure::{Failure, Outcome},
    host,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The beginning of a sandbox's id; all that run, if it is left out
    id: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let mut records = costrel_sandbox::running(&host::sandboxes(environment))?;
    if let Some(id) = &arguments.id {
        records.retain(|record| record.id.starts_with(id.as_str()));
        match records.len() {
            0 => return Err(anyhow::anyhow!("no sandbox runs whose id begins with {id:?}").into()),
            1 => {}
            count => {
                return Err(Failure::usage(format!(
                    "{count} sandboxes run whose ids begin with {id:?}"
                )));
            }
        }
    }
    println!("{}", serde_json::to_string_pretty(&records)?);
    Ok(())
}
