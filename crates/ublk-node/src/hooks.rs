//! The calls from a native disk to JavaScript: to fetch data for it, and to report the changes made to it.

use crate::number::number;
use crate::wire;
use napi::bindgen_prelude::{Function, ToNapiValue};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Result, Status};
use napi_derive::napi;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use ublk_core::backend::{Change, Fill, Source};
use ublk_core::queue::{Flags, Op};

/// Called on the JavaScript thread. Weak: waiting for it is no reason for Node to stay.
pub type Call<T> = ThreadsafeFunction<T, (), T, Status, false, true>;

/// Makes a function callable from any thread.
pub fn callable<T: ToNapiValue + 'static>(function: &Function<'_, T, ()>) -> Result<Call<T>> {
    function.build_threadsafe_function().weak::<true>().callee_handled::<false>().build()
}

/// Data that a lazy disk wants.
#[napi(object)]
pub struct Wanted {
    /// For the answer.
    pub id: u32,
    /// From where on the disk, in bytes.
    pub offset: f64,
    /// How much, in bytes.
    pub length: f64,
    /// No request waited for it when it was asked for.
    pub background: bool,
}

/// Fetches from JavaScript.
pub struct Fetches {
    call: Call<Wanted>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Nothing is asked any more: nobody would answer.
    refusing: bool,
    last: u32,
    fills: HashMap<u32, Fill>,
}

impl Fetches {
    pub fn new(call: Call<Wanted>) -> Self {
        Self { call, waiting: Mutex::default() }
    }

    /// What has that number, once.
    pub fn take(&self, id: u32) -> Option<Fill> {
        self.waiting().fills.remove(&id)
    }

    /// Fails all that are under way.
    pub fn fail_all(&self) {
        let failed = std::mem::take(&mut self.waiting().fills);
        drop(failed); // outside the lock: their requests are told
    }

    /// Fails all that are under way, and all to come.
    pub fn refuse(&self) {
        self.waiting().refusing = true;
        self.fail_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Fetches {
    fn fetch(&self, fill: Fill) {
        let (offset, length, background) = (number(fill.offset()), number(fill.length()), !fill.is_wanted());
        let mut waiting = self.waiting();
        if waiting.refusing {
            drop(waiting);
            return drop(fill); // which fails it
        }
        waiting.last = waiting.last.wrapping_add(1);
        let id = waiting.last;
        waiting.fills.insert(id, fill);
        drop(waiting);
        if self.call.call(Wanted { id, offset, length, background }, ThreadsafeFunctionCallMode::NonBlocking)
            != Status::Ok
        {
            drop(self.take(id)); // its thread is ending
        }
    }
}

/// How many changes are kept for an observer that is slow to take them.
const MOST_CHANGES: usize = 1 << 16;

/// Changes on their way to JavaScript.
pub struct Changes {
    call: Call<()>,
    list: Mutex<Vec<Change>>,
    size: u64,
}

impl Changes {
    /// `size`: of the disk, in bytes.
    pub fn new(call: Call<()>, size: u64) -> Self {
        Self { call, list: Mutex::default(), size }
    }

    /// Adds one. When there are too many, they become one of the whole disk.
    pub fn add(&self, change: Change) {
        let mut list = self.list();
        let first = list.is_empty();
        if list.len() >= MOST_CHANGES {
            list.clear();
            list.push(Change { op: Op::Write, flags: Flags::NONE, offset: 0, length: self.size });
        } else {
            list.push(change);
        }
        drop(list);
        if first {
            let _ = self.call.call((), ThreadsafeFunctionCallMode::NonBlocking); // ending: nobody looks any more
        }
    }

    /// Takes all that came: `CHANGE_FIELDS` numbers for each; see `wire.rs`.
    pub fn take(&self) -> Vec<f64> {
        let list = std::mem::take(&mut *self.list());
        let numbers = |change: Change| {
            let mut fields = [0.0; wire::CHANGE_FIELDS];
            fields[wire::CHANGE_OP] = wire::op(change.op).into();
            fields[wire::CHANGE_FLAGS] = wire::flags(change.flags).into();
            fields[wire::CHANGE_OFFSET] = number(change.offset);
            fields[wire::CHANGE_LENGTH] = number(change.length);
            fields
        };
        list.into_iter().flat_map(numbers).collect()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Change>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
