//! Where one client's HTTP/2 ends, in a stream that goes on with another's (RFC 9113, section 4).

/// How every client begins (section 3.4).
pub(super) const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD: usize = 9;
const GOAWAY: u8 = 7;

/// Follows the frames of one client, from its greeting on.
#[derive(Debug)]
pub(super) struct Frames {
    /// Of the frame that has begun, the part of its head that was seen.
    head: Vec<u8>,
    /// How much is left of what needs no look.
    rest: usize,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { head: Vec::with_capacity(HEAD), rest: GREETING.len() }
    }

    /// Looks at what comes next. If the client says that it goes, or another one greets, returns
    /// how many of the bytes come before that, and all that follows.
    ///
    /// A greeting in place of a frame's head cannot be one: no frame is that long. Within a frame
    /// it may be anything, and is passed on.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
        let mut at = 0;
        while at < bytes.len() {
            let skipped = self.rest.min(bytes.len() - at);
            self.rest -= skipped;
            at += skipped;
            let start = at;
            while self.rest == 0 && self.head.len() < HEAD && at < bytes.len() {
                self.head.push(bytes[at]);
                at += 1;
            }
            if let [high, middle, low, kind, ..] = self.head[..]
                && self.head.len() == HEAD
            {
                if kind == GOAWAY || GREETING.starts_with(&self.head) {
                    return Some((start, [&self.head, &bytes[at..]].concat()));
                }
                self.rest = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.head.clear();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, 1], payload].concat()
    }

    /// What of the bytes passes, and what follows, when they come in pieces of that size.
    fn split(bytes: &[u8], size: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut frames = Frames::new();
        let mut passed = Vec::new();
        let mut pieces = bytes.chunks(size);
        for piece in pieces.by_ref() {
            if let Some((own, mut rest)) = frames.end(piece) {
                passed.extend_from_slice(&piece[..own]);
                rest.extend(pieces.flatten());
                return (passed, Some(rest));
            }
            passed.extend_from_slice(piece);
        }
        (passed, None)
    }

    #[test]
    fn one_client_ends_where_it_says_so_or_another_begins() {
        let words = [GREETING, &frame(4, b""), &frame(0, GREETING), &frame(0, &[GOAWAY; 40])];
        let own = words.concat();
        for next in [frame(GOAWAY, &[0; 8]), GREETING.to_vec(), [GREETING, b"more"].concat()] {
            for size in 1..own.len() + 20 {
                let (passed, rest) = split(&[&own[..], &next].concat(), size);
                assert_eq!(rest.as_ref(), Some(&next), "in pieces of {size}");
                // Of a head that came in pieces, those before the last have passed.
                assert!(passed.starts_with(&own) && passed.len() < own.len() + HEAD);
            }
        }
        assert_eq!(split(&own, 7), (own, None));
    }
}
