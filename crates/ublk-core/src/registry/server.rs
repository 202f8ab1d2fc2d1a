//! The process that serves a device, as another one sees it.

use crate::nodes::Kind;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{Duration, Instant};

/// Whether a process can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// It runs, as far as is visible.
    Runs,
    /// Stopped by a signal such as SIGSTOP, until SIGCONT.
    Stopped,
    /// Stopped by a debugger.
    Traced,
    /// Frozen by its control group.
    Frozen,
    /// It has ended.
    Gone,
}

impl Condition {
    /// Its name in the public API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Stopped => "stopped",
            Self::Traced => "traced",
            Self::Frozen => "frozen",
            Self::Gone => "gone",
        }
    }
}

/// The process that has a device's `/dev/ublkcN` open.
pub struct Server {
    /// Its process number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// A pidfd: refers to this process even if its number is reused.
    handle: OwnedFd,
}

impl Server {
    /// The server of device `id`: the process that the driver names, if that has the device open, otherwise any that
    /// has. `None` if none is visible, such as in another PID namespace, or if this process lacks permission.
    pub fn find(id: u32, named: i32) -> Option<Self> {
        let named = u32::try_from(named).ok().filter(|pid| *pid > 0);
        named.and_then(|pid| Self::open(id, pid)).or_else(|| processes().find_map(|pid| Self::open(id, pid)))
    }

    /// The process of that number, if it has the device open.
    fn open(id: u32, pid: u32) -> Option<Self> {
        if !served_by(pid)?.contains(&id) {
            return None;
        }
        // SAFETY: plain numbers; the result is checked, and is a new descriptor.
        let handle = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid.cast_signed(), 0);
            i32::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| OwnedFd::from_raw_fd(fd))?
        };
        // Checked again after the open: the pidfd might belong to a later process with that number.
        let name = read(&format!("/proc/{pid}/comm")).unwrap_or_default();
        served_by(pid)?.contains(&id).then_some(Self { pid, name, handle })
    }

    /// Whether it is the calling process.
    pub fn is_self(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Whether it can run.
    pub fn condition(&self) -> Condition {
        condition(self.pid)
    }

    /// The devices that it serves.
    pub fn devices(&self) -> BTreeSet<u32> {
        served_by(self.pid).unwrap_or_default()
    }

    /// Sends it a signal; never another process with its number.
    pub fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
        // SAFETY: the descriptor is ours, and the kernel takes no information for this signal.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.handle.as_raw_fd(), signal, info, flags)
        };
        if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits at most `limit` until it has ended. Returns whether it has.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        // A process that waits uninterruptibly still has the device open.
        while self.condition() != Condition::Gone && served_by(self.pid).is_some_and(|ids| !ids.is_empty()) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

/// Whether a process can do anything.
pub(super) fn condition(pid: u32) -> Condition {
    // pid (name) state …; the name may hold anything.
    let stat = read(&format!("/proc/{pid}/stat")).unwrap_or_default();
    match stat.rsplit(") ").next().and_then(|rest| rest.chars().next()) {
        None | Some('Z' | 'X') => Condition::Gone,
        Some('T') => Condition::Stopped,
        Some('t') => Condition::Traced,
        _ if frozen(pid) => Condition::Frozen,
        _ => Condition::Runs,
    }
}

/// Its state does not show that.
fn frozen(pid: u32) -> bool {
    let groups = read(&format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.lines().any(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return false };
        match controllers {
            "" => read(&format!("/sys/fs/cgroup{path}/cgroup.events"))
                .is_some_and(|events| events.lines().any(|line| line == "frozen 1")),
            "freezer" => read(&format!("/sys/fs/cgroup/freezer{path}/freezer.state"))
                .is_some_and(|state| state == "FROZEN"),
            _ => false,
        }
    })
}

/// The numbers of the devices whose `/dev/ublkcN` a process has open; `None` if that cannot be seen.
pub(super) fn served_by(pid: u32) -> Option<BTreeSet<u32>> {
    let dir = format!("/proc/{pid}/fd");
    let found = fs::read_dir(dir).ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let target = fs::read_link(&path).ok()?;
        let id = target.to_str()?.rsplit_once("/ublkc")?.1.split(' ').next()?.parse().ok()?;
        let file = fs::metadata(path).ok()?;
        let same = Kind::Server.number(id).is_some_and(|number| number == file.rdev());
        (file.file_type().is_char_device() && same).then_some(id)
    });
    Some(found.collect())
}

/// The numbers of the visible processes.
pub(super) fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Whether this process sees every process of the machine.
pub(super) fn sees_all() -> bool {
    /// `PROC_PID_INIT_INO` of the kernel: the first PID namespace.
    const FIRST: &str = "pid:[4026531836]";
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
    of("self").is_some_and(|namespace| namespace.as_os_str() == FIRST)
        // A /proc of another namespace shows other processes.
        && read("/proc/self/stat").is_some_and(|stat| stat.split(' ').next() == Some(&std::process::id().to_string()))
}

fn read(path: &str) -> Option<String> {
    fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_condition_of_a_process_is_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let becomes = |wanted| {
            let until = Instant::now() + Duration::from_secs(10);
            while condition(pid) != wanted && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(condition(pid), wanted);
        };
        becomes(Condition::Runs);
        // SAFETY: a child of this test that has not been waited for.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGSTOP) };
        becomes(Condition::Stopped);
        // SAFETY: as above.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGCONT) };
        becomes(Condition::Runs);
        child.kill().unwrap();
        becomes(Condition::Gone);
        child.wait().unwrap();
        assert_eq!(condition(pid), Condition::Gone);
    }

    #[test]
    fn a_process_that_has_no_device_open_is_no_server() {
        assert_eq!(served_by(std::process::id()), Some(BTreeSet::new()));
        assert!(Server::open(0, std::process::id()).is_none());
        assert_eq!(served_by(u32::MAX), None);
    }
}
