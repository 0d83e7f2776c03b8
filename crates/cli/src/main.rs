//! The `costrel` command.
//!
//! Data goes to standard output, everything else to standard error. The exit code is 0; 1 where
//! a function or an operation failed; 2 where what was asked for makes no sense; 128 and the
//! signal's number where a signal ended it.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the edge that talks to people"
)]

mod commands;
mod config;
mod declarations;
mod environment;
mod failure;
mod host;
mod installation;
mod interrupt;
mod log_printer;
mod progress;
mod tables;

use std::process::ExitCode;

use clap::Parser;

use crate::{commands::Command, environment::Environment};

/// Runs every function, and every container task, in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(name = "costrel", version, about, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let command = CommandLine::parse().command;
    let environment = Environment::read();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: cannot start: {error}");
                return ExitCode::FAILURE;
            }
        };
    let handles_signals = command.handles_signals(&environment);
    let code = runtime.block_on(async {
        if handles_signals {
            return Ok(failure::exit_code(command.run(&environment).await));
        }
        tokio::select! {
            result = command.run(&environment) => Ok(failure::exit_code(result)),
            // Dropping the command ends its machines and removes what it has made so far.
            signal = interrupt::signal_number() => Err(signal),
        }
    });
    let code = code.unwrap_or_else(|signal| {
        interrupt::wait_for_children();
        ExitCode::from(128 + signal)
    });
    // Staging that is under way on another thread is of no use to anybody: its files have no names
    // yet. Waiting for it would only keep the person who pressed Ctrl-C.
    runtime.shutdown_background();
    code
}
