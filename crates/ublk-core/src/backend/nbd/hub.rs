//! What the connections of a disk have in common: how far its data is durable, and how they are made again when one is lost.
//!
//! If one connection is lost, all are given up: nobody can tell whether the server has ended or only the connection. Once no
//! operation uses them any more, one thread connects again. It waits until the server has closed the old connections
//! ([`fence`](super::fence)), and sends the writes of the journal, if there is one, before any queue sends something. So a new write
//! is never followed by an older one of the same sector.

mod again;
mod sized;

use super::connect::Connection;
use super::fence::Old;
use super::helper::Helper;
use super::journal::Journal;
use super::negotiate::{Export, Refusal};
use super::protocol::ExportFlags;
use super::standing::Counts;
use super::uri::Uri;
use crate::error::{Error, ErrorKind, Result};
use crate::number::to_usize;
use crate::queue::{Completer, Key, LineId};
use crate::report::Reporter;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What a queue is told: there is a connection again; there is none, and requests have to fail; the connection of the epoch in the
/// result is lost.
pub const ARRIVED: Key = 100;
pub const GIVEN_UP: Key = 101;
pub const LOST: Key = 102;

/// How long a server may take to accept a connection and to negotiate.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it is waited between two attempts: this long at first, then twice as long each time, up to a limit.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the operations of a lost connection may take to end, before more is done to end them.
const MOMENT: Duration = Duration::from_secs(1);
/// For how long, before each attempt, what comes on the old connections is taken: a server that waits for that may accept no other.
const PASSED: Duration = Duration::from_millis(200);

/// See the [module](self).
pub struct Hub {
    pub uri: Uri,
    /// What the server told at first.
    pub export: Export,
    /// Bytes: how many of the export's the disk has.
    size: AtomicU64,
    pub read_only: bool,
    /// For how long requests wait for a connection, and a server that has some to answer may be silent.
    pub timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
    /// How many writes were answered that are not durable by themselves, and how many of these a flush has made durable.
    answered: AtomicU64,
    flushed: AtomicU64,
    /// Writes may be lost that were answered: the next flush fails.
    lost_writes: AtomicBool,
    /// How often that was so: flushes that were asked for before fail as well, since each of them promised those writes.
    losses: AtomicU64,
    /// There was no connection for too long.
    given_up: AtomicBool,
    journal: Option<Mutex<Journal>>,
    pub counts: Counts,
    /// The server, if it is this disk's own.
    helper: Option<Helper>,
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    next: u64,
    /// A connection that no queue uses.
    idle: Option<Connection>,
    /// The connections were given up, and a thread makes new ones.
    broken: bool,
    /// How often new ones were made. What was told about earlier ones concerns nobody.
    epoch: i32,
    /// Those that were given up.
    old: Old,
    /// Bytes: what the server said of its export when it was last connected to, which may be more than the disk has.
    seen: u64,
    /// Another connection to the server whose connections are given up although it is well.
    witness: Option<Connection>,
    reporter: Option<Reporter>,
}

/// A queue's connection.
struct Member {
    id: u64,
    /// `None`: it was given up, and no operation uses it any more.
    socket: Option<Arc<OwnedFd>>,
    /// A new one, for the queue to take.
    arrived: Option<Arc<OwnedFd>>,
    tell: Option<(Completer, LineId)>,
}

impl Member {
    fn told(&self, key: Key, epoch: i32) {
        if let Some((completer, line)) = &self.tell {
            completer.tell(*line, key, epoch);
        }
    }
}

/// A queue's connection, and its name.
pub struct Joined {
    pub id: u64,
    pub socket: Arc<OwnedFd>,
    pub epoch: i32,
}

/// How a disk of a server's is used.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// For a disk that refuses writes.
    pub read_only: bool,
    /// Whether the disk exists already, with clients: what an earlier process has written is flushed first.
    pub existing: bool,
    /// For how long requests wait for a lost connection before they fail, and for how long a server that has some to answer may
    /// be silent before its connection counts as lost.
    pub timeout: Duration,
    /// Bytes: writes that were answered and not flushed are kept, and sent again to a server that may have lost them.
    /// 0: they are not, and the next flush fails once.
    pub journal: u64,
}

impl Hub {
    pub fn open(uri: Uri, helper: Option<Helper>, options: Options) -> Result<Self> {
        if let Some(helper) = &helper {
            helper.ensure(options.existing)?;
        }
        let Options { read_only, existing, timeout, journal } = options;
        let refused = |why: String| {
            Error::new(ErrorKind::Backend, format!("cannot use the NBD server at {}: {why}", uri.place))
        };
        let mut connection = Connection::new(&uri, CONNECT.min(timeout), timeout)
            .map_err(|refusal| refused(told(&refusal)))?;
        let export = connection.export;
        let flushes = export.flags.has(ExportFlags::SEND_FLUSH);
        if journal > 0 && !flushes {
            return Err(refused(
                "it cannot flush, so a journal of what is not flushed would grow for ever".into(),
            ));
        }
        if existing && flushes && !read_only {
            let until = Instant::now() + CONNECT;
            connection.flush(until).map_err(|error| refused(format!("cannot flush: {error}")))?;
        }
        Ok(Self {
            uri,
            export,
            size: AtomicU64::new(export.size),
            read_only,
            timeout,
            state: Mutex::new(State { idle: Some(connection), seen: export.size, ..State::default() }),
            changed: Condvar::new(),
            answered: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            lost_writes: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
            journal: (journal > 0).then(|| Mutex::new(Journal::new(to_usize(journal)))),
            counts: Counts::new(journal),
            helper,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server, if it is this disk's own.
    pub fn helper(&self) -> Option<&Helper> {
        self.helper.as_ref()
    }

    /// The journal, if there is one.
    pub fn journal(&self) -> Option<MutexGuard<'_, Journal>> {
        Some(self.journal.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same, if nobody uses it at the moment.
    pub fn journal_at_rest(&self) -> Option<MutexGuard<'_, Journal>> {
        self.journal.as_ref()?.try_lock().ok()
    }

    /// Bytes: the longest write that fits into it.
    pub fn longest_write(&self) -> usize {
        self.journal().map_or(usize::MAX, |journal| journal.longest())
    }

    pub fn has_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// A write was answered by the server that only a flush makes durable.
    pub fn write_answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// A flush has made durable what was answered when it began.
    pub fn flushed(&self, answered: u64) {
        self.flushed.fetch_max(answered, Ordering::Relaxed);
    }

    /// How many of them no flush has made durable.
    pub fn unflushed(&self) -> u64 {
        self.answered().saturating_sub(self.flushed.load(Ordering::Relaxed))
    }

    /// Writes that were answered may be lost: the next flush fails.
    pub fn writes_may_be_lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
        self.lost_writes.store(true, Ordering::Relaxed);
    }

    /// How often writes may have been lost.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Whether this flush has to fail.
    pub fn flush_fails(&self) -> bool {
        self.lost_writes.load(Ordering::Relaxed) && self.lost_writes.swap(false, Ordering::Relaxed)
    }

    /// Whether there is a connection, as far as is known.
    pub fn is_connected(&self) -> bool {
        !self.state().broken
    }

    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// A connection for one more queue.
    pub fn join(&self, reporter: Reporter) -> Result<Joined> {
        let mut state = self.state();
        let several = self.read_only || self.export.flags.has(ExportFlags::CAN_MULTI_CONN);
        if !state.members.is_empty() && !several {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the NBD server does not promise that several connections see the same data (CAN_MULTI_CONN)",
            )
            .hint("use one queue, with one thread"));
        }
        if state.broken {
            return Err(Error::new(
                ErrorKind::Busy,
                "the connection to the NBD server is just being made again",
            ));
        }
        let connection = match state.idle.take() {
            Some(connection) => connection,
            None => {
                self.helper.as_ref().map_or(Ok(()), |helper| helper.ensure(true))?;
                self.connect(CONNECT.min(self.timeout)).map_err(|why| {
                    Error::new(
                        ErrorKind::Backend,
                        format!("cannot connect to {} once more: {why}", self.uri.place),
                    )
                })?
            }
        };
        let (id, socket) = (state.next, Arc::new(OwnedFd::from(connection)));
        state.next += 1;
        state.members.push(Member { id, socket: Some(socket.clone()), arrived: None, tell: None });
        if let Some(helper) = &self.helper {
            helper.report_to(reporter.clone());
        }
        state.reporter = Some(reporter);
        Ok(Joined { id, socket, epoch: state.epoch })
    }

    /// How the queue is told something.
    pub fn tell(&self, id: u64, completer: Completer, line: LineId) {
        let mut state = self.state();
        let (broken, epoch) = (state.broken, state.epoch);
        if let Some(member) = state.members.iter_mut().find(|member| member.id == id) {
            member.tell = Some((completer, line));
            if broken {
                member.told(LOST, epoch); // it could not be told when that happened
            }
        }
    }

    /// The queue does not use its connection any more. `clean`: nothing is under way on it.
    pub fn leave(&self, id: u64, clean: bool) {
        let mut state = self.state();
        let Some(at) = state.members.iter().position(|member| member.id == id) else { return };
        let member = state.members.swap_remove(at);
        let socket = member.arrived.or(member.socket).and_then(Arc::into_inner).filter(|_| clean);
        if let Some(socket) = socket {
            let connection = Connection::again(socket, self.export);
            if state.idle.is_none() && !state.broken {
                state.idle = Some(connection);
            } else {
                connection.close();
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The queue's connection is lost: all are given up. Each queue ends its operations.
    pub fn lost(self: &Arc<Self>, why: &str) {
        let mut state = self.state();
        if state.broken {
            return;
        }
        self.counts.lost.fetch_add(1, Ordering::Relaxed);
        let what = format!("the connection to the NBD server at {} is lost: {why}", self.uri.place);
        self.begin_again(&mut state, what);
    }

    /// Gives up all connections, and has a thread make new ones.
    fn begin_again(self: &Arc<Self>, state: &mut State, what: String) {
        state.broken = true;
        for member in &mut state.members {
            member.arrived = None; // nobody has used it
            if let Some(socket) = &member.socket {
                state.old.add(socket);
            }
            member.told(LOST, state.epoch);
        }
        Self::report(state, what);
        let hub = self.clone();
        let thread = thread::Builder::new().name("ublk-nbd".into()).stack_size(256 << 10);
        if let Err(error) = thread.spawn(move || hub.connect_again()) {
            Self::report(state, format!("no thread can connect to it again: {error}"));
            self.give_up(state);
        }
    }

    /// No operation uses the queue's connection any more.
    pub fn quiet(&self, id: u64) {
        if let Some(member) = self.state().members.iter_mut().find(|member| member.id == id) {
            member.socket = None;
        }
        self.changed.notify_all();
    }

    /// The connection that has arrived for the queue.
    pub fn arrived(&self, id: u64) -> Option<Joined> {
        let mut state = self.state();
        let epoch = state.epoch;
        let member = state.members.iter_mut().find(|member| member.id == id)?;
        member.socket = member.arrived.take();
        member.socket.clone().map(|socket| Joined { id, socket, epoch })
    }

    /// Has all other queues go on, whose writes wait for room in the journal.
    pub fn journal_has_room(&self, id: u64) {
        self.state()
            .members
            .iter()
            .filter(|member| member.id != id)
            .for_each(|member| member.told(ARRIVED, 0));
    }

    fn report(state: &State, line: String) {
        if let Some(reporter) = &state.reporter {
            reporter.report(line);
        }
    }

    fn give_up(&self, state: &State) {
        self.given_up.store(true, Ordering::Relaxed);
        state.members.iter().for_each(|member| member.told(GIVEN_UP, 0));
    }

    /// Flushes what was answered, when no queue is served any more, and ends the connection.
    pub fn finish(&self) -> Result<()> {
        let Some(mut connection) = self.state().idle.take() else { return Ok(()) };
        let flushes = self.export.flags.has(ExportFlags::SEND_FLUSH) && self.unflushed() > 0;
        let (before, until) = (self.answered(), Instant::now() + CONNECT);
        let done = if flushes { connection.flush(until) } else { Ok(()) };
        connection.close();
        self.flushed(before);
        done.map_err(|error| {
            Error::system(format!("cannot flush at the NBD server at {}", self.uri.place), &error)
                .kind(ErrorKind::Backend)
        })
    }
}

/// Why there is no connection, in a line.
pub fn told(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => "it does not answer".into(),
        Refusal::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it ended the connection before it served the export".into()
        }
        Refusal::Io(error) => error.to_string(),
        Refusal::Refused(why) => why.clone(),
        Refusal::Strange(why) => (*why).into(),
    }
}
