//! `costrel serve`: Lambda's API on this machine.

mod declare;
mod engine;
mod functions;
mod memory;
mod observer;
mod printer;
mod server;
mod settings;
mod signals;
mod stamp;
mod stay_open;
mod watch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};

use self::{
    declare::Declarer,
    engine::{Engine, EngineSetup},
    functions::Source,
    observer::Observer,
    printer::Printer,
    server::{Parts, serve},
    settings::Settings,
    signals::Signals,
};
pub(crate) use self::{printer::Style, server::Machines, settings::state, stay_open::stay_open};
use crate::{
    config::Config,
    environment::Environment,
    failure::{Failure, Outcome},
};

/// What `costrel serve` takes.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Functions to serve besides those that are made over the API: a directory with a costrel.toml
    /// or a SAM or CloudFormation template.yaml, such a file, or, with --runtime, a function's code,
    /// a directory or a zip file
    path: Option<PathBuf>,
    #[command(flatten)]
    function: FunctionArguments,
    /// The file that declares the functions, where it has another name
    #[arg(long, value_name = "FILE", conflicts_with = "path")]
    config_file: Option<PathBuf>,
    /// A value for a template's parameter; may be given several times
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// Where to listen: an address and a port, or a port; 0 is any that is free [default:
    /// 127.0.0.1:9001]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Also listen as AWS's Runtime Interface Emulator does, for one function [default:
    /// 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:8080")]
    rie: Option<String>,
    /// The function that --rie is for [default: the only one that is declared]
    #[arg(long, value_name = "NAME", requires = "rie")]
    rie_function: Option<String>,
    /// Where functions, events and logs are kept [env: COSTREL_STATE] [default:
    /// ~/.local/share/costrel/serve]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Serve changed code, layers and declarations as soon as they change
    #[arg(long)]
    watch: bool,
    /// The most memory that all machines may have, in MiB [default: three quarters of this host's]
    #[arg(long, value_name = "MIB")]
    memory_limit: Option<u64>,
    /// How long an instance may be without an invocation before it is ended [default: 600]
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
    /// How many invocations may wait for memory; more are answered with 429 [default: 1000]
    #[arg(long, value_name = "N")]
    queue: Option<usize>,
    /// The account's concurrency: how many invocations may be under way [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// A port of this host that functions may reach, besides those of localhost URLs in their
    /// environment; may be given several times
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    expose_host: Vec<u16>,
    /// Listen on an address that other hosts can reach; COSTREL_TOKEN must be set, and callers sign
    /// with it
    #[arg(long)]
    allow_remote: bool,
    /// How long a failed event waits before it is tried again the first and the second time
    /// [default: 60,120]
    #[arg(long, value_name = "SECONDS", value_delimiter = ',')]
    event_retry_delay: Vec<u64>,
    /// How long invocations under way may take to end when the server is asked to
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u64,
    /// How functions' logs and the server's own are printed on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Neither take snapshots of initialised functions nor go on from any
    #[arg(long)]
    no_snapshot: bool,
    /// Refuse to run where machines cannot be isolated from this host as they should be
    #[arg(long)]
    strict: bool,
    /// A guest kernel, an ELF vmlinux, in place of the installation's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

/// A function that is given by options.
#[derive(Debug, Args)]
#[command(next_help_heading = "One function")]
struct FunctionArguments {
    /// The runtime, such as python3.12, nodejs22.x or provided.al2023
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// The handler, such as app.handler. For an image function, its command
    #[arg(long)]
    handler: Option<String>,
    /// The image to run the function from. With --runtime, in place of that runtime's own image
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// A layer, for /opt: a zip file or a directory. Up to 5, later ones win
    #[arg(long = "layer", value_name = "PATH")]
    layers: Vec<PathBuf>,
    /// An environment variable; without a value, the one that it has here
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    environment: Vec<String>,
    /// Its memory in MB, 128 to 10240 [default: 1536]
    #[arg(long, value_name = "MB")]
    memory: Option<u64>,
    /// How long an invocation may take, in seconds, 1 to 900 [default: 300]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The size of /tmp in MB, 512 to 10240 [default: 512]
    #[arg(long, value_name = "MB")]
    tmp_size: Option<u64>,
    /// Its name [default: the directory's or the image's]
    #[arg(long)]
    name: Option<String>,
    /// Give it a function URL
    #[arg(long)]
    url: bool,
}

impl FunctionArguments {
    /// Whether a function is given by options.
    fn is_given(&self) -> bool {
        self.runtime.is_some()
            || self.handler.is_some()
            || self.image.is_some()
            || self.name.is_some()
            || self.memory.is_some()
            || self.timeout.is_some()
            || self.tmp_size.is_some()
            || self.url
            || !self.layers.is_empty()
            || !self.environment.is_empty()
    }
}

/// How lines are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

const EXAMPLES: &str = "\
Examples:
  costrel serve ./app --runtime python3.12 --handler app.handler
      Serves one function, named after its directory.
  costrel serve . --watch
      Serves what ./costrel.toml or ./template.yaml declares, and changes to it.
  costrel serve
      Serves what clients create. In another terminal:
      aws lambda list-functions --endpoint-url http://127.0.0.1:9001

The first SIGINT or SIGTERM lets invocations under way end, a second one ends the server at once.";

pub(crate) async fn run(arguments: Arguments, environment: &Environment) -> Outcome {
    let mut signals = Signals::new()?;
    let config = Config::read(environment)?;
    // All that can be wrong with the question is looked at before any work is done for it.
    let settings = Settings::resolve(&arguments, environment, &config)?;
    let source = Source::find(&arguments, &settings, environment)?;
    let declarations = source.read()?;
    let rie = match (settings.rie, &arguments.rie_function, &declarations.functions[..]) {
        (None, ..) => None,
        (Some(address), Some(name), _) => Some((address, name.clone())),
        (Some(address), None, [only]) => Some((address, only.name.clone())),
        (Some(_), None, functions) => {
            return Err(Failure::usage(format!(
                "--rie is for one function, and {} are declared",
                functions.len()
            ))
            .with_hint("--rie-function says which"));
        }
    };
    if arguments.watch && matches!(source, Source::Nowhere) {
        return Err(Failure::usage("--watch: there is nothing to watch, no function is declared"));
    }
    let printer = Printer::new(settings.log_format, environment.get("NO_COLOR").is_some())?;
    let printer = Arc::new(printer);
    observer::trace(settings.log_format, environment)?;
    let machines = Machines {
        kernel: arguments.kernel.as_deref(),
        strict: arguments.strict,
        no_snapshot: arguments.no_snapshot,
    };
    let parts = tokio::select! {
        parts = Parts::start(&settings, &machines, &printer, (environment, &config)) => parts?,
        number = signals.next() => return Err(Failure::Signal(number)),
    };
    let declarer = Declarer::new(source, parts.catalog.clone(), Arc::clone(&printer));
    let _watching = declarer.begin(declarations, arguments.watch)?;
    let grace = Duration::from_secs(arguments.grace);
    serve(parts, rie, &printer, (&mut signals, grace)).await
}
