//! `costrel invoke`: one function, one invocation, one virtual machine.

mod event;
mod function;
mod waterfall;

use std::{
    io::{Write as _, stdout},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use clap::{Args, ValueEnum};
use costrel_functions::{FunctionError, Instance, Invocation, Reply, Stage, Timeline};
use costrel_image::{Platform, PullPolicy};

use super::serve::{Machines, stay_open};
use crate::{
    config::Config,
    environment::Environment,
    failure::{Failure, Outcome},
    host,
    log_printer::{CarriageReturns, LogPrinter},
    progress::Progress,
    tables,
};

/// What `costrel invoke` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The runtime, such as python3.12, nodejs22.x or provided.al2023
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// The image to run the function from: a reference, oci:DIR[:TAG], oci-archive:FILE or
    /// docker-archive:FILE. With --runtime, in place of that runtime's own image
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The function's code, for /var/task: a directory or a zip file
    #[arg(long, value_name = "PATH")]
    code: Option<PathBuf>,
    /// A layer, for /opt: a zip file or a directory. Up to 5, later ones win
    #[arg(long = "layer", value_name = "PATH")]
    layers: Vec<PathBuf>,
    /// The handler, such as app.handler. For an image function, its command
    #[arg(long)]
    handler: Option<String>,
    /// An environment variable; without a value, the one that it has here
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    environment: Vec<String>,
    /// The function's memory in MB, 128 to 10240 [default: 1536]
    #[arg(long, value_name = "MB")]
    memory: Option<u64>,
    /// How long the invocation may take, in seconds, 1 to 900 [default: 300]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The size of /tmp in MB, 512 to 10240
    #[arg(long, value_name = "MB", default_value_t = 512)]
    tmp_size: u64,
    /// A port of this host's loopback that the function may reach, at localhost and
    /// host.costrel.internal, beside those of localhost URLs in its environment. May be repeated
    #[arg(long = "expose-host", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    host_ports: Vec<u16>,
    /// The function's name [default: test]
    #[arg(long)]
    name: Option<String>,
    /// When to ask the registry for the image
    #[arg(long, value_enum, default_value_t = Pull::Missing)]
    pull: Pull,
    /// A guest kernel, an ELF vmlinux, in place of the installation's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Refuse to run where the machine cannot be isolated from this host as it should be
    #[arg(long)]
    strict: bool,
    /// Neither take a snapshot of the initialised function nor go on from one
    #[arg(long)]
    no_snapshot: bool,
    /// Initialise the function as AWS does with SnapStart: its runtime's hooks run before the
    /// snapshot and after each restore
    #[arg(long, conflicts_with = "no_snapshot")]
    snap_start: bool,
    /// Show where the time went
    #[arg(long)]
    timings: bool,
    /// The event: JSON, @FILE, or - for standard input [default: {}]. As with docker-lambda, the
    /// handler may stand before it, or alone
    #[arg(value_name = "[HANDLER] EVENT", num_args = 0..=2)]
    positional: Vec<String>,
}

impl Arguments {
    /// docker-lambda's arguments are `[handler] [event]`. Here an event may also stand alone; what
    /// cannot be one is a handler.
    fn handler_and_event(&self) -> Result<(Option<&str>, Option<&str>), Failure> {
        match &self.positional[..] {
            [] => Ok((self.handler.as_deref(), None)),
            [one] if self.handler.is_none() && is_handler(one) => Ok((Some(one), None)),
            [event] => Ok((self.handler.as_deref(), Some(event))),
            [_, event] if self.handler.is_some() => Err(Failure::usage(format!(
                "a handler is given twice, by --handler and before the event, {event}"
            ))),
            [handler, event, ..] => Ok((Some(handler), Some(event))),
        }
    }
}

/// Whether the text looks like a handler, and not like an event.
fn is_handler(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/".contains(&byte);
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    text.contains(['.', ':']) && text.bytes().all(allowed) && !is_json
}

/// docker-lambda's stay-open mode.
pub(crate) fn stays_open(environment: &Environment) -> bool {
    environment.get("DOCKER_LAMBDA_STAY_OPEN").is_some()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Pull {
    /// Always: a tag may have moved
    Always,
    /// If it is not here
    Missing,
    /// Never
    Never,
}

impl From<Pull> for PullPolicy {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::Always => Self::Always,
            Pull::Missing => Self::Missing,
            Pull::Never => Self::Never,
        }
    }
}

pub(crate) async fn run(mut arguments: Arguments, environment: &Environment) -> Outcome {
    let began = Instant::now();
    let config = Config::read(environment)?;
    let (handler, event) = arguments.handler_and_event()?;
    let (handler, event) = (handler.map(str::to_owned), event.map(str::to_owned));
    arguments.handler = handler;
    // All that can be wrong with the question is looked at before any work is done for it.
    let (spec, arn) = function::describe(&arguments, environment, &config)?;
    if stays_open(environment) {
        if event.is_some() {
            return Err(Failure::usage(
                "an event is given, and DOCKER_LAMBDA_STAY_OPEN has events come over the API",
            ));
        }
        let machines = Machines {
            kernel: arguments.kernel.as_deref(),
            strict: arguments.strict,
            no_snapshot: arguments.no_snapshot,
        };
        let log = log_printer(environment);
        return stay_open(spec, arn, log, &machines, (environment, &config)).await;
    }
    let mut invocation = Invocation::new(arn, event::read(event.as_deref(), environment)?);
    event::context(&mut invocation, environment)?;

    let strictness = host::strictness(arguments.strict, environment, &config)?;
    let images = host::images(environment, &config)?;
    let stager = host::stager(environment)?;
    stager.sweep()?;
    images.sweep()?;
    let snapshots = host::snapshots_wanted(arguments.no_snapshot, environment, &config)?;
    let snapshots = snapshots.then(|| host::snapshots(environment, &config)).transpose()?;
    if let Some(snapshots) = &snapshots {
        snapshots.sweep()?;
    } else if arguments.snap_start {
        return Err(Failure::usage("--snap-start is given, and snapshots are turned off"));
    }
    let host = host::host(environment, arguments.kernel.as_deref(), strictness, &stager)?;
    let mut timeline = Timeline::default();
    timeline.end("start", began);

    let stage = Stage {
        images: Arc::new(images),
        stager: Arc::new(stager),
        pull_policy: arguments.pull.into(),
        platform: Platform::host(),
    };
    let function = Arc::new(stage.function(spec, Arc::new(Progress::new()), &mut timeline).await?);
    let log = Arc::new(log_printer(environment));
    let mut instance =
        Instance::start(&host, function, snapshots.as_ref(), log, &mut timeline).await?;
    host::warn_of_lacking(instance.sandbox().machine().isolation());
    let outcome = instance.invoke(&invocation, None, &mut timeline).await?;
    print_reply(&outcome.reply)?;
    let agent_memory = if arguments.timings { instance.agent_memory().await } else { None };
    let stopping = Instant::now();
    instance.stop().await;
    timeline.end("stop", stopping);
    if arguments.timings {
        waterfall::print(&timeline);
        if let Some(bytes) = agent_memory {
            eprintln!("  {:<8}  {}", "agent", tables::bytes(bytes));
        }
    }

    outcome.reply.map(drop).map_err(|_| Failure::Told)
}

fn log_printer(environment: &Environment) -> LogPrinter {
    let carriage_returns = match environment.get("DOCKER_LAMBDA_NO_MODIFY_LOGS") {
        Some(_) => CarriageReturns::Stay,
        None => CarriageReturns::BecomeNewlines,
    };
    LogPrinter::new(environment.get("NO_COLOR").is_none(), carriage_returns)
}

/// Before the machine is ended, and its snapshot complete.
fn print_reply(reply: &Result<Reply, FunctionError>) -> Outcome {
    let payload = match reply {
        Ok(reply) => &reply.payload,
        Err(error) => &error.payload,
    };
    let mut stdout = stdout().lock();
    stdout.write_all(b"\n")?;
    stdout.write_all(&event::one_line(payload))?;
    stdout.write_all(b"\n")?;
    stdout.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn read(arguments: &[&str]) -> Result<(Option<String>, Option<String>), ()> {
        let line = CommandLine::try_parse_from([&["invoke"], arguments].concat()).map_err(drop)?;
        let (handler, event) = line.arguments.handler_and_event().map_err(drop)?;
        Ok((handler.map(str::to_owned), event.map(str::to_owned)))
    }

    #[test]
    fn a_handler_may_stand_before_the_event_or_alone() {
        let both = |handler: &str, event: &str| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            Ok((some(handler), some(event)))
        };
        assert_eq!(read(&[]), both("", ""));
        assert_eq!(read(&["app.handler"]), both("app.handler", ""));
        assert_eq!(read(&["Example::Example.Hello::Run"]), both("Example::Example.Hello::Run", ""));
        assert_eq!(read(&["app.handler", "{}"]), both("app.handler", "{}"));
        assert_eq!(read(&["index", "{}"]), both("index", "{}"));
        for event in ["{}", "1.5", "\"a.b\"", "@event.json", "-", "{\"a\": 1.5}", "{", "null"] {
            assert_eq!(read(&["--", event]), both("", event), "{event}");
        }
        assert_eq!(read(&["--handler", "a.b", "c.d"]), both("a.b", "c.d"));
        assert_eq!(read(&["--handler", "a.b", "c.d", "{}"]), Err(()));
        assert_eq!(read(&["a.b", "{}", "more"]), Err(()));
    }
}
