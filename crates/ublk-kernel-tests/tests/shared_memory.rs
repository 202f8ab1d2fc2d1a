//! Memory that a disk shares with its clients: what lies there is served there, and everything else as ever.

use std::fs::File as StdFile;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{
    Backend, Below, Completion, Engine, File, Io, Memory, MemoryFile, Null, Piece, Properties, Site, Slot,
    Step,
};
use ublk_core::claim::Place;
use ublk_core::queue::{CopyMode, Mode, Op, Transport};
use ublk_core::spec::Recovery;
use ublk_core::testing::Control;
use ublk_core::testing::abi::sys::UBLK_F_SHMEM_ZC;
use ublk_core::{Bound, Device, ErrorKind, Event, Spec, registry};
use ublk_kernel_tests::system::sparse;
use ublk_kernel_tests::*;

const SIZE: u64 = 16 << 20;
const LENGTH: usize = 1 << 20;

fn able(flags: u64) -> bool {
    Control::open().unwrap().features(&Bound::standard()).unwrap().has(flags)
}

/// Memory that nobody can truncate.
fn sealed_memory() -> StdFile {
    // SAFETY: a name, and flags.
    let fd = unsafe { libc::memfd_create(c"shared".as_ptr(), libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: a new descriptor, which nothing else owns.
    let file = unsafe { StdFile::from_raw_fd(fd) };
    file.set_len(LENGTH as u64).unwrap();
    // SAFETY: only sets flags of the file.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) }, 0);
    file
}

fn memory_file(dir: &Path) -> StdFile {
    let path = dir.join("shared");
    sparse(&path, LENGTH as u64);
    StdFile::options().read(true).write(true).open(path).unwrap()
}

/// A client's mapping of the memory.
struct Client(*mut u8);

// SAFETY: the mapping belongs to this process.
unsafe impl Send for Client {}

impl Client {
    fn new(file: &StdFile) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a fresh mapping where the kernel likes.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, protection, flags, file.as_raw_fd(), 0) };
        assert_ne!(base, libc::MAP_FAILED);
        Self(base.cast())
    }

    fn at(&self, at: usize) -> *mut u8 {
        assert!(at <= LENGTH);
        // SAFETY: within the mapping.
        unsafe { self.0.add(at) }
    }

    /// Reads or writes the disk from byte `at` of the memory on.
    fn transfer(&self, disk: &StdFile, write: bool, at: usize, length: usize, offset: u64) {
        let done = self.try_to(disk, write, at, length, offset).unwrap();
        assert_eq!(done, length);
    }

    fn try_to(
        &self,
        disk: &StdFile,
        write: bool,
        at: usize,
        length: usize,
        offset: u64,
    ) -> io::Result<usize> {
        let (fd, address) = (disk.as_raw_fd(), self.at(at).cast());
        assert!(at + length <= LENGTH);
        // SAFETY: within the mapping. The kernel alone touches it.
        let done = unsafe {
            if write {
                libc::pwrite(fd, address, length, offset as i64)
            } else {
                libc::pread(fd, address, length, offset as i64)
            }
        };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }

    fn bytes(&mut self, at: usize, length: usize) -> &mut [u8] {
        // SAFETY: within the mapping, and nothing is under way.
        unsafe { std::slice::from_raw_parts_mut(self.at(at), length) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped.
        unsafe { libc::munmap(self.0.cast(), LENGTH) };
    }
}

/// A backend whose 512-byte requests wait for a gate before their data is accessed.
struct Late<B> {
    gate: Arc<Gate>,
    inner: Arc<B>,
}

impl<B: Backend> Backend for Late<B> {
    fn properties(&self) -> Properties {
        self.inner.properties()
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        self.inner.copy_modes()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.inner.places()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> ublk_core::Result<Box<dyn Engine>> {
        let (slot, inner) = (self.gate.slot(site), site.below(self.inner.clone())?);
        Ok(Box::new(LateEngine { gate: self.gate.clone(), slot, inner }))
    }
}

struct LateEngine {
    gate: Arc<Gate>,
    slot: Slot,
    inner: Below,
}

impl Engine for LateEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if piece.length == 512 { self.gate.wait(self.slot, io) } else { self.inner.pass(io, piece) }
    }

    fn resume(&mut self, io: &mut Io<'_>, _completion: Completion) -> Step {
        let piece = io.request.what.piece();
        self.inner.pass(io, piece)
    }
}

#[test]
fn every_backend_serves_shared_memory_in_every_mode() {
    let _alone = alone();
    if !able(UBLK_F_SHMEM_ZC.into()) {
        let spec = Spec { shared_memory: true, ..Spec::default() };
        let refused =
            Device::create(&spec, Arc::new(Null::new(SIZE)), &Bound::standard(), Arc::new(|_| {})).err();
        assert_eq!(refused.unwrap().kind, ErrorKind::Unsupported);
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("file");
    sparse(&path, SIZE);
    let mut served = 0;
    for mode in Transport::ALL
        .into_iter()
        .flat_map(|transport| CopyMode::ALL.map(|copy| Mode { transport, copy }))
        .filter(|mode| able(mode.flags()))
    {
        let checking = Checking::new(SIZE, 512);
        let backends: [Arc<dyn Backend>; 4] = [
            Arc::new(Memory::new(SIZE).unwrap()),
            Arc::new(File::open(&path, false, false).unwrap()),
            Arc::new(Null::new(SIZE)),
            checking.clone(),
        ];
        for (kind, backend) in backends.into_iter().enumerate() {
            if !backend.copy_modes().contains(&mode.copy) {
                continue;
            }
            let spec = Spec {
                shared_memory: true,
                transport: Some(mode.transport),
                copy: Some(mode.copy),
                ..Spec::default()
            };
            let disk = Disk::share(&spec, backend);
            for file in [memory_file(dir.path()), sealed_memory()] {
                let number = disk.device().share(file.try_clone().unwrap(), &Bound::standard()).unwrap();
                let (open, mut client) = (disk.open(), Client::new(&file));
                for (at, length, offset) in [(0, 4096, 8192), (8192, 256 << 10, 1 << 20), (4096, 512, 0)] {
                    stamp(client.bytes(at, length), offset);
                    client.transfer(&open, true, at, length, offset);
                    // Into other places of the memory, and into none of it.
                    let behind = 512 << 10;
                    client.bytes(behind, length).fill(0xa5);
                    client.transfer(&open, false, behind, length, offset);
                    let mut plain = Aligned::filled(length, 0xa5);
                    std::os::unix::fs::FileExt::read_exact_at(&open, &mut plain, offset).unwrap();
                    for found in [client.bytes(behind, length), &mut plain] {
                        if kind == 2 {
                            assert!(found.iter().all(|byte| *byte == 0), "{mode:?}");
                        } else {
                            assert_eq!(first_wrong(found, offset), None, "{mode:?} {kind}");
                        }
                    }
                }
                disk.device().unshare(number, &Bound::standard()).unwrap();
                client.transfer(&open, true, 0, 4096, 8192);
                client.transfer(&open, false, 0, 4096, 8192);
                drop((open, client));
            }
            if kind == 3 {
                checking.assert_right();
                let shared = checking.seen().iter().filter(|what| what.shared.is_some()).count();
                assert_eq!(shared, 12, "requests in shared memory");
            }
            disk.finish();
            served += 1;
        }
    }
    assert!(served >= 4, "{served}");
}

#[test]
fn memory_comes_and_goes_while_the_disk_is_used() {
    let _alone = alone();
    if !able(UBLK_F_SHMEM_ZC.into()) {
        return; // the test above has seen that refused
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let spec = Spec { shared_memory: true, ..Spec::default() };
    let disk = Disk::start(&spec, Memory::new(1 << 30).unwrap());
    let reader = Beside::reader(&disk.path());
    eventually("the reader has the disk open", || !registry::users(disk.device().id()).is_empty());
    let file = memory_file(dir.path());
    let (open, mut client) = (disk.open(), Client::new(&file));
    for _ in 0..10 {
        let number = disk.device().share(file.try_clone().unwrap(), &Bound::standard()).unwrap();
        stamp(client.bytes(0, 4096), 4096);
        client.transfer(&open, true, 0, 4096, 4096);
        disk.device().unshare(number, &Bound::standard()).unwrap();
        client.bytes(0, 4096).fill(0);
        client.transfer(&open, false, 0, 4096, 4096);
        assert_eq!(first_wrong(client.bytes(0, 4096), 4096), None);
    }
    drop((open, client));
    disk.finish();
    reader.end("the reader");
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = memory_file(dir.path());
    let bound = Bound::standard();
    let plain = Disk::start(&Spec::default(), Null::new(SIZE));
    assert_eq!(
        plain.device().share(file.try_clone().unwrap(), &bound).unwrap_err().kind,
        ErrorKind::Unsupported
    );
    plain.finish();
    let spec = Spec { shared_memory: true, ..Spec::default() };
    let both = Spec { recovery: Some(Recovery::Reissue), ..spec.clone() };
    let refused = Device::create(&both, Arc::new(Null::new(SIZE)), &bound, Arc::new(|_| {})).err().unwrap();
    assert_eq!(refused.message, "a disk that shares memory cannot be recoverable");
    if !able(UBLK_F_SHMEM_ZC.into()) {
        return;
    }
    let disk = Disk::start(&spec, Null::new(SIZE));
    for length in [0, 4097] {
        file.set_len(length).unwrap();
        let refused = disk.device().share(file.try_clone().unwrap(), &bound).unwrap_err();
        assert_eq!(
            refused.message,
            format!("shared memory of {length} bytes is not possible"),
            "the file is {length} bytes"
        );
    }
    assert_eq!(disk.device().unshare(7, &bound).unwrap_err().kind, ErrorKind::NotFound);
    disk.finish();
}

/// Whether an event reports that the memory was truncated.
fn told_of_the_memory(event: &Event) -> bool {
    matches!(event, Event::Error { queue: None, message } if message.contains("was truncated from 1048576 to 4096 bytes"))
}

/// The client's memory is truncated while the server has requests in it. They fail; the server reports that once, and
/// continues to serve this disk and others.
#[test]
fn memory_that_is_cut_short_costs_the_requests_in_it_and_nothing_else() {
    let _alone = alone();
    if !able(UBLK_F_SHMEM_ZC.into()) {
        return; // the first test has seen that refused
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let other = Disk::start(&Spec::default(), Memory::new(SIZE).unwrap());
    let late = |kind: usize, gate: &Arc<Gate>| -> (Arc<dyn Backend>, &str) {
        let gate = gate.clone();
        match kind {
            0 => (Arc::new(Late { gate, inner: Arc::new(Memory::new(SIZE).unwrap()) }), "memory"),
            1 => (Arc::new(Late { gate, inner: Arc::new(Null::new(SIZE)) }), "null"),
            2 => {
                let inner = MemoryFile::open(&dir.path().join("disk"), SIZE).unwrap();
                (Arc::new(Late { gate, inner: Arc::new(inner) }), "memory in a file")
            }
            _ => {
                let inner = Scripted::new(SIZE, |io| {
                    let what = io.request.what;
                    if what.op == Op::Read {
                        data(io)?.fill(1);
                    } else if what.op == Op::Write {
                        data(io)?;
                    }
                    Ok(what.length as u32)
                });
                (Arc::new(Late { gate, inner: Arc::new(inner) }), "a backend that looks at its data")
            }
        }
    };
    for (kind, copy) in [
        (0, CopyMode::Copy),
        (0, CopyMode::User),
        (1, CopyMode::Copy),
        (1, CopyMode::User),
        (2, CopyMode::Copy),
        (3, CopyMode::Copy),
    ] {
        let gate = Gate::new();
        let (backend, name) = late(kind, &gate);
        let disk = Disk::share(&Spec { shared_memory: true, copy: Some(copy), ..Spec::default() }, backend);
        let file = memory_file(dir.path());
        disk.device().share(file.try_clone().unwrap(), &Bound::standard()).unwrap();
        // Requests in the part that stays are served together with those in the missing part.
        let requests = [0, 8192, 512, 12288, 1024].map(|at| [(at, true), (at + 1536, false)]).concat();
        let clients: Vec<_> = requests
            .iter()
            .map(|&(at, write)| {
                let (open, client) = (disk.open(), Client::new(&file));
                std::thread::spawn(move || client.try_to(&open, write, at, 512, at as u64))
            })
            .collect();
        eventually("all requests are with the server", || gate.arrived() == requests.len());
        file.set_len(4096).unwrap();
        gate.open(requests.len());
        for (client, (at, write)) in clients.into_iter().zip(requests) {
            let answer = within("a client", move || client.join().unwrap());
            // The null disk does not access the data of a write.
            let fails = at >= 4096 && !(kind == 1 && write);
            assert_eq!(answer.is_err(), fails, "{name}, {copy:?}, {at}, write {write}: {answer:?}");
        }
        // The queue's own events are about single requests.
        disk.events().wait_for(told_of_the_memory);
        let (open, client) = (disk.open(), Client::new(&file));
        client.transfer(&open, true, 0, 4096, 8192);
        open.read_exact_at(&mut Aligned::new(4096), 8192).unwrap();
        exercise(&other);
        let told = disk.events().all();
        assert_eq!(told.iter().filter(|event| told_of_the_memory(event)).count(), 1, "{told:?}");
        assert_eq!(file.metadata().unwrap().len(), 4096, "it is not extended again");
        drop((open, client));
        disk.device().delete(true, &Bound::standard()).unwrap();
    }
    other.finish();
}

/// Only the kernel copies between the file and the memory, which fails with EFAULT for truncated pages.
#[test]
fn a_file_disk_survives_memory_that_is_cut_short_at_any_moment() {
    let _alone = alone();
    if !able(UBLK_F_SHMEM_ZC.into()) {
        return; // the first test has seen that refused
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("disk");
    sparse(&path, SIZE);
    for backend in [
        Arc::new(File::open(&path, false, false).unwrap()) as Arc<dyn Backend>,
        Arc::new(Memory::new(SIZE).unwrap()),
    ] {
        let disk = Disk::share(&Spec { shared_memory: true, ..Spec::default() }, backend);
        let file = memory_file(dir.path());
        disk.device().share(file.try_clone().unwrap(), &Bound::standard()).unwrap();
        for round in 0..20 {
            let clients: Vec<_> = (0..3)
                .map(|number| {
                    let (open, client) = (disk.open(), Client::new(&file));
                    let cut = move || {
                        (0..).find(|at| {
                            let write = at % 2 == 0;
                            client.try_to(&open, write, 16384 * (number + 1), 16384, 0).is_err()
                        })
                    };
                    std::thread::spawn(cut)
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_millis(round % 5));
            file.set_len(4096).unwrap();
            for client in clients {
                within("a client", move || client.join().unwrap());
            }
            file.set_len(LENGTH as u64).unwrap();
        }
        let (open, client) = (disk.open(), Client::new(&file));
        client.transfer(&open, true, 0, 4096, 8192);
        drop((open, client));
        disk.device().delete(true, &Bound::standard()).unwrap();
    }
}

/// Its file is never mapped.
#[test]
fn a_memory_disk_whose_file_is_cut_short_gives_errors_and_goes_on() {
    let _alone = alone();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("disk");
    let disk = Disk::start(&Spec::default(), MemoryFile::open(&path, SIZE).unwrap());
    let file = disk.open();
    file.write_all_at(&Aligned::filled(4096, 1), 8 << 20).unwrap();
    StdFile::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let read =
        |offset| file.read_exact_at(&mut Aligned::new(4096), offset).map_err(|error| error.raw_os_error());
    assert_eq!(read(8 << 20), Err(Some(libc::EIO)));
    read(0).unwrap();
    file.write_all_at(&Aligned::filled(4096, 2), 8 << 20).unwrap();
    read(8 << 20).unwrap();
    drop(file);
    disk.finish();
}
