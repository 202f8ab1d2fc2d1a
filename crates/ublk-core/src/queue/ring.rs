//! One io_uring, owned by one thread, entered once per turn of the loop.

use super::self_reference::SelfReference;
use crate::abi::URING_CMD_MULTISHOT;
use crate::error::{Error, Result};
use crate::uring::unusable;
use io_uring::{CompletionQueue, IoUring, Probe, SubmissionQueue, Submitter, cqueue, opcode, squeue, types};
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// How long [`Ring::enter`] may sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Do not sleep.
    No,
    /// Until something completes.
    Forever,
    /// Until something completes or this much time has passed.
    AtMost(Duration),
}

/// A ring whose parts stay borrowed, so that a push costs no atomic operation and an enter no file look-up.
pub struct Ring(SelfReference<IoUring, Parts>);

/// The parts that borrow from the ring.
struct Parts {
    submission: SubmissionQueue<'static>,
    completion: CompletionQueue<'static>,
    submitter: Submitter<'static>,
}

impl Ring {
    /// A ring of at least `entries` entries whose file table is `files`, owned by the calling thread.
    pub fn new(entries: u32, files: &[RawFd]) -> Result<Self> {
        let parts = |ring: &'static IoUring| {
            let mut submitter = ring.submitter();
            submitter.register_files(files).map_err(|error| unusable(&error))?;
            // Saves a look-up per enter; a kernel without it works as well.
            let _ = submitter.register_ring_fd();
            // SAFETY: these are the only parts: the ring is not shared.
            let (submission, completion) = unsafe { (ring.submission_shared(), ring.completion_shared()) };
            Ok(Parts { submission, completion, submitter })
        };
        // SAFETY: the parts are private, and no method lets their references escape.
        unsafe { SelfReference::new(build(entries)?, parts) }.map(Self)
    }

    /// Queues `entry`; when the submission queue is full, submits first.
    ///
    /// # Safety
    /// Whatever `entry` points to stays valid, and is not used otherwise, until its completion.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.0.submission.push(entry) }.is_ok() {
                return Ok(());
            }
            self.enter(Wait::No, 0)?;
            self.0.submission.sync();
        }
    }

    /// Makes room for this number of entries, so that they are submitted together: a link does not continue from one
    /// submission to the next.
    pub fn reserve(&mut self, entries: u32) -> Result<()> {
        self.0.submission.sync();
        if self.0.submission.capacity() - self.0.submission.len() < entries as usize {
            self.enter(Wait::No, 0)?;
        }
        Ok(())
    }

    /// The one system call of a turn: submits all pushed entries and waits for a completion, in addition to `sure` ones that
    /// the pushed entries will certainly cause.
    pub fn enter(&mut self, wait: Wait, sure: u32) -> Result<()> {
        self.0.submission.sync();
        let wanted = 1 + sure as usize;
        let entered = match wait {
            Wait::No => self.0.submitter.submit(),
            Wait::Forever => self.0.submitter.submit_and_wait(wanted),
            Wait::AtMost(limit) => {
                let limit = types::Timespec::from(limit);
                self.0.submitter.submit_with_args(wanted, &types::SubmitArgs::new().timespec(&limit))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            // A signal, the end of the bound, or completions to be taken first: the caller looks and comes back.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(Error::system("cannot enter the ring", &error)),
        }
    }

    /// A table of `slots` buffers, all empty, for what is registered later.
    pub fn make_slots(&self, slots: u32) -> Result<()> {
        self.0
            .submitter
            .register_buffers_sparse(slots)
            .map_err(|error| Error::system("cannot make a table of registered buffers", &error))
    }

    /// Whether operations on a registered buffer may name several places in it (6.15).
    pub fn moves_vectors(&self) -> bool {
        let mut probe = Probe::new();
        let known = self.0.submitter.register_probe(&mut probe).is_ok();
        known
            && [opcode::ReadvFixed::CODE, opcode::WritevFixed::CODE]
                .iter()
                .all(|code| probe.is_supported(*code))
    }

    /// Provides a group of buffers, from which the kernel takes those that it needs.
    ///
    /// # Safety
    /// At `table` begins a page, and there are `entries` entries there, as long as the ring lives.
    pub unsafe fn provide(&self, table: u64, entries: u16, group: u16) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.0.submitter.register_buf_ring_with_flags(table, entries, group, 0) }
            .map_err(|error| Error::system("cannot provide a ring's buffers", &error))
    }

    /// Whether another enter would find work at once. The bell is rung only for the first work, and not again for the rest that
    /// an enter leaves: an enter processes a limited amount, and may miss work that is just arriving.
    pub fn pending(&self) -> bool {
        self.0.submission.taskrun()
    }

    /// How many completions there are to be taken.
    pub fn ready(&mut self) -> usize {
        self.0.completion.sync();
        self.0.completion.len()
    }

    /// Whether an enter has something to do at once, or completions are there to be taken.
    pub fn due(&mut self) -> bool {
        self.0.submission.sync();
        self.0.completion.sync();
        let (sent, taken) = (self.0.submission.is_empty(), self.0.completion.is_empty());
        !sent || !taken || self.0.submission.taskrun() || self.0.submission.cq_overflow()
    }

    /// Signals an eventfd when an enter would find work. The ring's own descriptor does not show completions that are deferred
    /// to the next enter.
    pub fn ring_bell(&self, eventfd: RawFd) -> Result<()> {
        self.0
            .submitter
            .register_eventfd(eventfd)
            .map_err(|error| Error::system("cannot watch the ring", &error))
    }

    /// Stops signalling it.
    pub fn ring_no_bell(&self) -> Result<()> {
        self.0
            .submitter
            .unregister_eventfd()
            .map_err(|error| Error::system("cannot leave the ring unwatched", &error))
    }

    /// Takes every completion that is there.
    pub fn completions(&mut self) -> impl Iterator<Item = cqueue::Entry> + '_ {
        self.0.completion.sync();
        Completions { queue: &mut self.0.completion }
    }

    /// Puts a file into an empty slot of the file table.
    pub fn set_file(&self, slot: u32, file: RawFd) -> Result<()> {
        let set = self.0.submitter.register_files_update(slot, &[file]);
        set.map(drop).map_err(|error| Error::system("cannot add a file to the ring", &error))
    }

    /// Unregisters the files. Only while no operation is in flight: older kernels wait for those here.
    pub fn release_files(&self) {
        // What fails here is done with the ring, somewhat later.
        let _ = self.0.submitter.unregister_files();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A registered ring belongs to its thread and would outlive its descriptor, with all it refers to.
        let _ = self.0.submitter.unregister_ring_fd();
    }
}

struct Completions<'a> {
    queue: &'a mut CompletionQueue<'static>,
}

impl Iterator for Completions<'_> {
    type Item = cqueue::Entry;
    fn next(&mut self) -> Option<Self::Item> {
        self.queue.next()
    }
}

impl Drop for Completions<'_> {
    fn drop(&mut self) {
        // Tells the kernel what was taken.
        self.queue.sync();
    }
}

/// The best ring that this kernel supports. Each further attempt leaves out a feature that older kernels lack.
fn build(entries: u32) -> Result<IoUring> {
    let mut last = None;
    for step in 0..4 {
        let mut builder = IoUring::builder();
        builder.setup_clamp().dontfork();
        if step < 1 {
            builder.setup_no_sqarray(); // 6.6
        }
        if step < 2 {
            builder.setup_defer_taskrun(); // 6.1
        }
        if step < 3 {
            // The flag makes an enter that does not wait process what is deferred.
            builder.setup_single_issuer().setup_coop_taskrun().setup_taskrun_flag(); // 6.0
        }
        match builder.build(entries) {
            Ok(ring) => return Ok(ring),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(unusable(&error)),
        }
    }
    Err(unusable(&last.unwrap_or_else(io::Error::last_os_error)))
}

/// A multishot command: it completes repeatedly, each time with a buffer of the group. (The crate has no function for this.)
pub fn multishot(command: squeue::Entry, group: u16) -> squeue::Entry {
    let mut command = command.flags(squeue::Flags::BUFFER_SELECT);
    let raw = (&raw mut command).cast::<u8>();
    // SAFETY: the entry is an io_uring_sqe: 64 plain bytes, in which uring_cmd_flags lies at 28 and buf_group at 40.
    unsafe {
        raw.add(28).cast::<u32>().write_unaligned(URING_CMD_MULTISHOT);
        raw.add(40).cast::<u16>().write_unaligned(group);
    }
    command
}
