//! `costrel doctor`: what this machine can do, and what Costrel uses of it.

use std::path::PathBuf;

use clap::Args;
use costrel_vmm_backends::Standing;

use crate::{
    config::Config,
    environment::Environment,
    failure::{Failure, Outcome},
    host,
    installation::{self, Kernel},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A guest kernel, an ELF vmlinux, in place of the installation's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

struct Finding {
    subject: &'static str,
    standing: Standing,
    text: String,
    advice: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let mut findings = Vec::new();
    let strictness = host::strictness(false, environment, &Config::read(environment)?)?;
    for fact in host::detect(environment, strictness)?.facts() {
        let (subject, standing) = (fact.subject, fact.standing);
        findings.push(Finding { subject, standing, text: fact.finding, advice: fact.advice });
    }
    findings.push(found(
        "kernel",
        installation::kernel(arguments.kernel.as_deref(), environment),
        |kernel| kernel_text(&kernel),
    ));
    findings
        .push(found("agent", installation::agent(environment), |path| path.display().to_string()));
    for (subject, path) in [("data", environment.data()), ("cache", environment.cache())] {
        findings.push(Finding {
            subject,
            standing: Standing::Good,
            text: path.display().to_string(),
            advice: None,
        });
    }
    for finding in &findings {
        let mark = match finding.standing {
            Standing::Good => "ok",
            Standing::Lacking => "--",
            Standing::Failing => "!!",
        };
        println!("{mark}  {:<8} {}", finding.subject, finding.text);
        for line in finding.advice.iter().flat_map(|advice| advice.lines()) {
            println!("             {line}");
        }
    }
    if findings.iter().any(|finding| finding.standing == Standing::Failing) {
        return Err(Failure::Told);
    }
    Ok(())
}

fn found<T>(
    subject: &'static str,
    result: Result<T, Failure>,
    text: impl FnOnce(T) -> String,
) -> Finding {
    match result {
        Ok(value) => Finding { subject, standing: Standing::Good, text: text(value), advice: None },
        Err(Failure::Usage { message, hint }) => {
            Finding { subject, standing: Standing::Failing, text: message, advice: hint }
        }
        Err(Failure::Failed { error, hint }) => {
            Finding { subject, standing: Standing::Failing, text: error.to_string(), advice: hint }
        }
        Err(Failure::Told | Failure::Signal(_)) => {
            Finding { subject, standing: Standing::Failing, text: String::new(), advice: None }
        }
    }
}

fn kernel_text(kernel: &Kernel) -> String {
    let place = format!("{}, {}", kernel.path.display(), kernel.chosen_by);
    match installation::provenance(&kernel.path) {
        Some(origin) => format!(
            "{place}; built from {} {} with configuration {}, by {}",
            origin.source_package,
            origin.source_version,
            origin.config_sha256.get(..12).unwrap_or(&origin.config_sha256),
            origin.compiler
        ),
        None => format!("{place}; nothing is known of its origin"),
    }
}
