//! `costrel image` and `costrel df`, from the first import to the last disk.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use costrel_tests::{Costrel, Home, Run, python_image};
use serde_json::Value;

const NAME: &str = "example.com/app:1";

fn image(home: &Home, arguments: &[&str]) -> Run {
    Costrel::new(home, ["image"].iter().chain(arguments)).run()
}

/// What it prints, which must be all that there is to say.
fn said(run: &Run) -> &str {
    assert_eq!(run.code, Some(0), "{run:#?}");
    &run.stdout
}

fn import(home: &Home) {
    let layout = python_image();
    let run = image(home, &["import", &layout.to_string_lossy(), NAME]);
    assert!(said(&run).starts_with(&format!("{NAME}@sha256:")), "{run:#?}");
}

fn inspect(home: &Home, name: &str) -> Value {
    let run = image(home, &["inspect", name]);
    serde_json::from_str(said(&run)).unwrap()
}

/// The cells of the row that begins so.
fn df(home: &Home, what: &str) -> Vec<String> {
    let run = Costrel::new(home, ["df"]).run();
    let line = said(&run).lines().find(|line| line.starts_with(what));
    let cells = line.unwrap_or_else(|| panic!("{what} is no row: {run:#?}")).split("   ");
    cells.map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
}

/// The digest of the manifest of a layout's only image.
fn manifest_digest(layout: &Path) -> String {
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

/// A registry that has the Python image as `app:1`; gone when this is dropped.
struct Registry {
    script: Child,
    address: String,
}

impl Registry {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/with-registry.sh");
        let mut script = Command::new(script)
            .arg(python_image())
            .args(["app:1", "sh", "-c", "echo $REGISTRY; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(!address.is_empty(), "the registry did not start: is docker-registry installed?");
        Self { script, address: address.trim().to_owned() }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Its command ends with its input, and it with its command.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

#[test]
fn an_image_comes_is_shown_and_goes() {
    let home = Home::private();
    let none = image(&home, &["ls"]);
    assert_eq!(said(&none), "IMAGE   DIGEST   PLATFORM   SIZE\n");
    import(&home);
    let digest = manifest_digest(&python_image());
    let list = image(&home, &["ls"]);
    let line = said(&list).lines().nth(1).unwrap();
    assert!(line.starts_with(NAME) && line.contains(&digest[7..19]), "{line}");
    assert!(line.contains("linux/amd64") && line.ends_with("MB"), "{line}");
    let list = image(&home, &["ls", "--no-trunc"]);
    assert!(said(&list).contains(&digest));

    assert!(df(&home, "image blobs")[1].parse::<usize>().unwrap() >= 3);
    assert_eq!(df(&home, "image blobs")[4], "0 B");
    let removed = image(&home, &["rm", NAME]);
    assert!(said(&removed).starts_with(&format!("removed {NAME} (")), "{removed:#?}");
    assert_eq!(image(&home, &["ls"]).stdout, none.stdout);
    assert_eq!(df(&home, "image blobs")[1..], ["0", "0 B", "0 B", "0 B"]);
    let again = image(&home, &["rm", NAME]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(1), ""));
    assert_eq!(again.stderr, format!("error: there is no image {NAME} here\n"));
}

#[test]
fn an_image_is_inspected() {
    let home = Home::private();
    import(&home);
    let shown = inspect(&home, NAME);
    let [shown] = shown.as_array().unwrap().as_slice() else { panic!("{shown:#}") };
    let digest = manifest_digest(&python_image());
    assert_eq!(shown["reference"], NAME);
    assert_eq!(shown["digest"], digest.as_str());
    assert_eq!(shown["platform"], "linux/amd64");

    // All that the image's own documents say.
    let document = |digest: &Value| {
        let path = digest.as_str().unwrap().replace(':', "/");
        let bytes = fs::read(python_image().join("blobs").join(path)).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    let manifest = document(&shown["digest"]);
    let configuration = document(&shown["configDigest"]);
    assert_eq!(shown["configDigest"], manifest["config"]["digest"]);
    assert_eq!(shown["created"], configuration["created"]);
    for key in ["Env", "Entrypoint", "Cmd", "WorkingDir"] {
        assert_eq!(shown["config"][key], configuration["config"][key], "{key}");
    }
    let layers = shown["layers"].as_array().unwrap();
    assert_eq!(layers.len(), manifest["layers"].as_array().unwrap().len());
    for (index, layer) in layers.iter().enumerate() {
        assert_eq!(layer["digest"], manifest["layers"][index]["digest"]);
        assert_eq!(layer["size"], manifest["layers"][index]["size"]);
        assert_eq!(layer["diffId"], configuration["rootfs"]["diff_ids"][index]);
        let media_type = manifest["layers"][index]["mediaType"].as_str().unwrap();
        let compression = media_type.rsplit_once('+').map_or("plain", |(_, kind)| kind);
        assert_eq!(layer["compression"], compression);
    }

    let by_digest = format!("example.com/app@{digest}");
    assert_eq!(inspect(&home, &by_digest)[0]["reference"], NAME);
    let missing = image(&home, &["inspect", NAME, "example.com/other"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(1), ""));
    assert_eq!(missing.stderr, "error: there is no image example.com/other:latest here\n");
    let wrong = image(&home, &["inspect", "UPPER"]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(2), ""));
    assert_eq!(image(&home, &["inspect"]).code, Some(2));
}

#[test]
fn an_image_is_pulled() {
    let home = Home::private();
    let registry = Registry::start();
    let name = format!("{}/app:1", registry.address);
    let pulled = image(&home, &["pull", &name]);
    let shown = inspect(&home, &name);
    let digest = shown[0]["digest"].as_str().unwrap();
    assert_eq!(said(&pulled), format!("{name}@{digest}\n"));
    assert_eq!(said(&image(&home, &["pull", &name])), pulled.stdout);
    assert_eq!(digest, manifest_digest(&python_image()));

    let missing = image(&home, &["pull", &format!("{}/other:1", registry.address)]);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(1), ""));
    assert!(missing.stderr.contains("/other:1"), "{missing:#?}");
    // Offline, what is here is here.
    let address = registry.address.clone();
    drop(registry);
    assert_eq!(inspect(&home, &name)[0]["digest"], digest);
    let offline = image(&home, &["pull", &name]);
    assert_eq!(offline.code, Some(1));
    assert!(offline.stderr.contains(&address), "{offline:#?}");
}

/// Blobs without a name, disks without an image, and what a killed process left.
#[test]
fn what_is_not_needed_is_pruned() {
    let home = Home::private();
    let invoked = Costrel::python_case(&home, "cases.echo", "{}").run();
    assert_eq!(invoked.code, Some(0), "{invoked:#?}");
    let name = said(&image(&home, &["ls"])).lines().nth(1).unwrap().to_owned();
    let name = name.split_whitespace().next().unwrap();
    assert_eq!(df(&home, "image disks")[1], "1");
    assert_eq!(df(&home, "function disks")[1], "1");
    assert_eq!(df(&home, "init blocks")[1], "1");
    assert_eq!(df(&home, "sandboxes left")[1], "0");
    assert_eq!(df(&home, "kernels")[4], "-");

    // All is needed.
    let nothing = image(&home, &["prune"]);
    assert_eq!(said(&nothing), "removed 0 blobs (0 B)\nremoved 0 staged disks (0 B)\n");

    // A name that vanished without `rm`, as where somebody deleted the records.
    for record in fs::read_dir(home.path().join("data/costrel/images/images")).unwrap().flatten() {
        if record.file_type().unwrap().is_file() {
            fs::remove_file(record.path()).unwrap();
        }
    }
    let blobs = home.path().join("data/costrel/images/blobs");
    fs::write(blobs.join(".drafts").join("0".repeat(64)), "left").unwrap();
    let left: PathBuf = home.sandboxes().join("deadbeef");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("lock"), "").unwrap();
    fs::write(left.join("scratch"), vec![1; 100_000]).unwrap();
    let sandboxes = df(&home, "sandboxes left");
    assert_eq!((sandboxes[1].as_str(), &sandboxes[2]), ("1", &sandboxes[4]));
    for what in ["image blobs", "image disks"] {
        let cells = df(&home, what);
        assert_eq!(cells[2], cells[4], "{what}");
        assert_ne!(cells[4], "0 B", "{what}");
    }
    let pruned = image(&home, &["prune"]);
    let text = said(&pruned);
    assert!(text.contains(" blobs (") && text.contains("removed 1 staged disk ("), "{text}");
    assert_eq!(df(&home, "image blobs")[1..], ["0", "0 B", "0 B", "0 B"]);
    assert_eq!(df(&home, "image disks")[1], "0");
    assert_eq!(fs::read_dir(blobs.join(".drafts")).unwrap().count(), 0);

    // The others only where that is asked for.
    assert_eq!(df(&home, "function disks")[1], "1");
    let pruned = image(&home, &["prune", "--staged"]);
    assert!(said(&pruned).contains("removed 2 staged disks ("), "{pruned:#?}");
    assert_eq!(df(&home, "function disks")[1], "0");
    assert_eq!(image(&home, &["rm", name]).code, Some(1));
}

/// A directory that is read-only for as long as this lives.
struct ReadOnly(PathBuf);

impl ReadOnly {
    #[expect(clippy::print_stderr, reason = "a skipped test says what it lacks")]
    fn mount(path: &Path) -> Option<Self> {
        let mount = |options: &[&str]| {
            let output = Command::new("mount").args(options).arg(path).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !mount(&["--bind", &path.to_string_lossy()]) {
            eprintln!("SKIPPED: cannot mount (needs root)");
            return None;
        }
        let mounted = Self(path.to_owned());
        mount(&["-o", "remount,ro,bind"]).then_some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // Lazily: a process that another test forks may hold files of it for a moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_is_staged_is_used_from_read_only_directories() {
    let home = Home::private();
    let invoke = |event: &str| Costrel::python_case(&home, "cases.echo", event).run();
    let run = invoke("{}");
    assert_eq!(run.code, Some(0), "{run:#?}");
    let data = home.path().join("data/costrel");
    let cache = home.path().join("cache/costrel");
    let parts = [data, cache.join("rootfs"), cache.join("functions"), cache.join("init")];
    let mounts: Vec<_> = parts.iter().map_while(|path| ReadOnly::mount(path)).collect();
    if mounts.len() < parts.len() {
        return;
    }
    let run = invoke(r#"{"read": "only"}"#);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(said(&image(&home, &["ls"])).lines().count(), 2);
    assert_eq!(df(&home, "image disks")[1], "1");

    // What has to be written says where it cannot be.
    let layout = python_image();
    let run = image(&home, &["import", &layout.to_string_lossy(), NAME]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    let says = |run: &Run, directory: &Path| {
        assert!(run.stderr.contains(&*directory.to_string_lossy()), "{run:#?}");
        assert!(run.stderr.contains("Read-only file system"), "{run:#?}");
    };
    says(&run, &parts[0]);
    let run = Costrel::rust_case(&home, "{}").run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    says(&run, &parts[2]);
}
