//! Clients of a disk: aligned memory, many requests at once, from the CPU of the test's choice.

use crate::PATIENCE;
use io_uring::{IoUring, opcode, types};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::File;
use std::mem::{size_of, zeroed};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Zeroed memory on a page boundary, as direct I/O wants it.
pub struct Aligned {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory, like a Box<[u8]>.
unsafe impl Send for Aligned {}

impl Aligned {
    /// `length` bytes.
    pub fn new(length: usize) -> Self {
        let layout = Layout::from_size_align(length, 4096).unwrap();
        assert!(length > 0);
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout }
    }

    /// What belongs at `offset` of a checking disk.
    pub fn stamped(length: usize, offset: u64) -> Self {
        let mut data = Self::new(length);
        crate::stamp(&mut data, offset);
        data
    }

    /// The same byte everywhere.
    pub fn filled(length: usize, byte: u8) -> Self {
        let mut data = Self::new(length);
        data.fill(byte);
        data
    }
}

impl Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: allocated with this length, initialised, and borrowed as self is.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// One read or write of a disk.
pub struct Transfer {
    pub write: bool,
    pub offset: u64,
    pub data: Aligned,
}

impl Transfer {
    /// A read of `length` bytes.
    pub fn read(offset: u64, length: usize) -> Self {
        Self { write: false, offset, data: Aligned::new(length) }
    }

    /// A write of what belongs there on a checking disk.
    pub fn write(offset: u64, length: usize) -> Self {
        Self { write: true, offset, data: Aligned::stamped(length, offset) }
    }
}

/// Sends all of them in one system call and waits for the answers, which come back in the same order: bytes done,
/// or a negative error number.
pub fn at_once(disk: &File, transfers: &mut [Transfer]) -> Vec<i32> {
    let mut ring = IoUring::new(u32::try_from(transfers.len().next_power_of_two()).unwrap()).unwrap();
    for (at, transfer) in transfers.iter_mut().enumerate() {
        let (fd, data, length) = (
            types::Fd(disk.as_raw_fd()),
            transfer.data.as_mut_ptr(),
            transfer.data.len().try_into().unwrap(),
        );
        let entry = if transfer.write {
            opcode::Write::new(fd, data, length).offset(transfer.offset).build()
        } else {
            opcode::Read::new(fd, data, length).offset(transfer.offset).build()
        };
        // SAFETY: the data outlives the wait below, or stays for ever.
        unsafe { ring.submission().push(&entry.user_data(at as u64)) }.unwrap();
    }
    let mut results = vec![None; transfers.len()];
    let until = Instant::now() + PATIENCE;
    while results.contains(&None) {
        let limit = types::Timespec::from(Duration::from_secs(1));
        let _ = ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit));
        for completion in ring.completion() {
            results[usize::try_from(completion.user_data()).unwrap()] = Some(completion.result());
        }
        if Instant::now() > until {
            // The kernel may still write to the data: nothing of it may be freed.
            for transfer in transfers.iter_mut() {
                std::mem::forget(std::mem::replace(&mut transfer.data, Aligned::new(512)));
            }
            let missing = results.iter().filter(|result| result.is_none()).count();
            panic!("{missing} of {} requests hang", results.len());
        }
    }
    results.into_iter().flatten().collect()
}

fn affinity() -> libc::cpu_set_t {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: a set of the size told.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) }, 0);
    set
}

/// The CPUs this process may use.
pub fn cpus() -> Vec<usize> {
    let set = affinity();
    // SAFETY: within the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Runs `action` on a thread that stays on `cpu`.
pub fn on_cpu<T: Send + 'static>(cpu: usize, action: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(move || {
        // SAFETY: all-zero is the empty set.
        let mut set: libc::cpu_set_t = unsafe { zeroed() };
        // SAFETY: within the set's size.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        // SAFETY: a set of the size told.
        assert_eq!(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) }, 0);
        action()
    })
}
