//! How an image wants to be run.

use std::collections::BTreeMap;

use costrel_store::Digest;
use oci_spec::image::ImageConfiguration;

use crate::{Platform, manifest, manifest::ManifestError};

/// The configuration of an image, as the OCI image specification's `config` object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageConfig {
    /// The command's fixed part.
    pub entrypoint: Vec<String>,
    /// Its default arguments, or all of the command where there is no entrypoint.
    pub cmd: Vec<String>,
    /// The environment, in the image's order.
    pub env: Vec<(String, String)>,
    /// `user[:group]`, by name or number. None is root.
    pub user: Option<String>,
    /// Where the command starts. None is `/`.
    pub working_dir: Option<String>,
    /// Ports that it serves, as `8080/tcp`, sorted.
    pub exposed_ports: Vec<String>,
    /// Directories that it keeps data in, sorted.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What asks it to stop, as `SIGTERM` or a number.
    pub stop_signal: Option<String>,
    /// When it was built, as RFC 3339 has it.
    pub created: Option<String>,
}

/// What an image's configuration says: how to run it, on what, and what its layers unpack to.
pub(crate) struct Configuration {
    pub(crate) config: ImageConfig,
    pub(crate) platform: Platform,
    pub(crate) diff_ids: Vec<Digest>,
}

impl Configuration {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let parsed: ImageConfiguration = manifest::parse("configuration", bytes)?;
        let platform = Platform::new(
            &parsed.os().to_string(),
            &parsed.architecture().to_string(),
            parsed.variant().as_deref(),
        );
        let diff_ids = parsed
            .rootfs()
            .diff_ids()
            .iter()
            .map(|digest| digest.parse())
            .collect::<Result<_, _>>()?;
        let created = parsed.created().clone();
        let run = parsed.config().clone().unwrap_or_default();
        let nonempty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let sorted = |list: &Option<Vec<String>>| {
            let mut list = list.clone().unwrap_or_default();
            list.sort();
            list
        };
        let env = run.env().iter().flatten().map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (pair.clone(), String::new()),
        });
        let config = ImageConfig {
            entrypoint: run.entrypoint().clone().unwrap_or_default(),
            cmd: run.cmd().clone().unwrap_or_default(),
            env: env.collect(),
            user: nonempty(run.user()),
            working_dir: nonempty(run.working_dir()),
            exposed_ports: sorted(run.exposed_ports()),
            volumes: sorted(run.volumes()),
            labels: run.labels().clone().unwrap_or_default().into_iter().collect(),
            stop_signal: nonempty(run.stop_signal()),
            created,
        };
        Ok(Self { config, platform, diff_ids })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_docker_writes() {
        let digest = Digest::of(b"layer");
        let configuration = json!({
            "architecture": "arm64", "os": "linux", "variant": "v8",
            "created": "2024-01-01T00:00:00Z",
            "config": {
                "Hostname": "", "Tty": false, "ArgsEscaped": true, "OnBuild": null,
                "Healthcheck": { "Test": ["CMD", "true"], "Interval": 1 },
                "User": "app:app", "WorkingDir": "/srv", "Entrypoint": ["/init", "--"],
                "Cmd": null, "Env": ["PATH=/bin", "A=b=c", "NONE"],
                "ExposedPorts": { "8080/tcp": {}, "53/udp": {} }, "Volumes": null,
                "Labels": { "k": "v" }, "StopSignal": "SIGQUIT",
            },
            "container_config": { "Cmd": ["x"] }, "docker_version": "20",
            "history": [{ "created": "2024-01-01T00:00:00Z", "empty_layer": true }],
            "rootfs": { "type": "layers", "diff_ids": [digest.to_string()] },
        });
        let read = Configuration::parse(configuration.to_string().as_bytes()).unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(read.platform.to_string(), "linux/arm64");
        assert_eq!(read.diff_ids, [digest]);
        assert_eq!(read.config.entrypoint, ["/init", "--"]);
        assert!(read.config.cmd.is_empty());
        assert_eq!(read.config.env, [pair("PATH", "/bin"), pair("A", "b=c"), pair("NONE", "")]);
        assert_eq!(read.config.user.as_deref(), Some("app:app"));
        assert_eq!(read.config.working_dir.as_deref(), Some("/srv"));
        assert_eq!(read.config.exposed_ports, ["53/udp", "8080/tcp"]);
        assert_eq!(read.config.labels["k"], "v");
        assert_eq!(read.config.stop_signal.as_deref(), Some("SIGQUIT"));
    }

    #[test]
    fn reads_the_least() {
        let configuration = json!({
            "architecture": "amd64", "os": "linux",
            "config": { "User": "", "WorkingDir": "" },
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        let read = Configuration::parse(configuration.to_string().as_bytes()).unwrap();
        assert_eq!(read.config, ImageConfig::default());
        assert!(Configuration::parse(b"{}").is_err());
    }
}
