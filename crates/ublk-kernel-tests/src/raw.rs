//! A device served by hand, with plain rings: for what the engine never does, and to see what it hides.

use crate::{Aligned, PATIENCE};
use io_uring::{IoUring, opcode, types};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread::JoinHandle;
use std::time::Instant;
use ublk_core::backend::Properties;
use ublk_core::testing::abi::{self, sys};
use ublk_core::testing::{Control, described};
use ublk_core::{Bound, Spec};

/// A device that was added and has its parameters. It is deleted in the end.
pub struct RawDevice {
    /// The control it was added through.
    pub control: Control,
    /// Its number.
    pub id: u32,
    deleted: bool,
}

impl RawDevice {
    /// A disk of 1 MiB with 512-byte blocks.
    pub fn add(queues: u32, depth: u32) -> Self {
        let control = Control::open().unwrap();
        let disk = Properties::new(1 << 20);
        let spec = Spec { queues, depth, max_io: 4096, ..Spec::default() };
        let (info, params) = described(&spec, &disk, 4096).unwrap();
        let info = control.add(&info, &Bound::standard()).unwrap();
        let device = Self { control, id: info.dev_id, deleted: false };
        assert_eq!((u32::from(info.nr_hw_queues), u32::from(info.queue_depth)), (queues, depth));
        device.control.set_params(device.id, &params, &Bound::standard()).unwrap();
        device
    }

    /// The device a server talks to.
    pub fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(format!("/dev/ublkc{}", self.id)).unwrap()
    }

    /// Starts the device, whose tags have been fetched, and reads the disk's first 4096 bytes, on another thread: the
    /// caller has to serve meanwhile.
    pub fn start_and_read(&self) -> JoinHandle<()> {
        let (control, id) = (self.control.clone(), self.id);
        std::thread::spawn(move || {
            control.start(id, &Bound::standard()).unwrap();
            let path = format!("/dev/ublkb{id}");
            let disk = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
            disk.read_exact_at(&mut Aligned::new(4096), 0).unwrap();
        })
    }

    /// Stops and deletes the device, whose server lets go of it as soon as it may.
    pub fn end(mut self, mut queue: RawQueue, char_dev: File) {
        let (control, id) = (self.control.clone(), self.id);
        let stop = std::thread::spawn(move || control.stop(id, &Bound::standard()));
        while !stop.is_finished() {
            if let Some(Fetched { result: 0, .. }) = queue.wait_briefly() {
                panic!("a request after the last");
            }
        }
        stop.join().unwrap().unwrap();
        // The driver deletes only what nobody has open.
        drop((queue, char_dev));
        self.control.delete(self.id, &Bound::standard()).unwrap();
        self.deleted = true;
    }

    /// What the driver wrote at `tag` of `queue`'s table.
    pub fn descriptor(&self, char_dev: &File, queue: u16, depth: u16, tag: u16) -> sys::ublksrv_io_desc {
        assert!(tag < depth);
        let (offset, length) = (abi::table_offset(queue), abi::table_len(depth));
        // SAFETY: a fresh mapping of a file; it is unmapped below, after its only use.
        unsafe {
            let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
            let fd = char_dev.as_raw_fd();
            let table =
                libc::mmap(std::ptr::null_mut(), length, read, shared, fd, offset.try_into().unwrap());
            assert_ne!(table, libc::MAP_FAILED);
            let descriptor = table.cast::<sys::ublksrv_io_desc>().add(tag.into()).read_volatile();
            libc::munmap(table, length);
            descriptor
        }
    }
}

impl Drop for RawDevice {
    fn drop(&mut self) {
        if self.deleted {
            return; // its number may be another's by now
        }
        let _ = self.control.stop(self.id, &Bound::standard());
        let _ = self.control.delete_async(self.id, &Bound::standard());
    }
}

/// A command to send.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    pub op: u32,
    pub queue: u16,
    pub tag: u16,
    pub result: i32,
    pub addr: u64,
}

/// A command that completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    pub queue: u16,
    pub tag: u16,
    pub result: i32,
}

/// One thread's ring.
pub struct RawQueue {
    ring: IoUring,
    char_dev: RawFd,
}

impl RawQueue {
    /// For the calling thread.
    pub fn new(char_dev: &File) -> Self {
        Self { ring: IoUring::new(64).unwrap(), char_dev: char_dev.as_raw_fd() }
    }

    /// Sends `command` as the engine does.
    pub fn send(&mut self, command: Command) {
        let Command { op, queue, tag, result, addr } = command;
        self.send_payload(command, abi::io_command(queue, tag, result, addr), op);
    }

    /// Sends any payload; its completion is told apart by `name`'s queue and tag.
    pub fn send_payload(&mut self, name: Command, payload: [u8; 16], op: u32) {
        let entry = opcode::UringCmd16::new(types::Fd(self.char_dev), op)
            .cmd(payload)
            .build()
            .user_data(u64::from(name.queue) << 16 | u64::from(name.tag));
        // SAFETY: the address in the payload is the test's to keep valid.
        unsafe { self.ring.submission().push(&entry) }.unwrap();
        self.ring.submit().unwrap();
    }

    /// Waits for the next completion.
    pub fn wait(&mut self) -> Fetched {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(fetched) = self.wait_briefly() {
                return fetched;
            }
            assert!(Instant::now() < until, "no completion");
        }
    }

    /// The next completion, if one comes soon.
    pub fn wait_briefly(&mut self) -> Option<Fetched> {
        if self.ring.completion().is_empty() {
            let limit = types::Timespec::new().nsec(10_000_000);
            let _ = self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit));
        }
        let completion = self.ring.completion().next()?;
        let name = completion.user_data();
        let (queue, tag) = (u16::try_from(name >> 16).unwrap(), u16::try_from(name & 0xffff).unwrap());
        Some(Fetched { queue, tag, result: completion.result() })
    }
}
