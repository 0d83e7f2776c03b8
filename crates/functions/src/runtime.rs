//! The runtimes that AWS names, and the images that hold them.

use std::{fmt, str::FromStr};

/// An identifier of a Lambda runtime, such as `python3.12`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runtime(&'static Entry);

#[derive(PartialEq, Eq, Debug)]
struct Entry {
    name: &'static str,
    /// Below `public.ecr.aws/lambda/`.
    image: &'static str,
    handler: &'static str,
}

const fn entry(name: &'static str, image: &'static str) -> Entry {
    Entry { name, image, handler: "" }
}

const fn node(name: &'static str, image: &'static str) -> Entry {
    Entry { name, image, handler: "index.handler" }
}

static RUNTIMES: [Entry; 25] = [
    entry("dotnet10", "dotnet:10"),
    entry("dotnet8", "dotnet:8"),
    entry("go1.x", "go:1"),
    entry("java11", "java:11"),
    entry("java17", "java:17"),
    entry("java21", "java:21"),
    entry("java25", "java:25"),
    entry("java8.al2", "java:8.al2"),
    node("nodejs16.x", "nodejs:16"),
    node("nodejs18.x", "nodejs:18"),
    node("nodejs20.x", "nodejs:20"),
    node("nodejs22.x", "nodejs:22"),
    node("nodejs24.x", "nodejs:24"),
    entry("provided.al2", "provided:al2"),
    entry("provided.al2023", "provided:al2023"),
    entry("python3.10", "python:3.10"),
    entry("python3.11", "python:3.11"),
    entry("python3.12", "python:3.12"),
    entry("python3.13", "python:3.13"),
    entry("python3.14", "python:3.14"),
    entry("python3.8", "python:3.8"),
    entry("python3.9", "python:3.9"),
    entry("ruby3.2", "ruby:3.2"),
    entry("ruby3.3", "ruby:3.3"),
    entry("ruby3.4", "ruby:3.4"),
];

/// A runtime that does not exist.
#[derive(Clone, Debug, thiserror::Error)]
#[error("unknown runtime {0:?}; known are {known}", known = Runtime::names().collect::<Vec<_>>().join(", "))]
pub struct UnknownRuntime(String);

impl Runtime {
    /// All names, sorted.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RUNTIMES.iter().map(|entry| entry.name)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// AWS's image of it, a reference.
    #[must_use]
    pub fn default_image(&self) -> String {
        format!("public.ecr.aws/lambda/{}", self.0.image)
    }

    /// Whether the function brings the runtime along, as its `bootstrap`.
    #[must_use]
    pub fn is_provided(&self) -> bool {
        self.0.name.starts_with("provided")
    }

    /// The handler where none is given; most runtimes have none.
    #[must_use]
    pub fn default_handler(&self) -> Option<&'static str> {
        Some(self.0.handler).filter(|handler| !handler.is_empty())
    }
}

impl FromStr for Runtime {
    type Err = UnknownRuntime;

    fn from_str(name: &str) -> Result<Self, UnknownRuntime> {
        RUNTIMES
            .iter()
            .find(|entry| entry.name == name)
            .map(Self)
            .ok_or_else(|| UnknownRuntime(name.to_owned()))
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_awss_images() {
        let image = |name: &str| name.parse::<Runtime>().unwrap().default_image();
        assert_eq!(image("python3.12"), "public.ecr.aws/lambda/python:3.12");
        assert_eq!(image("java8.al2"), "public.ecr.aws/lambda/java:8.al2");
        assert_eq!(image("nodejs22.x"), "public.ecr.aws/lambda/nodejs:22");
        assert!("provided.al2023".parse::<Runtime>().unwrap().is_provided());
        let error = "python2.7".parse::<Runtime>().unwrap_err().to_string();
        assert!(
            error.starts_with(r#"unknown runtime "python2.7"; known are dotnet10, "#),
            "{error}"
        );
        assert!(Runtime::names().is_sorted());
    }
}
