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
    /// The event: JSON, @FILE, or - for standard input [default: {}]
    event: Option<String>,
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

pub(crate) async fn run(arguments: Arguments, environment: &Environment) -> Outcome {
    let began = Instant::now();
    let config = Config::read(environment)?;
    // All that can be wrong with the question is looked at before any work is done for it.
    let (spec, arn) = function::describe(&arguments, environment, &config)?;
    let mut invocation =
        Invocation::new(arn, event::read(arguments.event.as_deref(), environment)?);
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
    let carriage_returns = match environment.get("DOCKER_LAMBDA_NO_MODIFY_LOGS") {
        Some(_) => CarriageReturns::Stay,
        None => CarriageReturns::BecomeNewlines,
    };
    let log = Arc::new(LogPrinter::new(environment.get("NO_COLOR").is_none(), carriage_returns));
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
