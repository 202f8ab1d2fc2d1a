//! The disk's I/O scheduler: none.
//!
//! The kernel uses none for a disk with several queues, and mq-deadline, if it has that, for a disk with one queue
//! (`block/elevator.c`). mq-deadline sorts requests for moving heads. It costs a fifth to a third of the speed of a disk in
//! memory, and a disk in a file has another scheduler below it. Loop devices have none; ublk's driver has no such option.

use super::change::Change;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The helper's script: it changes only the kernel's own choice, not one of the administrator.
const SCRIPT: &str = r#"read -r offered; case $offered in *"[mq-deadline]"*) echo none ;; esac"#;

/// Begins to take the scheduler from a disk that has just appeared. `None` where nothing can be done: the disk works
/// with one as well.
///
/// A separate process writes it. The kernel answers when the requests in flight are done, and a process in this wait cannot be
/// killed: a thread of this process would keep the device open forever if the server was killed meanwhile.
pub(super) fn take_away(id: u32) -> Option<Change> {
    let path = format!("/sys/block/ublkb{id}/queue/scheduler");
    let offered = File::open(&path).ok()?;
    let chosen = OpenOptions::new().write(true).open(&path).ok()?; // root's only, and not in every container
    let mut helper = Command::new("/bin/sh");
    helper.args(["-c", SCRIPT]).env_clear().stdin(offered).stdout(chosen).stderr(Stdio::null());
    helper.process_group(0); // Ctrl-C is not for it
    Change::begin("ublk-scheduler", move || {
        let _ = helper.status(); // a system without a shell keeps the scheduler
    })
}
