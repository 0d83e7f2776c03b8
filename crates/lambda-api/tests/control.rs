//! The control plane, as boto3 and awscli use it: `tests/clients` runs against it. No function runs,
//! so what would need machines has a stand-in.

use std::{
    collections::HashMap,
    future::IntoFuture as _,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use costrel_catalog::{
    Catalog, CatalogSettings, FunctionVersion, Preparation, PreparationFailure, PreparationTicket,
    ProvisionedState, ProvisionedStatus, Provisioning,
};

/// Takes its time, and fails for whoever describes itself so.
struct StandIn {
    /// How many instances a version is to have, and how many are ready.
    provisioned: Mutex<HashMap<String, (u32, u32)>>,
}

impl Preparation for StandIn {
    fn prepare(&self, version: Arc<FunctionVersion>, ticket: PreparationTicket) {
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            let failure = || PreparationFailure {
                code: "FunctionError".into(),
                reason: "as it was told to".into(),
            };
            let fails = version.configuration().description == "fails";
            ticket.finish(if fails { Err(failure()) } else { Ok(()) }).unwrap();
        });
    }
}

impl Provisioning for StandIn {
    fn provision(&self, version: Arc<FunctionVersion>, count: u32) {
        self.provisioned.lock().unwrap().insert(version.qualified_arn(), (count, 0));
    }

    /// One more instance is ready each time that somebody looks.
    fn status(&self, version: &FunctionVersion) -> ProvisionedStatus {
        let mut provisioned = self.provisioned.lock().unwrap();
        let (count, available) = provisioned.get_mut(&version.qualified_arn()).unwrap();
        let state = match *count == *available {
            true => ProvisionedState::Ready,
            false => ProvisionedState::InProgress,
        };
        let status = ProvisionedStatus { available: *available, allocated: *count, state };
        *available = (*available + 1).min(*count);
        status
    }
}

fn clients(root: &Path) -> String {
    let made = Command::new(root.join("scripts/test-clients.sh")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_clients_find_awss_control_plane() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let directory = tempfile::tempdir().unwrap();
    let settings =
        CatalogSettings { account_id: "123456789012".into(), region: "us-east-1".into() };
    let catalog = Catalog::open(directory.path(), settings).unwrap();
    let stand_in = Arc::new(StandIn { provisioned: Mutex::default() });
    catalog.set_preparation(stand_in.clone());
    catalog.set_provisioning(stand_in);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = costrel_lambda_api::control_plane(catalog.clone());
    let server = tokio::spawn(axum::serve(listener, router).into_future());

    let suite = tokio::task::spawn_blocking(move || {
        Command::new(clients(&root))
            .args(["-m", "unittest", "discover", "-t", ".", "-s", "."])
            .current_dir(root.join("tests/clients"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("COSTREL_ENDPOINT", url)
            .env("COSTREL_ACCOUNT", "123456789012")
            .env("COSTREL_STAND_IN", "1")
            .output()
            .unwrap()
    });
    let suite = suite.await.unwrap();
    server.abort();
    assert!(suite.status.success(), "{}", String::from_utf8_lossy(&suite.stderr));
    assert_eq!(catalog.account_usage().functions, 0, "the suite deletes what it makes");
}
