//! Reads logs, of this process or another's.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    LogLine, Query,
    segment::{Segment, is_directory_name},
};

/// A line longer than this is none that was written here.
const LINE_LIMIT: u64 = 64 << 20;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the log {path}")]
pub struct ReadLogError {
    /// The file or directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Reads logs.
#[derive(Clone, Debug)]
pub struct LogReader {
    directory: PathBuf,
}

impl LogReader {
    /// Reads the logs in that directory, which need not be there yet.
    #[must_use]
    pub fn open(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The functions that have logged, by name.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn functions(&self) -> Result<Vec<String>, ReadLogError> {
        let failed = |source| ReadLogError { path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.to_str().filter(|name| is_directory_name(name)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// The lines that are asked for, in the order of time.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read(&self, query: &Query) -> Result<Vec<LogLine>, ReadLogError> {
        self.follow(query.clone()).read_new()
    }

    /// The lines that are asked for, and then the ones that are added.
    #[must_use]
    pub fn follow(&self, query: Query) -> Follow {
        Follow { reader: self.clone(), query, positions: HashMap::new() }
    }

    fn wanted(&self, query: &Query) -> Result<Vec<String>, ReadLogError> {
        match &query.function {
            Some(name) if is_directory_name(name) => Ok(vec![name.clone()]),
            Some(_) => Ok(vec![]),
            None => self.functions(),
        }
    }
}

/// Lines as they come.
#[derive(Debug)]
pub struct Follow {
    reader: LogReader,
    query: Query,
    positions: HashMap<String, Position>,
}

/// Up to where a function's log was read.
#[derive(Clone, Copy, Default, Debug)]
struct Position {
    segment: u64,
    offset: u64,
}

impl Follow {
    /// The lines that have come since the last call, in the order of time; the first call returns
    /// what is there already, of which [`Query::tail`] applies. Does not wait: to be called again a
    /// while later.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read_new(&mut self) -> Result<Vec<LogLine>, ReadLogError> {
        let mut lines = Vec::new();
        for function in self.reader.wanted(&self.query)? {
            let mut position = self.positions.get(&function).copied().unwrap_or_default();
            lines.extend(self.function(&function, &mut position)?);
            self.positions.insert(function, position);
        }
        // Stable: the lines of one function that were said at once stay in their order.
        lines.sort_by_key(|line| line.at);
        if let Some(tail) = self.query.tail.take() {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        Ok(lines)
    }

    fn function(
        &self,
        function: &str,
        position: &mut Position,
    ) -> Result<VecDeque<LogLine>, ReadLogError> {
        let directory = self.reader.directory.join(function);
        let segments = Segment::list(&directory)
            .map_err(|source| ReadLogError { path: directory.clone(), source })?;
        let mut lines = VecDeque::new();
        let read = position.segment;
        for segment in segments.into_iter().filter(|it| it.number >= read) {
            if segment.number > position.segment {
                *position = Position { segment: segment.number, offset: 0 };
            }
            match self.segment(&segment, position, &mut lines) {
                // It was removed between the look at the directory and now: the oldest goes first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(|source| ReadLogError { path: segment.path, source })?,
            }
        }
        Ok(lines)
    }

    fn segment(
        &self,
        segment: &Segment,
        position: &mut Position,
        lines: &mut VecDeque<LogLine>,
    ) -> io::Result<()> {
        let mut file = File::open(&segment.path)?;
        let metadata = file.metadata()?;
        if metadata.len() <= position.offset {
            return Ok(());
        }
        let since = self.query.since.map(SystemTime::from);
        if since.is_some_and(|since| metadata.modified().is_ok_and(|written| written < since)) {
            position.offset = metadata.len();
            return Ok(());
        }
        file.seek(SeekFrom::Start(position.offset))?;
        let mut reader = BufReader::new(file.take(metadata.len() - position.offset));
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let length = reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut bytes)?;
            if bytes.pop() != Some(b'\n') {
                // The rest of it is still to come, or never will.
                return Ok(());
            }
            position.offset += length as u64;
            let line = LogLine::from_json(&bytes);
            if let Some(line) = line.filter(|line| self.query.matches(line)) {
                lines.push_back(line);
                // More would be thrown away in the end.
                if self.query.tail.is_some_and(|tail| lines.len() > tail) {
                    lines.pop_front();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogSettings, LogStore, line::tests::line};

    fn texts(lines: &[LogLine]) -> Vec<String> {
        lines.iter().map(|line| line.text().into_owned()).collect()
    }

    #[test]
    fn asks_for_some() {
        let directory = tempfile::tempdir().unwrap();
        let store = LogStore::open(directory.path(), LogSettings::default()).unwrap();
        for (second, function, text) in
            [(3, "b", "b3"), (1, "a", "a1"), (2, "a", "a2"), (4, "a", "a4")]
        {
            store.append(line(function, second, text.as_bytes()));
        }
        store.flush();
        let reader = store.reader();
        let read = |query: Query| texts(&reader.read(&query).unwrap());
        assert_eq!(read(Query::default()), ["a1", "a2", "b3", "a4"]);
        let of = |name: &str| Query { function: Some(name.to_owned()), ..Query::default() };
        assert_eq!(read(of("a")), ["a1", "a2", "a4"]);
        assert_eq!(read(Query { tail: Some(2), ..Query::default() }), ["b3", "a4"]);
        assert_eq!(read(Query { tail: Some(0), ..Query::default() }), [""; 0]);
        let since = Some(line("a", 3, b"").at);
        assert_eq!(read(Query { since, ..Query::default() }), ["b3", "a4"]);
        assert_eq!(read(Query { since, until: since, ..Query::default() }), ["b3"]);
        let request_id = Some("request-2".to_owned());
        assert_eq!(read(Query { request_id, ..Query::default() }), ["a2"]);
        assert_eq!(read(of("../a")), [""; 0]);
        assert_eq!(read(of("none")), [""; 0]);
        assert_eq!(reader.functions().unwrap(), ["a", "b"]);
    }

    #[test]
    fn follows_into_new_segments_and_functions() {
        let directory = tempfile::tempdir().unwrap();
        let settings = LogSettings { segment_size: 1, ..LogSettings::default() };
        let mut follow =
            LogReader::open(directory.path()).follow(Query { tail: Some(1), ..Query::default() });
        assert_eq!(texts(&follow.read_new().unwrap()), [""; 0]);
        let store = LogStore::open(directory.path(), settings).unwrap();
        for second in 0..3 {
            store.append(line("f", second, format!("{second}").as_bytes()));
            store.flush();
        }
        assert_eq!(
            texts(&follow.read_new().unwrap()),
            ["0", "1", "2"],
            "a tail is of what was there"
        );
        assert_eq!(texts(&follow.read_new().unwrap()), [""; 0]);
        store.append(line("g", 3, b"3"));
        store.append(line("f", 4, b"4"));
        store.flush();
        assert_eq!(texts(&follow.read_new().unwrap()), ["3", "4"]);
    }

    #[test]
    fn a_line_that_is_half_there_comes_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("f")).unwrap();
        let path = Segment::new(&directory.path().join("f"), 1).path;
        let json = line("f", 1, b"whole").to_json() + "\n";
        fs::write(&path, &json[..20]).unwrap();
        let mut follow = LogReader::open(directory.path()).follow(Query::default());
        assert_eq!(texts(&follow.read_new().unwrap()), [""; 0]);
        fs::write(&path, json).unwrap();
        assert_eq!(texts(&follow.read_new().unwrap()), ["whole"]);
    }
}
