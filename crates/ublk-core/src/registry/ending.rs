//! The end of a device: its disk is removed, and then the device itself.
//!
//! STOP_DEV waits until the server has answered all requests, including pages that the kernel still writes back. No
//! signal ends that wait, and other commands for the device may wait as well. So the server is checked before, and
//! while the command waits.

use super::server::{Condition, Server};
use super::usage::{GLANCE, Usage, in_use, usage};
use super::{sysfs, sysfs::Activity};
use crate::abi::sys;
use crate::bound::Bound;
use crate::control::{Control, Target};
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::features::Features;
use crate::nodes;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How to end a device of any process.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// Even if it is in use or its server does not answer.
    pub force: bool,
    /// Delete the device as well as its disk.
    pub delete: bool,
    /// With `force`: how long a server may answer none of the pending requests before it is killed.
    pub patience: Duration,
}

impl Ending {
    /// The default, for servers without a control socket.
    pub const PATIENCE: Duration = Duration::from_secs(10);
}

/// What was done to servers, one line each.
pub type Outcome = Vec<String>;

/// How long a process may take to end after SIGKILL, and to run after SIGCONT.
const DEATH: Duration = Duration::from_secs(5);

fn free_it() -> Hint {
    let wait = Hint::from("unmount or close it, wait for that").by(Remedy::Wait);
    wait.and(", or remove it anyway").by(Remedy::Force)
}

/// Stops a device of any process. Without `force` only while its disk is not in use.
pub fn stop(id: u32, force: bool, bound: &Bound) -> Result<()> {
    end(id, Ending { force, delete: false, patience: Ending::PATIENCE }, bound).map(drop)
}

/// Stops and deletes a device. With `force` its id may stay taken until the last user closes the disk.
pub fn delete(id: u32, force: bool, bound: &Bound) -> Result<()> {
    end(id, Ending { force, delete: true, patience: Ending::PATIENCE }, bound).map(drop)
}

/// Ends a device of any process.
///
/// # Errors
/// Of kind [`ErrorKind::Busy`] without `force` if its disk is in use or its server is stopped.
pub fn end(id: u32, ending: Ending, bound: &Bound) -> Result<Outcome> {
    let control = Control::open()?;
    let device = Target::of(&control.info(id, bound)?);
    let mut notes = Outcome::new();
    stop_disk(&control, id, ending, bound, &mut notes)?;
    nodes::tidy(id);
    if ending.delete {
        remove(&control, device, ending.force, bound)?;
    }
    Ok(notes)
}

/// Before a forced removal: continues the device's server if it is stopped; kills it if that has no effect.
pub fn rouse(id: u32, bound: &Bound) -> Result<Outcome> {
    let control = Control::open()?;
    let info = control.info(id, bound)?;
    let mut notes = Outcome::new();
    Vigil::new(id, info.ublksrv_pid, Some(Ending::PATIENCE), bound, &mut notes).look()?;
    Ok(notes)
}

/// Stops a device of this process.
pub(crate) fn stop_through(control: &Control, id: u32, force: bool, bound: &Bound) -> Result<()> {
    let ending = Ending { force, delete: false, patience: Ending::PATIENCE };
    stop_disk(control, id, ending, bound, &mut Outcome::new())?;
    nodes::tidy(id);
    Ok(())
}

fn stop_disk(
    control: &Control,
    id: u32,
    Ending { force, patience, .. }: Ending,
    bound: &Bound,
    notes: &mut Outcome,
) -> Result<()> {
    let info = control.info(id, bound)?;
    let device = Target::of(&info);
    if u32::from(info.state) == sys::UBLK_S_DEV_DEAD {
        return control.stop(device, bound);
    }
    let mut vigil = Vigil::new(id, info.ublksrv_pid, force.then_some(patience), bound, notes);
    vigil.look()?;
    if sysfs::mounted() && sysfs::activity(id).is_none() {
        return wait_for_other(control, id, &mut vigil, bound);
    }
    if force {
        return control.stop_watched(device, bound, &mut || vigil.look());
    }
    let safe = Features(info.flags).has(sys::UBLK_F_SAFE_STOP_DEV.into());
    let (glance, answers) = (Instant::now() + GLANCE, bound.until());
    let mut pause = Duration::from_millis(20);
    // TRY_STOP_DEV finds out itself whether the disk is in use. Only if it is, its users are looked for, among the open files
    // of all processes.
    let mut first = safe && sysfs::activity(id).is_none_or(|activity| activity.waiting == 0);
    loop {
        let found = if std::mem::take(&mut first) { Usage::Free(None) } else { usage(id, !safe) };
        let usage = match found {
            Usage::Free(claimed) => {
                let stopped = if safe {
                    // TRY_STOP_DEV waits for a lock that the kernel holds while it reads the partition table, and no
                    // signal ends that wait: it is sent after the requests were answered.
                    control.try_stop_watched(device, bound, &mut || vigil.look())
                } else {
                    // While the claim is kept, the disk cannot be mounted.
                    let stopped = control.stop_watched(device, bound, &mut || vigil.look());
                    drop(claimed);
                    stopped
                };
                match stopped {
                    Err(error) if error.kind == ErrorKind::Busy && error.command.is_some() => {
                        Usage::Free(None)
                    }
                    // Its disk was removed meanwhile: only the server remains to be stopped.
                    Err(error) if error.kind == ErrorKind::NotFound => return control.stop(device, bound),
                    stopped => return stopped,
                }
            }
            usage => usage,
        };
        vigil.look_at_server()?;
        let served = u32::from(control.info(id, bound)?.state) != sys::UBLK_S_DEV_QUIESCED;
        let waits = matches!(usage, Usage::Waits(_));
        if Instant::now() >= if waits && served { answers } else { glance } {
            return Err(in_use(id, &usage).hint(match (waits, served) {
                (false, _) => free_it(),
                (true, true) => Hint::from("wait for that")
                    .by(Remedy::Wait)
                    .and(", or remove it anyway and fail them")
                    .by(Remedy::Force),
                (true, false) => {
                    Hint::from("recover it, or remove it anyway and fail them").by(Remedy::Force)
                }
            }));
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Another process is removing the disk already: a second STOP_DEV would wait, and no signal could end that wait.
fn wait_for_other(control: &Control, id: u32, vigil: &mut Vigil<'_>, bound: &Bound) -> Result<()> {
    loop {
        match control.info(id, bound) {
            Ok(info) if u32::from(info.state) != sys::UBLK_S_DEV_DEAD => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        vigil.look()?;
        sleep(Duration::from_millis(50));
    }
}

/// Watches a device's server and requests while the driver waits for them.
struct Vigil<'a> {
    id: u32,
    /// With `force`: how long the server may answer nothing.
    force: Option<Duration>,
    /// Without: how long, before the wait is given up.
    limit: Duration,
    /// The other process that serves the device, if it is visible.
    server: Option<Server>,
    continued: bool,
    last: Option<Activity>,
    since: Instant,
    notes: &'a mut Outcome,
}

impl<'a> Vigil<'a> {
    fn new(id: u32, named: i32, force: Option<Duration>, bound: &Bound, notes: &'a mut Outcome) -> Self {
        Self {
            id,
            force,
            limit: bound.timeout,
            // A process that ends its own device need not look through all its descriptors for it.
            server: (named != std::process::id().cast_signed())
                .then(|| Server::find(id, named).filter(|server| !server.is_self()))
                .flatten(),
            continued: false,
            last: sysfs::activity(id),
            since: Instant::now(),
            notes,
        }
    }

    /// Fails if the wait would never end. With `force` kills the server instead.
    fn look(&mut self) -> Result<()> {
        self.look_at_server()?;
        let activity = sysfs::activity(self.id);
        // The disk's removal from sysfs counts as progress, too.
        if activity.map(|now| now.answered) != self.last.map(|then| then.answered) {
            self.since = Instant::now();
        }
        self.last = activity;
        match (self.force, self.server.take()) {
            (Some(patience), Some(server)) if self.since.elapsed() >= patience => {
                self.kill(&server, "did not answer the disk's requests")
            }
            (_, server) => {
                self.server = server;
                if self.since.elapsed() < self.limit { Ok(()) } else { Err(self.gave_up()) }
            }
        }
    }

    fn look_at_server(&mut self) -> Result<()> {
        let Some(server) = self.server.take() else { return Ok(()) };
        let condition = server.condition();
        let why = match condition {
            Condition::Gone => return Ok(()),
            Condition::Runs => {
                self.server = Some(server);
                return Ok(());
            }
            Condition::Stopped => "is stopped",
            Condition::Traced => "is stopped by a debugger",
            Condition::Frozen => "is frozen by its control group",
        };
        if self.force.is_none() {
            let (id, pid) = (self.id, server.pid);
            let how = match condition {
                Condition::Stopped => format!("continue it (kill -CONT {pid})"),
                _ => "continue it".to_owned(),
            };
            return Err(Error::new(
                ErrorKind::Busy,
                format!("the server of /dev/ublkb{id}, process {pid} ({}), {why}", server.name),
            )
            .hint(Hint::from(format!("{how}, or remove the disk anyway")).by(Remedy::Force))
            .device(id));
        }
        if condition != Condition::Stopped || self.continued {
            return self.kill(&server, why);
        }
        self.continued = true;
        server.signal(libc::SIGCONT).map_err(|error| self.refused(&server, &error))?;
        let until = Instant::now() + DEATH;
        while server.condition() == Condition::Stopped && Instant::now() < until {
            sleep(Duration::from_millis(10));
        }
        self.notes.push(format!(
            "process {} ({}), which serves device {}{}, was stopped: continued it",
            server.pid,
            server.name,
            self.id,
            self.others(&server)
        ));
        self.since = Instant::now();
        self.server = Some(server);
        Ok(())
    }

    fn kill(&mut self, server: &Server, why: &str) -> Result<()> {
        let (pid, name) = (server.pid, &server.name);
        let others = self.others(server);
        server.signal(libc::SIGKILL).map_err(|error| self.refused(server, &error))?;
        if !server.ends_within(DEATH) {
            let message =
                format!("process {pid} ({name}) was killed, but waits in the kernel and cannot end");
            return Err(Error::new(ErrorKind::Timeout, message)
                .hint("it waits for another device, such as the disk that holds its data")
                .device(self.id));
        }
        self.notes.push(format!(
            "killed process {pid} ({name}), which served device {}{others}: it {why}",
            self.id
        ));
        self.since = Instant::now();
        Ok(())
    }

    /// The other devices of that process, as the end of a sentence.
    fn others(&self, server: &Server) -> String {
        let ids: Vec<_> =
            server.devices().into_iter().filter(|id| *id != self.id).map(|id| id.to_string()).collect();
        if ids.is_empty() { String::new() } else { format!(" and also {}", ids.join(", ")) }
    }

    fn refused(&self, server: &Server, error: &std::io::Error) -> Error {
        Error::system(format!("cannot signal process {} ({})", server.pid, server.name), error)
            .device(self.id)
    }

    fn gave_up(&self) -> Error {
        let seconds = self.limit.as_secs_f64();
        let what = self
            .last
            .map_or("the disk's requests".to_owned(), |activity| format!("{} requests", activity.waiting));
        let message = format!(
            "/dev/ublkb{} is still being removed: the kernel waits for {what}, and nothing was answered for {seconds:.1} s",
            self.id
        );
        let error = Error::new(ErrorKind::Timeout, message)
            .hint("the removal continues when they are answered; if the device is still there then, delete it again")
            .device(self.id);
        Error { command: Some("STOP_DEV"), ..error }
    }
}

/// How long a forced removal waits for the id to be free.
const REMOVAL: Duration = Duration::from_millis(500);

/// Removes a stopped device. The driver waits until the last user has closed the disk; a forced removal does not. One
/// command only: after it completes the id may belong to another device, which a second one would remove.
pub(crate) fn remove(control: &Control, device: Target, force: bool, bound: &Bound) -> Result<()> {
    let identity = nodes::identity(device.id);
    let gone = || identity.is_some() && nodes::identity(device.id) != identity;
    let removed = match (force, device.by_path) {
        (false, _) => control.delete(device, bound),
        (true, false) => control.delete_async(device, bound),
        // The driver does not allow DEL_DEV_ASYNC to ordinary users. The wait comes after the removal.
        (true, true) => {
            let (began, mut since) = (Instant::now(), None);
            control.delete_watched(device, bound, &mut || {
                let removed = gone() && since.get_or_insert_with(Instant::now).elapsed() >= REMOVAL;
                let late = began.elapsed() >= bound.timeout;
                if removed || late { Err(not_removed(device.id, bound)) } else { Ok(()) }
            })
        }
    };
    nodes::tidy(device.id);
    match removed {
        // Its server removed it first, when it was stopped.
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
        // It is removed, and its id is not free yet: nobody has to wait for that.
        Err(error) if error.kind == ErrorKind::Cancelled && gone() => return Ok(()),
        Err(error) if error.kind == ErrorKind::Timeout && gone() => {}
        removed => removed?,
    }
    let until = Instant::now() + REMOVAL;
    while force && Instant::now() < until && control.info(device.id, bound).is_ok() {
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn not_removed(id: u32, bound: &Bound) -> Error {
    let seconds = bound.timeout.as_secs_f64();
    Error::new(ErrorKind::Timeout, format!("device {id} was not removed within {seconds:.1} s"))
        .hint("its disk is gone; delete it again")
        .device(id)
}
