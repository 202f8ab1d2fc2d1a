//! Mappings that have to survive the server.

use super::{create, qemu_ok, text};
use crate::Options;
use crate::qcow2::chain;
use crate::qcow2::mapper::{Mapper, Shared};
use crate::qcow2::scratch::Scratch;
use crate::qcow2::table::Table;
use std::fs;

#[test]
fn no_request_writes_to_a_new_place_before_the_mapping_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (image, now) = (dir.path().join("image"), dir.path().join("now"));
    create(&image, "cluster_size=4k", "1M");
    let layers = chain::open(&image, &Options::default()).unwrap();
    let shared = Shared::new(Table::new(1 << 20, 12).unwrap());
    let mut mapper = Mapper::open(&layers, true, true, Scratch::new(4096).unwrap()).unwrap();
    mapper.allocate(0..512, &shared).unwrap();
    assert!(!shared.table.get(0).is_writable(), "another request finds the place");
    mapper.look_up(512..1024, &shared).unwrap();
    assert!(shared.table.get(0).is_known());
    assert!(!shared.table.get(0).is_writable(), "another request looks the place up");
    mapper.after_allocations(&shared).unwrap();
    assert!(shared.table.get(0).is_writable());
    fs::copy(&image, &now).unwrap(); // what the next server would find
    let said = qemu_ok("qemu-io", &["-r", "-f", "qcow2", "-c", "alloc 0 4k", text(&now)]);
    assert!(said.contains("4096/4096 bytes allocated"), "{said}");
}
