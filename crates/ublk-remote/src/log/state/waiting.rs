//! Who waits for what, and is told.

/// Told once, with 0 or a negative error number.
pub type Waiter = Box<dyn FnOnce(i32) + Send>;

/// Why a write does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The disk has stopped, with this error number.
    Stopped(i32),
    /// There is no room in the ring, or the map is being copied.
    Room,
    /// Others change the same blocks.
    Overlap,
    /// Writes in earlier segments are under way.
    Unsettled,
}

/// Who waits for something that is not a request's own.
#[derive(Default)]
pub(super) struct Waiting {
    /// For all up to this order to be stored.
    pub(super) stored: Vec<(u64, Waiter)>,
    /// For room in the ring.
    pub(super) room: Vec<Waiter>,
    /// For other writes to the same blocks.
    pub(super) overlap: Vec<Waiter>,
    /// For the writes of segments that get no more.
    pub(super) settled: Vec<Waiter>,
}

/// Whom to tell, when the state is not locked any more.
#[must_use]
#[derive(Default)]
pub struct Told {
    pub(super) waiters: Vec<(Waiter, i32)>,
    /// A segment is whole now, and is to be stored.
    pub ready: bool,
}

impl Told {
    /// Tells them.
    pub fn tell(self) {
        self.waiters.into_iter().for_each(|(waiter, result)| waiter(result));
    }

    pub(super) fn all(&mut self, waiters: &mut Vec<Waiter>, result: i32) {
        self.waiters.extend(waiters.drain(..).map(|waiter| (waiter, result)));
    }
}
