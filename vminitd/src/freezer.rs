//! Has a control group stand still, and go on.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{sleep, timeout};

use crate::cgroup::read_again;

/// How long a group may take to stand still. A process that the kernel cannot stop
/// waits for a disk: a host that is that slow has other worries.
const LIMIT: Duration = Duration::from_secs(10);

/// The freezer of one cgroup v2 group.
#[derive(Clone, Debug)]
pub(crate) struct Freezer {
    freeze: Arc<File>,
    events: Arc<File>,
    frozen: Arc<AtomicBool>,
}

impl Freezer {
    /// Opens the files of the group in that directory.
    pub(crate) fn open(group: &Path) -> io::Result<Self> {
        let freeze = OpenOptions::new().write(true).open(group.join("cgroup.freeze"))?;
        let events = File::open(group.join("cgroup.events"))?;
        Ok(Self { freeze: freeze.into(), events: events.into(), frozen: Arc::default() })
    }

    /// Whether the group stands still, or was told to.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Returns when all processes of the group stand still. If they do not, all of them go on.
    pub(crate) async fn freeze(&self) -> io::Result<()> {
        self.frozen.store(true, Ordering::Relaxed);
        let frozen = self.stand_still().await;
        if frozen.is_err() {
            self.thaw()?;
        }
        frozen
    }

    /// Lets all processes of the group go on, each as soon as a processor has time for it: to wait
    /// for that would be to wait for a tick of the clock, milliseconds where every one counts.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        rustix::io::write(&*self.freeze, b"0")?;
        self.frozen.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn stand_still(&self) -> io::Result<()> {
        rustix::io::write(&*self.freeze, b"1")?;
        let reached = async {
            loop {
                let events = read_again(&self.events)?;
                if events.lines().any(|line| line == "frozen 1") {
                    return Ok(());
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "its processes take too long");
        timeout(LIMIT, reached).await.map_err(late)?
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read as _, Write as _},
        path::PathBuf,
        process::{Command, Stdio},
    };

    use super::*;

    /// A group of its own below this process's hierarchy, removed in the end.
    struct Group(PathBuf);

    impl Group {
        fn create() -> io::Result<Self> {
            let mounts = fs::read_to_string("/proc/self/mounts")?;
            let hierarchy = mounts.lines().find_map(|line| {
                let mut fields = line.split(' ').skip(1);
                fields.next().filter(|_| fields.next() == Some("cgroup2"))
            });
            let hierarchy = hierarchy.ok_or(io::ErrorKind::NotFound)?;
            let name = format!("costrel-freezer-{}", std::process::id());
            let group = Path::new(hierarchy).join(name);
            fs::create_dir(&group)?;
            Ok(Self(group))
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    #[expect(clippy::print_stderr, reason = "a test that is skipped says what it lacks")]
    fn lacking(error: &io::Error) {
        eprintln!("skipped: it takes a cgroup v2 hierarchy to make groups in ({error})");
    }

    #[tokio::test]
    async fn what_stands_still_goes_on_or_is_killed() {
        let group = match Group::create() {
            Ok(group) => group,
            Err(error) => return lacking(&error),
        };
        let freezer = Freezer::open(&group.0).unwrap();
        freezer.freeze().await.expect("an empty group stands still");
        assert!(freezer.is_frozen());
        freezer.thaw().unwrap();
        assert!(!freezer.is_frozen());

        let mut child = Command::new("sh")
            .args(["-c", "while read line; do echo $line; done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        fs::write(group.0.join("cgroup.procs"), child.id().to_string()).unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        for round in 0..3 {
            freezer.freeze().await.unwrap();
            freezer.freeze().await.expect("twice is no fault");
            writeln!(input, "{round}").unwrap();
            sleep(Duration::from_millis(20)).await;
            assert_eq!(rustix::io::ioctl_fionread(&output).unwrap(), 0, "it stands still");
            freezer.thaw().unwrap();
            let mut line = [0; 2];
            output.read_exact(&mut line).unwrap();
            assert_eq!(&line[..], format!("{round}\n").as_bytes());
        }

        freezer.freeze().await.unwrap();
        fs::write(group.0.join("cgroup.kill"), "1").unwrap();
        assert_eq!(output.read(&mut [0]).unwrap(), 0, "who would write is gone");
        // The reaper of another test in this process may have been faster.
        let _ = child.wait();
        freezer.thaw().unwrap();
    }
}
