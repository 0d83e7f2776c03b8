//! Appends lines, by a thread of its own.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::JoinHandle,
};

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    LogLine, LogReader, Source,
    segment::{Segment, is_directory_name},
};

/// How many functions' files are kept open: the others' are opened again when they log.
const OPEN_FILES: usize = 64;

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// How large a segment may be before another is begun, in bytes.
    pub segment_size: u64,
    /// How large one function's segments may be together, in bytes; at least two segments are kept.
    pub function_limit: u64,
    /// How much may wait for the disk, in bytes; what comes on top is dropped, and counted.
    pub queue_limit: usize,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { segment_size: 4 << 20, function_limit: 64 << 20, queue_limit: 32 << 20 }
    }
}

/// Why logs cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// The directory cannot be made.
    #[error("cannot make {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no thread to be had.
    #[error("cannot start the thread that writes logs")]
    Thread(#[source] io::Error),
}

/// Where functions' logs are kept. Clones share it; the last one's end waits for the disk.
#[derive(Clone, Debug)]
pub struct LogStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    queue_limit: usize,
    waiting: Arc<AtomicUsize>,
    dropped: AtomicU64,
    writer: Mutex<Option<(Sender<Work>, JoinHandle<()>)>>,
}

enum Work {
    Line(LogLine),
    Flush(SyncSender<()>),
}

impl LogStore {
    /// Opens the logs in a directory, which it makes if need be.
    ///
    /// # Errors
    /// [`OpenLogError`].
    pub fn open(directory: &Path, settings: LogSettings) -> Result<Self, OpenLogError> {
        let path = directory.to_owned();
        // Logs tell secrets, as functions do.
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
        builder
            .create(directory)
            .map_err(|source| OpenLogError::Directory { path: path.clone(), source })?;
        let (sender, receiver) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer { directory: path.clone(), settings, files: HashMap::new(), turn: 0 };
        let thread = std::thread::Builder::new().name("logs".to_owned()).spawn({
            let waiting = Arc::clone(&waiting);
            move || writer.run(&receiver, &waiting)
        });
        let thread = thread.map_err(OpenLogError::Thread)?;
        Ok(Self {
            shared: Arc::new(Shared {
                directory: path,
                queue_limit: settings.queue_limit,
                waiting,
                dropped: AtomicU64::new(0),
                writer: Mutex::new(Some((sender, thread))),
            }),
        })
    }

    /// Has a line written. Never waits for the disk; where the disk is slower than the functions for
    /// long, lines are dropped, and a [`Source::Notice`] says how many.
    pub fn append(&self, line: LogLine) {
        let shared = &self.shared;
        let size = line.bytes.len() + size_of::<LogLine>();
        if shared.waiting.fetch_add(size, Ordering::Relaxed) + size > shared.queue_limit {
            shared.waiting.fetch_sub(size, Ordering::Relaxed);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let dropped = shared.dropped.swap(0, Ordering::Relaxed);
        let Ok(writer) = shared.writer.lock() else { return };
        let Some((sender, _)) = &*writer else { return };
        if dropped > 0 {
            let notice = LogLine {
                at: Timestamp::now(),
                request_id: None,
                source: Source::Notice,
                instance: Uuid::nil(),
                bytes: format!("{dropped} lines were dropped: the disk was too slow for them")
                    .into(),
                ..line.clone()
            };
            shared.waiting.fetch_add(notice.bytes.len() + size_of::<LogLine>(), Ordering::Relaxed);
            let _ = sender.send(Work::Line(notice));
        }
        // The thread ends after this, and only then.
        let _ = sender.send(Work::Line(line));
    }

    /// Waits until all lines that were appended before are in their files.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if let Ok(writer) = self.shared.writer.lock()
            && let Some((sender, _)) = &*writer
        {
            let _ = sender.send(Work::Flush(done));
        } else {
            return;
        }
        let _ = wait.recv();
    }

    /// Reads what was written here.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader::open(&self.shared.directory)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().ok().and_then(Option::take);
        if let Some((sender, thread)) = writer {
            drop(sender);
            let _ = thread.join();
        }
    }
}

struct Writer {
    directory: PathBuf,
    settings: LogSettings,
    files: HashMap<String, OpenSegment>,
    turn: u64,
}

struct OpenSegment {
    file: File,
    segment: Segment,
    size: u64,
    used: u64,
}

impl Writer {
    fn run(mut self, work: &Receiver<Work>, waiting: &AtomicUsize) {
        let mut batches: HashMap<String, Vec<u8>> = HashMap::new();
        while let Ok(first) = work.recv() {
            let (mut taken, mut flushes) = (0, Vec::new());
            // What has come meanwhile goes along, in one call a function, up to what is a reasonable
            // size for one.
            for work in std::iter::once(first).chain(work.try_iter()) {
                match work {
                    Work::Line(line) => {
                        taken += line.bytes.len() + size_of::<LogLine>();
                        let batch = batches.entry(line.function.clone()).or_default();
                        batch.extend_from_slice(line.to_json().as_bytes());
                        batch.push(b'\n');
                    }
                    Work::Flush(done) => flushes.push(done),
                }
                if taken > 1 << 20 {
                    break;
                }
            }
            for (function, batch) in batches.drain() {
                // A full disk must not end the server; there is nowhere to log that there is no log.
                if self.write(&function, &batch).is_err() {
                    self.files.remove(&function);
                }
            }
            waiting.fetch_sub(taken, Ordering::Relaxed);
            for done in flushes {
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, function: &str, batch: &[u8]) -> io::Result<()> {
        if !is_directory_name(function) {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        self.turn += 1;
        if !self.files.contains_key(function) {
            let mut open = self.open(function)?;
            open.used = self.turn;
            self.files.insert(function.to_owned(), open);
            if self.files.len() > OPEN_FILES {
                let oldest = self.files.iter().min_by_key(|(_, open)| open.used);
                if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                    self.files.remove(&oldest);
                }
            }
        }
        let directory = self.directory.join(function);
        let Some(open) = self.files.get_mut(function) else { return Ok(()) };
        if open.size >= self.settings.segment_size {
            *open = begin(&directory, open.segment.number + 1)?;
            trim(&directory, &self.settings)?;
        }
        open.file.write_all(batch)?;
        open.size += batch.len() as u64;
        open.used = self.turn;
        Ok(())
    }

    /// The last segment, or another one if a killed process left half a line at its end.
    fn open(&self, function: &str) -> io::Result<OpenSegment> {
        let directory = self.directory.join(function);
        fs::create_dir_all(&directory)?;
        let Some(segment) = Segment::list(&directory)?.pop() else { return begin(&directory, 1) };
        let mut file = OpenOptions::new().read(true).append(true).open(&segment.path)?;
        let size = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last == *b"\n" {
            Ok(OpenSegment { file, segment, size, used: 0 })
        } else {
            begin(&directory, segment.number + 1)
        }
    }
}

fn begin(directory: &Path, number: u64) -> io::Result<OpenSegment> {
    let segment = Segment::new(directory, number);
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.append(true).create(true), 0o600);
    let file = options.open(&segment.path)?;
    let size = file.metadata()?.len();
    Ok(OpenSegment { file, segment, size, used: 0 })
}

/// Removes the oldest segments that are too much, but never the last two.
fn trim(directory: &Path, settings: &LogSettings) -> io::Result<()> {
    let segments = Segment::list(directory)?;
    let mut total = 0;
    for (age, segment) in segments.iter().rev().enumerate() {
        total += fs::metadata(&segment.path)?.len();
        if age >= 2 && total > settings.function_limit {
            fs::remove_file(&segment.path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Query, line::tests::line};

    fn texts(reader: &LogReader) -> Vec<String> {
        let lines = reader.read(&Query::default()).unwrap();
        lines.iter().map(|line| line.text().into_owned()).collect()
    }

    #[test]
    fn keeps_lines_in_order_over_segments_and_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let settings = LogSettings { segment_size: 400, ..LogSettings::default() };
        let expected: Vec<String> = (0..60).map(|number| format!("line {number}")).collect();
        for half in [0..30, 30..60] {
            let store = LogStore::open(directory.path(), settings).unwrap();
            for number in half {
                store.append(line("f", number, format!("line {number}").as_bytes()));
                store.flush();
            }
        }
        assert_eq!(texts(&LogReader::open(directory.path())), expected);
        assert!(Segment::list(&directory.path().join("f")).unwrap().len() > 5);
    }

    #[test]
    fn is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let settings =
            LogSettings { segment_size: 1_000, function_limit: 5_000, ..LogSettings::default() };
        let store = LogStore::open(directory.path(), settings).unwrap();
        for number in 0..500 {
            store.append(line("f", number, b"some text"));
            store.flush();
        }
        let segments = Segment::list(&directory.path().join("f")).unwrap();
        let size: u64 = segments.iter().map(|it| fs::metadata(&it.path).unwrap().len()).sum();
        assert!((3_000..7_000).contains(&size), "{size}");
        let lines = store.reader().read(&Query::default()).unwrap();
        assert_eq!(lines.last().unwrap().request_id.as_deref(), Some("request-499"));
    }

    #[test]
    fn half_a_line_of_a_killed_server_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let store = LogStore::open(directory.path(), LogSettings::default()).unwrap();
        store.append(line("f", 1, b"before"));
        drop(store);
        let segment = Segment::list(&directory.path().join("f")).unwrap().pop().unwrap();
        let mut file = OpenOptions::new().append(true).open(segment.path).unwrap();
        file.write_all(b"{\"at\":\"2026-").unwrap();
        let store = LogStore::open(directory.path(), LogSettings::default()).unwrap();
        store.append(line("f", 2, b"after"));
        store.flush();
        assert_eq!(texts(&store.reader()), ["before", "after"]);
    }

    #[test]
    fn what_the_disk_is_too_slow_for_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let settings = LogSettings { queue_limit: 4_096, ..LogSettings::default() };
        let store = LogStore::open(directory.path(), settings).unwrap();
        store.append(line("f", 1, &[b'x'; 5_000]));
        store.append(line("f", 2, b"fits"));
        store.flush();
        let texts = texts(&store.reader());
        assert!(texts.iter().any(|text| text.starts_with("1 lines were dropped")), "{texts:?}");
        assert!(texts.iter().any(|text| text == "fits"), "{texts:?}");
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("logs");
        let store = LogStore::open(&logs, LogSettings::default()).unwrap();
        store.append(line("../evil", 1, b"x"));
        store.append(line("", 1, b"x"));
        store.append(line("good", 1, b"x"));
        store.flush();
        assert!(!directory.path().join("evil").exists());
        assert_eq!(fs::read_dir(&logs).unwrap().count(), 1);
    }

    #[test]
    fn more_functions_than_open_files_all_log() {
        let directory = tempfile::tempdir().unwrap();
        let store = LogStore::open(directory.path(), LogSettings::default()).unwrap();
        for round in 0..2 {
            for number in 0..=OPEN_FILES + 5 {
                store.append(line(&format!("f{number}"), round, b"x"));
            }
        }
        store.flush();
        assert_eq!(texts(&store.reader()).len(), (OPEN_FILES + 6) * 2);
    }
}
