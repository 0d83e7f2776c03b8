use std::collections::BTreeMap;

use super::*;
use crate::{
    AliasChange, PublishVersion,
    catalog::tests::{catalog, create},
};

#[test]
fn names_lead_to_versions() {
    let (_directory, catalog) = catalog();
    create(&catalog, "f", "1");
    catalog.publish_version(&"f".parse().unwrap(), PublishVersion::default()).unwrap();
    let resolve = |text: &str| catalog.resolve(&text.parse().unwrap());
    let arn = "arn:aws:lambda:us-east-1:123456789012:function:f";
    let version = |text: &str| resolve(text).unwrap().version.version;
    assert_eq!(version("f"), Version::Latest);
    assert_eq!(version("f:$LATEST"), Version::Latest);
    assert_eq!(version("f:1"), Version::Number(1));
    assert_eq!(version(&format!("{arn}:1")), Version::Number(1));
    assert_eq!(resolve("f").unwrap().invoked_arn, arn);
    assert_eq!(resolve("f:1").unwrap().invoked_arn, format!("{arn}:1"));
    for (text, missing) in [
        ("g", "arn:aws:lambda:us-east-1:123456789012:function:g"),
        ("f:2", "arn:aws:lambda:us-east-1:123456789012:function:f:2"),
        ("f:live", "arn:aws:lambda:us-east-1:123456789012:function:f:live"),
        ("999999999999:function:f", "arn:aws:lambda:us-east-1:999999999999:function:f"),
        (
            "arn:aws:lambda:eu-west-1:123456789012:function:f",
            "arn:aws:lambda:eu-west-1:123456789012:function:f",
        ),
    ] {
        let error = resolve(text).unwrap_err();
        assert_eq!(error, ResolveError::NotFound { arn: missing.into() });
    }
}

#[test]
fn an_alias_shares_its_traffic_by_weight() {
    let (_directory, catalog) = catalog();
    create(&catalog, "f", "1");
    let reference: FunctionReference = "f".parse().unwrap();
    catalog.publish_version(&reference, PublishVersion::default()).unwrap();
    let timeout = Some(9);
    let change = crate::ConfigurationChange { timeout, ..crate::ConfigurationChange::default() };
    catalog.update_configuration(&reference, None, change).unwrap();
    catalog.publish_version(&reference, PublishVersion::default()).unwrap();
    let change = AliasChange {
        function_version: Some("1".into()),
        weights: Some(BTreeMap::from([("2".into(), 0.25)])),
        ..AliasChange::default()
    };
    catalog.create_alias(&reference, "live", change).unwrap();
    let live: FunctionReference = "f:live".parse().unwrap();
    let drawn = |draw| catalog.resolve_drawn(&live, draw).unwrap().version.version;
    assert_eq!(drawn(0.0), Version::Number(2));
    assert_eq!(drawn(0.2499), Version::Number(2));
    assert_eq!(drawn(0.25), Version::Number(1));
    assert_eq!(drawn(0.9999), Version::Number(1));
    let of_two = (0..4000)
        .filter(|_| catalog.resolve(&live).unwrap().version.version == Version::Number(2))
        .count();
    assert!((800..1200).contains(&of_two), "{of_two} of 4000");
    assert_eq!(catalog.resolve(&live).unwrap().alias.as_deref(), Some("live"));
}
