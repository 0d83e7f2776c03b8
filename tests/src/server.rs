//! A `costrel serve` of a test's own.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Costrel, Home};

/// What the server says once it can be called, before its address.
const LISTENING: &str = "listening on http://";

/// How long one call may take: machines boot for it, side by side, on whatever runs the tests.
const CALL_LIMIT: Duration = Duration::from_secs(300);

/// A server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// An HTTP response.
#[derive(Debug)]
pub struct Response {
    /// Its status code.
    pub status: u16,
    /// Its header fields, their names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body, whatever its transfer coding was.
    pub body: Vec<u8>,
}

impl Server {
    /// `costrel serve` with these arguments, on a port of its own.
    ///
    /// # Panics
    /// As [`Server::spawn`].
    #[must_use]
    pub fn start(home: &Home, arguments: &[&str]) -> Self {
        Self::spawn(Costrel::new(home, [&["serve", "--listen", "127.0.0.1:0"], arguments].concat()))
    }

    /// Runs the command, and waits until it says where it listens.
    ///
    /// # Panics
    /// If it ends before it does.
    #[must_use]
    pub fn spawn(costrel: Costrel) -> Self {
        let mut command = costrel.into_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("costrel runs");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut text = String::new();
        let address = loop {
            let begin = text.len();
            let read = stderr.read_line(&mut text).expect("UTF-8");
            assert!(read > 0, "the server ended: {:?}: {text}", child.wait());
            if let Some((_, address)) = text[begin..].split_once(LISTENING) {
                let address = address.split([' ', '/', '\n']).next().unwrap_or_default();
                break address.parse().unwrap_or_else(|error| panic!("{error}: {text}"));
            }
        };
        let said = Arc::new(Mutex::new(text));
        let writer = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let mut said = writer.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { child, address, said, reader: Some(reader) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://` and its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on standard error until now.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Invokes a function.
    ///
    /// # Panics
    /// As [`Server::call`].
    #[must_use]
    pub fn invoke(&self, function: &str, event: &str) -> Response {
        let path = format!("/2015-03-31/functions/{function}/invocations");
        self.call("POST", &path, &[], event.as_bytes())
    }

    /// One call on a connection of its own.
    ///
    /// # Panics
    /// If there is no answer, or none that is HTTP.
    #[must_use]
    pub fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_call(method, path, headers, body).expect("an answer")
    }

    /// As [`Server::call`], for a server that may go away meanwhile.
    ///
    /// # Errors
    /// What became of the connection.
    pub fn try_call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        call(self.address, method, path, headers, body)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is not there.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).expect("an id")).expect("an id");
        kill_process(id, signal).expect("a process");
    }

    /// Waits for its end. Returns how it ended, and all that it has said.
    ///
    /// # Panics
    /// If it cannot be waited for.
    #[must_use]
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("an end");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader");
        }
        (status, self.said())
    }

    /// Asks it to end, as Ctrl-C does, and waits for it.
    ///
    /// # Panics
    /// As [`Server::wait`].
    #[must_use]
    pub fn stop(self) -> (ExitStatus, String) {
        self.signal(Signal::INT);
        self.wait()
    }
}

/// One HTTP call on a connection of its own.
///
/// # Errors
/// What became of the connection.
pub fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(CALL_LIMIT))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let _ = write!(head, "Host: {address}\r\n");
    }
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    // A server that refuses a body need not read it.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Response::parse(&answer)
        .ok_or_else(|| std::io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Response {
    fn parse(answer: &[u8]) -> Option<Self> {
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&answer[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let body = &answer[end + 4..];
        let is_chunked = headers.iter().any(|(name, value)| {
            name == "transfer-encoding" && value.eq_ignore_ascii_case("chunked")
        });
        let body = if is_chunked { unchunk(body)? } else { body.to_vec() };
        Some(Self { status, headers, body })
    }

    /// A header field's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The content of a chunked body that has arrived to its last chunk.
fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(content);
        }
        content.extend(body.get(end + 2..end + 2 + size)?);
        body = body.get(end + 2 + size + 2..)?;
    }
}
