//! What `costrel serve` is asked for: options, environment and configuration file, checked before
//! anything is started.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{Arguments, LogFormat, memory};
use crate::{config::Config, environment::Environment, failure::Failure};

/// AWS's own port is 443; this one is docker-lambda's.
const DEFAULT_LISTEN: &str = "127.0.0.1:9001";
const DEFAULT_REGION: &str = "us-east-1";
const DEFAULT_ACCOUNT: &str = "000000000000";
const MIB: u64 = 1 << 20;

/// The server's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) rie: Option<SocketAddr>,
    pub(crate) token: Option<String>,
    pub(crate) allow_remote: bool,
    pub(crate) state: PathBuf,
    pub(crate) account_id: String,
    pub(crate) region: String,
    /// In bytes.
    pub(crate) memory_limit: u64,
    pub(crate) idle: Option<Duration>,
    pub(crate) queue: Option<usize>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) host_ports: Vec<u16>,
    pub(crate) event_retry_delays: Option<[Duration; 2]>,
    pub(crate) otlp_endpoint: Option<String>,
    pub(crate) log_format: LogFormat,
}

/// Where `serve` keeps its state, and `logs` looks for it.
pub(crate) fn state(option: Option<&PathBuf>, environment: &Environment) -> PathBuf {
    let named = option.cloned().or_else(|| environment.get("COSTREL_STATE").map(PathBuf::from));
    named.unwrap_or_else(|| environment.data().join("serve"))
}

impl Settings {
    pub(super) fn resolve(
        arguments: &Arguments,
        environment: &Environment,
        config: &Config,
    ) -> Result<Self, Failure> {
        let serve = &config.serve;
        let listen = arguments.listen.as_deref().or(serve.listen.as_deref());
        let listen = address(listen.unwrap_or(DEFAULT_LISTEN), "--listen")?;
        let rie = arguments.rie.as_deref().map(|text| address(text, "--rie")).transpose()?;
        let token = environment.text("COSTREL_TOKEN").map(str::to_owned);
        for (address, option) in [(Some(listen), "--listen"), (rie, "--rie")] {
            if let Some(address) = address.filter(|address| !is_loopback(address.ip())) {
                remote(address, option, arguments.allow_remote, token.as_deref())?;
            }
        }
        let account_id = environment.text("AWS_ACCOUNT_ID").unwrap_or(DEFAULT_ACCOUNT);
        if account_id.len() != 12 || !account_id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Failure::usage(format!(
                "AWS_ACCOUNT_ID is {account_id:?}: it must be 12 digits"
            )));
        }
        let region = ["AWS_REGION", "AWS_DEFAULT_REGION"];
        let region = region.into_iter().find_map(|name| environment.text(name));
        let region = region.unwrap_or(DEFAULT_REGION);
        if !region
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            return Err(Failure::usage(format!("the region {region:?} is none")));
        }
        let memory_limit = match arguments.memory_limit.or(serve.memory_limit) {
            Some(mib) => mib.saturating_mul(MIB),
            None => memory::default_limit(),
        };
        // The smallest function's machine.
        if memory_limit < 256 * MIB {
            return Err(Failure::usage(format!(
                "--memory-limit: {} MiB are less than one machine takes, 256",
                memory_limit / MIB
            )));
        }
        Ok(Self {
            listen,
            rie,
            token,
            allow_remote: arguments.allow_remote,
            state: state(arguments.state.as_ref(), environment),
            account_id: account_id.to_owned(),
            region: region.to_owned(),
            memory_limit,
            idle: arguments.idle.or(serve.idle).map(Duration::from_secs),
            queue: arguments.queue.or(serve.queue),
            concurrency: arguments.concurrency.or(serve.concurrency),
            host_ports: arguments.expose_host.iter().chain(&serve.expose_host).copied().collect(),
            event_retry_delays: retry_delays(&arguments.event_retry_delay)?,
            otlp_endpoint: environment.text("OTEL_EXPORTER_OTLP_ENDPOINT").map(str::to_owned),
            log_format: arguments.log_format,
        })
    }
}

/// An address, a port alone being one on loopback.
fn address(text: &str, option: &str) -> Result<SocketAddr, Failure> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    let full = match text.parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => text.replacen("localhost:", "127.0.0.1:", 1),
    };
    full.parse().map_err(|_| {
        Failure::usage(format!("{option} is {text:?}: it must be ADDRESS:PORT, or a port"))
    })
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Whoever may call runs code here: beyond this host, that must be meant, and guarded.
fn remote(
    address: SocketAddr,
    option: &str,
    allowed: bool,
    token: Option<&str>,
) -> Result<(), Failure> {
    let lacking = match (allowed, token) {
        (false, _) => "--allow-remote is not given",
        (true, None) => "COSTREL_TOKEN is not set",
        (true, Some(token)) if token.len() < 16 => "COSTREL_TOKEN is shorter than 16 characters",
        (true, Some(_)) => return Ok(()),
    };
    Err(Failure::usage(format!(
        "{option} {address} can be reached from other hosts, and {lacking}"
    ))
    .with_hint(
        "give --allow-remote and a secret in COSTREL_TOKEN, with which callers sign; or listen on \
         127.0.0.1",
    ))
}

/// `60,120`, or one number for both, in seconds.
fn retry_delays(seconds: &[u64]) -> Result<Option<[Duration; 2]>, Failure> {
    let [first, second] = match *seconds {
        [] => return Ok(None),
        [one] => [one, one],
        [first, second] => [first, second],
        _ => {
            return Err(Failure::usage(
                "--event-retry-delay: an event is tried again twice, so give at most two delays",
            ));
        }
    };
    Ok(Some([Duration::from_secs(first), Duration::from_secs(second)]))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn resolve(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Settings, String> {
        let arguments = CommandLine::try_parse_from([&["serve"], arguments].concat());
        let arguments = arguments.map_err(|error| error.to_string())?.arguments;
        let environment = Environment::of(variables);
        Settings::resolve(&arguments, &environment, &Config::default()).map_err(|failure| {
            match failure {
                Failure::Usage { message, .. } => message,
                other => panic!("{other:?}"),
            }
        })
    }

    #[test]
    fn defaults() {
        let settings = resolve(&[], &[("HOME", "/home/me")]).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:9001");
        assert_eq!(settings.state, PathBuf::from("/home/me/.local/share/costrel/serve"));
        assert_eq!((&*settings.account_id, &*settings.region), ("000000000000", "us-east-1"));
        assert!(settings.memory_limit >= 256 * MIB);
        assert!(settings.rie.is_none() && settings.token.is_none());
    }

    #[test]
    fn addresses() {
        let listen = |text: &str| resolve(&["--listen", text], &[]).map(|it| it.listen.to_string());
        assert_eq!(listen("0").unwrap(), "127.0.0.1:0");
        assert_eq!(listen("localhost:80").unwrap(), "127.0.0.1:80");
        assert_eq!(listen("[::1]:80").unwrap(), "[::1]:80");
        assert_eq!(
            listen("nowhere").unwrap_err(),
            "--listen is \"nowhere\": it must be ADDRESS:PORT, or a port"
        );
        let rie =
            |arguments: &[&str]| resolve(arguments, &[]).map(|it| it.rie.map(|it| it.to_string()));
        assert_eq!(rie(&["--rie"]).unwrap().as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(rie(&["--rie", "81"]).unwrap().as_deref(), Some("127.0.0.1:81"));
    }

    #[test]
    fn other_hosts_are_let_in_only_if_that_is_meant_and_guarded() {
        let told = |arguments: &[&str], variables| resolve(arguments, variables).unwrap_err();
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            let message = told(&["--listen", address], &[("COSTREL_TOKEN", "0123456789abcdef")]);
            assert!(message.ends_with("--allow-remote is not given"), "{message}");
        }
        let allowed = ["--listen", "0.0.0.0:1", "--allow-remote"];
        assert!(told(&allowed, &[]).ends_with("COSTREL_TOKEN is not set"));
        assert!(told(&allowed, &[("COSTREL_TOKEN", "short")]).contains("16 characters"));
        assert!(resolve(&allowed, &[("COSTREL_TOKEN", "0123456789abcdef")]).is_ok());
        let rie = told(&["--rie", "0.0.0.0:8080"], &[]);
        assert!(rie.starts_with("--rie 0.0.0.0:8080"), "{rie}");
        assert!(resolve(&["--listen", "[::ffff:127.0.0.1]:1"], &[]).is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (arguments, variables, message) in [
            (&["--memory-limit", "100"][..], &[][..], "--memory-limit: 100 MiB are less"),
            (&[], &[("AWS_ACCOUNT_ID", "1")], "AWS_ACCOUNT_ID is \"1\": it must be 12 digits"),
            (&[], &[("AWS_REGION", "../x")], "the region \"../x\" is none"),
            (&["--event-retry-delay", "1,2,3"], &[], "at most two delays"),
            (&["--expose-host", "0"], &[], "0 is not in 1..=65535"),
            (&["--concurrency", "0"], &[], "0 is not in 1.."),
        ] {
            let told = resolve(arguments, variables).unwrap_err();
            assert!(told.contains(message), "{told}");
        }
        let delays = resolve(&["--event-retry-delay", "2"], &[]).unwrap().event_retry_delays;
        assert_eq!(delays, Some([Duration::from_secs(2); 2]));
    }
}
