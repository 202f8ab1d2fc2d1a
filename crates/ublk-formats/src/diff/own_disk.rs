//! Finds out whether a path is on a disk, however many devices are between its file system and the disk.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Whether the file or directory at `path` is stored on the disk with that name in `/sys/block`. Seen are partitions, the device
/// mapper, md, loop devices, overlay mounts, and file systems that are made of several devices, as btrfs is.
pub fn is_on(path: &Path, disk: &str) -> bool {
    let kernel = Kernel { sys: "/sys".into(), mounts: "/proc/self/mountinfo".into() };
    Search { kernel: &kernel, disk, seen: HashSet::new() }.path(path)
}

/// Where the kernel lists devices and mounts. Tests replace these.
struct Kernel {
    sys: PathBuf,
    mounts: PathBuf,
}

struct Search<'a> {
    kernel: &'a Kernel,
    disk: &'a str,
    /// The directories of devices, and paths, that were looked at: what is below a device may be a file on it.
    seen: HashSet<PathBuf>,
}

impl Search<'_> {
    fn path(&mut self, path: &Path) -> bool {
        let Ok(path) = fs::canonicalize(path) else { return false };
        let Ok(found) = fs::metadata(&path) else { return false };
        if found.file_type().is_block_device() {
            return self.number(found.rdev());
        }
        if !self.seen.insert(path.clone()) {
            return false;
        }
        if libc::major(found.dev()) != 0 {
            return self.number(found.dev());
        }
        // The number is the file system's own: its mount tells what it is made of.
        let mounts = fs::read(&self.kernel.mounts).unwrap_or_default();
        let mut mounts: Vec<_> = mounts.split(|byte| *byte == b'\n').filter_map(Mount::of).collect();
        mounts.retain(|mount| path.starts_with(&mount.at));
        // The innermost, and the last of those that are mounted at one place.
        let Some(mount) = mounts.into_iter().max_by_key(|mount| mount.at.as_os_str().len()) else {
            return false;
        };
        mount.stores().iter().any(|store| self.path(store)) || self.members(&mount)
    }

    /// All devices of a btrfs.
    fn members(&mut self, mount: &Mount) -> bool {
        let Some(source) = fs::canonicalize(&mount.source).ok().filter(|_| mount.kind == "btrfs") else {
            return false;
        };
        let Some(name) = source.file_name() else { return false };
        let all = entries(&self.kernel.sys.join("fs/btrfs"));
        let its = all.into_iter().map(|one| one.join("devices")).find(|one| one.join(name).exists());
        its.is_some_and(|devices| entries(&devices).iter().any(|device| self.device(device)))
    }

    fn number(&mut self, number: u64) -> bool {
        let name = format!("{}:{}", libc::major(number), libc::minor(number));
        let device = self.kernel.sys.join("dev/block").join(name);
        self.device(&device)
    }

    /// A device, by its directory.
    fn device(&mut self, device: &Path) -> bool {
        let Ok(device) = fs::canonicalize(device) else { return false };
        if !self.seen.insert(device.clone()) {
            return false;
        }
        // A partition is a directory in that of its disk.
        if device.file_name().is_some_and(|name| name == self.disk) {
            return true;
        }
        if device.join("partition").exists() && device.parent().is_some_and(|whole| self.device(whole)) {
            return true;
        }
        let file = fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
        let file = file.trim_end_matches('\n');
        (!file.is_empty() && self.path(Path::new(file)))
            || entries(&device.join("slaves")).iter().any(|slave| self.device(slave))
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|all| all.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// A line of mountinfo.
struct Mount {
    at: PathBuf,
    kind: String,
    source: PathBuf,
    options: Vec<u8>,
}

impl Mount {
    fn of(line: &[u8]) -> Option<Self> {
        let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let dash = words.iter().position(|word| *word == b"-")?;
        Some(Self {
            at: path_of(words.get(4)?),
            kind: String::from_utf8_lossy(words.get(dash + 1)?).into_owned(),
            source: path_of(words.get(dash + 2)?),
            options: words.get(dash + 3).copied().unwrap_or_default().to_vec(),
        })
    }

    /// Where its content is stored: devices, and the directory that an overlay mount writes to.
    fn stores(&self) -> Vec<PathBuf> {
        let upper = self.options.split(|byte| *byte == b',').filter_map(|one| one.strip_prefix(b"upperdir="));
        // bcachefs names all of its devices. A server's export is no device.
        let source = Some(self.source.as_os_str().as_bytes()).filter(|source| source.starts_with(b"/"));
        let sources = source.into_iter().flat_map(|source| source.split(|byte| *byte == b':'));
        sources.map(bytes_to_path).chain(upper.map(path_of)).collect()
    }
}

fn bytes_to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// A path as mountinfo has it: with octal numbers for some characters.
fn path_of(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < word.len() {
        let octal = word.get(at + 1..at + 4).filter(|_| word[at] == b'\\');
        let byte = octal.and_then(|octal| u8::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok());
        at += if byte.is_some() { 4 } else { 1 };
        bytes.push(byte.unwrap_or_else(|| word[at - 1]));
    }
    bytes_to_path(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A device of `/sys`, with its number; it is below others.
    fn device(kernel: &Kernel, name: &str, number: &str, below: &[&str]) -> PathBuf {
        let dir = kernel.sys.join("devices").join(name);
        fs::create_dir_all(dir.join("slaves")).unwrap();
        fs::create_dir_all(kernel.sys.join("dev/block")).unwrap();
        symlink(&dir, kernel.sys.join("dev/block").join(number)).unwrap();
        for other in below {
            symlink(kernel.sys.join("devices").join(other), dir.join("slaves").join(other)).unwrap();
        }
        dir
    }

    #[test]
    fn a_path_is_on_a_disk_whatever_is_between() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        let kernel = Kernel { sys: dir.join("sys"), mounts: dir.join("mounts") };
        let search = || Search { kernel: &kernel, disk: "ublkb3", seen: HashSet::new() };
        device(&kernel, "ublkb3", "259:0", &[]);
        fs::create_dir_all(dir.join("sys/devices/ublkb3/ublkb3p1")).unwrap();
        fs::write(dir.join("sys/devices/ublkb3/ublkb3p1/partition"), "1").unwrap();
        symlink(dir.join("sys/devices/ublkb3/ublkb3p1"), dir.join("sys/dev/block/259:1")).unwrap();
        device(&kernel, "ublkb33", "259:2", &[]);
        device(&kernel, "dm-1", "253:1", &["ublkb33"]);
        device(&kernel, "dm-2", "253:2", &["ublkb3"]);
        device(&kernel, "md0", "9:0", &["dm-1", "dm-2"]);
        let looped = device(&kernel, "loop0", "7:0", &[]);
        fs::create_dir(looped.join("loop")).unwrap();
        fs::write(looped.join("loop/backing_file"), "/dev/null\n").unwrap();
        for (number, expected) in [
            ((259, 0), true),
            ((259, 1), true),
            ((259, 2), false),
            ((253, 1), false),
            ((253, 2), true),
            ((9, 0), true),
            ((7, 0), false),
            ((8, 0), false),
        ] {
            let found = search().number(libc::makedev(number.0, number.1));
            assert_eq!(found, expected, "{number:?}");
        }
    }

    #[test]
    fn a_path_is_on_what_its_mount_is_made_of() {
        let line = b"36 35 0:42 /sub /mnt/a\\040b rw shared:1 - btrfs /dev/mapper/c rw,subvol=/sub";
        let mount = Mount::of(line).unwrap();
        assert_eq!((mount.at, &*mount.kind), ("/mnt/a b".into(), "btrfs"));
        assert_eq!(mount.source, Path::new("/dev/mapper/c"));
        let stores = |line: &[u8]| Mount::of(line).unwrap().stores();
        assert_eq!(stores(line), [Path::new("/dev/mapper/c")]);
        let line = b"1 2 0:3 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u\\134x,workdir=/w";
        assert_eq!(stores(line), [Path::new("/u\\x")]);
        assert_eq!(stores(b"1 2 0:3 / / rw - bcachefs /dev/a:/dev/b rw").len(), 2);
        assert!(stores(b"1 2 0:3 / / rw - nfs4 host:/x rw").is_empty() && Mount::of(b"").is_none());
    }
}
