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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Pages;
    use crate::queue::completer::Outside;
    use crate::queue::{Buffers, TagShare, Waker};

    #[test]
    fn parts_of_a_buffer_are_lent_to_threads_until_they_come_back() {
        let mut buffers = Buffers::new(TagShare::WHOLE, 2, 4096, Pages::default()).unwrap();
        let completer = Completer::new(Waker::new().unwrap());
        let lend = |buffers: &Buffers, at: usize, call: Call| {
            // SAFETY: within the buffer, which lives longer than the threads below; each part is lent once, and nobody
            // has a reference to it meanwhile.
            unsafe { Lease::new(buffers.address(1).add(at), 512, completer.clone(), 1, call) }
        };
        let leases = [lend(&buffers, 512, 7), lend(&buffers, 1024, 8)];
        let threads = leases.map(|mut lease| {
            std::thread::spawn(move || {
                lease.put(1, &[u8::try_from(lease.call).unwrap(); 511]);
                lease.to_vec()
            })
        });
        for (call, thread) in (7_u8..).zip(threads) {
            let data = thread.join().unwrap();
            assert_eq!((data[0], &data[1..]), (0, &[call; 511][..]));
        }
        let mut returned = Vec::new();
        completer.take(&mut returned);
        let mut calls: Vec<_> = returned
            .iter()
            .map(|outside| match outside {
                Outside::Returned { tag, call } => (*tag, *call),
                Outside::Done(..) | Outside::Told(..) | Outside::Task(_) => (0, 0),
            })
            .collect();
        calls.sort_unstable();
        assert_eq!(calls, [(1, 7), (1, 8)]);
        // SAFETY: both leases have come back.
        let all = unsafe { buffers.slice(1, 1536) };
        assert_eq!(
            [all[511], all[512], all[513], all[1023], all[1024], all[1025], all[1535]],
            [0, 0, 7, 7, 0, 8, 8]
        );
    }

    #[test]
    #[should_panic(expected = "longer than what was lent")]
    fn more_than_was_lent_is_not_written() {
        let buffers = Buffers::new(TagShare::WHOLE, 1, 4096, Pages::default()).unwrap();
        let completer = Completer::new(Waker::new().unwrap());
        // SAFETY: as above.
        let mut lease = unsafe { Lease::new(buffers.address(0), 512, completer, 0, 0) };
        lease.put(1, &[0; 512]);
    }
}
