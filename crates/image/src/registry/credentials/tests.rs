use std::{cell::RefCell, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use super::*;

fn password(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Password { user: user.into(), password: password.into() })
}

fn names(found: Option<&Credentials>) -> String {
    match found {
        None => "none".into(),
        Some(Credentials::Password { user, password }) => format!("{user}:{password}"),
        Some(Credentials::RefreshToken(token)) => format!("refresh {token}"),
        Some(Credentials::AccessToken(token)) => format!("access {token}"),
    }
}

/// Credentials for `reference` in `file`, with helpers as shell scripts, and the notes.
fn find(file: &Value, reference: &str, helpers: &[(&str, &str)]) -> (String, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    fs::write(&path, file.to_string()).unwrap();
    for (name, script) in helpers {
        let path = directory.path().join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let auth =
        AuthFiles { files: vec![path], helper_directories: vec![directory.path().to_owned()] };
    let notes = RefCell::new(Vec::new());
    let found = auth.find(&reference.parse().unwrap(), &|text| notes.borrow_mut().push(text));
    (names(found.unwrap().as_ref()), notes.into_inner())
}

#[test]
fn finds_entries_of_every_form() {
    let encoded = |text: &str| json!({ "auth": STANDARD.encode(text) });
    let file = json!({ "auths": {
        "https://index.docker.io/v1/": encoded("hub:pass:word"),
        "plain.example:5000": encoded("plain:p\0\0"),
        "https://url.example/v2/": encoded("url:u"),
        "quay.example": encoded("all:a"),
        "quay.example/team": encoded("team:t"),
        "token.example": { "identitytoken": "r" },
        "access.example": { "registrytoken": "x" },
        "split.example": { "username": "s", "password": "p" },
        "empty.example": {},
    }});
    for (reference, expected) in [
        ("alpine", "hub:pass:word"),
        ("docker.io/team/app", "hub:pass:word"),
        ("plain.example:5000/app", "plain:p"),
        ("plain.example/app", "none"),
        ("url.example/app", "url:u"),
        ("quay.example/other/app", "all:a"),
        ("quay.example/team/app", "team:t"),
        ("quay.example/teams/app", "all:a"),
        ("token.example/app", "refresh r"),
        ("access.example/app", "access x"),
        ("split.example/app", "s:p"),
        ("empty.example/app", "none"),
    ] {
        assert_eq!(find(&file, reference, &[]).0, expected, "{reference}");
    }
}

#[test]
fn asks_helpers() {
    let file = json!({
        "auths": { "store.example": {} },
        "credHelpers": { "one.example": "one", "two.example": "missing" },
        "credsStore": "all",
    });
    let helpers = [
        ("one", r#"echo "{\"Username\":\"$(cat)\",\"Secret\":\"$1\"}""#),
        (
            "all",
            r#"case $(cat) in
            store.example) echo '{"Username":"<token>","Secret":"t"}';;
            https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"h"}';;
            bad.example) echo 'nonsense';;
            locked.example) echo 'the keychain is locked' >&2; exit 1;;
            *) echo 'credentials not found in native keychain'; exit 1;;
            esac"#,
        ),
    ];
    for (reference, expected, noted) in [
        ("one.example/a", "one.example:get", ""),
        ("store.example/a", "refresh t", ""),
        ("alpine", "hub:h", ""),
        ("unknown.example/a", "none", ""),
        ("two.example/a", "none", "docker-credential-missing is not installed"),
        ("bad.example/a", "none", "answers unintelligibly"),
        ("locked.example/a", "none", "the keychain is locked"),
    ] {
        let (found, notes) = find(&file, reference, &helpers);
        assert_eq!(found, expected, "{reference}");
        assert_eq!(notes.is_empty(), noted.is_empty(), "{reference}: {notes:?}");
        assert!(notes.first().is_none_or(|note| note.contains(noted)), "{notes:?}");
    }
}

#[test]
fn looks_where_skopeo_and_docker_do() {
    let files = |pairs: &[(&str, &str)]| {
        AuthFiles::from_variables(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|pair| pair.1.into())
        })
        .files
    };
    let all = [("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/u"), ("DOCKER_CONFIG", "/d")];
    let paths =
        ["/run/u/containers/auth.json", "/h/.config/containers/auth.json", "/d/config.json"];
    assert_eq!(files(&all), paths.map(PathBuf::from));
    assert_eq!(files(&[("HOME", "/h")])[1], Path::new("/h/.docker/config.json"));
    let set = [("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a.json")];
    assert_eq!(files(&set), [PathBuf::from("/a.json")]);
    assert!(files(&[]).is_empty());
}

#[test]
fn a_broken_file_is_an_error_and_a_missing_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let auth = AuthFiles { files: vec![path.clone()], helper_directories: vec![] };
    let find = || auth.find(&"a.example/b".parse().unwrap(), &|_| ());
    assert!(find().unwrap().is_none());
    fs::write(&path, "{").unwrap();
    assert!(matches!(find(), Err(CredentialsError::Parse { .. })));
    fs::write(&path, r#"{"auths":{"a.example":{"auth":"!"}}}"#).unwrap();
    assert!(
        matches!(find(), Err(CredentialsError::Entry { registry, .. }) if registry == "a.example")
    );
    fs::write(&path, r#"{"auths":{"a.example":{"auth":"YTpi"}}}"#).unwrap();
    assert!(find().unwrap() == password("a", "b"));
}
