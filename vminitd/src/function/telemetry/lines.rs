//! Cuts what a process prints into lines.

/// The longest line, in bytes: a longer one is cut in pieces.
const LINE_LIMIT: usize = 256 << 10;

/// What has been printed since the last line's end.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Hands on each line that is complete, with its end.
    pub(super) fn push(&mut self, mut data: &[u8], mut line: impl FnMut(&[u8])) {
        while !data.is_empty() {
            let room = LINE_LIMIT - self.begun.len();
            let end = data.iter().take(room).position(|byte| *byte == b'\n');
            let length = end.map_or(data.len().min(room), |end| end + 1);
            let (piece, rest) = data.split_at(length);
            data = rest;
            self.begun.extend_from_slice(piece);
            if end.is_some() || self.begun.len() == LINE_LIMIT {
                line(&self.begun);
                self.begun.clear();
            }
        }
    }

    /// Hands on what is no whole line and will not become one.
    pub(super) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            line(&self.begun);
            self.begun.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for piece in ["a", "b\nc\n\nd"] {
            lines.push(piece.as_bytes(), |line| seen.push(line.to_vec()));
        }
        assert_eq!(seen, [&b"ab\n"[..], b"c\n", b"\n"]);
        lines.finish(|line| seen.push(line.to_vec()));
        lines.finish(|line| seen.push(line.to_vec()));
        assert_eq!(seen.len(), 4);
        assert_eq!(seen[3], b"d");
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        let data = vec![b'x'; 2 * LINE_LIMIT + 3];
        lines.push(&data, |line| seen.push(line.len()));
        lines.push(b"\n", |line| seen.push(line.len()));
        assert_eq!(seen, [LINE_LIMIT, LINE_LIMIT, 4]);
    }
}
