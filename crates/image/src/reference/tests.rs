//! The tables of docker's `distribution/reference`: `reference_test.go` and `normalize_test.go`.

use super::*;

const HEX: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

fn parse(text: &str) -> Result<Reference, ParseReferenceError> {
    text.replace("HEX", HEX).parse()
}

#[test]
fn normalises_as_docker() {
    let table = [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("library/alpine:3", "docker.io/library/alpine:3", "alpine:3"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/foo/bar", "docker.io/foo/bar:latest", "foo/bar:latest"),
        ("index.docker.io/bar", "docker.io/library/bar:latest", "bar:latest"),
        (
            "127.0.0.1:8000/foo/bar",
            "127.0.0.1:8000/foo/bar:latest",
            "127.0.0.1:8000/foo/bar:latest",
        ),
        ("localhost/foo", "localhost/foo:latest", "localhost/foo:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
        ("test.com:tag", "docker.io/library/test.com:tag", "test.com:tag"),
        ("test.com/repo:tag", "test.com/repo:tag", "test.com/repo:tag"),
        ("test:5000/repo", "test:5000/repo:latest", "test:5000/repo:latest"),
        ("test:5000/repo@sha256:HEX", "test:5000/repo@sha256:HEX", "test:5000/repo@sha256:HEX"),
        (
            "test:5000/repo:t@sha256:HEX",
            "test:5000/repo:t@sha256:HEX",
            "test:5000/repo:t@sha256:HEX",
        ),
        ("lowercase:Uppercase", "docker.io/library/lowercase:Uppercase", "lowercase:Uppercase"),
        ("Uppercase/lowercase:tag", "Uppercase/lowercase:tag", "Uppercase/lowercase:tag"),
        (
            "sub-dom1.foo.com/bar/baz/quux:a-long-tag",
            "sub-dom1.foo.com/bar/baz/quux:a-long-tag",
            "sub-dom1.foo.com/bar/baz/quux:a-long-tag",
        ),
        (
            "b.gcr.io/test.example.com/my-app:test.example.com",
            "b.gcr.io/test.example.com/my-app:test.example.com",
            "b.gcr.io/test.example.com/my-app:test.example.com",
        ),
        (
            "xn--n3h.com/myimage:xn--n3h.com",
            "xn--n3h.com/myimage:xn--n3h.com",
            "xn--n3h.com/myimage:xn--n3h.com",
        ),
        ("foo_bar.com:8080", "docker.io/library/foo_bar.com:8080", "foo_bar.com:8080"),
        ("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080", "foo/foo_bar.com:8080"),
        ("foo--bar/a__b", "docker.io/foo--bar/a__b:latest", "foo--bar/a__b:latest"),
        ("192.168.1.1/repo:tag", "192.168.1.1/repo:tag", "192.168.1.1/repo:tag"),
        ("[2001:db8::1]/repo:tag", "[2001:db8::1]/repo:tag", "[2001:db8::1]/repo:tag"),
        ("[::1]:5000/repo", "[::1]:5000/repo:latest", "[::1]:5000/repo:latest"),
        ("a/a/a/a/a/b/b/b/b", "docker.io/a/a/a/a/a/b/b/b/b:latest", "a/a/a/a/a/b/b/b/b:latest"),
        ("foo/foo:latest_0.1-x", "docker.io/foo/foo:latest_0.1-x", "foo/foo:latest_0.1-x"),
    ];
    for (text, full, familiar) in table {
        let reference = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.to_string(), full.replace("HEX", HEX), "{text}");
        assert_eq!(reference.familiar(), familiar.replace("HEX", HEX), "{text}");
        assert_eq!(parse(&reference.to_string()).unwrap(), reference, "{text}");
        assert_eq!(parse(&reference.familiar()).unwrap(), reference, "{text}");
    }
}

#[test]
fn refuses_as_docker() {
    use ParseReferenceError as E;
    type Expected = fn(&ParseReferenceError) -> bool;
    let empty: Expected = |error| matches!(error, E::Empty { .. });
    let registry: Expected = |error| matches!(error, E::Registry { .. });
    let repository: Expected = |error| matches!(error, E::Repository { .. });
    let upper: Expected = |error| matches!(error, E::UpperCase { .. });
    let tag: Expected = |error| matches!(error, E::Tag { .. });
    let digest: Expected = |error| matches!(error, E::Digest { .. });
    let table = [
        ("", empty),
        (":justtag", empty),
        ("@sha256:HEX", empty),
        ("repo@sha256:ffff", digest),
        ("repo@md5:ffff", digest),
        ("repo@", digest),
        ("Uppercase:tag", upper),
        ("test:5000/Uppercase/lowercase:tag", upper),
        ("docker.io/docker/Docker", upper),
        ("aa/asdf$$^/aa", repository),
        ("-docker", repository),
        ("docker///docker", repository),
        ("docker.io/", empty),
        ("a//b", repository),
        ("___/foo", repository),
        ("foo/-bar", repository),
        ("foo.-bar", repository),
        ("foo_-bar", repository),
        ("foo___bar", repository),
        ("foo..bar", repository),
        ("foo bar", repository),
        ("föö", repository),
        ("https://github.com/docker/docker", registry),
        ("-test.com/repo", registry),
        ("[fe80::1%eth0]:8080/repo", registry),
        ("[2001:db8::1/repo", registry),
        ("host:port/repo", registry),
        ("a.b:/repo", registry),
        ("alpine:", tag),
        ("alpine:-x", tag),
        ("alpine:a b", tag),
        ("alpine:a:b", tag),
    ];
    for (text, expected) in table {
        let error = parse(text).expect_err(text);
        assert!(expected(&error), "{text}: {error:?}");
    }
    assert!(matches!(parse("HEX"), Err(E::Identifier { .. })));
    assert!(parse(&format!("a:{}", "t".repeat(128))).is_ok());
    assert!(tag(&parse(&format!("a:{}", "t".repeat(129))).unwrap_err()));
    assert!(parse(&format!("a/{}", "b".repeat(253))).is_ok());
    assert!(matches!(parse(&format!("a/{}", "b".repeat(254))), Err(E::TooLong { .. })));
}

#[test]
fn what_docker_leaves_out_is_what_it_puts_back() {
    for (text, familiar) in [
        ("docker.io/library/alpine:3", "alpine:3"),
        ("docker.io/user/app", "user/app:latest"),
        ("docker.io/library/a/b", "library/a/b:latest"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest"),
        ("docker.io/localhost/c", "docker.io/localhost/c:latest"),
        ("quay.io/library/c", "quay.io/library/c:latest"),
    ] {
        assert_eq!(parse(text).unwrap().familiar(), familiar, "{text}");
    }
}
