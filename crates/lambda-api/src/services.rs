//! What the API's parts work with.

use std::sync::Arc;

use costrel_catalog::Catalog;

use crate::{
    ApiSettings, GaugeSource, History, Invoker, Metrics, Spans, StatusSource,
    data_plane::DataPlane, guard::Guard, recorder::Recorder,
};

/// What the API's parts work with. A clone is another handle to the same.
#[derive(Clone)]
pub struct Services {
    /// How the API is set up.
    pub settings: Arc<ApiSettings>,
    /// The functions that the control plane is about; without them, there is none.
    pub catalog: Option<Catalog>,
    /// Knows and runs functions.
    pub invoker: Arc<dyn Invoker>,
    /// What is to be told of the fleet and the queue.
    pub gauges: Arc<dyn GaugeSource>,
    /// The invocations of late.
    pub history: History,
    /// What the status page shows beside them.
    pub status: Arc<dyn StatusSource>,
    /// What is counted.
    pub metrics: Metrics,
    /// Where traces go, if they go anywhere.
    pub spans: Option<Spans>,
}

impl Services {
    pub(crate) fn recorder(&self) -> Recorder {
        Recorder::new(self.history.clone(), self.metrics.clone(), self.spans.clone())
    }

    pub(crate) fn data_plane(&self) -> DataPlane {
        DataPlane { invoker: self.invoker.clone(), recorder: self.recorder() }
    }

    pub(crate) fn guard(&self) -> Guard {
        Guard::new(self.settings.token.clone(), self.settings.host_aliases.clone())
    }
}
