//! Other processes that use a disk: a client in the server's own process could hang with it.

use crate::{eventually, within};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A program that runs beside the test. It is killed when the test is done with it.
pub struct Beside(Child);

impl Beside {
    /// Starts it, unheard.
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Reads the disk from end to end, one direct request of 4096 bytes after the other.
    pub fn reader(disk: &str) -> Self {
        let arguments = [&format!("if={disk}"), "of=/dev/null", "bs=4096", "iflag=direct", "status=none"];
        Self::start(Command::new("dd").args(arguments))
    }

    /// Writes zeroes over the disk from end to end, likewise.
    pub fn writer(disk: &str) -> Self {
        let arguments =
            ["if=/dev/zero", &format!("of={disk}"), "bs=4096", "oflag=direct", "conv=nocreat", "status=none"];
        Self::start(Command::new("dd").args(arguments))
    }

    /// Runs the test program once more as a server: its test `the_server`, with this in its environment. Returns the
    /// number of the device that it printed, too.
    pub fn server(variable: &str, value: &str) -> (Self, u32) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_server", "--nocapture"]).env(variable, value).stdout(Stdio::piped());
        let mut server = Self::start(&mut command);
        let output = BufReader::new(server.child().stdout.take().unwrap());
        let id = within("the server's start", || {
            output
                .lines()
                .find_map(|line| line.unwrap().strip_prefix("device ").map(|id| id.parse().unwrap()))
        });
        (server, id.expect("the server told its device"))
    }

    /// Its own view of it.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// How it ended; it has to.
    pub fn end(mut self, what: &str) -> ExitStatus {
        let mut status = None;
        eventually(what, || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            // Not waited for: who hangs on a disk cannot be killed.
        }
    }
}
