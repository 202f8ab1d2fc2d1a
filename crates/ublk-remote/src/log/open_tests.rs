//! A volume is opened while another process writes it.

use super::format::{BLOCK_LENGTH, Extent, Kind, LOG, LogId, Segment, StoredMap, header_blocks, sum};
use super::tail::read_tail;
use crate::store::{Address, Answer, Created, Directory, Entry, Store, StoreCounters};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

fn id(sequence: u32) -> LogId {
    LogId { epoch: 0, sequence }
}

fn segment(sequence: u32) -> Vec<Bytes> {
    let data = vec![7; BLOCK_LENGTH];
    let extents = vec![Extent { block: u64::from(sequence), blocks: 1, place: 0, kind: Kind::Data }];
    let segment = Segment {
        id: id(sequence),
        writer: "w".repeat(32),
        header: header_blocks(extents.len()),
        blocks: 1,
        extents,
        data_sum: sum(&data),
    };
    vec![Bytes::from(segment.encode()), Bytes::from(data)]
}

/// Before the log is listed for the first time, its writer stores a map and deletes what came before it.
struct Written {
    store: Arc<dyn Store>,
    lists: AtomicU32,
}

impl Store for Written {
    fn name(&self) -> &str {
        self.store.name()
    }
    fn create(&self, key: &str, body: Vec<Bytes>) -> Answer<Created> {
        self.store.create(key, body)
    }
    fn get(&self, key: &str, range: Option<Range<u64>>) -> Answer<Bytes> {
        self.store.get(key, range)
    }
    fn list(&self, prefix: &str, after: Option<&str>) -> Answer<Vec<Entry>> {
        let listed = self.store.clone();
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let first = prefix == LOG && self.lists.fetch_add(1, SeqCst) == 0;
        Box::pin(async move {
            if first {
                let map = StoredMap { at: id(2), ..StoredMap::default() };
                listed.create(&id(2).map_key(), vec![Bytes::from(map.encode())]).await?;
                listed.delete((0..3).map(|sequence| id(sequence).key()).collect()).await?;
            }
            listed.list(&prefix, after.as_deref()).await
        })
    }
    fn delete(&self, keys: Vec<String>) -> Answer<()> {
        self.store.delete(keys)
    }
    fn counters(&self) -> StoreCounters {
        self.store.counters()
    }
}

#[tokio::test]
async fn segments_that_are_deleted_while_a_log_is_listed_are_not_taken_for_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let address = Address::parse(&format!("file://{}/volume", dir.path().display())).unwrap();
    let directory: Arc<dyn Store> = Arc::new(Directory::open(&address).unwrap());
    for sequence in 0..5 {
        assert!(matches!(directory.create(&id(sequence).key(), segment(sequence)).await, Ok(Created::Won)));
    }
    let store: Arc<dyn Store> = Arc::new(Written { store: directory, lists: AtomicU32::new(0) });
    for newest in [None, Some(None)] {
        let tail = read_tail(&store, LogId::default(), newest).await.unwrap();
        assert_eq!((tail.from, tail.log.len(), tail.end), (Some(id(2)), 2, id(5)));
    }
}
