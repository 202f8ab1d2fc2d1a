//! Whether a disk is in use: one answer for all who have to know it before they remove, shrink or report it.

use super::claim::{Claim, claim};
use super::sysfs;
use super::users::seen as seen_users;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use std::fs::File;
use std::time::{Duration, Instant};

/// How long a mere look at a disk, such as the kernel's own partition scan or udev's, may keep it open.
pub(super) const GLANCE: Duration = Duration::from_millis(500);

/// What is said of users that the kernel knows of and nobody can name.
const UNSEEN: &str = "the kernel says that it is in use; no mount or process that can be seen explains it: perhaps \
                      lazily unmounted, or mounted in another namespace";

/// Whether a disk is in use.
pub(super) enum Usage {
    /// Nobody uses it, and as long as the claim is kept nobody mounts it or the like. Without one there is no disk, or the
    /// kernel was not asked.
    Free(Option<Claimed>),
    /// By these, one phrase each.
    Used(Vec<String>),
    /// Nobody is to be seen, but so many requests wait for their answers.
    Waits(u64),
    /// Nobody is to be seen, and the kernel could not be asked, for that reason.
    Unknown(String),
}

/// A disk that nobody else can mount, swap to or build on as long as this is kept.
pub struct Claimed(#[expect(dead_code, reason = "kept open")] File);

/// Looks for the users of device `id`'s disk. If there is none, and `ask` is set, asks the kernel.
pub(super) fn usage(id: u32, ask: bool) -> Usage {
    let seen = seen_users(id);
    if !seen.is_empty() {
        return Usage::Used(seen);
    }
    // open() waits for a lock that the kernel holds while it reads the partition table, and no signal ends that wait: it
    // comes after the answers.
    match sysfs::activity(id) {
        Some(activity) if activity.waiting > 0 => return Usage::Waits(activity.waiting),
        _ if !ask => return Usage::Free(None),
        _ => {}
    }
    match claim(id) {
        Claim::Free(file) => Usage::Free(Some(Claimed(file))),
        Claim::NoDisk => Usage::Free(None),
        Claim::Unknown(error) => Usage::Unknown(format!("/dev/ublkb{id} cannot be opened to ask ({error})")),
        Claim::Taken => {
            let seen = seen_users(id); // it may have come just now
            Usage::Used(if seen.is_empty() { vec![UNSEEN.to_owned()] } else { seen })
        }
    }
}

/// Who uses device `id`'s disk, one phrase each, with those that only the kernel knows of. Empty when it is free.
pub fn users(id: u32) -> Vec<String> {
    let until = Instant::now() + GLANCE;
    loop {
        match usage(id, true) {
            Usage::Used(users) => return users,
            Usage::Free(_) | Usage::Unknown(_) => return Vec::new(),
            Usage::Waits(requests) if Instant::now() >= until => return vec![waits(requests)],
            Usage::Waits(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Claims device `id`'s disk, which is to shrink.
///
/// # Errors
/// Of kind [`ErrorKind::Busy`] if somebody uses it, or that cannot be told.
pub fn claim_to_shrink(id: u32, cancel: &Cancel) -> Result<Option<Claimed>> {
    let until = Instant::now() + GLANCE;
    loop {
        let usage = usage(id, true);
        if let Usage::Free(claimed) = usage {
            return Ok(claimed);
        }
        if Instant::now() >= until || cancel.is_cancelled() {
            let by = by(&usage);
            let message = format!("/dev/ublkb{id} is in use ({by}): shrinking it would cut them off");
            let hint = "unmount or close it, or use force";
            return Err(Error::new(ErrorKind::Busy, message).hint(hint).device(id));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Who or what uses it, in words.
pub(super) fn in_use(id: u32, usage: &Usage) -> Error {
    Error::new(ErrorKind::Busy, format!("/dev/ublkb{id} is in use: {}", by(usage))).device(id)
}

fn by(usage: &Usage) -> String {
    match usage {
        Usage::Used(users) => users.join(", "),
        Usage::Waits(requests) => waits(*requests),
        Usage::Unknown(why) => why.clone(),
        // The driver says so, which counts descriptors that no process shows, such as those of a mapping.
        Usage::Free(_) => UNSEEN.to_owned(),
    }
}

fn waits(requests: u64) -> String {
    format!("requests, such as the kernel's for partitions, wait for their answers ({requests} in flight)")
}
