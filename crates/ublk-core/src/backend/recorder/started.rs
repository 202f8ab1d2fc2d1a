//! The changes that were started and not answered: when the power fails, a disk may have them, in part or whole.

use super::log::Change;
use std::collections::VecDeque;

/// See the [module](self). In the order of their starts, each of which has a moment of its own.
#[derive(Default)]
pub struct Started(VecDeque<Entry>);

struct Entry {
    change: Change,
    /// Its data is in the log's data. If not, nobody knows what is there.
    is_whole: bool,
}

impl Started {
    /// A change that is started now.
    pub fn add(&mut self, change: Change, is_whole: bool) {
        self.0.push_back(Entry { change, is_whole });
    }

    /// Its data is in the log's data now, at its place.
    pub fn is_whole(&mut self, change: &Change) {
        if let Some(at) = self.find(change) {
            self.0[at] = Entry { change: *change, is_whole: true };
        }
    }

    /// It was answered.
    pub fn remove(&mut self, change: &Change) {
        if let Some(at) = self.find(change) {
            self.0.remove(at);
        }
    }

    fn find(&self, change: &Change) -> Option<usize> {
        self.0.binary_search_by_key(&change.start, |entry| entry.change.start).ok()
    }

    /// Those whose data is in the log's data, in the order of their starts.
    pub fn whole(&self) -> Vec<Change> {
        self.0.iter().filter(|entry| entry.is_whole).map(|entry| entry.change).collect()
    }
}
