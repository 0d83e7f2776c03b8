//! Puts the server together, and takes it apart again.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use costrel_catalog::{Catalog, CatalogSettings};
use costrel_events::{EventQueue, EventSettings};
use costrel_fleet::{Fleet, FleetLimits, FleetObserver, FleetSettings};
use costrel_functions::{Credentials, Stage};
use costrel_image::{Platform, PullPolicy};
use costrel_lambda_api::{
    ApiSettings, History, Metrics, Recorder, Remote, Server, ServerLimits, Services, SpanSettings,
    Spans, Token, rie_router, router,
};
use costrel_logs::{LogSettings, LogStore};
use tokio::{sync::watch, task::JoinHandle};

use super::{Engine, EngineSetup, Observer, Printer, Settings, Signals, stay_open::OneFunction};
use crate::{
    config::Config,
    environment::Environment,
    failure::{Failure, Outcome},
    host,
};

/// How many invocations the status page knows.
const HISTORY: usize = 200;

/// How long extensions and machines may take to end, after the invocations have.
const DRAIN: Duration = Duration::from_secs(10);

/// What machines are made with.
pub(crate) struct Machines<'a> {
    pub(crate) kernel: Option<&'a Path>,
    pub(crate) strict: bool,
    pub(crate) no_snapshot: bool,
}

/// All that makes a server, started; it listens and does not answer yet.
pub(super) struct Parts {
    pub(super) catalog: Catalog,
    fleet: Fleet,
    events: EventQueue,
    logs: LogStore,
    services: Services,
    server: Server,
    rie: Option<Server>,
    follower: JoinHandle<()>,
}

impl Parts {
    pub(super) async fn start(
        settings: &Settings,
        machines: &Machines<'_>,
        printer: &Arc<Printer>,
        (environment, config): (&Environment, &Config),
    ) -> Result<Self, Failure> {
        let token = settings.token.clone().map(Token::new);
        let bind = async |address: SocketAddr| {
            let remote = if settings.allow_remote { Remote::Allowed } else { Remote::Refused };
            Server::bind(address, remote, token.as_ref(), ServerLimits::default()).await
        };
        // An address that is in use is told before anything is made.
        let server = bind(settings.listen).await?;
        let rie = match settings.rie {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let catalog_settings = CatalogSettings {
            account_id: settings.account_id.clone(),
            region: settings.region.clone(),
        };
        let catalog = Catalog::open(&settings.state.join("functions"), catalog_settings)?;
        let logs = LogStore::open(&settings.state.join("logs"), LogSettings::default())?;
        let observer = Observer { logs: Some(logs.clone()), printer: Arc::clone(printer) };
        let mut limits = FleetLimits::of_memory(settings.memory_limit);
        limits.queue = settings.queue.unwrap_or(limits.queue);
        limits.idle = settings.idle.unwrap_or(limits.idle);
        limits.concurrency = settings.concurrency.unwrap_or(limits.concurrency);
        let fleet = fleet(limits, machines, Arc::new(observer), (environment, config))?;
        let setup = EngineSetup {
            config: config.clone(),
            environment: environment.clone(),
            credentials: credentials(environment),
            host_ports: settings.host_ports.clone(),
            url_suffix: format!("lambda-url.localhost:{}", server.address().port()),
        };
        let (history, metrics) = (History::new(HISTORY), Metrics::default());
        let spans = spans(settings.otlp_endpoint.as_deref(), environment)?;
        let recorder = Recorder::new(history.clone(), metrics.clone(), spans.clone());
        let engine = Engine::new(catalog.clone(), fleet.clone(), logs.reader(), recorder, setup);
        let services = Services {
            settings: Arc::new(ApiSettings {
                account_id: settings.account_id.clone(),
                region: settings.region.clone(),
                token,
                host_aliases: vec!["host.costrel.internal".to_owned()],
            }),
            catalog: Some(catalog.clone()),
            history,
            status: Arc::new(engine.clone()),
            invoker: Arc::new(engine.clone()),
            gauges: Arc::new(engine.clone()),
            metrics,
            spans,
        };
        let delays = settings.event_retry_delays;
        let defaults = EventSettings::default();
        let event_settings =
            EventSettings { retry_delays: delays.unwrap_or(defaults.retry_delays), ..defaults };
        let runner = Arc::new(engine.clone());
        let events =
            EventQueue::open(&settings.state.join("events"), event_settings, runner).await?;
        engine.set_events(events.clone());
        catalog.set_preparation(Arc::new(engine.clone()));
        catalog.set_provisioning(Arc::new(engine.clone()));
        let follower = tokio::spawn(engine.follow());
        Ok(Self { catalog, fleet, events, logs, services, server, rie, follower })
    }
}

/// The machines.
pub(super) fn fleet(
    limits: FleetLimits,
    machines: &Machines<'_>,
    observer: Arc<dyn FleetObserver>,
    (environment, config): (&Environment, &Config),
) -> Result<Fleet, Failure> {
    let strictness = host::strictness(machines.strict, environment, config)?;
    let images = host::images(environment, config)?;
    let stager = host::stager(environment)?;
    stager.sweep()?;
    images.sweep()?;
    let wanted = host::snapshots_wanted(machines.no_snapshot, environment, config)?;
    let snapshots = wanted.then(|| host::snapshots(environment, config)).transpose()?;
    if let Some(snapshots) = &snapshots {
        snapshots.sweep()?;
    }
    let host = host::host(environment, machines.kernel, strictness, &stager)?;
    let stage = Stage {
        images: Arc::new(images),
        stager: Arc::new(stager),
        pull_policy: PullPolicy::Missing,
        platform: Platform::host(),
    };
    Ok(Fleet::new(FleetSettings { host, stage, snapshots, limits }, observer))
}

/// Where traces go, if `OTEL_EXPORTER_OTLP_ENDPOINT` says so.
fn spans(endpoint: Option<&str>, environment: &Environment) -> Result<Option<Spans>, Failure> {
    let Some(endpoint) = endpoint else { return Ok(None) };
    let headers = environment.text("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
    let headers = headers.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    });
    let settings = SpanSettings {
        endpoint: endpoint.to_owned(),
        headers: headers.collect(),
        service_name: environment.text("OTEL_SERVICE_NAME").unwrap_or("costrel").to_owned(),
    };
    Ok(Some(Spans::new(&settings, env!("CARGO_PKG_VERSION"))?))
}

/// What stays open is of one function, and has neither pages nor figures.
pub(super) fn services_of_one(function: OneFunction, environment: &Environment) -> Services {
    let named = |name: &str, default: &str| environment.text(name).unwrap_or(default).to_owned();
    Services {
        settings: Arc::new(ApiSettings {
            account_id: named("AWS_ACCOUNT_ID", "000000000000"),
            region: named("AWS_DEFAULT_REGION", "us-east-1"),
            token: None,
            host_aliases: Vec::new(),
        }),
        catalog: None,
        history: History::new(0),
        status: Arc::new(function.clone()),
        gauges: Arc::new(function.clone()),
        invoker: Arc::new(function),
        metrics: Metrics::default(),
        spans: None,
    }
}

/// What functions sign their calls with: made up, unless the server is given some for them.
fn credentials(environment: &Environment) -> Option<Credentials> {
    let named = |name: &str| environment.text(name).map(str::to_owned);
    let given =
        named("COSTREL_FUNCTION_ACCESS_KEY_ID").zip(named("COSTREL_FUNCTION_SECRET_ACCESS_KEY"));
    let (access_key_id, secret_access_key) =
        given.unwrap_or_else(|| ("costrel".to_owned(), "costrel".to_owned()));
    let session_token = named("COSTREL_FUNCTION_SESSION_TOKEN");
    Some(Credentials { access_key_id, secret_access_key, session_token })
}

/// Serves until a signal asks to end; then lets what is under way end. A second signal ends it at
/// once.
pub(super) async fn serve(
    parts: Parts,
    rie_function: Option<(SocketAddr, String)>,
    printer: &Arc<Printer>,
    (signals, grace): (&mut Signals, Duration),
) -> Outcome {
    let Parts { fleet, events, logs, services, server, rie, follower, .. } = parts;
    let address = server.address();
    let (stop, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // Nobody is left to ask: that is an end as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let main = tokio::spawn(server.serve(router(&services), until(stopped.clone()), grace));
    printer.tell(&format!("Lambda API listening on http://{address}"));
    printer.tell(&format!(
        "  aws lambda list-functions --endpoint-url http://{address}\n  status page: \
         http://{address}/_costrel"
    ));
    let rie = rie.zip(rie_function).map(|(server, (_, function))| {
        let address = server.address();
        let served = server.serve(rie_router(&services, &function), until(stopped.clone()), grace);
        printer.tell(&format!(
            "Runtime Interface Emulator for {function} listening on http://{address}"
        ));
        tokio::spawn(served)
    });
    signals.next().await;
    printer.tell("Ending: invocations under way may end; once more to end at once.");
    let _ = stop.send(true);
    let ending = async {
        let served = async {
            let _ = main.await;
            if let Some(rie) = rie {
                let _ = rie.await;
            }
        };
        tokio::join!(served, events.close(grace));
        fleet.drain(DRAIN).await;
    };
    let outcome = tokio::select! {
        () = ending => Ok(()),
        number = signals.next() => {
            // Machines end with their owner in any case.
            fleet.drain(Duration::ZERO).await;
            Err(Failure::Signal(number))
        }
    };
    follower.abort();
    logs.flush();
    if let Some(spans) = services.spans {
        // It waits for the collector.
        let _ = tokio::task::spawn_blocking(move || spans.shut_down()).await;
    }
    outcome
}
