//! Objects are read as they were written, and no bytes are trusted.

use super::segment::{EXTENT, HEAD};
use super::*;

fn segment() -> Segment {
    let from = LogId { epoch: 1, sequence: 9 };
    let extents = vec![
        Extent { block: 7, blocks: 2, place: 0, kind: Kind::Data },
        Extent { block: 1 << 40, blocks: 1, place: 2, kind: Kind::Moved { from, place: 77 } },
        Extent { block: 8, blocks: 1 << 30, place: 0, kind: Kind::Zero },
    ];
    let id = LogId { epoch: 2, sequence: 5 };
    Segment { id, writer: "ab".repeat(16), header: 1, blocks: 3, extents, data_sum: 9 }
}

#[test]
fn what_is_written_is_read() {
    let mut many = segment();
    many.extents = vec![many.extents[0]; 1000];
    many.header = header_blocks(1000);
    for segment in [segment(), many] {
        let bytes = segment.encode();
        assert_eq!(bytes.len(), segment.header as usize * 4096);
        assert_eq!(Object::decode(&bytes), Ok(Ok(Object::Segment(segment.clone()))));
    }
    let fence = Fence { epoch: 3, writer: "w".into(), host: "h".into(), pid: 4, time: 5 };
    assert_eq!(Object::decode(&fence.encode()), Ok(Ok(Object::Fence(fence.clone()))));
    assert!((fence.encode().len() as u64) < LEAST_SEGMENT);
    let parent = Parent {
        url: "file:///a".into(),
        id: "y".into(),
        snapshot: "s".into(),
        at: LogId { epoch: 3, sequence: 4 },
        map: Some(LogId { epoch: 3, sequence: 1 }),
    };
    for parents in [vec![], vec![parent]] {
        let volume = Volume { format: 1, id: "x".into(), size: 8192, parents };
        assert_eq!(Volume::decode(&volume.encode()), Ok(volume));
    }
    let change = Change::Made { name: "a".into(), map: None, made: 7, size: 4096 };
    let record = Record { id: LogId { epoch: 2, sequence: 5 }, writer: "w".into(), change };
    assert_eq!(record.encode().len() as u64, LEAST_SEGMENT);
    assert_eq!(Object::decode(&record.encode()), Ok(Ok(Object::Record(record.clone()))));
    let id = LogId { epoch: 2, sequence: 5 };
    assert_eq!(LogId::of_size_key(&id.size_key(1 << 40)), Some((id, 1 << 40)));
    let snapshot = Snapshot { name: "a".into(), at: id, map: None, made: 7, size: 4096, removing: true };
    let listed = Listed { id: LogId { epoch: 1, sequence: 1 }, header: 1, blocks: 10 };
    let map = StoredMap {
        at: LogId { epoch: 2, sequence: 5 },
        segments: vec![listed],
        rest: Rest { size: 8192, snapshots: vec![snapshot], kept: vec![Kept { listed, death: id }] },
        runs: vec![
            Run { block: 5, blocks: 2, segment: 0, place: 8 },
            Run { block: 7, blocks: 1, segment: 0, place: 0 },
        ],
    };
    assert_eq!(StoredMap::decode(&map.encode()), Ok(map));
}

#[test]
fn keys_are_ordered_as_the_log_is() {
    let ids = [(0, 0), (0, 9), (0, 10), (1, 0), (1, 1 << 20), (16, 0)];
    let ids = ids.map(|(epoch, sequence)| LogId { epoch, sequence });
    assert!(ids.is_sorted_by_key(|id| id.key()) && ids.is_sorted_by_key(|id| id.map_key()));
    for id in ids {
        assert_eq!((LogId::of_key(&id.key()), LogId::of_map_key(&id.map_key())), (Some(id), Some(id)));
    }
    assert!(["log/1/2", "log/0000000g/00000000", "map/", ""].iter().all(|key| LogId::of_key(key).is_none()));
}

#[test]
fn any_change_is_found_and_no_bytes_are_trusted() {
    let bytes = segment().encode();
    assert_eq!(Object::decode(&bytes[..100]), Ok(Err(4096)));
    for at in 0..HEAD + 3 * EXTENT {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(!matches!(Object::decode(&changed), Ok(Ok(_))), "byte {at}");
    }
    let id = LogId { epoch: 2, sequence: 5 };
    let record = Record { id, writer: "w".into(), change: Change::Size { size: 4096 } }.encode();
    for at in 0..200 {
        let mut changed = record.clone();
        changed[at] ^= 1;
        assert!(!matches!(Object::decode(&changed), Ok(Ok(_))), "byte {at} of a record");
    }
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let map = StoredMap::default().encode();
    for _ in 0..20_000 {
        let mut some = [&bytes, &map, &record][random() % 3].clone();
        for _ in 0..random() % 8 {
            let at = random() % some.len().min(256);
            some[at] = random() as u8;
        }
        some.truncate(random() % (some.len() + 1));
        let _ = (Object::decode(&some), StoredMap::decode(&some), Volume::decode(&some));
    }
}
