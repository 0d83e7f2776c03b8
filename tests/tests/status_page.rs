//! The status page in a real browser.

use std::{fs, path::Path};

use costrel_tests::{Browser, Home, Server, python_image, rust_function};

const EVIL: &str = "<script>document.title='owned'</script><img src=x onerror=alert(1)>";

/// A Rust function, and a Python one that says what it is told to.
fn serve(home: &Home, own: &Path) -> Server {
    let project = own.join("project");
    fs::create_dir_all(project.join("says")).unwrap();
    fs::write(
        project.join("says/app.py"),
        "def handler(event, context):\n    print(event['say'])\n    raise ValueError(event['say'])\n",
    )
    .unwrap();
    let image = format!("oci:{}", python_image().display());
    fs::write(
        project.join("costrel.toml"),
        format!(
            "[functions.greeter]\nruntime = \"provided.al2023\"\ncode = {:?}\ntimeout = 60\nurl = true\n\
             [functions.says]\nruntime = \"python3.11\"\nimage = {image:?}\ncode = \"says\"\n\
             handler = \"app.handler\"\ntimeout = 60\nmemory = 256\n",
            rust_function()
        ),
    )
    .unwrap();
    let (project, state) = (project.to_str().unwrap(), own.join("state"));
    Server::start(home, &[project, "--state", state.to_str().unwrap()])
}

/// The element that begins with this text, up to where the next one of its kind begins.
fn part<'a>(html: &'a str, begin: &str) -> &'a str {
    let at = html.find(begin).unwrap_or_else(|| panic!("no {begin} in {html}"));
    let rest = &html[at..];
    let end = rest[1..].find("</tr>").map_or(rest.len(), |end| end + 1);
    &rest[..end]
}

#[test]
fn a_browser_shows_functions_waterfalls_and_logs() {
    // The disks are shared with other tests, the functions are this one's own.
    let (home, own) = (Home::shared(), tempfile::tempdir().unwrap());
    let server = serve(&home, own.path());
    let browser = Browser::new();
    let page = format!("{}/_costrel", server.url());

    let (empty, _) = browser.document(&page, 500);
    assert!(empty.contains("None yet."), "{empty}");
    assert!(part(&empty, "<tr data-function=\"greeter\"").contains("provided.al2023"));
    assert!(part(&empty, "<tr data-function=\"greeter\"").contains("lambda-url.localhost"));

    let greeting = server.invoke("greeter", r#"{"name":"Ada"}"#);
    assert_eq!(greeting.status, 200, "{greeting:?}");
    let greeting_id = greeting.header("x-amzn-requestid").unwrap().to_owned();
    let said = server.invoke("says", &serde_json::json!({ "say": EVIL }).to_string());
    assert_eq!(said.header("x-amz-function-error"), Some("Unhandled"), "{said:?}");
    let said_id = said.header("x-amzn-requestid").unwrap().to_owned();

    // Long enough for the script to ask for the content again.
    let (html, told) = browser.document(&page, 4_000);
    assert!(html.contains("role=\"status\">live</p>"), "the script runs: {told} {html}");
    assert!(!told.contains("Content Security Policy"), "nothing was refused: {told}");
    let row = part(&html, &format!("<tr data-request=\"{greeting_id}\""));
    for expected in [
        "greeter",
        "badge good",
        "class=\"stage\"",
        "data-phase=\"init\"",
        "data-phase=\"handler\"",
    ] {
        assert!(row.contains(expected), "{expected}: {row}");
    }
    assert!(row.contains("data-phase=\"boot\""), "snapshots are turned off: {row}");
    let row = part(&html, &format!("<tr data-request=\"{said_id}\""));
    assert!(row.contains("badge bad\">"), "{row}");
    assert!(html.contains("data-instance="), "idle instances are shown: {html}");

    let (one, _) = browser.document(&format!("{page}/invocations/{greeting_id}"), 500);
    for phase in ["boot", "init", "handler"] {
        let row = part(&one, &format!("<tr data-phase=\"{phase}\""));
        assert!(row.contains(" ms</td>") || row.contains(" s</td>"), "{row}");
    }
    assert!(one.contains(&format!("START RequestId: {greeting_id}")), "{one}");

    let (evil, told) = browser.document(&format!("{page}/invocations/{said_id}"), 1_000);
    assert!(
        evil.contains("&lt;script&gt;document.title='owned'&lt;/script&gt;&lt;img src=x"),
        "{evil}"
    );
    assert!(!evil.contains("<title>owned") && !evil.contains("<img"), "{evil}");
    assert_eq!(evil.matches("<script").count(), 1, "only the page's own: {evil}");
    assert!(!told.contains("Content Security Policy"), "there was nothing to refuse: {told}");

    // Where somebody wants to see for themselves.
    if let Some(directory) = std::env::var_os("COSTREL_TEST_PICTURES") {
        let directory = std::path::PathBuf::from(directory);
        let _ = browser.picture(&page, &directory.join("overview.png"), false);
        let _ = browser.picture(&page, &directory.join("overview-dark.png"), true);
        let one = format!("{page}/invocations/{greeting_id}");
        let _ = browser.picture(&one, &directory.join("invocation.png"), false);
    }
    let (status, said) = server.stop();
    assert!(status.success(), "{status}: {said}");
}
