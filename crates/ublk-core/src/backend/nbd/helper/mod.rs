//! A server that serves one disk only, and that is started for it.
//!
//! It is started with a socket on which this process listens already, and ends by itself when its last client is gone: with
//! the disk, or when the disk's server is killed. A *link*, a connection without requests, keeps it while no queue has one.
//! A lock that it inherits tells whether it runs, to whichever process serves the disk: so no two run at once, and who finds
//! none starts one. Until it has its first client, nobody would end it: a process of the shell watches that this process lives.
//!
//! Who starts it claims the images before, and it inherits these claims, too: nobody else gets them while it may still write.

mod images;
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
use images::{Held as Claimed, locked};
pub use images::{Image, Images};
use process::{Ear, Process};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
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
/// The same for whoever has images that no disk had yet.
const MOMENT: Duration = Duration::from_millis(250);
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
    /// The files that it is to open.
    pub images: Vec<Image>,
    /// Whether nobody else may use them meanwhile.
    pub claims: Claiming,
    /// Makes an error of what it said when it did not serve.
    pub explain: fn(&str) -> Error,
}

/// How others are kept from what it serves.
#[derive(Debug, Clone)]
pub enum Claiming {
    No,
    /// By its images.
    Images,
    /// By a file that stands for what it serves, which is on no file of this machine. Readers share it.
    Mark {
        file: PathBuf,
        shared: bool,
    },
}

impl Program {
    /// A path for the helper of a disk in a run directory.
    pub fn path_in(directory: &Path, mark: &str, extension: &str) -> PathBuf {
        directory.join(format!("{PREFIX}{mark}.{extension}"))
    }

    fn name(&self) -> String {
        self.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// See the [module](self).
pub struct Helper {
    program: Program,
    images: Images,
    uri: Uri,
    held: Mutex<Held>,
    ear: Ear,
}

#[derive(Default)]
struct Held {
    link: Option<Connection>,
    /// The latest one that this process has started.
    process: Option<Process>,
    /// What is claimed for it, if this process has started one.
    claimed: Option<Claimed>,
    /// Another process may use it from now on.
    left: bool,
}

impl Helper {
    /// Opens its images, to know them again.
    pub fn new(program: Program) -> Result<Self> {
        let images = Images::open(&program.images)?;
        let uri = Uri { place: Place::Unix(program.socket.clone()), export: String::new() };
        Ok(Self { program, images, uri, held: Mutex::default(), ear: Ear::default() })
    }

    pub fn images(&self) -> &Images {
        &self.images
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
        if held.link.as_ref().is_some_and(Connection::is_open) {
            return Ok(());
        }
        // One that this process has left is another server's, or ends.
        let left = std::mem::take(&mut held.left);
        let (another, since) = (another && !left, Instant::now());
        loop {
            let failed = match self.lock()? {
                Some(lock) => match self.start(&lock, &mut held, if another { EARLIER } else { MOMENT }) {
                    Ok(()) => return Ok(()),
                    // An earlier one was killed, and the kernel just closes what it had of files that the images name.
                    Err(error)
                        if error.kind == ErrorKind::Busy
                            && held.claimed.is_some()
                            && since.elapsed() < EARLIER =>
                    {
                        error
                    }
                    Err(error) => {
                        if held.process.is_none() {
                            held.claimed = None;
                        }
                        let _ = self.remove_files(); // the first failure is reported
                        return Err(error);
                    }
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
                None => return Err(self.images.busy()),
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
        locked(&self.lock_path(), true)
    }

    /// Removes socket and lock, and what was locked in place of images. With the lock held: the next one uses new ones.
    fn remove_files(&self) -> io::Result<()> {
        if let Claiming::Mark { file, .. } = &self.program.claims
            && let Ok(Some(_mark)) = locked(file, true)
        {
            remove(file)?;
        }
        remove(&self.program.socket)?;
        remove(&self.lock_path())
    }

    fn start(&self, lock: &File, held: &mut Held, patience: Duration) -> Result<()> {
        let Program { socket, explain, claims, .. } = &self.program;
        let claimed = match &held.claimed {
            Some(claimed) => claimed,
            None => held.claimed.insert(self.images.claim(claims, patience)?),
        };
        let failed = |error| Error::system(format!("cannot start {}", self.program.name()), &error);
        socket.parent().inspect(|dir| sweep(dir));
        remove(socket).map_err(failed)?;
        let listener = UnixListener::bind(socket).map_err(failed)?;
        let inherited = claimed.descriptors().chain([lock.as_raw_fd()]);
        let process = Process::start(&self.program, inherited, listener, self.ear.clone()).map_err(failed)?;
        let until = Instant::now() + START;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let refusal = match Connection::new(&self.uri, left.max(PAUSE), START) {
                Ok(link) => {
                    process.keep().map_err(failed)?;
                    (held.link, held.process) = (Some(link), Some(process));
                    return Ok(());
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
        held.claimed = None;
        if let Some(link) = held.link.take() {
            link.close();
        }
    }

    /// The disk is gone: waits until it has ended, and removes its socket and lock. One that was left may go on.
    pub fn end(&self) -> Result<()> {
        let (since, mut held) = (Instant::now(), self.held());
        let left = std::mem::replace(&mut held.left, true);
        held.claimed = None;
        if let Some(link) = held.link.take() {
            link.close();
        }
        let mut killed = false;
        loop {
            if let Some(_lock) = self.lock()? {
                let gone = self.remove_files();
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
