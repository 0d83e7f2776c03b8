//! The signatures below were made by botocore, with the secret `the token`, at noon on 2026-11-23.

use http::Request;

use super::*;

const SECRET: &str = "the token";

fn noon() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn authorization(signed_headers: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/us-east-1/lambda/aws4_request, SignedHeaders={signed_headers}, Signature={signature}"
    )
}

fn invoke() -> Parts {
    request(
        "POST",
        "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Af/invocations?Qualifier=a%20b&x=",
        &[
            ("host", "localhost:9000"),
            ("user-agent", "x"),
            ("x-amz-date", "20261123T120000Z"),
            ("x-amz-invocation-type", "Event"),
            (
                "authorization",
                &authorization(
                    "host;x-amz-date;x-amz-invocation-type",
                    "1c1b08d63547923e9c85f9f8fa7cfdc78fa9577ff4d4acc2bcbbde03bbe8580b",
                ),
            ),
        ],
    )
}

fn verify(request: &Parts, payload: &[u8], secret: &str) -> Result<(), SignatureError> {
    let signature = Signature::read(request, noon())?.expect("it is signed");
    signature.verify(request, payload, secret)?;
    signature.verify_payload(payload)
}

#[test]
fn what_botocore_signs_is_right() {
    assert_eq!(verify(&invoke(), br#"{"a":1}"#, SECRET), Ok(()));
    let list = request(
        "GET",
        "/2015-03-31/functions/?MaxItems=1&Marker=a%2Bb%2F%3D",
        &[
            ("host", "localhost:9000"),
            ("x-amz-date", "20261123T120000Z"),
            (
                "authorization",
                &authorization(
                    "host;x-amz-date",
                    "25767be642a0a0fab67853ee725499da34b0a6ef3db8c52b14d18e7da8a24210",
                ),
            ),
        ],
    );
    assert_eq!(verify(&list, b"", SECRET), Ok(()));
}

#[test]
fn what_curl_7_signs_is_right() {
    let signed = request(
        "POST",
        "/2015-03-31/functions/f%3Alive/invocations",
        &[
            ("host", "127.0.0.1:9472"),
            ("x-amz-date", "20261123T223536Z"),
            ("content-type", "application/x-www-form-urlencoded"),
            (
                "authorization",
                &authorization(
                    "host;x-amz-date",
                    "c093b89cdad90550c305397671d0a67a1e01861a583a8e31dc75819a9e1c9c23",
                ),
            ),
        ],
    );
    let at = "2026-11-23T22:35:36Z".parse().unwrap();
    let signature = Signature::read(&signed, at).unwrap().unwrap();
    assert_eq!(signature.verify(&signed, br#"{"c":1}"#, SECRET), Ok(()));
    assert_eq!(signature.verify(&signed, br#"{"c":2}"#, SECRET), Err(SignatureError::Wrong));
}

#[test]
fn an_unsigned_payload_may_be_any() {
    let put = request(
        "PUT",
        "/x/../y//z",
        &[
            ("host", "localhost:9000"),
            ("multi", "  a   b "),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-date", "20261123T120000Z"),
            (
                "authorization",
                &authorization(
                    "host;multi;x-amz-content-sha256;x-amz-date",
                    "d5103b4d863b37f421661efd332e02e6934ee6eeebd9609c5d948783bb7e3445",
                ),
            ),
        ],
    );
    assert_eq!(verify(&put, b"one", SECRET), Ok(()));
    assert_eq!(verify(&put, b"other", SECRET), Ok(()));
    assert!(!Signature::read(&put, noon()).unwrap().unwrap().needs_payload());
}

const PRESIGNED: &str = "/a/b?c=d&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261123%2Fus-east-1%2Flambda%2Faws4_request&X-Amz-Date=20261123T120000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=9176361331c92f481c5c3c54ab5f51156829bff96953fb3159ce96f235634fed";

#[test]
fn a_presigned_address_is_good_for_its_time() {
    let presigned = request("GET", PRESIGNED, &[("host", "f.example")]);
    assert_eq!(verify(&presigned, b"", SECRET), Ok(()));
    let at = |seconds| noon() + SignedDuration::from_secs(seconds);
    assert!(Signature::read(&presigned, at(60)).is_ok());
    assert_eq!(Signature::read(&presigned, at(61)), Err(SignatureError::Expired));
    assert_eq!(Signature::read(&presigned, at(-901)), Err(SignatureError::Skewed));
    let forever =
        request("GET", &PRESIGNED.replace("Expires=60", "Expires=604801"), &[("host", "f")]);
    assert_eq!(Signature::read(&forever, noon()), Err(SignatureError::Malformed("X-Amz-Expires")));
}

#[test]
fn whatever_is_changed_is_seen() {
    let payload = br#"{"a":1}"#;
    assert_eq!(verify(&invoke(), payload, "another token"), Err(SignatureError::Wrong));
    assert_eq!(verify(&invoke(), br#"{"a":2}"#, SECRET), Err(SignatureError::Wrong));
    let mut changed = invoke();
    changed.method = http::Method::PUT;
    assert_eq!(verify(&changed, payload, SECRET), Err(SignatureError::Wrong));
    let mut changed = invoke();
    changed.uri = changed.uri.to_string().replace("Qualifier=a", "Qualifier=b").parse().unwrap();
    assert_eq!(verify(&changed, payload, SECRET), Err(SignatureError::Wrong));
    let mut changed = invoke();
    changed.uri = changed.uri.to_string().replace("%3Af/", "%3Ag/").parse().unwrap();
    assert_eq!(verify(&changed, payload, SECRET), Err(SignatureError::Wrong));
    let mut changed = invoke();
    changed.headers.insert("x-amz-invocation-type", "DryRun".parse().unwrap());
    assert_eq!(verify(&changed, payload, SECRET), Err(SignatureError::Wrong));
    let mut changed = invoke();
    changed.headers.append("x-amz-invocation-type", "DryRun".parse().unwrap());
    assert_eq!(verify(&changed, payload, SECRET), Err(SignatureError::Wrong));
    let mut changed = invoke();
    changed.headers.insert("x-amz-log-type", "Tail".parse().unwrap());
    assert_eq!(
        verify(&changed, payload, SECRET),
        Err(SignatureError::Unsigned("x-amz-log-type".to_owned()))
    );
}

#[test]
fn clocks_may_be_a_quarter_of_an_hour_apart() {
    let at = |seconds| Signature::read(&invoke(), noon() + SignedDuration::from_secs(seconds));
    assert!(at(900).is_ok() && at(-900).is_ok());
    assert_eq!(at(901), Err(SignatureError::Skewed));
    assert_eq!(at(-901), Err(SignatureError::Skewed));
}

#[test]
fn a_payload_must_be_the_one_whose_hash_is_signed() {
    let mut signed = invoke();
    let hash = hex(&Sha256::digest(br#"{"a":1}"#));
    signed.headers.insert("x-amz-content-sha256", hash.parse().unwrap());
    // The header itself need not be signed: what it says is.
    let signature = Signature::read(&signed, noon()).unwrap().unwrap();
    assert!(!signature.needs_payload());
    assert_eq!(signature.verify(&signed, b"", SECRET), Ok(()));
    assert_eq!(signature.verify_payload(br#"{"a":1}"#), Ok(()));
    assert_eq!(signature.verify_payload(b"{}"), Err(SignatureError::OtherPayload));
}

#[test]
fn malformed_signatures_are_refused() {
    let with = |value: &str| {
        let mut changed = invoke();
        changed.headers.insert("authorization", value.parse().unwrap());
        Signature::read(&changed, noon()).unwrap_err()
    };
    assert_eq!(with("AWS4-HMAC-SHA256"), SignatureError::Malformed("Authorization header"));
    assert_eq!(
        with("AWS4-HMAC-SHA256 Credential=a/20261123/r/s/aws4_request"),
        SignatureError::Incomplete("SignedHeaders")
    );
    let headers = "host;x-amz-date;x-amz-invocation-type";
    assert_eq!(with(&authorization(headers, "ab")), SignatureError::Malformed("Signature"));
    assert_eq!(
        with(&authorization("x-amz-date;x-amz-invocation-type", &"0".repeat(64))),
        SignatureError::Unsigned("host".to_owned())
    );
    assert_eq!(
        with(&authorization(headers, &"0".repeat(64)).replace("20261123/", "20261122/")),
        SignatureError::Malformed("X-Amz-Date")
    );
    let mut chunked = invoke();
    let literal = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    chunked.headers.insert("x-amz-content-sha256", literal.parse().unwrap());
    assert_eq!(Signature::read(&chunked, noon()), Err(SignatureError::Chunked));
    let mut undated = invoke();
    undated.headers.remove("x-amz-date");
    assert_eq!(Signature::read(&undated, noon()), Err(SignatureError::Incomplete("X-Amz-Date")));
    assert_eq!(Signature::read(&request("GET", "/", &[]), noon()), Ok(None));
}

#[test]
fn secrets_are_told_apart() {
    assert!(is_same_secret("a", "a"));
    assert!(!is_same_secret("a", "b") && !is_same_secret("a", "") && !is_same_secret("a", "aa"));
}
