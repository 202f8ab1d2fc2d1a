//! The order of what a log has recorded, as that of entries; see the [parent](super).

use crate::backend::recorder::log::{Log, Mark, Moment, NEVER, Write};

/// What becomes an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A write, discard or write-zeroes that was answered.
    Write(&'a Write),
    /// A flush.
    Flush,
    /// A mark.
    Mark(&'a Mark),
}

/// All of a log, in order.
pub fn events(log: &Log) -> impl Iterator<Item = Event<'_>> {
    // They are in the order of their completions.
    let mut flushes: Vec<_> = log.flushes().iter().map(|flush| flush.start).collect();
    flushes.sort_unstable();
    let answered = log.writes().iter().filter(|write| write.done != NEVER);
    let mut writes = answered.map(|write| (write.done, Event::Write(write))).peekable();
    let mut flushes = flushes.into_iter().map(|start| (start, Event::Flush)).peekable();
    let mut marks = log.marks().iter().map(|mark| (mark.at, Event::Mark(mark))).peekable();
    std::iter::from_fn(move || {
        let at = |next: Option<&(Moment, Event<'_>)>| next.map_or(Moment::MAX, |(at, _)| *at);
        let (write, flush, mark) = (at(writes.peek()), at(flushes.peek()), at(marks.peek()));
        let next = match write.min(flush).min(mark) {
            first if first == write => writes.next(),
            first if first == flush => flushes.next(),
            _ => marks.next(),
        };
        next.map(|(_, event)| event)
    })
}
