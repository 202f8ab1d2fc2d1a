//! Counts where on its disk a device's requests read and write, while somebody looks. It is a listener of the [trace](super::trace)
//! and counts on that thread, so that queues do nothing for it otherwise, and what they do while they are traced meanwhile.

use super::trace::{Batch, Record, Tracer, Tracing};
use crate::cells::cell_of;
use crate::error::Result;
use crate::request::Op;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was done to a cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes that reads asked for.
    pub read: u64,
    /// Bytes that were to be written, or to be zeroes.
    pub written: u64,
    /// Requests that begin there to which rules of a disk with faults were applied.
    pub faults: u64,
}

/// What was counted in some time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// By the number of the cell; only those to which something was done.
    pub cells: BTreeMap<u64, Done>,
    /// Requests that are not counted, since there were too many.
    pub lost: u64,
}

/// Counts until dropped.
pub struct Heat {
    counted: Arc<Mutex<Counted>>,
    cell: u64,
    _tracing: Tracing,
}

impl Heat {
    /// Counts from now on what is done to a disk of this size.
    pub fn watch(tracer: &Arc<Tracer>, size: u64) -> Result<Self> {
        let counted = Arc::<Mutex<Counted>>::default();
        let (cell, count) = (cell_of(size), counted.clone());
        let listener = move |batch: &Batch<'_>| note(&count, batch.records.iter(), batch.dropped, cell, size);
        Ok(Self { counted, cell, _tracing: tracer.listen(Box::new(listener))? })
    }

    /// The bytes of a cell.
    pub fn cell(&self) -> u64 {
        self.cell
    }

    /// What was counted since it was last asked.
    pub fn take(&self) -> Counted {
        std::mem::take(&mut *lock(&self.counted))
    }
}

/// Counts records, and adds all of them at once: who takes what is counted does not wait for the counting.
fn note<'a>(
    counted: &Mutex<Counted>,
    records: impl Iterator<Item = &'a Record>,
    lost: u64,
    cell: u64,
    size: u64,
) {
    let mut more = Counted { lost, ..Counted::default() };
    records.for_each(|record| more.count(record, cell, size));
    lock(counted).add(more);
}

impl Counted {
    fn add(&mut self, more: Self) {
        self.lost += more.lost;
        for (cell, Done { read, written, faults }) in more.cells {
            let done = self.cells.entry(cell).or_default();
            done.read += read;
            done.written += written;
            done.faults += faults;
        }
    }

    fn count(&mut self, record: &Record, cell: u64, size: u64) {
        let what = &record.what;
        // A disk that has grown has more than was to be counted.
        let (start, end) = (what.offset, what.offset.saturating_add(what.length).min(size));
        if record.faults != 0 && start < size {
            self.cells.entry(start / cell).or_default().faults += 1;
        }
        let bytes: fn(&mut Done) -> &mut u64 = match what.op {
            Op::Read => |done| &mut done.read,
            Op::Write | Op::WriteZeroes => |done| &mut done.written,
            _ => return,
        };
        let mut at = start;
        while at < end {
            let next = (at / cell + 1).saturating_mul(cell).min(end);
            *bytes(self.cells.entry(at / cell).or_default()) += next - at;
            at = next;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Descriptor;

    fn record(op: Op, offset: u64, length: u64, faults: u32) -> Record {
        let what = Descriptor::new(op, offset, length);
        Record { queue: 0, tag: 0, what, result: 0, faults, ended: 0, ticks: 1 }
    }

    fn counted(size: u64, records: &[Record]) -> Counted {
        let tracer = Arc::<Tracer>::default();
        let heat = Heat::watch(&tracer, size).unwrap();
        tracer.note(records.iter().copied());
        let mut all = Counted::default();
        // The listener's thread has its own time: what it is told last is there when it has ended.
        while all.cells.values().map(|done| done.read + done.written).sum::<u64>() < wanted(records, size) {
            all.add(heat.take());
            std::thread::yield_now();
        }
        all
    }

    fn wanted(records: &[Record], size: u64) -> u64 {
        let counts = |record: &&Record| matches!(record.what.op, Op::Read | Op::Write | Op::WriteZeroes);
        let bytes =
            |Record { what, .. }: &Record| (what.offset + what.length).min(size).saturating_sub(what.offset);
        records.iter().filter(counts).map(bytes).sum()
    }

    #[test]
    fn each_byte_counts_where_it_is_and_what_changes_no_data_does_not() {
        let size = 16 << 20;
        let found = counted(
            size,
            &[
                record(Op::Read, 0, 512, 0),
                record(Op::Write, 4096 - 512, 1024, 0),
                record(Op::WriteZeroes, 8192, 8192, 0),
                record(Op::Discard, 0, size, 0),
                record(Op::Flush, 0, 0, 0),
                record(Op::Read, size - 4096, 4096, 0b101),
                record(Op::Read, size - 4096, 8192, 1), // the disk has grown meanwhile
                record(Op::Read, size + 4096, 4096, 1),
            ],
        );
        let done = |read, written, faults| Done { read, written, faults };
        let cells: Vec<_> = found.cells.into_iter().collect();
        assert_eq!(
            cells,
            [
                (0, done(512, 512, 0)),
                (1, done(0, 512, 0)),
                (2, done(0, 4096, 0)),
                (3, done(0, 4096, 0)),
                (4095, done(8192, 0, 2)),
            ]
        );
        assert_eq!(found.lost, 0);
    }

    #[test]
    fn who_takes_what_is_counted_does_not_wait_for_the_counting() {
        let counted = Mutex::new(Counted { lost: 1, ..Counted::default() });
        counted.lock().unwrap().cells.insert(1, Done { read: 1, written: 2, faults: 3 });
        let records = [record(Op::Read, 4096, 512, 1), record(Op::Write, 0, 8192, 0)];
        let free = |_: &&Record| assert!(counted.try_lock().is_ok(), "it is locked");
        note(&counted, records.iter().inspect(free), 2, 4096, 8192);
        let Counted { cells, lost } = counted.into_inner().unwrap();
        let cells: Vec<_> = cells.into_iter().collect();
        let first = Done { read: 0, written: 4096, faults: 0 };
        assert_eq!(cells, [(0, first), (1, Done { read: 513, written: 4098, faults: 4 })]);
        assert_eq!(lost, 3);
    }

    #[test]
    fn queues_do_nothing_for_it_before_and_afterwards() {
        let tracer = Arc::<Tracer>::default();
        assert!(!tracer.wanted());
        let heat = Heat::watch(&tracer, 1 << 30).unwrap();
        assert!(tracer.wanted());
        drop(heat);
        assert!(!tracer.wanted());
    }
}
