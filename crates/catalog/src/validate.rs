//! A change of a function's configuration: its members checked one by one.

use costrel_functions::{Runtime, is_reserved};

use crate::{ConfigurationChange, Invalid, PackageType, Violations};

const ROLE_PATTERN: &str = r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+";
const MOUNT_PATTERN: &str = r"/mnt/[a-zA-Z0-9-_.]+";
const VARIABLE_PATTERN: &str = r"[a-zA-Z]([a-zA-Z0-9_])+";

/// What names and values of a function's variables may have together, in bytes.
const ENVIRONMENT_LIMIT: usize = 4 << 10;

impl ConfigurationChange {
    /// Finds all members that are out of their bounds.
    pub(crate) fn check_members(&self, violations: &mut Violations) {
        if let Some(description) = &self.description {
            violations.length("description", description, 0, 256);
        }
        if let Some(role) = &self.role {
            violations.pattern("role", role, is_role(role), ROLE_PATTERN);
        }
        if let Some(handler) = &self.handler {
            violations.length("handler", handler, 0, 128);
            let fits = !handler.is_empty() && !handler.contains(char::is_whitespace);
            violations.pattern("handler", handler, fits, r"[^\s]+");
        }
        let mut range = |member, value: Option<i64>, least, most| {
            if let Some(value) = value {
                violations.range(member, value, least, most);
            }
        };
        range("timeout", self.timeout, 1, 900);
        range("memorySize", self.memory_size, 128, 10240);
        range("ephemeralStorage.size", self.ephemeral_storage, 512, 10240);
        for name in self.environment.iter().flatten().map(|(name, _)| name) {
            violations.pattern("environment.variables", name, is_variable(name), VARIABLE_PATTERN);
        }
        for (index, system) in self.file_systems.iter().flatten().enumerate() {
            let path = &system.local_mount_path;
            let fits = path.strip_prefix("/mnt/").is_some_and(|name| {
                !name.is_empty()
                    && name
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            });
            let member = format!("fileSystemConfigs.{}.member.localMountPath", index + 1);
            violations.pattern(&member, path, fits, MOUNT_PATTERN);
        }
        if let Some(logging) = &self.logging {
            if let Some(level) = &logging.application_level {
                let levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
                violations.one_of("loggingConfig.applicationLogLevel", level, &levels);
            }
            if let Some(level) = &logging.system_level {
                let levels = ["DEBUG", "INFO", "WARN"];
                violations.one_of("loggingConfig.systemLogLevel", level, &levels);
            }
        }
    }
}

/// What makes no sense of a configuration as a whole.
pub(crate) fn check_whole(configuration: &crate::Configuration) -> Result<(), Invalid> {
    match configuration.package_type {
        PackageType::Zip => {
            if configuration.runtime.is_none() || configuration.handler.is_none() {
                return Err(Invalid::RuntimeAndHandler);
            }
            if !configuration.image.is_empty() {
                return Err(Invalid::ImageConfigForZip);
            }
        }
        PackageType::Image => {
            let given = [
                (configuration.runtime.is_some(), "Runtime"),
                (configuration.handler.is_some(), "Handler"),
                (!configuration.layers.is_empty(), "Layers"),
            ];
            if let Some((_, what)) = given.into_iter().find(|(given, _)| *given) {
                return Err(Invalid::NotForImages(what));
            }
        }
    }
    if let Some(runtime) = &configuration.runtime
        && runtime.parse::<Runtime>().is_err()
    {
        return Err(Invalid::Runtime(runtime.clone()));
    }
    let logging = &configuration.logging;
    if logging.format == crate::LogFormat::Text
        && (logging.application_level.is_some() || logging.system_level.is_some())
    {
        return Err(Invalid::LogLevel);
    }
    if configuration.snap_start == crate::ApplyOn::PublishedVersions {
        if !configuration.file_systems.is_empty() {
            return Err(Invalid::SnapStart("a file system"));
        }
        if configuration.ephemeral_storage > 512 {
            return Err(Invalid::SnapStart("an ephemeral storage of more than 512 MB"));
        }
    }
    check_environment(&configuration.environment)
}

fn check_environment(
    environment: &std::collections::BTreeMap<String, String>,
) -> Result<(), Invalid> {
    let reserved: Vec<&str> =
        environment.keys().map(String::as_str).filter(|name| is_reserved(name)).collect();
    if !reserved.is_empty() {
        return Err(Invalid::ReservedVariables(reserved.join(", ")));
    }
    let size: usize = environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > ENVIRONMENT_LIMIT {
        let measured = serde_json::to_string(environment).unwrap_or_default();
        return Err(Invalid::EnvironmentSize(measured));
    }
    Ok(())
}

fn is_role(role: &str) -> bool {
    let Some(rest) = role.strip_prefix("arn:aws") else { return false };
    let Some((partition, rest)) = rest.split_once(":iam::") else { return false };
    let Some((account, name)) = rest.split_once(":role") else { return false };
    partition.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
        && crate::reference::is_account(account)
        && !name.trim_start_matches('/').is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@-_/".contains(&byte))
}

fn is_variable(name: &str) -> bool {
    // AWS's pattern and a half: a name of one letter is taken, and so are those that only Lambda may
    // set, which are refused by name.
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || is_reserved(name))
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_awss() {
        assert!(is_role("arn:aws:iam::123456789012:role/lambda-role"));
        assert!(is_role("arn:aws-cn:iam::123456789012:role/service-role/x"));
        for text in [
            "",
            "role",
            "arn:aws:iam::12:role/x",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:user/x",
        ] {
            assert!(!is_role(text), "{text}");
        }
    }

    #[test]
    fn variables_are_named_as_on_aws() {
        for (name, fits) in [
            ("A", true),
            ("A_1", true),
            ("_HANDLER", true),
            ("_X", false),
            ("1A", false),
            ("A-B", false),
            ("", false),
        ] {
            assert_eq!(is_variable(name), fits, "{name}");
        }
    }
}
