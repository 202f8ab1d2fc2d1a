//! The changes that were started and not answered: when the power fails, a disk may have them, in part or whole.

use super::log::Change;

/// See the [module](self). In no particular order.
#[derive(Default)]
pub struct Started(Vec<Entry>);

struct Entry {
    change: Change,
    /// Its data is in the log's data. If not, nobody knows what is there.
    is_whole: bool,
}

impl Started {
    pub fn add(&mut self, change: Change, is_whole: bool) {
        self.0.push(Entry { change, is_whole });
    }

    /// Its data is in the log's data now.
    pub fn is_whole(&mut self, change: &Change) {
        if let Some(at) = self.find(change) {
            self.0[at].is_whole = true;
        }
    }

    /// It was answered.
    pub fn remove(&mut self, change: &Change) {
        if let Some(at) = self.find(change) {
            self.0.swap_remove(at);
        }
    }

    /// Each has a start of its own.
    fn find(&self, change: &Change) -> Option<usize> {
        self.0.iter().position(|entry| entry.change.start == change.start)
    }

    /// Those whose data is in the log's data, in the order of their starts.
    pub fn whole(&self) -> Vec<Change> {
        let mut whole: Vec<_> =
            self.0.iter().filter(|entry| entry.is_whole).map(|entry| entry.change).collect();
        whole.sort_unstable_by_key(|change| change.start);
        whole
    }
}
