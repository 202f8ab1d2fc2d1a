//! What is told of the connections.

use super::*;
use crate::backend::{NbdServers, NbdStanding};

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn lost_connections_and_the_journal_are_counted() {
    for journal in [0, 64 << 10] {
        let server = Server::new(false, ALL);
        let (disk, servers) = (server.open(journal), NbdServers::default());
        assert_eq!(servers.standing(), None);
        disk.listed(&servers);
        let mut bench = Bench::new(disk.clone(), 4, 4096);
        for block in 0..2 {
            assert_eq!(write(&mut bench, 0, block * 4096, 1, 4096), Ok(4096));
        }
        let writes = if journal == 0 { 0 } else { 2 };
        let before = NbdStanding {
            servers: 1,
            connected: 1,
            unflushed: 2,
            journal_bytes: writes * (4096 + 64),
            journal_writes: writes,
            journal_max: journal,
            ..NbdStanding::default()
        };
        assert_eq!(servers.standing(), Some(before));
        server.shop.closed.store(true, SeqCst);
        server.shop.crash();
        bench.buffer(0)[..4096].fill(2);
        assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 4096)), None);
        let until = Instant::now() + Duration::from_secs(10);
        while servers.standing().unwrap().connected == 1 {
            assert!(Instant::now() < until, "it does not notice");
            bench.turn();
        }
        server.shop.closed.store(false, SeqCst);
        assert_eq!(finish(&mut bench, &[0]), [(0, Ok(4096))]);
        let NbdStanding { connected, lost, reconnects, losses, unflushed, .. } = servers.standing().unwrap();
        let lossy = u64::from(journal == 0);
        assert_eq!((connected, lost, reconnects, losses, unflushed), (1, 1, 1, lossy, 1));
        drop((bench, disk));
        assert_eq!(servers.standing(), None);
    }
}
