//! The process of a helper: how it is started, what it says, and how it ends.

use super::Program;
use crate::io_flusher::IoFlusher;
use crate::report::Reporter;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many lines, of how many bytes, are kept of what it says.
const MOST_LINES: usize = 8;
const LONGEST_LINE: u64 = 2000;

/// Gives it the listening socket as systemd would, and ends it unless a line comes before the end of the pipe. The watcher is
/// not its child any more, since a helper does not wait for children.
const SCRIPT: &str = r#"
exec 3<&0 4<&1 </dev/null >&2
( (read -r _ <&4 || kill "$$") 3<&- >/dev/null 2>&1 & )
export LISTEN_FDS=1 LISTEN_PID="$$"
exec "$@" 4<&-"#;

/// Whom to tell what helpers say.
pub type Ear = Arc<Mutex<Option<Reporter>>>;

/// A helper that was started.
pub struct Process {
    /// A pidfd.
    handle: OwnedFd,
    told: Arc<Told>,
    gate: PipeWriter,
}

/// What the thread that waits for it tells.
#[derive(Default)]
struct Told {
    latest: Mutex<Latest>,
    changed: Condvar,
}

#[derive(Default)]
struct Latest {
    lines: Vec<String>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it with the socket on which it is to listen, and files that it keeps open, such as locked ones. It is ended if this
    /// process ends before [`Self::keep`].
    pub fn start(
        program: &Program,
        inherited: impl Iterator<Item = RawFd>,
        listener: UnixListener,
        ear: Ear,
    ) -> io::Result<Self> {
        let inherited: Vec<_> = inherited.map(above).collect::<io::Result<_>>()?;
        let numbers: Vec<_> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
        let ((closed, gate), (says, said)) = (io::pipe()?, io::pipe()?);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "sh"]).args(&program.command).current_dir(&program.directory);
        command.stdin(OwnedFd::from(listener)).stdout(closed).stderr(said);
        command.process_group(0); // Ctrl-C is not for it
        // SAFETY: fcntl(2) may be called between fork and exec; the descriptors are open until the child was made.
        unsafe {
            command.pre_exec(move || {
                for fd in &numbers {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let flusher = IoFlusher::new(); // inherited: its memory must not wait for the disk that it serves
        let mut child = command.spawn()?;
        drop((flusher, inherited, command));
        let handle = handle_of(&child).inspect_err(|_| drop(child.kill().and_then(|()| child.wait())))?;
        let told = Arc::new(Told::default());
        let (teller, name) = (told.clone(), program.name());
        let this = Self { handle, told, gate };
        let thread = thread::Builder::new().name("ublk-helper".into()).stack_size(128 << 10);
        thread.spawn(move || teller.listen(child, says, &name, &ear)).inspect_err(|_| this.kill())?;
        Ok(this)
    }

    /// It has a client, and ends without the last one.
    pub fn keep(&self) -> io::Result<()> {
        (&self.gate).write_all(b"\n")
    }

    /// Waits at most `limit` until it has ended. Returns whether it has.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut latest = self.told.latest();
        while latest.ended.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            latest = self.told.changed.wait_timeout(latest, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// What it said when it ended; if nothing, how it ended.
    pub fn last_words(&self) -> String {
        let Latest { lines, ended } = &*self.told.latest();
        match ended {
            Some(ended) if lines.is_empty() => ended.to_string(),
            _ => lines.join("; "),
        }
    }

    /// What is not durable is lost. Never another process with its number.
    pub fn kill(&self) {
        let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
        // SAFETY: the descriptor is ours, and the kernel takes no information for this signal. If it fails, it has ended.
        unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.handle.as_raw_fd(), libc::SIGKILL, info, flags)
        };
    }
}

impl Told {
    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, mut child: Child, says: PipeReader, name: &str, ear: &Ear) {
        let tell = |line: String| {
            // Not with the lock: the reporter may take any time.
            let reporter = ear.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(reporter) = reporter {
                reporter.report(line);
            }
        };
        let mut reader = BufReader::new(says);
        let mut line = Vec::new();
        while (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text: String =
                String::from_utf8_lossy(&line).chars().filter(|letter| !letter.is_control()).collect();
            line.clear();
            // Its own name is at the beginning of what it says.
            let text = text.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text);
            let mut latest = self.latest();
            if latest.lines.len() == MOST_LINES {
                latest.lines.remove(0);
            }
            latest.lines.push(text.to_owned());
            drop(latest);
            tell(format!("{name}: {text}"));
        }
        // It fails only if another part of this process has waited for all its children.
        let ended = child.wait().unwrap_or_default();
        if !ended.success() {
            tell(format!("{name} has ended: {ended}"));
        }
        self.latest().ended = Some(ended);
        self.changed.notify_all();
    }
}

/// The same open file, above the numbers that the script uses.
fn above(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: an open file of the caller's, and plain numbers.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn handle_of(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; nobody has waited for this child, so the number is still its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id().cast_signed(), 0) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor, which nobody else has.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
