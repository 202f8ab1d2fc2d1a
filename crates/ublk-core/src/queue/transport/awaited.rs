//! Tracks which of a batch queue's commands are in flight, and so for how many completions a turn may sleep: not more
//! than can still come, or the thread sleeps although there is work.

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Awaited {
    /// The command that carries the answers.
    answers: bool,
    requests: Requests,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Requests {
    /// Not in flight: the driver cannot deliver requests.
    #[default]
    Unasked,
    /// In flight: the driver can deliver requests.
    Asked,
    /// Ended for good.
    Over,
    /// In flight, but its requests are left to the next server.
    Unwanted,
}

impl Awaited {
    /// A commit was submitted.
    pub fn send(&mut self) {
        self.answers = true;
    }

    /// The commit has completed.
    pub fn sent(&mut self) {
        self.answers = false;
    }

    /// Whether a commit is in flight.
    pub fn sending(&self) -> bool {
        self.answers
    }

    /// FETCH_IO_CMDS was submitted.
    pub fn ask(&mut self) {
        self.requests = Requests::Asked;
    }

    /// FETCH_IO_CMDS has ended: for good (`over`), or until it is submitted again.
    pub fn told(&mut self, over: bool) {
        if self.requests != Requests::Unwanted {
            self.requests = if over { Requests::Over } else { Requests::Unasked };
        }
    }

    /// From now on requests are left to the next server.
    pub fn leave_requests(&mut self) {
        self.requests = Requests::Unwanted;
    }

    /// Whether requests that the driver delivers are to be served.
    pub fn wanted(&self) -> bool {
        self.requests != Requests::Unwanted
    }

    /// Whether FETCH_IO_CMDS has to be submitted.
    pub fn unasked(&self) -> bool {
        self.requests == Requests::Unasked
    }

    /// How many completions to ignore before the one that a turn sleeps for. A commit has one; but a turn may sleep
    /// through it only if another can come, and if there is nothing to do (`more`) once it completes.
    pub fn sure(&self, more: bool) -> u32 {
        u32::from(self.answers && self.requests == Requests::Asked && !more)
    }
}
