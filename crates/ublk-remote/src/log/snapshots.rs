//! The snapshots of a volume, as its log says, and what they need of the store.
//!
//! A segment *dies* with the segment that replaces its last block. A snapshot that stands between the two in the log has some of it,
//! so it stays. A snapshot is read from a stored map on, so that map stays, and so does all of the log from there to the snapshot.

use super::format::{Change, LogId, Snapshot};
use std::collections::BTreeMap;

/// See the [module](self).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshots(BTreeMap<String, Snapshot>);

impl Snapshots {
    /// As a stored map has them.
    pub fn new(all: &[Snapshot]) -> Self {
        Self(all.iter().map(|snapshot| (snapshot.name.clone(), snapshot.clone())).collect())
    }

    /// A record at a place in the log.
    pub fn apply(&mut self, at: LogId, change: &Change) {
        match change {
            Change::Made { name, map, made, size } => {
                let snapshot =
                    Snapshot { name: name.clone(), at, map: *map, made: *made, size: *size, removing: false };
                self.0.insert(name.clone(), snapshot);
            }
            Change::Removing { name } | Change::Stays { name } => {
                if let Some(snapshot) = self.0.get_mut(name) {
                    snapshot.removing = matches!(change, Change::Removing { .. });
                }
            }
            Change::Removed { name } => drop(self.0.remove(name)),
            Change::Nothing | Change::Size { .. } => {}
        }
    }

    /// One by its name.
    pub fn get(&self, name: &str) -> Option<&Snapshot> {
        self.0.get(name)
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> Vec<Snapshot> {
        let mut all: Vec<_> = self.0.values().cloned().collect();
        all.sort_by_key(|snapshot| snapshot.at);
        all
    }

    /// Whether one of them needs an object of the log that nothing else needs.
    pub fn need(&self, id: LogId, death: LogId) -> bool {
        self.0
            .values()
            .any(|Snapshot { at, map, .. }| id <= *at && (death > *at || map.is_none_or(|map| id > map)))
    }

    /// Whether one of them may have a part of a segment that the disk has.
    pub fn hold(&self, id: LogId) -> bool {
        self.0.values().any(|snapshot| id <= snapshot.at)
    }

    /// Whether one of them begins with a stored map.
    pub fn begin_with(&self, map: LogId) -> bool {
        self.0.values().any(|snapshot| snapshot.map == Some(map))
    }
}

/// Letters, digits, `-`, `_` and `.`, but not as the first one.
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= 100 && !name.starts_with('.') && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_life_and_death_keeps_a_segment() {
        let id = |sequence| LogId { epoch: 1, sequence };
        let mut all = Snapshots::default();
        assert!(!all.need(id(1), id(9)));
        let made = |map| Change::Made { name: "a".into(), map, made: 1, size: 4096 };
        all.apply(id(5), &made(Some(id(3))));
        assert!(all.need(id(1), id(6)) && !all.need(id(1), id(4)) && !all.need(id(6), id(9)));
        // It has died before, but its place in the log has to be found.
        assert!(all.need(id(4), id(4)) && !all.need(id(3), id(4)));
        assert!(all.begin_with(id(3)) && !all.begin_with(id(5)) && all.hold(id(5)) && !all.hold(id(6)));
        all.apply(id(7), &Change::Removing { name: "a".into() });
        assert!(all.get("a").is_some_and(|found| found.removing) && all.need(id(1), id(6)));
        all.apply(id(8), &Change::Removed { name: "a".into() });
        assert_eq!((all.all(), all.need(id(1), id(6))), (vec![], false));
    }

    #[test]
    fn names_are_parts_of_keys() {
        assert!(["a", "2024-01-01", "before_upgrade.2"].into_iter().all(is_name));
        assert!(!["", ".", ".a", "a/b", "a b", "ä", &"a".repeat(101)].into_iter().any(is_name));
    }
}
