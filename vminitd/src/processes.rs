//! Plain programs: one gRPC call runs one.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use costrel_agent_proto::v1::{
    ProcessSpec, RunRequest, RunResponse, StartFailure, Started, processes_server::Processes,
    run_request::Request, run_response::Response,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe,
    sync::{mpsc, oneshot},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use crate::{
    accounts::Accounts,
    cgroup::Cgroup,
    function::exited,
    output::{Output, Stream as OutputStream},
    reaper::{Ending, Reaper},
    spawn::{self, Spawned, Stdin},
};

/// The gRPC service of plain programs.
#[derive(Clone, Debug)]
pub(crate) struct ProcessService {
    reaper: Reaper,
    cgroup: Arc<OnceLock<Cgroup>>,
}

type Responses = mpsc::Sender<Result<RunResponse, Status>>;

impl ProcessService {
    /// Programs are reaped by `reaper` and live in `cgroup`, once it is set.
    pub(crate) fn new(reaper: Reaper, cgroup: Arc<OnceLock<Cgroup>>) -> Self {
        Self { reaper, cgroup }
    }

    fn spawn(&self, spec: &ProcessSpec) -> io::Result<(Spawned, oneshot::Receiver<Ending>)> {
        let identity = Accounts::read(Path::new("/"))
            .resolve(&spec.user)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut spawned = None;
        let (_, ended) = self.reaper.spawn(|| {
            let procs = self.cgroup.get().map(Cgroup::procs).transpose()?;
            let process = spawn::spawn(&spec.arguments, spec, &identity, Stdin::Piped, procs)?;
            let pid = process.pid;
            spawned = Some(process);
            Ok::<_, io::Error>(pid)
        })?;
        spawned.map(|process| (process, ended)).ok_or_else(|| io::Error::other("no process"))
    }

    async fn run(&self, spec: ProcessSpec, requests: Streaming<RunRequest>, responses: Responses) {
        let kills_before = self.cgroup.get().map_or(0, Cgroup::out_of_memory_kills);
        let (process, ended) = match self.spawn(&spec) {
            Ok(started) => started,
            Err(error) => {
                let failure = StartFailure {
                    errno: error.raw_os_error().unwrap_or(0),
                    message: error.to_string(),
                };
                send(&responses, Response::StartFailure(failure)).await;
                return;
            }
        };
        send(&responses, Response::Started(Started { pid: process.pid })).await;
        let deliver = {
            let responses = responses.clone();
            move |stream, data: Bytes| {
                let responses = responses.clone();
                async move {
                    let response = match stream {
                        OutputStream::Stdout => Response::Stdout(data),
                        OutputStream::Stderr => Response::Stderr(data),
                    };
                    send(&responses, response).await;
                }
            }
        };
        let Ok(output) = Output::pump(process.stdout, process.stderr, deliver) else { return };
        let Some(pid) = Pid::from_raw(process.pid.cast_signed()) else { return };
        let obeying = obey(requests, pid, process.stdin);
        let ending = tokio::select! {
            ending = ended => ending,
            // Dropped only when the program has ended: then nobody may signal its id any more.
            () = obeying => return,
            // The host has left: nobody will ever ask for the outcome.
            () = responses.closed() => {
                let _ = kill_process(pid, Signal::KILL);
                return;
            }
        };
        output.drain().await;
        if let Ok(ending) = ending {
            let mut exited = exited(ending);
            exited.out_of_memory =
                self.cgroup.get().is_some_and(|group| group.out_of_memory_kills() > kills_before);
            send(&responses, Response::Exited(exited)).await;
        }
    }
}

/// Carries the host's requests to the program; returns never, only the program's end ends it.
async fn obey(mut requests: Streaming<RunRequest>, pid: Pid, stdin: Option<OwnedFd>) {
    let mut stdin = stdin.and_then(|fd| pipe::Sender::from_owned_fd(fd).ok());
    while let Some(Ok(RunRequest { request: Some(request) })) = requests.next().await {
        match request {
            Request::Stdin(data) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&data).await.is_err()
                {
                    stdin = None;
                }
            }
            Request::CloseStdin(_) => stdin = None,
            Request::Signal(number) => {
                if let Some(signal) = Signal::from_named_raw(number.cast_signed()) {
                    let _ = kill_process(pid, signal);
                }
            }
            Request::Start(_) => {}
        }
    }
    drop(stdin);
    std::future::pending::<()>().await;
}

async fn send(responses: &Responses, response: Response) {
    let _ = responses.send(Ok(RunResponse { response: Some(response) })).await;
}

#[tonic::async_trait]
impl Processes for ProcessService {
    type RunStream = Pin<Box<dyn Stream<Item = Result<RunResponse, Status>> + Send>>;

    async fn run(
        &self,
        request: tonic::Request<Streaming<RunRequest>>,
    ) -> Result<tonic::Response<Self::RunStream>, Status> {
        let mut requests = request.into_inner();
        let Some(RunRequest { request: Some(Request::Start(spec)) }) = requests.message().await?
        else {
            return Err(Status::invalid_argument("the first request must be `start`"));
        };
        if spec.arguments.is_empty() {
            return Err(Status::invalid_argument("no program is named"));
        }
        let (sender, receiver) = mpsc::channel(8);
        let service = self.clone();
        tokio::spawn(async move { service.run(spec, requests, sender).await });
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
