//! Servers whose export gets another size.

use super::*;
use crate::error::Result;

const HALF: u64 = SIZE as u64 / 2;
const TWICE: u64 = SIZE as u64 * 2;

fn flush(bench: &mut Bench) -> Outcome {
    ask(bench, 3, Descriptor::new(Op::Flush, 0, 0))
}

/// Resizes the disk while its queue is served.
fn resize(disk: &Arc<Nbd>, bench: &mut Bench, to: u64) -> Result<()> {
    thread::scope(|scope| {
        let resizing = scope.spawn(|| disk.resize(disk.properties().size, to));
        while !resizing.is_finished() {
            assert_eq!(bench.turn(), []);
            thread::sleep(Duration::from_millis(1));
        }
        resizing.join().unwrap()
    })
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_disk_gets_the_size_that_its_export_has_while_nothing_is_lost() {
    for (flags, journal) in [(ALL, 0), (FLUSH, 64 << 10), (FLUSH, 0)] {
        let server = Server::new(false, flags);
        let disk = server.open(journal);
        let mut bench = Bench::new(disk.clone(), 4, 4096);
        assert_eq!(write(&mut bench, 0, 0, 1, 4096), Ok(4096));
        let error = resize(&disk, &mut bench, TWICE).unwrap_err();
        assert!(error.message.ends_with("has 1048576 bytes, not 2097152"), "{error}");
        server.shop.size.store(TWICE, SeqCst);
        assert!(resize(&disk, &mut bench, TWICE - 4096).is_err());
        assert_eq!(write(&mut bench, 0, 4096, 2, 4096), Ok(4096));
        resize(&disk, &mut bench, TWICE).unwrap();
        assert_eq!(disk.properties().size, TWICE);
        assert_eq!(write(&mut bench, 0, TWICE - 4096, 3, 4096), Ok(4096));
        // Only one whose connections may see different data cannot say whether it still had what was not flushed.
        let unsure = flags == FLUSH && journal == 0;
        assert_eq!(flush(&mut bench), if unsure { Err(libc::EIO) } else { Ok(0) });
        assert_eq!(flush(&mut bench), Ok(0));
        let durable = server.shop.durable.lock().unwrap();
        assert_eq!([0, 4096, to_usize(TWICE) - 4096].map(|at| durable[at]), [1, 2, 3]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_server_that_ends_while_a_disk_grows_has_lost_what_was_not_flushed() {
    let server = Server::new(false, ALL);
    let disk = server.open(0);
    let mut bench = Bench::new(disk.clone(), 4, 4096);
    assert_eq!(write(&mut bench, 0, 0, 1, 4096), Ok(4096));
    server.shop.size.store(TWICE, SeqCst);
    // The next request is the flush that would make it durable.
    *server.shop.crash_after.lock().unwrap() = Some(1);
    resize(&disk, &mut bench, TWICE).unwrap();
    assert_eq!(flush(&mut bench), Err(libc::EIO));
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_server_that_comes_back_smaller_is_used_once_the_disk_is_as_small() {
    let server = Server::new(false, ALL);
    let options =
        NbdOptions { read_only: false, existing: false, timeout: Duration::from_millis(300), journal: 0 };
    let disk = Arc::new(Nbd::open(&server.uri, options).unwrap());
    let mut bench = Bench::new(disk.clone(), 4, 4096);
    assert_eq!(write(&mut bench, 0, 0, 1, 4096), Ok(4096));
    server.shop.size.store(HALF, SeqCst);
    server.shop.crash();
    assert_eq!(write(&mut bench, 0, 0, 2, 4096), Err(libc::EIO));
    assert!(resize(&disk, &mut bench, TWICE).is_err());
    resize(&disk, &mut bench, HALF).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while write(&mut bench, 0, 0, 3, 4096).is_err() {
        assert!(Instant::now() < until, "it does not come back");
        thread::sleep(Duration::from_millis(20));
    }
    // One that comes back larger is used as it was.
    server.shop.size.store(TWICE, SeqCst);
    server.shop.crash();
    while write(&mut bench, 0, 0, 4, 4096).is_err() {
        assert!(Instant::now() < until, "it does not come back");
    }
    assert_eq!(disk.properties().size, HALF);
}
