//! The data of a request, lent to code that works on it outside the queue's thread.

use super::calls::Call;
use super::completer::Completer;

/// The data of a piece, until it is dropped: a read fills it, a write stores it. May be sent to another thread. It counts like
/// an operation in the ring: the request is not answered before it is dropped.
///
/// Other pieces of the request may be worked on meanwhile, so there is no reference to the data: it is copied.
pub struct Lease {
    address: *mut u8,
    length: usize,
    completer: Completer,
    tag: u16,
    call: Call,
}

// SAFETY: nothing else uses these bytes before the lease is dropped, and any thread may access them.
unsafe impl Send for Lease {}
// SAFETY: a shared lease only reads.
unsafe impl Sync for Lease {}

impl Lease {
    /// # Safety
    /// `length` bytes at `address` stay valid, and no reference to them exists, until the completer is told that the call has
    /// them back, even if queue and engine are dropped before.
    pub(super) unsafe fn new(
        address: *mut u8,
        length: usize,
        completer: Completer,
        tag: u16,
        call: Call,
    ) -> Self {
        Self { address, length, completer, tag, call }
    }

    /// Bytes of data.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Copies `data` into it, from its byte `at` on.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn put(&mut self, at: usize, data: &[u8]) {
        assert!(at <= self.length && data.len() <= self.length - at, "it is longer than what was lent");
        // SAFETY: in bounds by the assertion; the lease's own memory, which no reference sees.
        unsafe { self.address.add(at).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    }

    /// Copies from its byte `at` on into `data`.
    ///
    /// # Panics
    /// If it has fewer bytes.
    pub fn get(&self, at: usize, data: &mut [u8]) {
        assert!(at <= self.length && data.len() <= self.length - at, "it is shorter than what is wanted");
        // SAFETY: as in put().
        unsafe { data.as_mut_ptr().copy_from_nonoverlapping(self.address.add(at), data.len()) };
    }

    /// A copy of all of it.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut data = vec![0; self.length];
        self.get(0, &mut data);
        data
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.completer.returned(self.tag, self.call);
    }
}
