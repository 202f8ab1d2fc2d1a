//! What may happen, in plain numbers.

use crate::driver::Recovery;
use proptest::prelude::*;

/// One of several, whatever their number.
#[derive(Debug, Clone, Copy)]
pub struct Pick(usize);

impl Pick {
    pub const FIRST: Self = Self(0);

    pub fn of(self, number: usize) -> usize {
        self.0 % number
    }
}

#[derive(Debug, Clone)]
pub enum Step {
    /// A client sends a request of this number of blocks.
    Arrive(u32),
    /// The ring takes this number of prepared commands.
    Submit(usize),
    /// The next prepared command fails in the driver with this error number.
    Refuse(i32),
    /// A waiting request goes to an offered tag.
    Dispatch(Pick),
    /// Batch transport: the server is given this number of requests at once.
    Tell(usize),
    /// Batch transport: the command that delivers requests ends, since it has no room.
    Overrun,
    /// An offered tag is taken back; with the batch transport all are.
    Abort(Pick),
    /// The server hands over: undelivered requests are left to the next one.
    HandOver,
    /// The server sees one of the completions.
    Deliver(Pick),
    /// The server answers one of its requests: a number of blocks, or an error.
    Answer(Pick, Result<u32, i32>),
    /// It answers one that it has answered before, or that died with its predecessor.
    AnswerStale(Pick),
    /// It answers with another queue's ticket.
    AnswerStrange(Pick),
    /// It answers with a ticket that was never given out.
    AnswerForged(Pick, u16, u32),
    /// The neighbouring queue, which has a ring of its own, gets a request.
    Neighbour(Pick),
    /// A completion comes that no command stands behind.
    Spurious(u16, i32),
    /// The server offers a tag twice.
    OfferAgain(u16),
    /// The server dies, and another takes over.
    Die(Recovery),
}

/// How the device ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// Everything is served, and then it is stopped.
    Served,
    /// It is stopped at once.
    Stopped,
    /// Its server dies, and nobody takes over.
    Died,
}

/// Steps are decoded from plain numbers: a strategy for each would take twenty times the world's own time.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<u64>(), 1..160).prop_map(|raw| raw.into_iter().map(Step::decode).collect())
}

impl Step {
    fn decode(raw: u64) -> Self {
        let pick = Pick((raw >> 32) as usize);
        let blocks = 1 + (raw >> 8) as u32 % 8;
        let tag = (raw >> 16) as u16 % 10;
        let error = [-libc::EINVAL, -libc::EBUSY, -libc::EIO, 1][(raw >> 24) as usize % 4];
        match raw % 168 {
            0..14 => Self::Arrive(blocks),
            14..24 => Self::Submit(blocks as usize),
            24..48 => Self::Dispatch(pick),
            48..72 => Self::Deliver(pick),
            72..90 => Self::Answer(pick, Ok(blocks)),
            90..96 => Self::Answer(pick, Err(1 + ((raw >> 8) % 133) as i32)),
            96..106 => Self::Submit(blocks as usize),
            106..114 => Self::AnswerStale(pick),
            114..122 => Self::AnswerStrange(pick),
            122..126 => Self::AnswerForged(pick, tag, (raw >> 8) as u32),
            126..132 => Self::Neighbour(pick),
            132..136 => Self::Spurious(tag, [0, -libc::ENODEV, error][pick.of(3)]),
            136..139 => Self::OfferAgain(tag),
            139..144 => Self::Abort(pick),
            144..146 => Self::Refuse(error),
            146 => Self::Die(Recovery::Fail),
            147 => Self::Die(Recovery::Reissue),
            148..164 => Self::Tell(blocks as usize),
            164..166 => Self::Overrun,
            _ => Self::HandOver,
        }
    }
}
