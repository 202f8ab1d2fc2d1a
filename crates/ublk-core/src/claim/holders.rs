//! Finds the users of a file or block device that this process can see.

use super::{lock, loops};
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A phrase for each user: "process 12 (node), which serves /dev/ublkb0", "mounted on /mnt". Empty if none is visible.
pub fn of(path: &Path, file: &File) -> Vec<String> {
    let mut found = BTreeSet::new();
    let Ok(meant) = file.metadata() else { return Vec::new() };
    if let Ok(Some(device)) = loops::on(path, file, true) {
        found.insert(format!("{device} is attached to it"));
    }
    if let Ok(Some(lock::Other { pid: Some(pid), .. })) = lock::other(file) {
        found.insert(process(&pid.to_string()));
    }
    let device = meant.file_type().is_block_device();
    if device {
        found.extend(users_of_device(meant.rdev()));
    }
    found.extend(lockers(&meant));
    if device && found.is_empty() {
        found.extend(openers(meant.rdev()));
    }
    found.into_iter().collect()
}

/// The processes that have an OFD lock on the file.
fn lockers(meant: &Metadata) -> Vec<String> {
    let inode = format!(":{} ", meant.ino());
    processes()
        .filter(|pid| {
            entries(format!("/proc/{pid}/fdinfo")).any(|fd| {
                let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
                // "lock:  1: OFDLCK ADVISORY WRITE -1 08:01:131074 0 EOF". Only likely matches are stat()ed: stat() of
                // a file on a hung network file system hangs.
                let locked = info.lines().any(|line| {
                    line.starts_with("lock:") && line.contains("OFDLCK") && line.contains(&inode)
                });
                locked && is(&format!("/proc/{pid}/fd/{fd}"), meant)
            })
        })
        .map(|pid| process(&pid))
        .collect()
}

/// The other processes that have a block device open.
fn openers(rdev: u64) -> Vec<String> {
    let own = std::process::id().to_string();
    processes()
        .filter(|pid| *pid != own)
        .filter(|pid| {
            entries(format!("/proc/{pid}/fd")).any(|fd| {
                let path = format!("/proc/{pid}/fd/{fd}");
                // Only device nodes are stat()ed, for the same reason.
                let node = fs::read_link(&path).is_ok_and(|target| target.starts_with("/dev"));
                node && fs::metadata(path)
                    .is_ok_and(|found| found.file_type().is_block_device() && found.rdev() == rdev)
            })
        })
        .map(|pid| process(&pid))
        .collect()
}

/// The kernel's uses of a block device, its partitions, and its parent disk.
fn users_of_device(rdev: u64) -> Vec<String> {
    let numbers = related(rdev);
    let mut found = Vec::new();
    // mountinfo: id parent major:minor root mountpoint options … - type source …
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let source = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
        // Some file systems, such as btrfs, have a device number of their own.
        let by_source = source.starts_with("/dev/")
            && fs::metadata(source).is_ok_and(|found| {
                found.file_type().is_block_device() && numbers.contains(&text(found.rdev()))
            });
        if let (Some(number), Some(target)) = (fields.get(2), fields.get(4))
            && (by_source || numbers.contains(*number))
        {
            found.push(format!("mounted on {}", target.replace("\\040", " ")));
        }
    }
    for line in fs::read_to_string("/proc/swaps").unwrap_or_default().lines().skip(1) {
        let path = line.split_whitespace().next().unwrap_or_default();
        if fs::metadata(path).is_ok_and(|found| numbers.contains(&text(found.rdev()))) {
            found.push("swap".to_owned());
        }
    }
    for number in &numbers {
        found.extend(
            entries(format!("/sys/dev/block/{number}/holders")).map(|name| format!("used by {name}")),
        );
    }
    found
}

fn related(rdev: u64) -> BTreeSet<String> {
    let dir = format!("/sys/dev/block/{}", text(rdev));
    let number = |path: String| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let partitions = entries(dir.clone())
        .filter(|name| Path::new(&format!("{dir}/{name}/partition")).exists())
        .filter_map(|name| number(format!("{dir}/{name}/dev")));
    let disk = Path::new(&format!("{dir}/partition")).exists().then(|| number(format!("{dir}/../dev")));
    partitions.chain(disk.flatten()).chain([text(rdev)]).collect()
}

fn text(number: u64) -> String {
    format!("{}:{}", libc::major(number), libc::minor(number))
}

fn is(path: &str, meant: &Metadata) -> bool {
    fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (meant.dev(), meant.ino()))
}

/// "process 12 (node), which serves /dev/ublkb0"
fn process(pid: &str) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name: String = name.trim().chars().map(|each| if each.is_control() { '?' } else { each }).collect();
    let disks: BTreeSet<String> = entries(format!("/proc/{pid}/fd"))
        .filter_map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok())
        .filter_map(|target| Some(format!("/dev/ublkb{}", target.to_str()?.strip_prefix("/dev/ublkc")?)))
        .collect();
    let disks: Vec<_> = disks.into_iter().collect();
    let serves =
        if disks.is_empty() { String::new() } else { format!(", which serves {}", disks.join(" and ")) };
    format!("process {pid} ({name}){serves}")
}

fn processes() -> impl Iterator<Item = String> {
    entries("/proc".to_owned()).filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

fn entries(dir: String) -> impl Iterator<Item = String> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}
