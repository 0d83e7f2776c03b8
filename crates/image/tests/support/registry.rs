//! Debian's `docker-registry`, on a free loopback port, in a directory of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

pub(crate) const USER: &str = "user";
pub(crate) const PASSWORD: &str = "correct horse";
/// As `htpasswd -B` writes it, with few rounds.
const HTPASSWD: &str = "user:$2b$04$HGS6tb5yzdxPZJ8O//80BuM2FzvM/TJQYq/XCgitgpopxIKQxo/Dq\n";

/// How a registry is protected.
#[derive(Clone, Copy, Default)]
pub(crate) struct Protection {
    pub(crate) password: bool,
    pub(crate) tls: bool,
}

/// Ends with the test.
pub(crate) struct Registry {
    child: Child,
    directory: TempDir,
    pub(crate) address: String,
    protection: Protection,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::protected(Protection::default())
    }

    pub(crate) fn protected(protection: Protection) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: true\nstorage:\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            root.join("data").display()
        );
        if protection.tls {
            let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
            fs::write(root.join("cert.pem"), made.cert.pem()).unwrap();
            fs::write(root.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
            config.push_str(&format!(
                "  tls:\n    certificate: {0}/cert.pem\n    key: {0}/key.pem\n",
                root.display()
            ));
        }
        if protection.password {
            fs::write(root.join("htpasswd"), HTPASSWD).unwrap();
            config.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}/htpasswd\n",
                root.display()
            ));
        }
        fs::write(root.join("config.yml"), config).unwrap();
        let log = root.join("log");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(root.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        // It chooses a free port by itself and says which.
        let address = loop {
            let text = fs::read_to_string(&log).unwrap();
            if let Some(address) = listening(&text) {
                break address;
            }
            assert!(child.try_wait().unwrap().is_none(), "docker-registry ended: {text}");
            std::thread::sleep(Duration::from_millis(5));
        };
        Self { child, directory, address, protection }
    }

    /// The certificate that it shows, which is its own root.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    /// Puts an image of a layout into the repository, by skopeo.
    pub(crate) fn push(&self, layout: &Path, tag: &str, repository: &str, options: &[&str]) {
        let from = format!("oci:{}:{tag}", layout.display());
        let to = format!("docker://{}/{repository}", self.address);
        let credentials = format!("--dest-creds={USER}:{PASSWORD}");
        let mut arguments = vec!["copy", "--insecure-policy", "--dest-tls-verify=false"];
        if self.protection.password {
            arguments.push(&credentials);
        }
        arguments.extend(options);
        arguments.extend([from.as_str(), to.as_str()]);
        super::run("skopeo", &arguments);
    }

    /// The file of a blob, to be spoiled.
    pub(crate) fn blob_file(&self, digest: &costrel_store::Digest) -> PathBuf {
        let hex = digest.hex();
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(&hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // By its own handle; it has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in `… msg="listening on 127.0.0.1:5000" …`, once it is written whole.
fn listening(log: &str) -> Option<String> {
    let rest = log.split("listening on ").nth(1)?;
    let end = rest.find(|letter: char| letter != '.' && letter != ':' && !letter.is_ascii_digit());
    Some(rest[..end?].to_owned())
}
