use std::collections::BTreeMap;

use super::*;
use crate::{
    AliasChange, ApplyOn, ConfigurationChange, CreateFunction, LayerFilter, NewCode, PageRequest,
    PreparationTicket, ProvisionedState, ProvisionedStatus, PublishLayer, PublishVersion, State,
    UpdateCode, disk::Step,
};

/// A catalog of its own.
pub(crate) fn catalog() -> (tempfile::TempDir, Catalog) {
    let directory = tempfile::tempdir().unwrap();
    let catalog = open(&directory).unwrap();
    (directory, catalog)
}

pub(crate) fn open(directory: &tempfile::TempDir) -> Result<Catalog, OpenError> {
    let settings =
        CatalogSettings { account_id: "123456789012".into(), region: "us-east-1".into() };
    Catalog::open(&directory.path().join("catalog"), settings)
}

/// A zip file of one file.
pub(crate) fn zip(text: &str) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    archive.start_file("app.py", zip::write::SimpleFileOptions::default()).unwrap();
    io::Write::write_all(&mut archive, text.as_bytes()).unwrap();
    archive.finish().unwrap().into_inner()
}

pub(crate) fn create(catalog: &Catalog, name: &str, code: &str) -> FunctionVersion {
    let configuration = ConfigurationChange {
        role: Some("arn:aws:iam::123456789012:role/r".into()),
        runtime: Some("python3.12".into()),
        handler: Some("app.handler".into()),
        ..ConfigurationChange::default()
    };
    let request = CreateFunction {
        reference: name.parse().unwrap(),
        configuration,
        package_type: None,
        code: NewCode::Zip(catalog.upload(&zip(code)).unwrap()),
        publish: false,
        tags: BTreeMap::new(),
        signing: None,
    };
    catalog.create_function(request).unwrap()
}

fn update(catalog: &Catalog, name: &str, code: &str) -> Result<FunctionVersion, CatalogError> {
    let code = NewCode::Zip(catalog.upload(&zip(code))?);
    let request = UpdateCode { code, publish: false, dry_run: false, revision_id: None };
    catalog.update_code(&name.parse().unwrap(), &request)
}

fn publish(catalog: &Catalog, name: &str) -> FunctionVersion {
    catalog.publish_version(&name.parse().unwrap(), PublishVersion::default()).unwrap()
}

fn stored(catalog: &Catalog) -> usize {
    catalog.home().code.entries().unwrap().len()
}

#[test]
fn what_was_there_is_there_after_a_restart() {
    let (directory, catalog) = catalog();
    let made = create(&catalog, "f", "1");
    let code = catalog.upload(&zip("layer")).unwrap();
    let layer = catalog
        .publish_layer(PublishLayer {
            layer: "l".into(),
            description: "d".into(),
            license: None,
            runtimes: vec![],
            architectures: vec![],
            code,
        })
        .unwrap();
    let reference: FunctionReference = "f".parse().unwrap();
    let layers = Some(vec![layer.arn]);
    let change = ConfigurationChange { layers, ..ConfigurationChange::default() };
    catalog.update_configuration(&reference, None, change).unwrap();
    let version = publish(&catalog, "f");
    let function_version = Some("1".to_owned());
    let change = AliasChange { function_version, ..AliasChange::default() };
    catalog.create_alias(&reference, "live", change).unwrap();
    catalog.add_permission(&reference, &permission()).unwrap();
    let url = catalog.create_url(&reference, crate::UrlChange::default()).unwrap();
    let before = catalog.record(&reference).unwrap();
    drop((catalog, made, version.clone()));

    let catalog = open(&directory).unwrap();
    assert_eq!(catalog.record(&reference).unwrap(), before);
    let resolved = catalog.resolve(&"f:live".parse().unwrap()).unwrap();
    assert_eq!(resolved.version.content, version.content);
    assert_eq!(resolved.invoked_arn, "arn:aws:lambda:us-east-1:123456789012:function:f:live");
    assert_eq!(catalog.function_url(&url.url.id).unwrap().0, reference);
    let layers = catalog.list_layers(&LayerFilter::default(), &PageRequest::default()).unwrap();
    assert_eq!(layers.items.len(), 1);
    let spec = resolved.version.to_spec(&|_| panic_free_image(), None).unwrap();
    assert_eq!(fs::read(&spec.layers[0]).unwrap(), zip("layer"));
    assert_eq!((&*spec.name, &*spec.version), ("f", "1"));
}

fn panic_free_image() -> costrel_image::ImageSource {
    costrel_image::ImageSource::parse("oci:image").unwrap()
}

fn permission() -> crate::Permission {
    crate::Permission {
        statement_id: "s".into(),
        action: "lambda:InvokeFunction".into(),
        principal: "*".into(),
        ..crate::Permission::default()
    }
}

#[test]
fn a_change_that_dies_is_no_change_on_disk_or_in_memory() {
    let (directory, catalog) = catalog();
    create(&catalog, "f", "old");
    let old = catalog.record(&"f".parse().unwrap()).unwrap();
    for step in [Step::HalfWritten, Step::Unsynced, Step::NotRenamed] {
        *catalog.inner.functions.dies_at.lock().unwrap() = Some(step);
        update(&catalog, "f", "new").unwrap_err();
        assert_eq!(catalog.record(&"f".parse().unwrap()).unwrap(), old, "{step:?}");
        assert_eq!(stored(&catalog), 1, "{step:?}: code that nothing needs is gone");
    }
    drop(catalog);
    let catalog = open(&directory).unwrap();
    assert_eq!(catalog.record(&"f".parse().unwrap()).unwrap(), old);
    update(&catalog, "f", "new").unwrap();
    assert_ne!(catalog.record(&"f".parse().unwrap()).unwrap(), old);
}

#[test]
fn code_is_kept_once_and_as_long_as_it_is_needed() {
    let (directory, catalog) = catalog();
    create(&catalog, "f", "1");
    create(&catalog, "g", "1");
    assert_eq!(stored(&catalog), 1);
    publish(&catalog, "f");
    update(&catalog, "f", "2").unwrap();
    assert_eq!(stored(&catalog), 2);
    catalog.delete_function(&"g".parse().unwrap()).unwrap();
    assert_eq!(stored(&catalog), 2, "version 1 of f needs it");
    catalog.delete_function(&"f:1".parse().unwrap()).unwrap();
    assert_eq!(stored(&catalog), 1);
    drop(catalog.upload(&zip("3")).unwrap());
    assert_eq!(stored(&catalog), 1, "an upload that came to nothing");
    // One of a server that was killed before it came to anything.
    let name = EntryName::of_digest(&Digest::of(b"left"));
    let left = catalog.home().code.get_or_create(&name, |_| Ok::<_, io::Error>(())).unwrap();
    drop((left, catalog));
    let catalog = open(&directory).unwrap();
    assert_eq!(stored(&catalog), 1);
    catalog.delete_function(&"f".parse().unwrap()).unwrap();
    assert_eq!(stored(&catalog), 0);
}

#[test]
fn a_directory_has_one_server_and_one_format() {
    let (directory, catalog) = catalog();
    let error = open(&directory).unwrap_err();
    assert!(error.to_string().contains("in use by another server"), "{error}");
    drop(catalog);
    let path = directory.path().join("catalog/format");
    fs::write(&path, "costrel catalog 2\n").unwrap();
    assert!(matches!(open(&directory).unwrap_err(), OpenError::Format { .. }));
}

#[test]
fn a_thousand_functions_are_opened_fast() {
    let (directory, catalog) = catalog();
    let template = create(&catalog, "f", "1");
    // Not by way of the catalog, which would sync each to the disk.
    let functions = directory.path().join("catalog/123456789012.us-east-1/functions");
    for index in 0..1000 {
        let record = FunctionRecord::new(&format!("f-{index}"), (*template.content).clone());
        let bytes = serde_json::to_vec(&record).unwrap();
        fs::write(functions.join(&*record.name), bytes).unwrap();
    }
    drop((template, catalog));
    let began = std::time::Instant::now();
    let catalog = open(&directory).unwrap();
    assert_eq!(catalog.names().len(), 1001);
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
}

#[test]
fn changes_at_once_all_happen() {
    let (_directory, catalog) = catalog();
    create(&catalog, "f", "1");
    std::thread::scope(|scope| {
        for index in 0..8 {
            let catalog = catalog.clone();
            scope.spawn(move || {
                let arn = "arn:aws:lambda:us-east-1:123456789012:function:f";
                catalog.tag(arn, BTreeMap::from([(format!("k{index}"), String::new())])).unwrap();
            });
        }
    });
    assert_eq!(catalog.record(&"f".parse().unwrap()).unwrap().tags.len(), 8);
}

#[derive(Default)]
struct Fleet {
    tickets: Mutex<Vec<PreparationTicket>>,
    provisioned: Mutex<Vec<(String, u32)>>,
}

impl Preparation for Fleet {
    fn prepare(&self, _version: Arc<FunctionVersion>, ticket: PreparationTicket) {
        self.tickets.lock().unwrap().push(ticket);
    }
}

impl Provisioning for Fleet {
    fn provision(&self, version: Arc<FunctionVersion>, count: u32) {
        self.provisioned.lock().unwrap().push((version.version.to_string(), count));
    }

    fn status(&self, _version: &FunctionVersion) -> ProvisionedStatus {
        ProvisionedStatus { available: 0, allocated: 0, state: ProvisionedState::Ready }
    }
}

#[test]
fn a_version_is_pending_over_a_restart_until_its_snapshot_is_there() {
    let (directory, catalog) = catalog();
    create(&catalog, "f", "1");
    let fleet = Arc::new(Fleet::default());
    catalog.set_preparation(fleet.clone());
    let snap_start = Some(ApplyOn::PublishedVersions);
    let change = ConfigurationChange { snap_start, ..ConfigurationChange::default() };
    catalog.update_configuration(&"f".parse().unwrap(), None, change).unwrap();
    assert_eq!(publish(&catalog, "f").content.state, State::Pending);
    let resolve = |catalog: &Catalog| catalog.resolve(&"f:1".parse().unwrap());
    assert!(matches!(resolve(&catalog), Err(crate::ResolveError::Pending { .. })));
    fleet.tickets.lock().unwrap().clear();
    drop((fleet, catalog));
    let catalog = open(&directory).unwrap();
    let fleet = Arc::new(Fleet::default());
    catalog.set_preparation(fleet.clone());
    let ticket = fleet.tickets.lock().unwrap().pop().expect("asked for again");
    ticket.finish(Ok(())).unwrap();
    assert!(resolve(&catalog).is_ok());
}

#[test]
fn what_is_kept_ready_follows_the_alias() {
    let (_directory, catalog) = catalog();
    create(&catalog, "f", "1");
    publish(&catalog, "f");
    update(&catalog, "f", "2").unwrap();
    publish(&catalog, "f");
    let fleet = Arc::new(Fleet::default());
    catalog.set_provisioning(fleet.clone());
    let to = |version: &str| AliasChange {
        function_version: Some(version.into()),
        ..AliasChange::default()
    };
    let reference: FunctionReference = "f".parse().unwrap();
    catalog.create_alias(&reference, "live", to("1")).unwrap();
    catalog.provision_concurrency(&"f:live".parse().unwrap(), 3).unwrap();
    catalog.update_alias(&reference, "live", to("2")).unwrap();
    catalog.delete_function(&reference).unwrap();
    let told = fleet.provisioned.lock().unwrap().clone();
    let expected = [("1", 3), ("1", 0), ("2", 3), ("2", 0)];
    assert_eq!(told, expected.map(|(version, count)| (version.to_owned(), count)));
}
