//! Who uses a disk: mounts, swap, stacked devices, open files; and what of that it has to answer.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The users of device `id`'s disk and its partitions, one phrase each: "mounted on /mnt", "used by dm-0",
/// "swap", "open by fio (12)". Empty when there is none that this process can see.
pub fn users(id: u32) -> Vec<String> {
    let disk = format!("ublkb{id}");
    let names = with_partitions(&disk);
    let numbers: BTreeSet<String> =
        names.iter().filter_map(|name| read(&format!("/sys/class/block/{name}/dev"))).collect();
    if numbers.is_empty() {
        return Vec::new();
    }
    let mut users = BTreeSet::new();
    // mountinfo: id parent major:minor root mountpoint …
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        let mut fields = line.split(' ').skip(2);
        if let (Some(number), Some(target)) = (fields.next(), fields.nth(1))
            && numbers.contains(number)
        {
            users.insert(format!("mounted on {}", target.replace("\\040", " ")));
        }
    }
    for line in fs::read_to_string("/proc/swaps").unwrap_or_default().lines() {
        let name = line.split_whitespace().next().and_then(|path| path.strip_prefix("/dev/"));
        if name.is_some_and(|name| names.contains(name)) {
            users.insert("swap".to_owned());
        }
    }
    for name in &names {
        for holder in entries(format!("/sys/class/block/{name}/holders")) {
            users.insert(format!("used by {holder}"));
        }
    }
    users.extend(openers(&numbers));
    users.into_iter().collect()
}

/// How many requests device `id`'s disk has not answered yet, even while it has no server
/// (Documentation/block/stat.rst, "in_flight").
pub(super) fn requests(id: u32) -> u64 {
    let stat = read(&format!("/sys/block/ublkb{id}/stat"));
    stat.and_then(|stat| stat.split_whitespace().nth(8)?.parse().ok()).unwrap_or(0)
}

fn with_partitions(disk: &str) -> BTreeSet<String> {
    let partitions =
        entries(format!("/sys/class/block/{disk}")).into_iter().filter(|name| name.starts_with(disk));
    std::iter::once(disk.to_owned()).chain(partitions).collect()
}

/// Processes with an open descriptor of one of the devices, as far as this user may see.
fn openers(numbers: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for pid in entries("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        let open = entries(format!("/proc/{pid}/fd")).into_iter().any(|fd| {
            let path = format!("/proc/{pid}/fd/{fd}");
            // Only nodes below /dev are looked at closer: to stat a file of a hung network filesystem hangs.
            let node = fs::read_link(&path).is_ok_and(|target| target.starts_with("/dev"));
            node && fs::metadata(path).is_ok_and(|file| {
                let number = file.rdev();
                file.file_type().is_block_device()
                    && numbers.contains(&format!("{}:{}", libc::major(number), libc::minor(number)))
            })
        });
        if open {
            let name = read(&format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push(format!("open by {name} ({pid})"));
        }
    }
    found
}

fn entries(dir: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
