//! Three commands for all tags (`UBLK_F_BATCH_IO`): PREP_IO_CMDS offers them once, COMMIT_IO_CMDS carries all answers of a
//! turn, and one FETCH_IO_CMDS completes again and again with lists of the tags whose requests have come.
//!
//! If several threads serve a queue, one of them offers the tags. Each has its own FETCH_IO_CMDS and may get any tag: the
//! driver uses the first one that waits until its buffers are full, and then the next one.

use super::awaited::Awaited;
use super::provided::{GROUP, Provided};
use crate::abi::{self, MAX_BATCH_TAGS, io_op, sys};
use crate::error::{Error, Result};
use crate::number::const_u16;
use crate::queue::CHAR_DEV;
use crate::queue::data::Data;
use crate::queue::in_flight::InFlight;
use crate::queue::mode::CopyMode;
use crate::queue::ring::{Ring, multishot};
use crate::queue::user_data::{self, KIND_COMMAND, KIND_LIST, KIND_MOVE};
use io_uring::{cqueue, opcode};

/// Bytes of a tag in a list, a `u16`.
const TAG_BYTES: u8 = 2;

/// See the [module](self).
pub struct Batch {
    queue: u16,
    lists: Provided,
    /// Whether the tags are offered, and FETCH_IO_CMDS may be sent.
    joined: bool,
    awaited: Awaited,
    /// Answers that wait for the next enter.
    next: Answers,
    /// Those that the kernel has. They stay where they are until it has said what it did with them.
    sent: Answers,
    /// A tag in `sent` whose data could not be moved.
    stuck: Option<u16>,
}

/// Elements of a batch command.
#[derive(Default)]
struct Answers {
    words: Vec<u64>,
    /// How many of them the kernel has dealt with.
    done: usize,
    /// How many those were when it was last asked.
    asked: usize,
}

impl Answers {
    /// The kernel has dealt with all.
    fn is_empty(&self) -> bool {
        self.done == self.words.len()
    }

    fn left(&self) -> &[u64] {
        &self.words[self.done..]
    }

    fn clear(&mut self) {
        self.words.clear();
        (self.done, self.asked) = (0, 0);
    }
}

impl Batch {
    pub fn new(queue: u16, depth: u16, threads: u16) -> Result<Self> {
        // When they run out, the driver is asked anew.
        let (lists, tags) = match threads {
            1 => (depth.next_power_of_two().min(64), MAX_BATCH_TAGS), // more lists than turns are missed
            _ => (1, usize::from(depth.div_ceil(2 * threads)).min(MAX_BATCH_TAGS)), // to each its share of what has come
        };
        let lists = Provided::new(lists, tags * size_of::<u16>())?;
        let answers = || Answers { words: Vec::with_capacity(2 * usize::from(depth)), done: 0, asked: 0 };
        Ok(Self {
            queue,
            lists,
            joined: false,
            awaited: Awaited::default(),
            next: answers(),
            sent: answers(),
            stuck: None,
        })
    }

    pub fn offer_all(&mut self, ring: &mut Ring, data: &Data) -> Result<()> {
        data.buffers.tags().for_each(|tag| self.put(data, tag, 0));
        std::mem::swap(&mut self.next, &mut self.sent);
        self.push(ring, data, io_op::PREP_IO_CMDS)
    }

    /// Whether the driver has not got the tags yet.
    pub fn offering(&self) -> bool {
        !self.joined && self.awaited.sending()
    }

    /// The tags are offered: from the next enter on FETCH_IO_CMDS is sent, which the driver refuses before.
    pub fn join(&mut self, ring: &mut Ring) -> Result<()> {
        self.joined = true;
        self.lists.register(ring)?;
        self.listen(ring)
    }

    #[inline]
    pub fn answer(&mut self, data: &mut Data, tag: u16, result: i32) {
        if result < 0 {
            data.moved(tag);
        }
        self.put(data, tag, result);
    }

    #[inline]
    fn put(&mut self, data: &Data, tag: u16, result: i32) {
        let slot = data.slot(tag).unwrap_or(0);
        self.next.words.push(abi::batch_element(tag, slot, result));
        if data.copy == CopyMode::Copy {
            self.next.words.push(data.address(tag));
        }
    }

    /// One command for all answers, unless the kernel still has the last one.
    #[inline]
    pub fn send(&mut self, ring: &mut Ring, data: &mut Data) -> Result<u32> {
        if self.awaited.sending() {
            return Ok(0); // what waits behind it goes as soon as it is over
        }
        if self.sent.is_empty() {
            if self.next.is_empty() {
                return Ok(0);
            }
            self.sent.clear();
            std::mem::swap(&mut self.next, &mut self.sent);
        }
        let moves = data.copy == CopyMode::User && self.push_moves(ring, data)?;
        self.push(ring, data, io_op::COMMIT_IO_CMDS)?;
        // A move that fails has to be seen at once, and what is still to be sent goes at once: clients wait for both.
        Ok(self.awaited.sure(moves || !self.next.is_empty()))
    }

    /// What goes with the answers, each linked to the next and the last to the command: all of it, or no answer. Whether
    /// there is something.
    fn push_moves(&self, ring: &mut Ring, data: &Data) -> Result<bool> {
        let left = self.sent.left();
        if !left.iter().any(|word| data.moves(tag_of(*word))) {
            return Ok(false);
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most two words for each tag")]
        ring.reserve(left.len() as u32 + 1)?;
        for word in left {
            if let Some(entry) = data.linked_move(tag_of(*word)) {
                // SAFETY: valid until it is submitted, by the promise given to Data::put_off.
                unsafe { ring.push(&entry)? };
            }
        }
        Ok(true)
    }

    fn push(&mut self, ring: &mut Ring, data: &Data, op: u32) -> Result<()> {
        let (flags, bytes) = match data.copy {
            CopyMode::Copy => (const { const_u16(sys::UBLK_BATCH_F_HAS_BUF_ADDR as u64) }, 16),
            CopyMode::User => (0, 8),
            CopyMode::Zero => (const { const_u16(sys::UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK as u64) }, 8),
        };
        self.sent.asked = self.sent.done;
        let left = self.sent.left();
        #[expect(clippy::cast_possible_truncation, reason = "at most one for each tag")]
        let count = (size_of_val(left) / usize::from(bytes)) as u16;
        let entry = opcode::UringCmd16::new(CHAR_DEV, op)
            .cmd(abi::batch_command(self.queue, flags, count, bytes))
            .addr(Some(left.as_ptr() as u64))
            .build()
            .user_data(KIND_COMMAND);
        self.awaited.send();
        // SAFETY: `sent` stays as it is until the command has completed. Buffers: as in per_io.
        unsafe { ring.push(&entry) }
    }

    fn listen(&mut self, ring: &mut Ring) -> Result<()> {
        let entry = opcode::UringCmd16::new(CHAR_DEV, io_op::FETCH_IO_CMDS)
            .cmd(abi::batch_command(self.queue, 0, 0, TAG_BYTES))
            .build()
            .user_data(KIND_LIST);
        self.awaited.ask();
        // SAFETY: what it fills is the ring's own.
        unsafe { ring.push(&multishot(entry, GROUP)) }
    }

    #[inline]
    pub fn completed(
        &mut self,
        kind: u64,
        completion: &cqueue::Entry,
        in_flight: &mut InFlight,
    ) -> Result<()> {
        let result = completion.result();
        match kind {
            KIND_LIST => self.told(completion, in_flight),
            KIND_MOVE => {
                // It failed, and what was linked to it is not done. (Of that no completion tells.)
                self.stuck = Some(user_data::tag_of(completion.user_data()));
                self.awaited.sent();
                Ok(())
            }
            _ => {
                self.awaited.sent();
                driver_took(result, self.queue)?;
                if self.joined {
                    // It may have done only a part: the rest goes with the next turn.
                    let done = usize::try_from(result).unwrap_or(0) / size_of::<u64>();
                    self.sent.done = (self.sent.done + done).min(self.sent.words.len());
                } else {
                    self.sent.clear();
                }
                Ok(())
            }
        }
    }

    /// Leaves the requests that the driver delivers from now on to the next server.
    pub fn leave_requests(&mut self) {
        self.awaited.leave_requests();
    }

    /// Requests have come, or will not any more.
    #[inline]
    fn told(&mut self, completion: &cqueue::Entry, in_flight: &mut InFlight) -> Result<()> {
        let result = completion.result();
        if let Some(number) = cqueue::buffer_select(completion.flags()) {
            let count = usize::try_from(result).unwrap_or(0) / size_of::<u16>();
            let told = match self.awaited.wanted() {
                true => self.lists.tags(number, count).try_for_each(|tag| in_flight.completed(tag, 0)),
                false => Ok(()),
            };
            self.lists.give_back(number);
            told?;
        }
        if cqueue::more(completion.flags()) {
            return Ok(());
        }
        self.awaited.told(result == abi::RES_ABORT);
        match result {
            abi::RES_ABORT => {
                in_flight.withdrawn();
                Ok(())
            }
            // The lists ran out, or the ring's room for completions: asked anew.
            result if result >= 0 || result == -libc::ENOBUFS => Ok(()),
            result => driver_took(result, self.queue),
        }
    }

    #[inline]
    pub fn settle(&mut self, ring: &mut Ring, data: &mut Data) -> Result<()> {
        if !self.awaited.sending() && data.copy == CopyMode::User {
            self.settle_moves(data);
        }
        if self.joined && self.awaited.unasked() { self.listen(ring) } else { Ok(()) }
    }

    /// A tag whose data could not be moved is answered with an error, and the others as they were.
    fn settle_moves(&mut self, data: &mut Data) {
        let Answers { words, done, asked } = &mut self.sent;
        if let Some(stuck) = self.stuck.take() {
            data.moved(stuck);
            for word in words[*done..].iter_mut().filter(|word| tag_of(**word) == stuck) {
                *word = abi::batch_element(stuck, 0, -libc::EIO);
            }
        }
        words[*asked..*done].iter().for_each(|word| data.moved(tag_of(*word)));
        *asked = *done;
    }

    pub fn due(&self) -> bool {
        let nothing = self.sent.is_empty() && self.next.is_empty();
        !(self.awaited.sending() || nothing)
    }

    pub fn quiet(&self) -> bool {
        !self.awaited.sending() && self.sent.is_empty() && self.next.is_empty()
    }
}

fn tag_of(element: u64) -> u16 {
    user_data::tag_of(u64::from_le(element)) // both have it in the last 16 bits
}

/// What the driver says of a batch command: it has done something, or nothing because of an error.
fn driver_took(result: i32, queue: u16) -> Result<()> {
    if result >= 0 {
        return Ok(());
    }
    Err(Error::system(
        format!("the driver refused a batch of queue {queue}"),
        &std::io::Error::from_raw_os_error(-result),
    ))
}
