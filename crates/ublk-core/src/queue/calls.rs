//! The calls of engines. Each request is a call, numbered by its tag. A layer that splits a request makes one more call for
//! each part that it asks of a disk below. A call names its parent and its part, so that a completion is passed down to it.

use super::completer::Token;

/// Names a call in the user data of an operation: 24 bits.
pub type Call = u32;

const MOST: usize = 1 << 24;

#[derive(Debug, Clone, Copy)]
struct Record {
    /// Itself, for a request's own call.
    parent: Call,
    /// Which of its parent's disks serves it.
    below: u16,
    tag: u16,
    /// The parent's name for it.
    number: u32,
    /// Counts the calls with this number.
    generation: u32,
    /// Operations in the ring: of a request's own call, those of all its calls; of another one, its own.
    operations: u32,
    /// Bytes that it has to do.
    length: u64,
    live: bool,
}

/// A part of a call that is passed down to the disk below that serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    pub call: Call,
    pub below: u16,
    pub number: u32,
    pub length: u64,
}

/// See the [module](self).
pub struct Calls {
    records: Vec<Record>,
    free: Vec<Call>,
    depth: u16,
    /// Of all calls: operations in the ring, and data that is lent.
    operations: u32,
    /// How many of these are data that is lent.
    lent: u32,
    /// Which rules of a disk with faults were applied to each tag's request, by bits.
    faults: Box<[u32]>,
    /// Those that go on when all else that the turn brought is done, and with which result. Empty between two turns.
    later: Vec<(Token, i32)>,
}

impl Calls {
    pub fn new(depth: u16) -> Self {
        let own = |tag: u16| Record {
            parent: tag.into(),
            below: 0,
            tag,
            number: 0,
            generation: 0,
            operations: 0,
            length: 0,
            live: true,
        };
        Self {
            records: (0..depth).map(own).collect(),
            free: Vec::new(),
            depth,
            operations: 0,
            lent: 0,
            faults: vec![0; depth.into()].into(),
            later: Vec::new(),
        }
    }

    /// How many there are or were at a time.
    fn count(&self) -> Call {
        #[expect(clippy::cast_possible_truncation, reason = "at most MOST")]
        let count = self.records.len() as Call;
        count
    }

    fn at(&self, call: Call) -> &Record {
        &self.records[call as usize]
    }

    fn at_mut(&mut self, call: Call) -> &mut Record {
        &mut self.records[call as usize]
    }

    /// Rules of a disk with faults were applied to the tag's request.
    pub fn faulted(&mut self, tag: u16, rules: u32) {
        self.faults[usize::from(tag)] |= rules;
    }

    /// The tag's request is answered: which rules were applied to it.
    #[inline]
    pub fn take_faults(&mut self, tag: u16) -> u32 {
        std::mem::take(&mut self.faults[usize::from(tag)])
    }

    /// The call goes on when all else that the turn brought is done.
    pub fn goes_on_later(&mut self, token: Token, result: i32) {
        self.later.push((token, result));
    }

    /// One of the calls that go on now.
    #[inline]
    pub fn going_on(&mut self) -> Option<(Token, i32)> {
        self.later.pop()
    }

    /// A call of `parent`'s for `length` bytes; `None` if there are too many.
    pub fn begin(&mut self, parent: Call, below: u16, number: u32, length: u64) -> Option<Call> {
        let tag = self.at(parent).tag;
        let call = match self.free.pop() {
            Some(call) => call,
            None if self.records.len() >= MOST => return None,
            None => {
                let call = self.count();
                self.records.push(Record { generation: 0, ..*self.at(parent) });
                call
            }
        };
        let generation = self.at(call).generation.wrapping_add(1);
        *self.at_mut(call) =
            Record { parent, below, tag, number, generation, operations: 0, length, live: true };
        Some(call)
    }

    /// The call is answered.
    ///
    /// # Panics
    /// If operations of it are in the ring.
    pub fn end(&mut self, call: Call) {
        let record = self.at_mut(call);
        assert!(record.operations == 0, "an engine answered a part that the ring works on");
        record.live = false;
        self.free.push(call);
    }

    /// Ends all calls that a request whose engine failed has left, and its own. None of its operations is in the ring any more.
    pub fn forget(&mut self, tag: u16) {
        let own = self.at_mut(tag.into());
        own.generation = own.generation.wrapping_add(1);
        for call in u32::from(self.depth)..self.count() {
            let record = self.at_mut(call);
            if record.live && record.tag == tag {
                record.live = false;
                self.free.push(call);
            }
        }
    }

    /// Which of `from`'s parts `to` is, or belongs to; `None` if it is `from` itself or none of its parts.
    #[inline]
    pub fn hop(&self, from: Call, to: Call) -> Option<Hop> {
        let mut call = to;
        loop {
            let record = self.at(call);
            if call == from || record.parent == call {
                return None;
            }
            if record.parent == from {
                let Record { below, number, length, .. } = *record;
                return Some(Hop { call, below, number, length });
            }
            call = record.parent;
        }
    }

    /// Counts the calls with this number.
    pub fn generation(&self, call: Call) -> u32 {
        self.at(call).generation
    }

    /// Whether it is the call that had this number and generation.
    pub fn is(&self, call: Call, generation: u32) -> bool {
        let record = self.records.get(call as usize);
        record.is_some_and(|record| record.live && record.generation == generation)
    }

    /// An operation of the call is in the ring.
    #[inline]
    pub fn started(&mut self, tag: u16, call: Call) {
        self.operations += 1;
        self.at_mut(tag.into()).operations += 1;
        if call != Call::from(tag) {
            self.at_mut(call).operations += 1;
        }
    }

    /// An operation of the call has completed.
    #[inline]
    pub fn completed(&mut self, tag: u16, call: Call) {
        self.operations -= 1;
        self.at_mut(tag.into()).operations -= 1;
        if call != Call::from(tag) {
            self.at_mut(call).operations -= 1;
        }
    }

    /// Data of the call is lent, which counts as an operation.
    pub fn lend(&mut self, tag: u16, call: Call) {
        self.started(tag, call);
        self.lent += 1;
    }

    /// Data of the call that was lent is returned.
    pub fn returned(&mut self, tag: u16, call: Call) {
        self.completed(tag, call);
        self.lent -= 1;
    }

    /// How many operations of all calls there are, in the ring or on data that is lent.
    pub fn total(&self) -> u32 {
        self.operations
    }

    /// Whether none of these is in the ring.
    pub fn ring_is_done(&self) -> bool {
        self.operations == self.lent
    }

    /// Whether operations of the call are in the ring.
    pub fn busy(&self, call: Call) -> bool {
        self.at(call).operations > 0
    }

    /// How many operations of the tag's request are in the ring.
    #[inline]
    pub fn operations(&self, tag: u16) -> u32 {
        self.at(tag.into()).operations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_completes_finds_its_way_from_any_call_above_it() {
        let mut calls = Calls::new(4);
        let part = calls.begin(2, 1, 7, 4096).unwrap();
        let deep = calls.begin(part, 0, 9, 512).unwrap();
        let hop = |call, below, number, length| Some(Hop { call, below, number, length });
        assert_eq!(calls.hop(2, deep), hop(part, 1, 7, 4096));
        assert_eq!(calls.hop(part, deep), hop(deep, 0, 9, 512));
        assert_eq!(calls.hop(deep, deep), None);
        assert_eq!(calls.hop(2, 2), None);
        assert_eq!(calls.hop(3, deep), None);
    }

    #[test]
    fn a_number_is_used_again_with_another_generation() {
        let mut calls = Calls::new(1);
        let first = calls.begin(0, 0, 0, 1).unwrap();
        let generation = calls.generation(first);
        assert!(calls.is(first, generation));
        calls.end(first);
        assert!(!calls.is(first, generation));
        let second = calls.begin(0, 0, 0, 1).unwrap();
        assert_eq!(first, second);
        assert!(!calls.is(first, generation));
    }

    #[test]
    fn a_request_whose_engine_failed_leaves_no_call() {
        let mut calls = Calls::new(2);
        let part = calls.begin(1, 0, 0, 1).unwrap();
        let (other, own) = (calls.begin(0, 0, 0, 1).unwrap(), calls.generation(1));
        calls.started(1, part);
        assert_eq!(calls.operations(1), 1);
        calls.completed(1, part);
        assert_eq!(calls.operations(1), 0);
        calls.forget(1);
        assert!(calls.is(other, calls.generation(other)));
        assert!(!calls.is(1, own), "its tag has another request next");
        assert_eq!(calls.begin(0, 0, 0, 1), Some(part));
    }
}
