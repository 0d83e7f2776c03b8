//! `costrel serve` and `costrel logs` as people at a desk use them.

use std::{fs, path::Path, time::Duration};

use costrel_tests::{
    Costrel, Home, Run, Server, processes_below, python_image, rust_function, wait_until,
};
use rustix::process::Signal;

/// A server with functions of its own on the disks that tests share.
fn serve(own: &Path, arguments: &[&str]) -> Server {
    let state = own.join("state");
    Server::start(&Home::shared(), &[arguments, &["--state", state.to_str().unwrap()]].concat())
}

fn image() -> String {
    format!("oci:{}", python_image().display())
}

fn write_handler(directory: &Path, answer: &str) {
    fs::create_dir_all(directory).unwrap();
    let code =
        format!("def handler(event, context):\n    print('hello log')\n    return {answer:?}\n");
    fs::write(directory.join("app.py"), code).unwrap();
}

#[test]
fn a_directory_is_served_watched_and_logged() {
    let own = tempfile::tempdir().unwrap();
    let app = own.path().join("my app");
    write_handler(&app, "first");
    let image = image();
    let server = serve(
        own.path(),
        &[
            app.to_str().unwrap(),
            "--runtime=python3.11",
            "--image",
            &image,
            "--handler=app.handler",
            "--memory=256",
            "--watch",
        ],
    );
    let answer = server.invoke("my-app", "{}");
    assert_eq!((answer.status, answer.text()), (200, "\"first\""), "{}", server.said());
    let request = answer.header("x-amzn-requestid").unwrap().to_owned();

    write_handler(&app, "second");
    wait_until("the change is told", || {
        server.said().contains("Handler/layer file changed, restarting bootstrap...")
    });
    assert_eq!(server.invoke("my-app", "{}").text(), "\"second\"");

    // What is not finished yet is not served.
    fs::remove_file(app.join("app.py")).unwrap();
    fs::remove_dir(&app).unwrap();
    wait_until("a missing directory is told", || {
        server.said().contains("functions stay as they were")
    });
    write_handler(&app, "third");
    wait_until("the third answer", || server.invoke("my-app", "{}").text() == "\"third\"");

    let said = server.said();
    assert!(said.contains("my-app       │ hello log"), "{said}");
    let logs = |arguments: &[&str]| -> Run {
        let state = own.path().join("state");
        Costrel::new(
            &Home::shared(),
            [&["logs", "--state", state.to_str().unwrap()], arguments].concat(),
        )
        .run()
    };
    let run = logs(&["my-app", "--request", &request]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("hello log"), "{run:?}");
    assert!(run.stdout.lines().all(|line| line.starts_with("my-app")), "{run:?}");
    assert_eq!(run.stdout.matches("REPORT RequestId").count(), 1, "{run:?}");
    let run = logs(&["--json", "--tail", "2"]);
    let lines: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (&lines[1]["function"], &lines[1]["source"]),
        (&"my-app".into(), &"platform".into())
    );
    let run = logs(&["nobody"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("these have: my-app"), "{run:?}");

    let (status, said) = server.stop();
    assert!(status.success(), "{status}: {said}");
    wait_until("nothing is left", || processes_below(own.path()).is_empty());
}

#[test]
fn a_template_is_served_and_served_anew_when_it_changes() {
    let own = tempfile::tempdir().unwrap();
    let project = own.path().join("project");
    fs::create_dir(&project).unwrap();
    fs::copy(rust_function(), project.join("function.zip")).unwrap();
    let template = |colour: &str| {
        let text = format!(
            "Transform: AWS::Serverless-2016-10-31\n\
             Parameters: {{Stage: {{Type: String, Default: dev}}}}\n\
             Globals: {{Function: {{Runtime: provided.al2023, Timeout: 60}}}}\n\
             Resources:\n  Greeter:\n    Type: AWS::Serverless::Function\n    Properties:\n      \
             FunctionName: !Sub 'greeter-${{Stage}}'\n      Handler: bootstrap\n      \
             CodeUri: function.zip\n      Environment: {{Variables: {{COLOUR: {colour}}}}}\n  \
             Table:\n    Type: AWS::DynamoDB::Table\n"
        );
        fs::write(project.join("template.yaml"), text).unwrap();
    };
    template("green");
    let server = serve(
        own.path(),
        &[project.to_str().unwrap(), "--parameter", "Stage=prod", "--watch", "--rie", "0"],
    );
    let said = server.said();
    assert!(
        said.contains("template.yaml:13: Table: AWS::DynamoDB::Table is not made here"),
        "{said}"
    );
    let colour = |server: &Server| {
        let answer = server.invoke("greeter-prod", r#"{"name":"Ada"}"#);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["environment"]["COLOUR"].clone()
    };
    assert_eq!(colour(&server), "green");
    template("blue");
    wait_until("the new variable", || colour(&server) == "blue");
    assert_eq!(server.invoke("greeter-dev", "{}").status, 404);
    let (status, said) = server.stop();
    assert!(status.success(), "{status}: {said}");
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let own = tempfile::tempdir().unwrap();
    let code = rust_function();
    let server = serve(
        own.path(),
        &[code.to_str().unwrap(), "--runtime=provided.al2023", "--name=sleeper", "--timeout=60"],
    );
    let (address, began) = (server.address(), std::time::Instant::now());
    let caller = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let body = r#"{"case":"sleep","seconds":50}"#;
        write!(
            stream,
            "POST /2015-03-31/functions/sleeper/invocations HTTP/1.1\r\nHost: {address}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    wait_until("it runs", || server.said().contains("START RequestId"));
    server.signal(Signal::INT);
    wait_until("it says so", || server.said().contains("once more to end at once"));
    server.signal(Signal::INT);
    let (status, said) = server.wait();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(began.elapsed() < Duration::from_secs(45), "it did not wait");
    caller.join().unwrap();
    wait_until("nothing is left", || processes_below(own.path()).is_empty());
}

#[test]
fn what_makes_no_sense_is_told_before_anything_starts() {
    let own = tempfile::tempdir().unwrap();
    let at = |name: &str| own.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(own.path().join("empty")).unwrap();
    fs::write(at("bad.toml"), "[functions.f]\nruntime = \"python3.12\"\nmemroy = 1\n").unwrap();
    fs::write(at("two.toml"), "[functions.a]\nimage = \"x\"\n[functions.b]\nimage = \"y\"\n")
        .unwrap();
    fs::write(
        at("bad.yaml"),
        "Resources:\n  F:\n    Type: AWS::Lambda::Function\n    Properties: {Runtime: !Ref X}\n",
    )
    .unwrap();
    let (empty, bad, two, yaml) = (at("empty"), at("bad.toml"), at("two.toml"), at("bad.yaml"));
    for (arguments, told) in [
        (&["/nowhere"][..], "/nowhere is not there"),
        (&[&empty], "has neither costrel.toml nor template.yaml"),
        (&[&bad], "memroy"),
        (&[&yaml], "bad.yaml:4: F: X is neither a parameter nor a resource"),
        (&[&two, "--rie"], "--rie is for one function, and 2 are declared"),
        (&[&two, "--parameter", "A=b"], "has no parameters, templates have"),
        (&["--parameter", "A=b"], "--parameter is for a template"),
        (&[&empty, "--runtime", "cobol1"], "cobol1"),
        (&[&empty, "--runtime", "python3.12"], "needs a handler"),
        (&[&empty, "--runtime", "python3.12", "--handler", "a.b", "--memory", "1"], "128"),
        (&["--watch"], "there is nothing to watch"),
        (&["--listen", "0.0.0.0:0"], "--allow-remote is not given"),
        (&["--listen", "0.0.0.0:0", "--allow-remote"], "COSTREL_TOKEN is not set"),
        (&["--listen", "somewhere"], "it must be ADDRESS:PORT, or a port"),
        (&["--memory-limit", "1"], "less than one machine takes"),
        (&["--idle", "soon"], "invalid value"),
    ] {
        let home = Home::private();
        let run = Costrel::new(&home, [&["serve"], arguments].concat()).run();
        assert_eq!(run.code, Some(2), "{arguments:?}: {run:?}");
        assert!(run.stderr.contains(told), "{arguments:?}: {run:?}");
        assert!(run.stdout.is_empty(), "{run:?}");
        assert!(!run.stderr.contains("listening"), "{run:?}");
        assert!(!home.path().join("cache").exists(), "{arguments:?}: nothing was started");
    }
}

#[test]
fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = Costrel::new(&Home::private(), ["serve", "--listen", &address]).run();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains(&address), "{run:?}");
}

#[test]
fn docker_lambdas_stay_open_mode_serves_one_function_by_any_name() {
    let own = tempfile::tempdir().unwrap();
    let code = own.path().join("function.zip");
    fs::copy(rust_function(), &code).unwrap();
    let arguments = ["invoke", "--runtime", "provided.al2023", "--code", code.to_str().unwrap()];
    let mut command = Costrel::new(&Home::shared(), arguments)
        .env("DOCKER_LAMBDA_STAY_OPEN", "1")
        .env("DOCKER_LAMBDA_WATCH", "1")
        .env("DOCKER_LAMBDA_API_PORT", "0")
        .into_command();
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn({
        let said = std::sync::Arc::clone(&said);
        move || {
            use std::io::BufRead as _;
            for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
                said.lock().unwrap().push_str(&(line + "\n"));
            }
        }
    });
    let told = |text: &str| said.lock().unwrap().matches(text).count();
    wait_until("it listens", || told("Lambda API listening on port ") == 1);
    let port: u16 = {
        let said = said.lock().unwrap();
        let rest = said.split("listening on port ").nth(1).unwrap();
        rest.split("...").next().unwrap().parse().unwrap()
    };
    let invoke = |name: &str| {
        let url = format!("http://127.0.0.1:{port}/2015-03-31/functions/{name}/invocations");
        let curl = ["-s", "-m", "120", "-d", r#"{"name":"Ada"}"#, &url];
        let output = std::process::Command::new("curl").args(curl).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["greeting"], "Hello Ada");
    };
    let id = rustix::process::Pid::from_child(&child);
    invoke("one");
    invoke("another");
    wait_until("it has started 1 times", || told("Init Duration") == 1);
    rustix::process::kill_process(id, Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    invoke("one");
    wait_until("it has started 2 times", || told("Init Duration") == 2);
    fs::copy(rust_function(), &code).unwrap();
    wait_until("the change", || told("Handler/layer file changed, restarting bootstrap...") > 0);
    invoke("one");
    wait_until("it has started 3 times", || told("Init Duration") == 3);
    rustix::process::kill_process(id, Signal::INT).unwrap();
    let status = child.wait().unwrap();
    reader.join().unwrap();
    assert_eq!(status.code(), Some(0), "{}", said.lock().unwrap());
}
