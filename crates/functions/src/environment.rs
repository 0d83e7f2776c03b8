//! The environment that a function's runtime sees.

use std::collections::BTreeMap;

use costrel_agent_client::wire::EnvironmentVariable;
use costrel_store::{Digest, Hasher};
use uuid::Uuid;

use crate::{FunctionSpec, Initialization, Launch};

/// Variables that only Lambda itself may set.
const RESERVED: [&str; 18] = [
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
];

/// A variable that a function's owner cannot set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// Lambda sets it.
    #[error("the environment variable {0} is reserved: only Lambda itself sets it")]
    Reserved(String),
    /// It is no variable at all.
    #[error("{0:?} cannot name an environment variable")]
    Name(String),
}

/// Whether only Lambda itself may set this variable.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// Where later rules win: Lambda's defaults, the image's own, the owner's, what Lambda insists on.
pub(crate) fn build(
    spec: &FunctionSpec,
    handler: Option<&str>,
    image: &[(String, String)],
    log_stream: &str,
) -> Result<Vec<EnvironmentVariable>, EnvironmentError> {
    for (name, _) in &spec.environment {
        if is_reserved(name) {
            return Err(EnvironmentError::Reserved(name.clone()));
        }
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(EnvironmentError::Name(name.clone()));
        }
    }
    let mut variables: BTreeMap<&str, String> = BTreeMap::new();
    let mut set = |name, value: &str| variables.insert(name, value.to_owned());
    set("LANG", "en_US.UTF-8");
    set("TZ", ":UTC");
    set("PATH", "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin");
    set(
        "LD_LIBRARY_PATH",
        "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
    );
    for (name, value) in image.iter().chain(&spec.environment) {
        set(name, value);
    }
    if let Launch::Bootstrap(_) = spec.package.launch
        && !spec.environment.iter().any(|(name, _)| name == "TZ")
    {
        // AWS's images say otherwise, AWS's runtimes do not go by them.
        set("TZ", ":UTC");
    }
    set("LAMBDA_TASK_ROOT", "/var/task");
    set("LAMBDA_RUNTIME_DIR", "/var/runtime");
    set("AWS_REGION", &spec.region);
    set("AWS_DEFAULT_REGION", &spec.region);
    set("AWS_LAMBDA_FUNCTION_NAME", &spec.name);
    set("AWS_LAMBDA_FUNCTION_VERSION", &spec.version);
    set("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &spec.memory.as_megabytes().to_string());
    // What was saved runs in many instances, each with a log stream of its own: so AWS names none.
    // Its client for Node.js does not start without.
    if spec.initialization != Initialization::SnapStart || is_node(spec) {
        set("AWS_LAMBDA_LOG_GROUP_NAME", &format!("/aws/lambda/{}", spec.name));
        set(LOG_STREAM, log_stream);
    }
    set("AWS_LAMBDA_INITIALIZATION_TYPE", spec.initialization.name());
    set("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001");
    if let Some(handler) = handler {
        set("_HANDLER", handler);
    }
    if let Launch::Bootstrap(runtime) = spec.package.launch
        && !runtime.is_provided()
    {
        set("AWS_EXECUTION_ENV", &format!("AWS_Lambda_{runtime}"));
    }
    if spec.credentials.is_some() && spec.initialization == Initialization::SnapStart {
        set("AWS_CONTAINER_CREDENTIALS_FULL_URI", CREDENTIALS_URI);
        set("AWS_CONTAINER_AUTHORIZATION_TOKEN", &credentials_token(spec));
    } else if let Some(credentials) = &spec.credentials {
        set("AWS_ACCESS_KEY_ID", &credentials.access_key_id);
        set("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key);
        if let Some(token) = &credentials.session_token {
            set("AWS_SESSION_TOKEN", token);
        }
    }
    let variable =
        |(name, value): (&str, String)| EnvironmentVariable { name: name.to_owned(), value };
    Ok(variables.into_iter().map(variable).collect())
}

fn is_node(spec: &FunctionSpec) -> bool {
    matches!(spec.package.launch, Launch::Bootstrap(runtime) if runtime.name().starts_with("nodejs"))
}

const LOG_STREAM: &str = "AWS_LAMBDA_LOG_STREAM_NAME";

/// Where the agent serves credentials to the AWS SDKs: what is saved must not hold any that expire.
const CREDENTIALS_URI: &str = "http://127.0.0.1:9001/2021-04-23/credentials";

/// What shows the agent that it is the function who asks for its credentials. Whoever else is in its
/// machine is the function as well, so it need not be a secret, but all that go on from the same
/// snapshot must have the same.
pub(crate) fn credentials_token(spec: &FunctionSpec) -> String {
    let mut hasher = Hasher::new();
    hasher.field(b"credentials");
    for name in [&spec.region, &spec.account_id, &spec.name, &spec.version] {
        hasher.field(name.as_bytes());
    }
    hasher.finish().hex()
}

/// A digest of an environment without what differs between the instances of one version.
pub(crate) fn digest(environment: &[EnvironmentVariable]) -> Digest {
    let mut hasher = Hasher::new();
    for variable in environment.iter().filter(|variable| variable.name != LOG_STREAM) {
        hasher.field(variable.name.as_bytes());
        hasher.field(variable.value.as_bytes());
    }
    hasher.finish()
}

/// A log stream's name: `YYYY/MM/DD/[version]` and 32 hex digits.
pub(crate) fn log_stream(version: &str, now: jiff::Timestamp) -> String {
    let date = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y/%m/%d").to_string();
    format!("{date}/[{version}]{}", Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EphemeralStorage, FunctionMemory, FunctionTimeout, Package};

    fn spec(environment: &[(&str, &str)]) -> FunctionSpec {
        FunctionSpec {
            name: "f".into(),
            version: "$LATEST".into(),
            account_id: "000000000000".into(),
            region: "eu-west-1".into(),
            package: Package {
                image: None,
                code: None,
                launch: Launch::Bootstrap("python3.12".parse().unwrap()),
            },
            handler: None,
            entrypoint: None,
            command: None,
            working_directory: None,
            layers: vec![],
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            credentials: None,
            memory: FunctionMemory::megabytes(128).unwrap(),
            timeout: FunctionTimeout::seconds(3).unwrap(),
            ephemeral_storage: EphemeralStorage::megabytes(512).unwrap(),
            initialization: Initialization::OnDemand,
            host_ports: vec![],
        }
    }

    #[test]
    fn the_owner_wins_over_the_image_and_lambda_over_both() {
        let image = [("TZ", "UTC"), ("A", "image"), ("AWS_REGION", "mars")]
            .map(|(n, v)| (n.into(), v.into()));
        let built = build(&spec(&[("A", "owner")]), Some("app.handler"), &image, "stream").unwrap();
        let value = |name: &str| built.iter().find(|v| v.name == name).map(|v| v.value.as_str());
        assert_eq!(value("TZ"), Some(":UTC"));
        assert_eq!(value("A"), Some("owner"));
        assert_eq!(value("AWS_REGION"), Some("eu-west-1"));
        assert_eq!(value("_HANDLER"), Some("app.handler"));
        assert_eq!(value("AWS_EXECUTION_ENV"), Some("AWS_Lambda_python3.12"));
        assert_eq!(value("AWS_ACCESS_KEY_ID"), None);
    }

    #[test]
    fn what_is_saved_holds_no_log_stream_and_no_credentials() {
        let spec = FunctionSpec {
            initialization: Initialization::SnapStart,
            credentials: Some(crate::Credentials {
                access_key_id: "AKIA".into(),
                secret_access_key: "secret".into(),
                session_token: None,
            }),
            ..spec(&[])
        };
        let built = build(&spec, None, &[], "stream").unwrap();
        let value = |name: &str| built.iter().find(|v| v.name == name).map(|v| v.value.as_str());
        assert_eq!(value("AWS_LAMBDA_INITIALIZATION_TYPE"), Some("snap-start"));
        for absent in ["AWS_LAMBDA_LOG_GROUP_NAME", LOG_STREAM, "AWS_ACCESS_KEY_ID"] {
            assert_eq!(value(absent), None, "{absent}");
        }
        assert_eq!(value("AWS_CONTAINER_CREDENTIALS_FULL_URI"), Some(CREDENTIALS_URI));
        assert!(!built.iter().any(|variable| variable.value.contains("secret")));
    }

    #[test]
    fn the_log_stream_alone_makes_no_other_environment() {
        let built =
            |value, stream| digest(&build(&spec(&[("A", value)]), None, &[], stream).unwrap());
        assert_eq!(built("x", "one"), built("x", "two"));
        assert_ne!(built("x", "one"), built("y", "one"));
    }

    #[test]
    fn reserved_names_are_refused() {
        let refused = |name: &str| build(&spec(&[(name, "x")]), None, &[], "").unwrap_err();
        assert_eq!(refused("AWS_REGION"), EnvironmentError::Reserved("AWS_REGION".into()));
        assert_eq!(refused("a=b"), EnvironmentError::Name("a=b".into()));
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn log_streams_are_named_by_day_and_version() {
        let name = log_stream("7", jiff::Timestamp::from_second(1_000_000_000).unwrap());
        assert!(name.starts_with("2001/09/09/[7]"), "{name}");
        assert_eq!(name.len(), "2001/09/09/[7]".len() + 32);
    }
}
