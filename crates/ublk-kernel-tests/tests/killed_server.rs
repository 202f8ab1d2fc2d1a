//! A server that is killed with requests in flight: its clients get errors, and nothing stands in the way of the
//! next one. The server is this same program, run once more.

use std::os::unix::fs::FileExt;
use std::path::Path;
use ublk_core::backend::{Memory, Null};
use ublk_core::registry::{self, State};
use ublk_core::{Bound, ErrorKind, Spec};
use ublk_kernel_tests::*;

/// Set in the server's environment.
const SERVER: &str = "UBLK_TEST_SERVER";

/// Not a test: the server. Prints its device's number and serves until it is killed.
#[test]
fn the_server() {
    if std::env::var_os(SERVER).is_some() {
        let disk = Disk::start(&Spec { queues: 2, ..Spec::default() }, Null::new(1 << 40));
        println!("\ndevice {}", disk.device().id());
        loop {
            std::thread::park();
        }
    }
}

fn start_server() -> (Beside, u32) {
    Beside::server(SERVER, "1")
}

#[test]
fn clients_of_a_killed_server_get_errors_and_the_next_server_works() {
    let _alone = alone();
    for _ in 0..3 {
        let (mut server, id) = start_server();
        let path = format!("/dev/ublkb{id}");
        let info = registry::open(id, &Bound::standard()).unwrap();
        assert_eq!((info.state, info.pid), (State::Live, Some(server.child().id())));
        let mut clients = vec![Beside::reader(&path), Beside::writer(&path), Beside::reader(&path)];
        // They are at work once each has opened the disk: only the killing decides how far they come.
        eventually("all have the disk open", || registry::users(id).len() >= clients.len());
        assert!(clients.iter_mut().all(Beside::runs));
        server.child().kill().unwrap();
        server.end("a killed server");
        for client in clients {
            client.end("a client of a killed server");
        }
        eventually("the disk is gone", || !Path::new(&path).exists());
        // What is left is listed as what it is, and can be removed.
        eventually("the leftover is listed as such", || {
            let listed = registry::list(&Bound::standard()).unwrap();
            let left = listed.iter().find(|info| info.id == id).expect("it is listed");
            assert_eq!(left.pid, None);
            left.state == State::Idle
        });
        let disk = Disk::start(&Spec::default(), Memory::new(1 << 20).unwrap());
        assert_ne!(disk.device().id(), id);
        disk.open().write_all_at(&Aligned::filled(4096, 1), 0).unwrap();
        disk.finish();
        registry::delete(id, false, &Bound::standard()).unwrap();
        assert_eq!(registry::open(id, &Bound::standard()).unwrap_err().kind, ErrorKind::NotFound);
    }
}

#[test]
fn a_device_of_another_process_is_stopped_and_deleted_from_here() {
    let _alone = alone();
    let (mut server, id) = start_server();
    let file = std::fs::File::open(format!("/dev/ublkb{id}")).unwrap();
    let error = registry::delete(id, false, &Bound::standard()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
    drop(file);
    registry::delete(id, false, &Bound::standard()).unwrap();
    assert_eq!(registry::open(id, &Bound::standard()).unwrap_err().kind, ErrorKind::NotFound);
    // It lives on without its device.
    assert!(server.runs());
    server.child().kill().unwrap();
    server.end("a killed server");
}
