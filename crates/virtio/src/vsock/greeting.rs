//! What a client says first: `CONNECT <port>\n`.

use std::os::unix::net::UnixStream;

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

/// The most bytes of a line. The longest with a port in it has 19.
const MOST_BYTES: usize = 32;

/// A line that may not be complete.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Greeting {
    line: [u8; MOST_BYTES],
    length: usize,
}

/// How far a greeting is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// The client has not finished.
    Part,
    /// The guest's port that it wants.
    Port(u32),
    /// Not a greeting.
    Garbage,
}

impl Greeting {
    /// Reads what there is of the line, and nothing of what follows it: that is the stream's.
    pub(super) fn read(&mut self, client: &UnixStream) -> Heard {
        loop {
            let rest = &mut self.line[self.length..];
            if rest.is_empty() {
                return Heard::Garbage;
            }
            let seen = match recv(client, &mut *rest, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Heard::Garbage,
                Ok((seen, _)) => seen,
                Err(Errno::AGAIN | Errno::INTR) => return Heard::Part,
                Err(_) => return Heard::Garbage,
            };
            let end = rest[..seen].iter().position(|&byte| byte == b'\n');
            let wanted = end.map_or(seen, |end| end + 1);
            // What was seen is there, and nobody else reads.
            match recv(client, &mut rest[..wanted], RecvFlags::DONTWAIT) {
                Ok((taken, _)) if taken == wanted => self.length += taken,
                _ => return Heard::Garbage,
            }
            if end.is_some() {
                return parse(&self.line[..self.length]).map_or(Heard::Garbage, Heard::Port);
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?.strip_suffix(b"\n")?;
    // The standard parser takes a sign as well.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    // The largest is no port but stands for any.
    (port != u32::MAX).then_some(port)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_line_may_come_in_pieces_and_leaves_what_follows() {
        let (mut client, host) = UnixStream::pair().unwrap();
        let mut greeting = Greeting::default();
        assert_eq!(greeting.read(&host), Heard::Part);
        for byte in b"CONNECT 1024" {
            client.write_all(&[*byte]).unwrap();
            assert_eq!(greeting.read(&host), Heard::Part);
        }
        client.write_all(b"\nCONNECT 7\n").unwrap();
        assert_eq!(greeting.read(&host), Heard::Port(1024));
        drop(client);
        let mut rest = Vec::new();
        (&host).read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"CONNECT 7\n");
    }

    #[test]
    fn all_else_is_garbage() {
        for line in [
            "CONNECT \n",
            "CONNECT +1\n",
            "CONNECT -1\n",
            "CONNECT 4294967295\n",
            "CONNECT 1 \n",
            "CONNECT  1\n",
            "CONNECT 99999999999\n",
            "connect 1\n",
            "\n",
            "CONNECT 1\r\n",
            "CONNECT 00000000000000000000000000000000001\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\n",
        ] {
            let (mut client, host) = UnixStream::pair().unwrap();
            client.write_all(line.as_bytes()).unwrap();
            assert_eq!(Greeting::default().read(&host), Heard::Garbage, "{line:?}");
        }
        let (client, host) = UnixStream::pair().unwrap();
        drop(client);
        assert_eq!(Greeting::default().read(&host), Heard::Garbage);
        assert_eq!(parse(b"CONNECT 4294967294\n"), Some(u32::MAX - 1));
    }
}
