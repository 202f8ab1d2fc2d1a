//! Which of a batch queue's commands the kernel has, and so for how many completions a turn may sleep: no more than can
//! still come, or the thread sleeps on what is done.

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Awaited {
    /// The command that carries the answers.
    answers: bool,
    requests: Requests,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Requests {
    /// The driver cannot tell of any.
    #[default]
    Unasked,
    /// It can.
    Asked,
    /// It will not any more.
    Over,
    /// It may, but the next server gets them.
    Unwanted,
}

impl Awaited {
    /// Answers go to the kernel.
    pub fn send(&mut self) {
        self.answers = true;
    }

    /// The kernel is done with them.
    pub fn sent(&mut self) {
        self.answers = false;
    }

    /// The kernel has answers.
    pub fn sending(&self) -> bool {
        self.answers
    }

    /// The driver is asked to tell of requests.
    pub fn ask(&mut self) {
        self.requests = Requests::Asked;
    }

    /// The driver tells of no more requests: for good (`over`), or until it is asked again.
    pub fn told(&mut self, over: bool) {
        if self.requests != Requests::Unwanted {
            self.requests = if over { Requests::Over } else { Requests::Unasked };
        }
    }

    /// From now on requests are left to the next server.
    pub fn leave_requests(&mut self) {
        self.requests = Requests::Unwanted;
    }

    /// Requests that the driver tells of are to be served.
    pub fn wanted(&self) -> bool {
        self.requests != Requests::Unwanted
    }

    /// The driver has to be asked.
    pub fn unasked(&self) -> bool {
        self.requests == Requests::Unasked
    }

    /// How many completions come by themselves before the one that a turn sleeps for. Answers bring one; but a turn may
    /// sleep through it only if something else can come, and nothing is to be done (`more`) when they are given.
    pub fn sure(&self, more: bool) -> u32 {
        u32::from(self.answers && self.requests == Requests::Asked && !more)
    }
}
