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
    for line in text("/proc/self/mountinfo").unwrap_or_default().lines() {
        let mut fields = line.split(' ').skip(2);
        if let (Some(number), Some(target)) = (fields.next(), fields.nth(1))
            && numbers.contains(number)
        {
            users.insert(format!("mounted on {}", unescaped(target)));
        }
    }
    for line in text("/proc/swaps").unwrap_or_default().lines() {
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
    text(path).map(|text| text.trim().to_owned())
}

/// A file's text. Names that are no UTF-8, such as a mount point's, cost their own letters and not the whole file.
fn text(path: &str) -> Option<String> {
    fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A path of the kernel's lists, where spaces, tabs, newlines and backslashes are `\` with three octal digits
/// (`mangle_path` in fs/seq_file.c).
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
    use super::unescaped;

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
