//! When runtime and extensions have all come to a pause, and who is told.

use std::sync::Arc;

use costrel_agent_proto::v1::{InitDone, InvokeDone, RestoreReady, guest_message::Message};
use serde_json::json;

use super::{invocation::Status, session::Shared, telemetry::Record};

/// What the runtime has brought to its end by asking for what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pause {
    /// The initialisation.
    Init,
    /// The initialisation; it waits to be restored.
    RestoreReady,
    /// What it does after a restore.
    Restore,
    /// An invocation.
    Invocation,
}

impl Pause {
    fn ends_init(self) -> bool {
        matches!(self, Self::Init | Self::RestoreReady)
    }
}

impl Shared {
    /// The runtime is ready for what comes next. The host is told once the extensions are too.
    pub(super) fn runtime_ready(self: &Arc<Self>, pause: Pause) {
        let life = {
            let mut runtime = self.runtime();
            if pause.ends_init() {
                runtime.extensions.close();
            }
            runtime.life
        };
        // Beside the call, which may be broken off.
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            shared.drain_output().await;
            shared.runtime_done(life, pause);
            if !shared.extensions_ready(life, pause).await {
                return;
            }
            shared.drain_output().await;
            if pause.ends_init() {
                shared.telemetry.close();
                shared.tell_of_extensions().await;
            }
            let peak_memory_bytes = shared.peak_memory();
            if shared.runtime().life != life {
                return;
            }
            let done = match pause {
                Pause::Init | Pause::Restore => Message::InitDone(InitDone {}),
                Pause::RestoreReady => Message::RestoreReady(RestoreReady {}),
                Pause::Invocation => Message::InvokeDone(InvokeDone { peak_memory_bytes }),
            };
            shared.send(done).await;
        });
    }

    fn runtime_done(&self, life: u64, pause: Pause) {
        self.telemetry.finish_lines();
        let record = {
            let mut runtime = self.runtime();
            if runtime.life != life {
                return;
            }
            match pause {
                Pause::Init | Pause::RestoreReady => {
                    Some(runtime.init.runtime_done(Status::Success))
                }
                Pause::Restore => {
                    let record = json!({ "status": Status::Success.name() });
                    Some(Record::platform("platform.restoreRuntimeDone", &record))
                }
                Pause::Invocation => {
                    runtime.under_way.take().map(|it| it.runtime_done(Status::Success))
                }
            }
        };
        if let Some(record) = record {
            self.telemetry.publish(&record);
        }
    }

    /// Returns when they are, or says that this life of theirs is over.
    async fn extensions_ready(&self, life: u64, pause: Pause) -> bool {
        loop {
            let change = self.change();
            {
                let runtime = self.runtime();
                if runtime.life != life {
                    return false;
                }
                let ready = match pause {
                    Pause::Invocation => runtime.extensions.invocation_over(),
                    _ => runtime.extensions.all_ready(),
                };
                if ready {
                    return true;
                }
            }
            change.await;
        }
    }

    /// As AWS does at the end of an initialisation, however it went; once.
    pub(super) async fn tell_of_extensions(&self) {
        let statuses = {
            let mut runtime = self.runtime();
            if std::mem::replace(&mut runtime.extensions_told, true) {
                return;
            }
            runtime.extensions.statuses()
        };
        for status in statuses {
            let mut record = json!({
                "name": status.name,
                "state": status.state,
                "events": status.subscriptions,
            });
            if !status.error_type.is_empty() {
                record["errorType"] = status.error_type.as_str().into();
            }
            self.telemetry.publish(&Record::platform("platform.extension", &record));
            self.send(Message::PlatformLine(status.line())).await;
        }
    }
}
