//! The arrows between crates point as crates/README.md says, and only there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The rows of the table below "## Arrows": the names in backticks of its first and last column.
fn drawn() -> Arrows {
    let map = fs::read_to_string(workspace().join("crates/README.md")).unwrap();
    let section = map.split("\n## ").find(|section| section.starts_with("Arrows")).unwrap();
    let names =
        |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            let name = names(cells[0]).into_iter().next().unwrap();
            (name, names(cells[2]).into_iter().collect())
        })
        .collect()
}

/// What the manifests say, dependencies for tests and builds included.
fn real() -> Arrows {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(workspace().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = |name: &serde_json::Value| {
        name.as_str().unwrap().strip_prefix("costrel-").map(str::to_owned)
    };
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            (
                ours(&package["name"]).unwrap(),
                dependencies.iter().filter_map(|used| ours(&used["name"])).collect(),
            )
        })
        .collect()
}

#[test]
fn arrows_point_as_the_map_says() {
    let (drawn, real) = (drawn(), real());
    let names = |arrows: &Arrows| arrows.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&drawn), names(&real), "the map and the workspace have different crates");
    for (name, uses) in &real {
        let extra: Vec<_> = uses.difference(&drawn[name]).collect();
        assert!(extra.is_empty(), "{name} uses {extra:?}, which crates/README.md does not allow");
        let idle: Vec<_> = drawn[name].difference(uses).collect();
        assert!(
            idle.is_empty(),
            "{name} does not use {idle:?}, which crates/README.md says it does"
        );
    }
}

#[test]
fn arrows_point_down() {
    // No crate can be reached from itself. Cargo forbids that for libraries, but not through the
    // dependencies of tests.
    let drawn = drawn();
    for start in drawn.keys() {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&String> = drawn[start].iter().collect();
        while let Some(name) = open.pop() {
            assert_ne!(name, start, "{start} reaches itself");
            if seen.insert(name) {
                open.extend(&drawn[name]);
            }
        }
    }
}
