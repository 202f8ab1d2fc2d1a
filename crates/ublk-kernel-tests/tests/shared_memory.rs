//! Memory that a disk shares with its clients: what lies there is served there, and everything else as ever.

use std::fs::File as StdFile;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use ublk_core::abi::sys::UBLK_F_SHMEM_ZC;
use ublk_core::backend::{Backend, File, Memory, Null};
use ublk_core::mapping::Mapping;
use ublk_core::queue::{CopyMode, Mode, Transport};
use ublk_core::spec::Recovery;
use ublk_core::{Bound, Control, Device, ErrorKind, Spec, registry};
use ublk_kernel_tests::system::sparse;
use ublk_kernel_tests::*;

const SIZE: u64 = 16 << 20;
const LENGTH: usize = 1 << 20;

fn able(flags: u64) -> bool {
    Control::open().unwrap().features(&Bound::standard()).unwrap().has(flags)
}

fn memory_file(dir: &Path) -> StdFile {
    let path = dir.join("shared");
    sparse(&path, LENGTH as u64);
    StdFile::options().read(true).write(true).open(path).unwrap()
}

/// A client's mapping of the memory.
struct Client(Mapping);

impl Client {
    fn new(file: &StdFile) -> Self {
        Self(Mapping::shared(file, 0, LENGTH).unwrap())
    }

    /// Reads or writes the disk from byte `at` of the memory on.
    fn transfer(&self, disk: &StdFile, write: bool, at: usize, length: usize, offset: u64) {
        let (fd, address) = (disk.as_raw_fd(), self.0.at(at).cast());
        assert!(at + length <= LENGTH);
        // SAFETY: within the mapping.
        let done = unsafe {
            if write {
                libc::pwrite(fd, address, length, offset as i64)
            } else {
                libc::pread(fd, address, length, offset as i64)
            }
        };
        assert_eq!(done, length as isize, "{}", std::io::Error::last_os_error());
    }

    fn bytes(&mut self, at: usize, length: usize) -> &mut [u8] {
        // SAFETY: within the mapping, and nothing is under way.
        unsafe { std::slice::from_raw_parts_mut(self.0.at(at), length) }
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
            let file = memory_file(dir.path());
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
            if kind == 3 {
                checking.assert_right();
                let shared = checking.seen().iter().filter(|what| what.shared.is_some()).count();
                assert_eq!(shared, 6, "requests in shared memory");
            }
            disk.device().unshare(number, &Bound::standard()).unwrap();
            client.transfer(&open, true, 0, 4096, 8192);
            client.transfer(&open, false, 0, 4096, 8192);
            drop((open, client));
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
