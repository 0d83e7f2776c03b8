//! The agent's entry point.

use std::process::ExitCode;

use costrel_vminitd::{boot, service, transport};

fn main() -> ExitCode {
    let result = boot::prepare().map_err(|error| error.to_string()).and_then(|transport| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the executor: {error}"))?;
        runtime.block_on(async {
            let connections =
                transport::connections(transport).map_err(|error| error.to_string())?;
            service::serve(connections).await.map_err(|error| error.to_string())
        })
    });
    // PID 1 must not return without a word: the kernel panics when it does, and the host shows
    // the panic with what the console said last.
    if let Err(message) = result {
        boot::say(&message);
    }
    ExitCode::FAILURE
}
