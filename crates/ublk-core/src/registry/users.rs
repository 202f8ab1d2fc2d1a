//! Finds the visible users of a disk: mounts of any namespace, file systems, swap, stacked devices, open files.

use super::server::processes;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The users of device `id`'s disk and its partitions that are visible without opening it, one phrase each: "mounted on
/// /mnt", "used by dm-0", "swap", "open by fio (12)".
pub fn seen(id: u32) -> Vec<String> {
    let disk = Disk::of(id);
    if disk.numbers.is_empty() {
        return Vec::new();
    }
    let mut users = BTreeSet::new();
    let mounted = disk.mounts(&mut users);
    disk.file_systems(&mounted, &mut users);
    disk.swaps(&mut users);
    disk.stacked(&mut users);
    disk.openers(&mut users);
    users.into_iter().collect()
}

/// A disk with its partitions.
struct Disk {
    /// Such as `ublkb0` and `ublkb0p1`.
    names: BTreeSet<String>,
    /// Such as `259:0`.
    numbers: BTreeSet<String>,
}

impl Disk {
    fn of(id: u32) -> Self {
        let names = with_partitions(&format!("ublkb{id}"));
        let number = |name: &String| read(&format!("/sys/class/block/{name}/dev"));
        let numbers = names.iter().filter_map(number).collect();
        Self { names, numbers }
    }

    /// Whether a path is that of its node, possibly in another mount namespace.
    fn is(&self, path: &str) -> bool {
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        path.strip_prefix("/dev/").is_some_and(|name| self.names.contains(name))
            || may_be_node(path) && self.is_node(Path::new(path))
    }

    fn is_node(&self, path: &Path) -> bool {
        path.is_absolute()
            && fs::metadata(path).is_ok_and(|file| {
                let number = file.rdev();
                file.file_type().is_block_device()
                    && self.numbers.contains(&format!("{}:{}", libc::major(number), libc::minor(number)))
            })
    }

    /// Mounts in the namespaces of all visible processes. Returns the types of file systems found.
    fn mounts(&self, users: &mut BTreeSet<String>) -> BTreeSet<String> {
        let mut types = BTreeSet::new();
        let own = namespace("self");
        let mut namespaces = BTreeMap::new();
        for pid in processes() {
            if let Some(namespace) =
                namespace(&pid.to_string()).filter(|namespace| Some(namespace) != own.as_ref())
            {
                namespaces.entry(namespace).or_insert(pid);
            }
        }
        for target in self.mounts_of("self", &mut types) {
            users.insert(format!("mounted on {target}"));
        }
        for pid in namespaces.into_values() {
            let name = name_of(pid);
            for target in self.mounts_of(&pid.to_string(), &mut types) {
                // A namespace begins as a copy of another, so most mounts are in both.
                if !users.contains(&format!("mounted on {target}")) {
                    users.insert(format!("mounted on {target} in the mount namespace of {name} ({pid})"));
                }
            }
        }
        types
    }

    /// Its mount points in the namespace of a process.
    fn mounts_of(&self, process: &str, types: &mut BTreeSet<String>) -> Vec<String> {
        let lines = text(&format!("/proc/{process}/mountinfo")).unwrap_or_default();
        let mounts = lines.lines().filter_map(|line| self.mount(&mount(line)?, types));
        mounts.collect()
    }

    fn mount(&self, mount: &Mount<'_>, types: &mut BTreeSet<String>) -> Option<String> {
        // A file system on several disks, such as btrfs, has a device number of its own.
        let anonymous = mount.number.starts_with("0:") && mount.source.starts_with("/dev/");
        let here = self.numbers.contains(mount.number) || anonymous && self.is(&unescaped(mount.source));
        if !here {
            return None;
        }
        types.insert(mount.kind.to_owned());
        Some(unescaped(mount.target))
    }

    /// File systems that the kernel still has on it, even if they are no longer mounted.
    fn file_systems(&self, mounted: &BTreeSet<String>, users: &mut BTreeSet<String>) {
        let kinds = entries("/sys/fs").into_iter().filter(|kind| !mounted.contains(kind));
        for kind in kinds {
            let here = |dir: String| self.names.iter().any(|name| Path::new(&dir).join(name).exists());
            let found = here(format!("/sys/fs/{kind}"))
                || kind == "btrfs"
                    && entries("/sys/fs/btrfs").iter().any(|id| here(format!("/sys/fs/btrfs/{id}/devices")));
            if found {
                users.insert(format!(
                    "{kind}, on no visible mount: perhaps lazily unmounted, or mounted in another namespace"
                ));
            }
        }
    }

    fn swaps(&self, users: &mut BTreeSet<String>) {
        let swaps = text("/proc/swaps").unwrap_or_default();
        let paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        if paths.map(unescaped).any(|path| self.is(&path)) {
            users.insert("swap".to_owned());
        }
    }

    /// Other devices on top: its holders, and loop devices, which are not among these.
    fn stacked(&self, users: &mut BTreeSet<String>) {
        for name in &self.names {
            for holder in entries(format!("/sys/class/block/{name}/holders")) {
                users.insert(format!("used by {holder}"));
            }
        }
        for name in entries("/sys/block").into_iter().filter(|name| name.starts_with("loop")) {
            let file = text(&format!("/sys/block/{name}/loop/backing_file"));
            if file.is_some_and(|path| self.is(path.trim_end_matches('\n'))) {
                users.insert(format!("used by {name}"));
            }
        }
    }

    /// Processes that have it open, as far as they are visible to this user.
    fn openers(&self, users: &mut BTreeSet<String>) {
        for pid in processes() {
            let open = entries(format!("/proc/{pid}/fd")).into_iter().any(|fd| {
                let path = format!("/proc/{pid}/fd/{fd}");
                let target = fs::read_link(&path).unwrap_or_default();
                let target = target.to_string_lossy();
                match &*target {
                    // Files registered with a ring are not among the process's descriptors.
                    "anon_inode:[io_uring]" => self.in_ring(&format!("/proc/{pid}/fdinfo/{fd}")),
                    target => may_be_node(target) && self.is_node(Path::new(&path)),
                }
            });
            if open {
                users.insert(format!("open by {} ({pid})", name_of(pid)));
            }
        }
    }

    /// Its lines are such as `    3: /dev/ublkb0`.
    fn in_ring(&self, info: &str) -> bool {
        let lines = text(info).unwrap_or_default();
        lines
            .lines()
            .filter_map(|line| line.split_once(": "))
            .any(|(_, path)| path.strip_prefix("/dev/").is_some_and(|name| self.names.contains(name)))
    }
}

/// A line of mountinfo: `id parent major:minor root target options … - type source options`.
struct Mount<'a> {
    number: &'a str,
    target: &'a str,
    kind: &'a str,
    source: &'a str,
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let mut after = after.split(' ');
    let (number, target) = (before.next()?, before.nth(1)?);
    Some(Mount { number, target, kind: after.next()?, source: after.next()? })
}

/// A process's mount namespace; `None` without permission.
fn namespace(process: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/mnt")).ok()
}

fn name_of(pid: u32) -> String {
    read(&format!("/proc/{pid}/comm")).unwrap_or_default()
}

/// Only such paths are stat()ed: stat() of a file on a hung network file system hangs.
fn may_be_node(path: &str) -> bool {
    path.contains("/dev/") || path.contains("ublkb")
}

fn with_partitions(disk: &str) -> BTreeSet<String> {
    let partitions =
        entries(format!("/sys/class/block/{disk}")).into_iter().filter(|name| name.starts_with(disk));
    std::iter::once(disk.to_owned()).chain(partitions).collect()
}

fn entries(dir: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn read(path: &str) -> Option<String> {
    text(path).map(|text| text.trim().to_owned())
}

/// A file's text. Bytes that are not UTF-8, such as in a mount point, are replaced.
fn text(path: &str) -> Option<String> {
    fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Decodes a path from the kernel's lists, where spaces, tabs, newlines and backslashes are escaped as `\` and three
/// octal digits (`mangle_path` in fs/seq_file.c).
fn unescaped(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                path.push(code.into());
                path.push_str(&part[3..]);
            }
            _ => {
                path.push('\\');
                path.push_str(part);
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::{Disk, Mount, mount, unescaped};
    use std::collections::BTreeSet;

    fn disk() -> Disk {
        let set = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Disk { names: set(&["ublkb0", "ublkb0p1"]), numbers: set(&["259:0", "259:1"]) }
    }

    #[test]
    fn mounts_are_told_by_their_number_and_those_without_one_by_their_source() {
        let targets = |lines: &[&str]| -> Vec<String> {
            let all = lines.iter().filter_map(|line| disk().mount(&mount(line)?, &mut BTreeSet::new()));
            all.collect()
        };
        assert_eq!(
            targets(&[
                "36 25 259:0 / /mnt/a\\040b rw,relatime shared:1 - ext4 /dev/disk/by-uuid/x rw",
                "37 25 259:1 /sub /part rw - xfs /dev/ublkb0p1 rw",
                "38 25 0:52 / /btrfs rw,relatime shared:2 master:3 - btrfs /dev/ublkb0 rw,ssd",
                "39 25 0:53 / /other rw - btrfs /dev/ublkb1 rw",
                "40 25 0:54 / /tmp rw - tmpfs ublkb0 rw",
                "41 25 259:2 / /else rw - ext4 /dev/ublkb0 rw",
                "not a line",
            ]),
            ["/mnt/a b", "/part", "/btrfs"]
        );
        let Mount { kind, source, .. } = mount("1 2 0:1 / /x rw - fuse.a b rw").unwrap();
        assert_eq!((kind, source), ("fuse.a", "b"));
    }

    #[test]
    fn a_backing_file_is_known_by_its_path_even_from_another_namespace() {
        assert!(disk().is("/dev/ublkb0p1"));
        assert!(disk().is("/dev/ublkb0 (deleted)"));
        assert!(!disk().is("/dev/ublkb01") && !disk().is("/srv/ublkb0") && !disk().is("ublkb0"));
    }

    #[test]
    fn a_mount_point_is_read_as_the_path_that_it_is() {
        let read = [
            ("/mnt", "/mnt"),
            ("/mnt/a\\040b", "/mnt/a b"),
            ("/mnt/a\\012b\\011c", "/mnt/a\nb\tc"),
            ("/mnt/a\\134040b", "/mnt/a\\040b"),
            ("/mnt/a\\134", "/mnt/a\\"),
            ("/mnt/\u{e9}\\040", "/mnt/\u{e9} "),
            ("/mnt/a\\", "/mnt/a\\"),
            ("/mnt/a\\9z", "/mnt/a\\9z"),
            ("/mnt/\\0\u{e9}", "/mnt/\\0\u{e9}"),
        ];
        for (field, path) in read {
            assert_eq!(unescaped(field), path);
        }
    }
}
