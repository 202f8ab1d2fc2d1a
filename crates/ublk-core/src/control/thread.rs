//! The thread that owns the control ring.

use crate::abi::sys::{ublksrv_ctrl_cmd, ublksrv_ctrl_dev_info};
use crate::abi::{control_command, control_op};
use crate::bound::Bound;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::uring::unusable;
use crate::waker::Waker;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

type ControlRing = IoUring<squeue::Entry128, cqueue::Entry>;

/// The path of the driver's control device.
const CONTROL_DEVICE: &str = "/dev/ublk-control";

/// A command on its way to the driver.
struct Job {
    op: u32,
    header: ublksrv_ctrl_cmd,
    /// What the header's address points to. Owned by the job until the kernel is done with it. A Vec, since moving a
    /// Box, as happens to jobs, would invalidate other pointers to its content.
    buffer: Vec<u8>,
    deadline: Instant,
    bound: Bound,
    /// How many commands of this process it may have to wait for in the kernel, see [`in_line`].
    behind: usize,
    /// `None` once the caller was told that its wait is over.
    reply: Option<SyncSender<Reply>>,
}

/// The driver's answer, or why there is none.
pub(super) enum Reply {
    Done(i32, Vec<u8>),
    TimedOut,
    Cancelled,
    Broken(Error),
}

/// The process's way to the driver. Cheap to clone; may be used from any thread.
#[derive(Clone)]
pub struct Control(Arc<ControlThread>);

struct ControlThread {
    jobs: Option<Sender<Job>>,
    waker: Waker,
}

/// The one control of this process, while anybody uses it.
static CONTROL: Mutex<Weak<ControlThread>> = Mutex::new(Weak::new());

impl Control {
    /// The process's control, started if nobody uses it yet.
    pub fn open() -> Result<Self> {
        let mut slot = CONTROL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = slot.upgrade() {
            return Ok(Self(shared));
        }
        let device = open_device()?;
        let waker = Waker::new()?;
        let (jobs, inbox) = channel();
        let (ready, started) = sync_channel(1);
        let listener = waker.clone();
        std::thread::Builder::new()
            .name("ublk-control".into())
            .stack_size(256 << 10)
            .spawn(move || match Worker::new(device, listener, inbox) {
                Ok(worker) => {
                    let _ = ready.send(Ok(()));
                    worker.run();
                }
                Err(error) => drop(ready.send(Err(error))),
            })
            .map_err(|error| Error::system("cannot start the control thread", &error))?;
        started.recv().map_err(|_| Error::new(ErrorKind::System, "the control thread died"))??;
        let shared = Arc::new(ControlThread { jobs: Some(jobs), waker });
        *slot = Arc::downgrade(&shared);
        Ok(Self(shared))
    }

    /// Sends a command and waits for its answer, within its bound.
    pub(super) fn call(&self, op: u32, header: ublksrv_ctrl_cmd, buffer: Vec<u8>, bound: &Bound) -> Reply {
        match self.send_off(op, header, buffer, bound) {
            Ok(answer) => answer.recv().unwrap_or_else(|_| gone()),
            Err(reply) => reply,
        }
    }

    /// The same without a time limit: meanwhile `watch` is called repeatedly. If it fails, the wait ends, but the
    /// command continues in the kernel.
    pub(super) fn call_watched(
        &self,
        op: u32,
        header: ublksrv_ctrl_cmd,
        buffer: Vec<u8>,
        bound: &Bound,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Reply> {
        let unlimited = Bound { timeout: Duration::MAX, ..bound.clone() };
        let answer = match self.send_off(op, header, buffer, &unlimited) {
            Ok(answer) => answer,
            Err(reply) => return Ok(reply),
        };
        loop {
            match answer.recv_timeout(WATCH) {
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Disconnected) => return Ok(gone()),
                Err(RecvTimeoutError::Timeout) => watch()?,
            }
        }
    }

    /// Sends a command; its answer comes within the bound.
    fn send_off(
        &self,
        op: u32,
        mut header: ublksrv_ctrl_cmd,
        mut buffer: Vec<u8>,
        bound: &Bound,
    ) -> std::result::Result<Receiver<Reply>, Reply> {
        if bound.cancel.is_cancelled() {
            return Err(Reply::Cancelled);
        }
        bound.cancel.listen(&self.0.waker);
        if !buffer.is_empty() {
            header.addr = buffer.as_mut_ptr() as u64;
            header.len = u16::try_from(buffer.len()).map_err(|_| too_long(buffer.len()))?;
        }
        let (reply, answer) = sync_channel(1);
        let deadline = bound.until();
        let job = Job { op, header, buffer, deadline, bound: bound.clone(), behind: 0, reply: Some(reply) };
        match &self.0.jobs {
            Some(jobs) if jobs.send(job).is_ok() => {}
            _ => return Err(gone()),
        }
        self.0.waker.wake();
        Ok(answer)
    }
}

fn too_long(length: usize) -> Reply {
    Reply::Broken(Error::new(ErrorKind::System, format!("a control command cannot carry {length} bytes")))
}

fn gone() -> Reply {
    Reply::Broken(Error::new(ErrorKind::System, "the control thread died"))
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.jobs = None;
        self.waker.wake();
    }
}

fn open_device() -> Result<OwnedFd> {
    OpenOptions::new().read(true).write(true).open(CONTROL_DEVICE).map(OwnedFd::from).map_err(|error| {
        let failed = Error::system(format!("cannot open {CONTROL_DEVICE}"), &error);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => failed.kind(ErrorKind::NoDriver).hint(
                Hint::from("load the driver with `modprobe ublk_drv` (Linux 6.0 or newer)")
                    .by(Remedy::Diagnose),
            ),
            Some(libc::EACCES | libc::EPERM) => {
                failed.kind(ErrorKind::NoPermission).hint("run it as root (sudo), or see docs/operations.md")
            }
            _ => failed,
        }
    })
}

/// User data of the waker's poll; jobs count from 1.
const WAKE: u64 = 0;
/// User data of a cancellation: its own completion tells nothing.
const CANCELLATION: u64 = u64::MAX;
/// Commands that the kernel may be working on at the same time.
const MOST_WAITING: u32 = 256;
/// How often `watch` is called while a command without a time limit waits.
const WATCH: Duration = Duration::from_millis(100);
/// How long the thread waits at its end for commands that the kernel still holds.
const LAST_WAIT: Duration = Duration::from_secs(30);

struct Worker {
    ring: ControlRing,
    device: OwnedFd,
    waker: Waker,
    inbox: Receiver<Job>,
    jobs: HashMap<u64, Job>,
    next: u64,
    closing: Option<Instant>,
}

impl Worker {
    fn new(device: OwnedFd, waker: Waker, inbox: Receiver<Job>) -> Result<Self> {
        let ring =
            ControlRing::builder().dontfork().setup_clamp().build(64).map_err(|error| unusable(&error))?;
        // Commands that wait (a start for its server, a deletion for the disk's users) hold a kernel thread each;
        // the default of four a CPU would make every other command wait with them. Kernels before 5.15 cannot.
        let _ = ring.submitter().register_iowq_max_workers(&mut [MOST_WAITING, 0]);
        let mut worker = Self { ring, device, waker, inbox, jobs: HashMap::new(), next: 1, closing: None };
        worker.listen()?;
        Ok(worker)
    }

    fn listen(&mut self) -> Result<()> {
        let poll = opcode::PollAdd::new(types::Fd(self.waker.fd()), libc::POLLIN.cast_unsigned().into())
            .multi(true)
            .build();
        // SAFETY: points to no memory.
        unsafe { self.push(&poll.user_data(WAKE).into()) }
    }

    /// # Safety
    /// `entry` points to nothing, or to the buffer of a job in `self.jobs`, which stays there until its completion.
    unsafe fn push(&mut self, entry: &squeue::Entry128) -> Result<()> {
        // SAFETY: the caller's promise; and what is in `jobs` at the end is never freed.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit().map_err(|error| Error::system("cannot submit a control command", &error))?;
        }
        Ok(())
    }

    fn run(mut self) {
        while !self.over() {
            if let Err(error) = self.turn() {
                for job in self.jobs.values_mut() {
                    answer(job, Reply::Broken(error.clone()));
                }
                break;
            }
        }
    }

    /// Nobody can send another command, and none is left to wait for.
    fn over(&self) -> bool {
        self.closing.is_some_and(|until| self.jobs.is_empty() || Instant::now() >= until)
    }

    fn turn(&mut self) -> Result<()> {
        self.accept()?;
        // Those that were cancelled on their way here: their wake may have come before them.
        self.expire()?;
        if self.over() {
            return Ok(());
        }
        let now = Instant::now();
        let wait = self
            .jobs
            .values()
            .filter(|job| job.reply.is_some())
            .map(|job| job.deadline)
            .chain(self.closing)
            .min();
        let entered = match wait {
            Some(deadline) => {
                let limit = types::Timespec::from(deadline.saturating_duration_since(now));
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
            }
            None => self.ring.submit_and_wait(1),
        };
        match entered {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(error) => return Err(Error::system("cannot enter the control ring", &error)),
        }
        self.harvest()?;
        self.expire()
    }

    /// Takes new jobs in.
    fn accept(&mut self) -> Result<()> {
        loop {
            match self.inbox.try_recv() {
                Ok(job) => self.begin(job)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    self.closing.get_or_insert_with(|| Instant::now() + LAST_WAIT);
                    return Ok(());
                }
            }
        }
    }

    fn begin(&mut self, mut job: Job) -> Result<()> {
        if in_line(job.op) {
            job.behind = self.jobs.values().filter(|other| in_line(other.op)).count();
        }
        let id = self.next;
        self.next += 1;
        let entry = opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), job.op)
            .cmd(control_command(&job.header))
            .build()
            .user_data(id);
        self.jobs.insert(id, job);
        // SAFETY: it points to the buffer of the job that was just put there.
        unsafe { self.push(&entry) }
    }

    /// Answers the jobs whose commands completed.
    fn harvest(&mut self) -> Result<()> {
        let mut rearm = false;
        let mut orphans = Vec::new();
        for completion in self.ring.completion() {
            match completion.user_data() {
                WAKE => {
                    self.waker.clear();
                    rearm |= !cqueue::more(completion.flags());
                }
                CANCELLATION => {}
                id => {
                    if let Some(mut job) = self.jobs.remove(&id) {
                        if in_line(job.op) {
                            move_up(&mut self.jobs);
                        }
                        if job.reply.is_none() && job.op == control_op::ADD_DEV && completion.result() >= 0 {
                            orphans.push(job);
                            continue;
                        }
                        let buffer = std::mem::take(&mut job.buffer);
                        answer(&mut job, Reply::Done(completion.result(), buffer));
                    }
                }
            }
        }
        for job in orphans {
            self.begin(removal(job))?;
        }
        if rearm { self.listen() } else { Ok(()) }
    }

    /// Ends the waits that took too long or were cancelled, and asks the kernel to let go.
    fn expire(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut over = Vec::new();
        for (id, job) in &mut self.jobs {
            let cancelled = job.bound.cancel.is_cancelled();
            if job.reply.is_some() && (cancelled || now >= job.deadline) {
                answer(job, if cancelled { Reply::Cancelled } else { Reply::TimedOut });
                over.push(*id);
            }
        }
        for id in over {
            // SAFETY: points to no memory.
            unsafe { self.push(&opcode::AsyncCancel::new(id).build().user_data(CANCELLATION).into())? };
        }
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.jobs.is_empty() {
            // The kernel never answered: it may still write to these buffers, so they must never be reused.
            std::mem::forget(std::mem::take(&mut self.jobs));
        }
    }
}

/// Whether the driver works on one command of this kind at a time: each waits for those that came before it.
fn in_line(op: u32) -> bool {
    matches!(op, control_op::ADD_DEV | control_op::DEL_DEV | control_op::DEL_DEV_ASYNC)
}

/// One of those was answered: the time of the others counts anew, at most once for each that was there before them. So the
/// time limit is that of one command, and not that of all that were sent at once.
fn move_up(jobs: &mut HashMap<u64, Job>) {
    for job in jobs.values_mut().filter(|job| job.behind > 0) {
        job.behind -= 1;
        job.deadline = job.bound.until();
    }
}

/// The job that removes a device that was added after its creator had stopped waiting.
fn removal(added: Job) -> Job {
    const ID: usize = offset_of!(ublksrv_ctrl_dev_info, dev_id);
    let id = added.buffer[ID..ID + 4].try_into().map_or(u32::MAX, u32::from_ne_bytes);
    let header = ublksrv_ctrl_cmd { dev_id: id, queue_id: u16::MAX, ..Default::default() };
    Job { op: control_op::DEL_DEV, header, buffer: Vec::new(), ..added }
}

fn answer(job: &mut Job, reply: Reply) {
    if let Some(caller) = job.reply.take() {
        // A caller that went away needs no answer.
        let _ = caller.send(reply);
    }
}
