//! What the status page and the metrics are told.

use costrel_catalog::{Code, FunctionReference, FunctionVersion, PageRequest, State};
use costrel_events::EventQueue;
use costrel_fleet::FleetStatus;
use costrel_lambda_api::{
    FunctionOrigin, FunctionRow, GaugeSource, Gauges, HistoryEntry, StatusSource,
};
use costrel_logs::{LogLine, Query};
use jiff::SignedDuration;

use super::Engine;

impl StatusSource for Engine {
    fn functions(&self) -> Vec<FunctionRow> {
        let catalog = &self.0.catalog;
        let names = catalog.names();
        names.iter().filter_map(|name| self.row(&catalog.versions_of(name))).collect()
    }

    fn fleet(&self) -> FleetStatus {
        self.0.fleet.status()
    }

    fn log(&self, invocation: &HistoryEntry) -> Result<Vec<LogLine>, String> {
        let margin = SignedDuration::from_secs(60);
        let query = Query {
            function: Some(invocation.function.clone()),
            since: invocation.at.checked_sub(margin).ok(),
            request_id: Some(invocation.request_id.clone()),
            ..Query::default()
        };
        self.0.logs.read(&query).map_err(|error| error.to_string())
    }
}

impl GaugeSource for Engine {
    fn read(&self) -> Gauges {
        let events = self.0.events.get().map(EventQueue::status).unwrap_or_default();
        Gauges { fleet: Some(self.0.fleet.status()), events }
    }
}

impl Engine {
    /// A function by its versions, `$LATEST` first.
    fn row(&self, versions: &[FunctionVersion]) -> Option<FunctionRow> {
        let latest = versions.first()?;
        let content = &latest.content;
        let reference = FunctionReference::of_name(&*latest.name);
        let catalog = &self.0.catalog;
        let aliases = catalog.list_aliases(&reference, None, &PageRequest::default());
        let aliases = aliases.map(|page| page.items).unwrap_or_default();
        let url = catalog.get_url(&reference).ok();
        Some(FunctionRow {
            name: latest.name.to_string(),
            origin: match content.code {
                Code::Directory { .. } | Code::File { .. } => FunctionOrigin::Declared,
                Code::Zip { .. } | Code::Image { .. } => FunctionOrigin::Created,
            },
            state: match &content.state {
                State::Active => "Active",
                State::Pending => "Pending",
                State::Failed { .. } => "Failed",
            }
            .to_owned(),
            runtime: match (&content.configuration.runtime, &content.code) {
                (Some(runtime), _) => runtime.clone(),
                (None, Code::Image { uri }) => uri.clone(),
                (None, _) => String::new(),
            },
            memory: content.configuration.memory_size,
            timeout: content.configuration.timeout,
            versions: versions[1..].iter().map(|version| version.version.to_string()).collect(),
            aliases: aliases.into_iter().map(|it| (it.name, it.alias.function_version)).collect(),
            url: url.map(|it| format!("http://{}.{}/", it.url.id, self.0.setup.url_suffix)),
        })
    }
}
