//! Creates and removes device nodes in a `/dev` that is not a devtmpfs, as in most containers, where the kernel does not.

use super::Kind;
use crate::error::{Error, ErrorKind, Result};
use nix::sys::stat::{Mode, SFlag, mknod};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Whether the kernel makes and removes the nodes in `/dev`.
fn is_kept() -> bool {
    // If that cannot be found out, assume it: then nodes are created only if they do not appear for a while.
    fs::read_to_string("/proc/self/mountinfo").map_or(true, |mounts| is_devtmpfs(&mounts))
}

/// `mountinfo` has the mounts in order, of which the last one on `/dev` counts:
/// `24 27 0:6 / /dev rw,relatime shared:2 - devtmpfs udev rw`
fn is_devtmpfs(mountinfo: &str) -> bool {
    let dev = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/dev"));
    let kind = dev.and_then(|line| line.split(" - ").nth(1)?.split(' ').next());
    kind == Some("devtmpfs")
}

/// Makes a node, in place of one that is no such device.
fn make(kind: Kind, id: u32, number: libc::dev_t) -> Result<()> {
    let path = kind.path(id);
    let (file_type, mode) = match kind {
        Kind::Server => (SFlag::S_IFCHR, 0o600),
        Kind::Disk => (SFlag::S_IFBLK, 0o660),
    };
    if let Ok(file) = fs::symlink_metadata(&path) {
        if kind.is(&file) && file.rdev() == number {
            return Ok(()); // somebody else was faster
        }
        fs::remove_file(&path).map_err(|error| refused(&path, &error))?;
    }
    match mknod(Path::new(&path), file_type, Mode::from_bits_truncate(mode), number) {
        // Somebody else makes nodes here too: the next look tells whether it is the right one.
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(errno) => return Err(refused(&path, &errno.into())),
    }
    // Whatever the process's mask says.
    fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(|error| refused(&path, &error))
}

fn refused(path: &str, error: &io::Error) -> Error {
    let failed = Error::system(format!("nobody made {path}, and we cannot either"), error);
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::EROFS) => failed
            .kind(ErrorKind::NoPermission)
            .hint("a container needs CAP_MKNOD for that, or the host's /dev in a privileged container"),
        _ => failed,
    }
}

/// Removes what is left of a device's nodes after the kernel let go of it. What cannot be removed stays: the next
/// device of that number replaces it.
pub fn tidy(id: u32) {
    if is_kept() || !Path::new("/sys/class/ublk-char").exists() {
        return;
    }
    for kind in [Kind::Disk, Kind::Server] {
        let path = kind.path(id);
        let stale = kind.number(id).is_none() && fs::symlink_metadata(&path).is_ok_and(|file| kind.is(&file));
        if stale && fs::remove_file(&path).is_ok() {
            // A new device may have got the number in between.
            let _ = kind.number(id).map(|number| make(kind, id, number));
        }
    }
}

/// How long somebody else may take to make a node: where the kernel keeps them, before we do; where we may not, after.
const GRACE: Duration = Duration::from_millis(500);

/// A node that is to appear.
pub struct Making {
    kind: Kind,
    /// The device's number.
    pub id: u32,
    number: Option<libc::dev_t>,
    /// Where it is to be.
    pub path: String,
    /// Since when it is missed, and whether the kernel should make it.
    missed: Option<(Instant, bool)>,
    /// We may not make it, since then.
    refused: Option<(Error, Instant)>,
}

impl Making {
    /// With the number that it is to have; without, it is not made, and any counts.
    pub fn new(kind: Kind, id: u32, number: Option<libc::dev_t>) -> Self {
        Self { kind, id, number, path: kind.path(id), missed: None, refused: None }
    }

    /// Looks once: what `ready` says of the path, if the node is there; else makes it, if nobody else is about to.
    pub fn look<T>(&mut self, ready: impl FnOnce(&str) -> io::Result<Option<T>>) -> Result<Option<T>> {
        let found = match self.there() {
            Ok(true) => ready(&self.path),
            Ok(false) => return self.go_on().map(|()| None).map_err(|error| error.device(self.id)),
            Err(error) => Err(error),
        };
        found.map_err(|error| unusable(&self.path, &error).device(self.id))
    }

    /// Whether it is there and is not an older device's.
    fn there(&self) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(node) => Ok(self.kind.is(&node) && self.number.is_none_or(|number| number == node.rdev())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn go_on(&mut self) -> Result<()> {
        let (since, kept) = *self.missed.get_or_insert_with(|| (Instant::now(), is_kept()));
        match (&self.refused, self.number) {
            (Some((error, since)), _) if since.elapsed() >= GRACE => Err(error.clone()),
            (None, Some(number)) if !kept || since.elapsed() >= GRACE => {
                let made = make(self.kind, self.id, number);
                self.refused = made.err().map(|error| (error, Instant::now()));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn unusable(path: &str, error: &io::Error) -> Error {
    let failed = Error::system(format!("cannot use {path}"), error);
    match error.raw_os_error() {
        Some(libc::EACCES) => failed.kind(ErrorKind::NoPermission).hint("run it as root (sudo)"),
        Some(libc::EPERM) => {
            failed.kind(ErrorKind::NoPermission).hint("a container's rules forbid it: start it privileged")
        }
        _ => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_on_dev_tells_who_keeps_it() {
        let host = "21 27 0:5 / /proc rw - proc proc rw\n24 27 0:6 / /dev rw shared:2 - devtmpfs udev rw\n";
        let pts = "26 24 0:24 / /dev/pts rw - devpts devpts rw\n";
        let container = "30 24 0:40 / /dev rw,nosuid - tmpfs tmpfs rw,mode=755\n";
        assert!(is_devtmpfs(&format!("{host}{pts}")));
        assert!(!is_devtmpfs(&format!("{host}{pts}{container}{pts}")));
        assert!(!is_devtmpfs(pts));
        assert!(!is_devtmpfs(""));
    }
}
