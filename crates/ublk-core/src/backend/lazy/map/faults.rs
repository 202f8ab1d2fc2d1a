//! Writes to a map's file that fail, for tests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

thread_local! {
    static NEXT: RefCell<VecDeque<Option<usize>>> = const { RefCell::new(VecDeque::new()) };
    static WRITTEN: Cell<usize> = const { Cell::new(0) };
}

/// What becomes of this thread's next writes: one with a number fails after that many bytes were written.
pub fn expect(writes: &[Option<usize>]) {
    NEXT.with_borrow_mut(|next| *next = writes.iter().copied().collect());
    WRITTEN.set(0);
}

/// How many bytes this thread was to write since then.
pub fn written() -> usize {
    WRITTEN.get()
}

/// The result of a write that fails.
pub fn inject(file: &File, bytes: &[u8], at: u64) -> Option<io::Result<()>> {
    WRITTEN.set(WRITTEN.get() + bytes.len());
    let written = NEXT.with_borrow_mut(VecDeque::pop_front)??;
    let part = bytes.get(..written).unwrap_or(bytes);
    Some(file.write_all_at(part, at).and(Err(io::Error::from_raw_os_error(libc::EIO))))
}
