//! A server that serves one disk only, and that is started for it.
//!
//! It is started with a socket on which this process listens already, and ends by itself when its last client is gone: with
//! the disk, or when the disk's server is killed. A *link*, a connection without requests, keeps it while no queue has one.
//! A lock that it inherits tells whether it runs, to whichever process serves the disk: so no two run at once, and who finds
//! none starts one. Until it has its first client, nobody would end it: a process of the shell watches that this process lives.

mod process;
#[cfg(test)]
mod tests;

use super::connect::Connection;
use super::hub::told;
use super::negotiate::Refusal;
use super::uri::{Place, Uri};
use crate::claim::is_free;
use crate::error::{Error, ErrorKind, Result};
use crate::report::Reporter;
use process::{Ear, Process};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a helper may take until it serves, and until it has ended when nobody uses it any more.
const START: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);
/// For how long a helper is waited for that just ends, or whose locks the kernel has yet to release.
const EARLIER: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);
/// What the names of sockets and locks begin with.
const PREFIX: &str = "helper-";

/// What to start.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program and its arguments. It takes its socket as systemd gives one, and ends when its last client has gone.
    pub command: Vec<OsString>,
    /// Where it is started.
    pub directory: PathBuf,
    /// Its socket, which the disk's other servers find; beside it is its lock.
    pub socket: PathBuf,
    /// Makes an error of what it said when it did not serve.
    pub explain: fn(&str) -> Error,
}

impl Program {
    /// The socket of a disk that is told from others by a number.
    pub fn socket_in(directory: &Path, mark: u64) -> PathBuf {
        directory.join(format!("{PREFIX}{mark:016x}.socket"))
    }

    fn name(&self) -> String {
        self.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// See the [module](self).
pub struct Helper {
    program: Program,
    uri: Uri,
    held: Mutex<Held>,
    ear: Ear,
}

#[derive(Default)]
struct Held {
    link: Option<Connection>,
    /// The latest one that this process has started.
    process: Option<Process>,
    /// Another process may use it from now on.
    left: bool,
}

impl Helper {
    pub fn new(program: Program) -> Self {
        let uri = Uri { place: Place::Unix(program.socket.clone()), export: String::new() };
        Self { program, uri, held: Mutex::default(), ear: Ear::default() }
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whom to tell what it says, and that it has ended.
    pub fn report_to(&self, reporter: Reporter) {
        *self.ear.lock().unwrap_or_else(PoisonError::into_inner) = Some(reporter);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees that it runs, and holds a link to it. `another`: whether one may run already, since the disk exists.
    pub fn ensure(&self, another: bool) -> Result<()> {
        let mut held = self.held();
        held.left = false;
        if held.link.as_ref().is_some_and(Connection::is_open) {
            return Ok(());
        }
        let since = Instant::now();
        loop {
            let failed = match self.lock()? {
                Some(lock) => match self.start(&lock) {
                    Ok((link, process)) => {
                        *held = Held { link: Some(link), process: Some(process), left: false };
                        return Ok(());
                    }
                    // It may be an earlier one that was killed, and whose files the kernel just closes.
                    Err(error) if error.kind == ErrorKind::Busy && since.elapsed() < EARLIER => error,
                    Err(error) => return Err(error),
                },
                None if another => match Connection::new(&self.uri, START, START) {
                    Ok(link) => {
                        held.link = Some(link);
                        return Ok(());
                    }
                    // It just starts or ends: then the connection is reset.
                    Err(refusal) => self.failed(&told(&refusal)),
                },
                None if since.elapsed() < EARLIER => self.failed("an earlier one ends"),
                None => return Err(Error::new(ErrorKind::Busy, "another disk is made of the same image")),
            };
            if since.elapsed() >= START {
                return Err(failed);
            }
            thread::sleep(PAUSE);
        }
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(ErrorKind::Backend, format!("{} does not serve the disk: {why}", self.program.name()))
    }

    fn lock_path(&self) -> PathBuf {
        self.program.socket.with_extension("lock")
    }

    /// The lock, which a helper inherits and holds as long as it runs. `None`: one runs.
    fn lock(&self) -> Result<Option<File>> {
        let path = self.lock_path();
        let failed = |error| Error::system(format!("cannot lock {}", path.display()), &error);
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.custom_flags(libc::O_NOFOLLOW).open(&path).map_err(failed)?;
            if !is_free(&file) {
                return Ok(None);
            }
            // Another process may have removed it meanwhile, and others use a new one then.
            if file.metadata().map_err(failed)?.nlink() > 0 {
                return Ok(Some(file));
            }
        }
    }

    fn start(&self, lock: &File) -> Result<(Connection, Process)> {
        let Program { socket, explain, .. } = &self.program;
        let failed = |error| Error::system(format!("cannot start {}", self.program.name()), &error);
        socket.parent().inspect(|dir| sweep(dir));
        remove(socket).map_err(failed)?;
        let listener = UnixListener::bind(socket).map_err(failed)?;
        let process = Process::start(&self.program, lock, listener, self.ear.clone()).map_err(failed)?;
        let until = Instant::now() + START;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let refusal = match Connection::new(&self.uri, left.max(PAUSE), START) {
                Ok(link) => {
                    process.keep().map_err(failed)?;
                    return Ok((link, process));
                }
                Err(refusal) => refusal,
            };
            // When it ends, it resets connections first.
            let resets = matches!(refusal, Refusal::Io(_));
            if process.ends_within(if resets { Duration::from_secs(1) } else { Duration::ZERO }) {
                return Err(explain(&process.last_words()));
            }
            if !resets || left.is_zero() {
                process.kill();
                return Err(self.failed(&told(&refusal)));
            }
        }
    }

    /// Leaves it to another process: it ends once that does not use it either.
    pub fn leave(&self) {
        let mut held = self.held();
        held.left = true;
        if let Some(link) = held.link.take() {
            link.close();
        }
    }

    /// The disk is gone: waits until it has ended, and removes its socket and lock. One that was left may go on.
    pub fn end(&self) -> Result<()> {
        let (since, mut held) = (Instant::now(), self.held());
        let left = std::mem::replace(&mut held.left, true);
        if let Some(link) = held.link.take() {
            link.close();
        }
        let mut killed = false;
        loop {
            if let Some(_lock) = self.lock()? {
                let gone = remove(&self.program.socket).and_then(|()| remove(&self.lock_path()));
                gone.map_err(|error| Error::system("cannot remove a socket", &error))?;
                let why = "it did not end, and was killed";
                return if killed { Err(self.failed(why)) } else { Ok(()) };
            }
            match &held.process {
                _ if left => return Ok(()),
                Some(process) if !killed && since.elapsed() >= END => {
                    process.kill();
                    killed = true;
                }
                _ if since.elapsed() >= END + EARLIER => return Err(self.failed("it does not end")),
                _ => {}
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let held = self.held();
        let unused = held.process.is_some() && !held.left;
        drop(held);
        if unused {
            let _ = self.end(); // the disk did not come about
        }
    }
}

/// Removes what is left of helpers whose disks were removed by other processes.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
            || path.extension() != Some("lock".as_ref())
        {
            continue;
        }
        let lock = File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        if lock.is_ok_and(|lock| is_free(&lock)) {
            let _ = remove(&path.with_extension("socket")).and_then(|()| remove(&path));
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
