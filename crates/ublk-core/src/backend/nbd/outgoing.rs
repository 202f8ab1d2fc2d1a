//! What a queue sends: the requests of a turn go out together, in one operation.

use super::protocol::{REQUEST_LENGTH, Request};
use crate::error::Result;
use crate::queue::{Key, LineIo, Slot, Stretch};
use std::mem::ManuallyDrop;

/// The key of its operations.
pub const SENT: Key = 0;

/// The most places of a message: the kernel's limit is 1024.
const MOST_PLACES: usize = 1000;
/// Bytes: more data than that goes with the next message.
const MOST_DATA: usize = 4 << 20;
/// Bytes: so much data has room in a socket that is empty. If it is not, answers are to come, and with them the next turn.
const MOST_SURE: usize = 8 << 10;

/// What an operation in the ring points to.
struct Memory {
    headers: Vec<u8>,
    places: Vec<libc::iovec>,
    message: libc::msghdr,
}

/// See the [module](self).
pub struct Outgoing {
    /// Given up, and not freed, if the ring uses it when this is dropped.
    memory: ManuallyDrop<Box<Memory>>,
    /// The requests that are being sent, and their data.
    requests: Vec<(u32, Option<Stretch>)>,
    data: usize,
    busy: bool,
    /// The first place that is not sent as a whole.
    first: usize,
}

impl Outgoing {
    pub fn new() -> Self {
        // SAFETY: all zeroes is a message without places.
        let message = unsafe { std::mem::zeroed() };
        let memory = Memory { headers: Vec::new(), places: Vec::new(), message };
        Self {
            memory: ManuallyDrop::new(Box::new(memory)),
            requests: Vec::new(),
            data: 0,
            busy: false,
            first: 0,
        }
    }

    /// Whether an operation is in the ring.
    pub fn busy(&self) -> bool {
        self.busy
    }

    /// Whether one more request can go with the next message.
    pub fn has_room(&self) -> bool {
        !self.busy && 2 * self.requests.len() + 2 <= MOST_PLACES && self.data < MOST_DATA
    }

    /// A request goes with the next message, with its data.
    pub fn add(&mut self, number: u32, request: &Request, data: Option<Stretch>) {
        self.memory.headers.extend(request.encode());
        self.data += data.map_or(0, |data| data.length());
        self.requests.push((number, data));
    }

    /// Sends what was added. Until that has been [sent](Self::sent), the data of these requests is in use. `all`: nothing waits for
    /// room in the next message, and the socket takes a small message as a whole or not at all.
    pub fn send(&mut self, io: &mut LineIo<'_>, socket: Slot, all: bool) -> Result<()> {
        if self.requests.is_empty() {
            return Ok(());
        }
        let Memory { headers, places, .. } = &mut **self.memory;
        places.clear();
        let base = headers.as_mut_ptr();
        for (at, (_, data)) in self.requests.iter().enumerate() {
            // SAFETY: there is a header for each request.
            let header = unsafe { base.add(at * REQUEST_LENGTH) };
            match places.last_mut() {
                // The headers of requests without data are beside each other.
                Some(last) if last.iov_base.wrapping_byte_add(last.iov_len) == header.cast() => {
                    last.iov_len += REQUEST_LENGTH;
                }
                _ => places.push(libc::iovec { iov_base: header.cast(), iov_len: REQUEST_LENGTH }),
            }
            if let Some(data) = data {
                io.uses(data);
                places.push(libc::iovec { iov_base: data.address().cast(), iov_len: data.length() });
            }
        }
        self.first = 0;
        self.issue(io, socket, Some(all && self.data <= MOST_SURE))
    }

    /// `at_once`: a message is tried to be sent without waiting, and whether nothing is to be done then. What the socket does not
    /// take is sent when it does.
    #[expect(clippy::as_underscore, reason = "the number's type depends on the C library")]
    fn issue(&mut self, io: &mut LineIo<'_>, socket: Slot, at_once: Option<bool>) -> Result<()> {
        let Memory { places, message, .. } = &mut **self.memory;
        let rest = &mut places[self.first..];
        (message.msg_iov, message.msg_iovlen) = (rest.as_mut_ptr(), rest.len() as _);
        // SAFETY: the memory stays as it is while this is busy, and is given up if it is dropped then; the data is that of
        // requests which are not answered before.
        unsafe {
            match at_once {
                Some(sure) => io.send_now(socket, &raw const *message, SENT, sure)?,
                None => io.send_message(socket, &raw const *message, SENT)?,
            }
        }
        self.busy = true;
        Ok(())
    }

    /// The operation has completed. Whether all was sent: if not, the rest is. An error: the connection is lost.
    pub fn sent(&mut self, io: &mut LineIo<'_>, socket: Slot, result: i32) -> std::result::Result<bool, i32> {
        self.busy = false;
        let mut sent = match result {
            errno if errno < 0 && matches!(-errno, libc::EINTR | libc::EAGAIN) => 0,
            errno if errno < 0 => return Err(-errno),
            0 => return Err(libc::EPIPE),
            sent => sent.cast_unsigned() as usize,
        };
        let places = &mut self.memory.places;
        while let Some(place) = places.get_mut(self.first) {
            if sent < place.iov_len {
                place.iov_base = place.iov_base.wrapping_byte_add(sent);
                place.iov_len -= sent;
                break;
            }
            sent -= place.iov_len;
            self.first += 1;
        }
        if self.first == places.len() {
            return Ok(true);
        }
        if !io.leaving() {
            self.issue(io, socket, None).map_err(|error| error.errno.unwrap_or(libc::EIO))?;
        }
        Ok(false)
    }

    /// The requests of the last message, one after the other. No operation uses their data any more.
    pub fn take(&mut self, io: &mut LineIo<'_>) -> Option<u32> {
        debug_assert!(!self.busy);
        let (number, data) = self.requests.pop()?;
        if let Some(data) = data {
            io.used(&data);
        }
        if self.requests.is_empty() {
            self.memory.headers.clear();
            self.data = 0;
        }
        Some(number)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.busy {
            // SAFETY: dropped once, here; the ring does not use it.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}
