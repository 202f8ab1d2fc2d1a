//! The system below and around the disks: loop devices, filesystems, this process's own resources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Runs a program to its end, within a bound, and returns what it said. It has to succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout").args(["-k", "5", "30", program]).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {complaint}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A small file of the system, trimmed.
pub fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

/// A new file of `size` zero bytes, without blocks.
pub fn sparse(path: &Path, size: u64) {
    fs::File::create(path).unwrap().set_len(size).unwrap();
}

/// A loop device over a sparse file in memory.
pub struct Loop {
    device: String,
    _dir: TempDir,
}

impl Loop {
    /// One of `size` bytes.
    pub fn new(size: u64) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let image = dir.path().join("image");
        sparse(&image, size);
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        Self { device, _dir: dir }
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        Path::new(&self.device)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.device]);
    }
}

/// A mounted filesystem on a loop device.
pub struct Mounted {
    dir: TempDir,
    device: Loop,
}

impl Mounted {
    /// An empty ext4 of `size` bytes.
    pub fn ext4(size: u64) -> Self {
        Self::ext4_with(size, &[])
    }

    /// The same with further options of mkfs.ext4.
    pub fn ext4_with(size: u64, options: &[&str]) -> Self {
        let (device, dir) = (Loop::new(size), tempfile::tempdir().unwrap());
        run("mkfs.ext4", &[&["-q", "-F"], options, &[&device.device]].concat());
        run("mount", &[&device.device, dir.path().to_str().unwrap()]);
        Self { dir, device }
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The block device that it is on.
    pub fn device(&self) -> String {
        self.device.device.clone()
    }

    /// The directory it is mounted on.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Unmounts it, which fails while anybody has a file of it open.
    pub fn unmount(&self) {
        run("umount", &[self.dir.path().to_str().unwrap()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mounts = read("/proc/self/mountinfo");
        if mounts.split_whitespace().any(|field| Path::new(field) == self.dir.path()) {
            self.unmount();
        }
    }
}

/// A file system that is mounted as long as this lives.
pub struct Mount(TempDir);

impl Mount {
    /// That of a block device.
    pub fn of(device: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &[device, dir.path().to_str().unwrap()]);
        Self(dir)
    }

    /// The directory it is mounted on.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.0.path().to_str().unwrap()]);
    }
}

/// What this process has open: where each descriptor points.
pub fn descriptors() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.display().to_string())
        // The one that reads the directory.
        .filter(|target| !target.ends_with("/fd"))
        .collect()
}

/// The names of this process's threads.
pub fn threads() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/task").unwrap();
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Bytes of memory that this process has for itself.
pub fn resident() -> u64 {
    memory("RssAnon:")
}

/// Bytes of memory that it has locked.
pub fn locked() -> u64 {
    memory("VmLck:")
}

/// What lets a process lock more memory than its limit.
pub const CAP_IPC_LOCK: u32 = 14;

/// Takes a capability away from the calling thread, and from those that it starts.
pub fn without_capability(capability: u32) {
    const VERSION: u32 = 0x2008_0522; // sets of two words
    let header = [VERSION, 0];
    let mut sets = [[0u32; 3]; 2]; // effective, permitted, inheritable
    // SAFETY: as linux/capability.h has them: the header, and two of the structure for 64 capabilities.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        sets[(capability / 32) as usize][0] &= !(1 << (capability % 32));
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
    }
}

fn memory(name: &str) -> u64 {
    let status = read("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// On which CPUs this process's thread of that name may run, as the kernel writes it: `0-3,5`.
pub fn cpus_of(name: &str) -> String {
    let statuses = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok());
    let mut found = statuses.filter(|status| status.starts_with(&format!("Name:\t{name}\n")));
    let status = found.next().unwrap_or_else(|| panic!("no thread {name}"));
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    line.trim().to_owned()
}

/// Processor time that this process's threads whose names begin so have taken so far, in the system's ticks.
pub fn busy(name: &str) -> u64 {
    let entries = fs::read_dir("/proc/self/task").unwrap();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    // number (name) state …: user and system time are the 12th and 13th after the name.
    stats
        .filter(|stat| stat.split_once('(').is_some_and(|(_, rest)| rest.starts_with(name)))
        .flat_map(|stat| {
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').map(str::to_owned).collect();
            [11, 12].map(|at| fields[at].parse::<u64>().unwrap())
        })
        .sum()
}

/// How often those of this process's threads whose names begin so have gone to sleep so far.
pub fn sleeps(name: &str) -> u64 {
    let entries = fs::read_dir("/proc/self/task").unwrap();
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok())
        .filter(|status| {
            status.lines().next().is_some_and(|line| line["Name:".len()..].trim().starts_with(name))
        })
        .map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            line.trim().parse::<u64>().unwrap()
        })
        .sum()
}
