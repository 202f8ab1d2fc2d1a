//! Servers that do not answer for a time.

use super::*;
use crate::backend::NbdServers;

/// A disk of which that much silence is too long.
fn impatient(server: &Server, timeout: Duration) -> Bench {
    let options = NbdOptions { read_only: false, existing: false, timeout, journal: 0 };
    Bench::new(Arc::new(Nbd::open(&server.uri, options).unwrap()), 4, 4096)
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_silent_server_is_waited_for_no_longer_than_a_lost_one() {
    let server = Server::new(false, ALL);
    let mut bench = impatient(&server, Duration::from_millis(400));
    assert_eq!(write(&mut bench, 0, 0, 1, 4096), Ok(4096));
    thread::sleep(Duration::from_millis(900));
    assert_eq!(write(&mut bench, 0, 0, 2, 4096), Ok(4096), "idle time does not count");
    server.shop.stopped.store(true, SeqCst);
    let since = Instant::now();
    assert_eq!(write(&mut bench, 0, 0, 3, 4096), Err(libc::EIO));
    assert!(since.elapsed() > Duration::from_millis(800), "it had its time, and so had a new connection");
    server.shop.stopped.store(false, SeqCst);
    let until = Instant::now() + Duration::from_secs(20);
    while write(&mut bench, 0, 0, 4, 4096).is_err() {
        assert!(Instant::now() < until, "it does not come back");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.shop.now.lock().unwrap()[..4096], [4; 4096]);
}

/// The server has the old write still, and does it late.
#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_write_from_a_lost_connection_does_not_undo_a_newer_one() {
    let (server, servers) = (Server::new(false, ALL), NbdServers::default());
    let timeout = Duration::from_secs(2);
    let options = NbdOptions { read_only: false, existing: false, timeout, journal: 0 };
    let disk = Arc::new(Nbd::open(&server.uri, options).unwrap());
    disk.listed(&servers);
    let mut bench = Bench::new(disk, 4, 4096);
    server.shop.slow.store(500, SeqCst);
    server.shop.stopped.store(true, SeqCst);
    bench.buffer(0)[..4096].fill(1);
    assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 4096)), None);
    let until = Instant::now() + Duration::from_secs(30);
    let before = |what| assert!(Instant::now() < until, "{what}");
    while servers.standing().unwrap().connected == 1 {
        before("it does not count as lost");
        assert_eq!(bench.turn(), []);
        thread::sleep(Duration::from_millis(1));
    }
    server.shop.stopped.store(false, SeqCst);
    assert_eq!(finish(&mut bench, &[0]), [(0, Ok(4096))]);
    assert_eq!(write(&mut bench, 0, 0, 2, 4096), Ok(4096));
    // The late one, the same again on the new connection, and the newer one.
    while server.shop.writes.load(SeqCst) < 3 {
        before("a write is missing");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(server.shop.now.lock().unwrap()[..4096], [2; 4096]);
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_queue_ends_while_its_server_is_silent() {
    let server = Server::new(false, ALL);
    let mut bench = impatient(&server, Duration::from_secs(3600));
    server.shop.stopped.store(true, SeqCst);
    assert_eq!(bench.start(0, Descriptor::new(Op::Read, 0, 4096)), None);
    // It waits for the reply, and for a time.
    while bench.operations() < 2 {
        bench.turn();
    }
    assert_eq!(bench.end_lines(), 0);
}
