//! A disk of 64 MiB in memory. It needs root and the ublk driver (`modprobe ublk_drv`):
//!
//! ```sh
//! cargo build --example memory_disk && sudo target/debug/examples/memory_disk
//! ```
//!
//! The disk exists until the program's standard input ends (Ctrl+D).

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program, not a library

use std::io::Read;
use std::sync::Arc;
use ublk_core::backend::Memory;
use ublk_core::{Bound, Device, Event, Result, Spec};

fn main() -> Result<()> {
    let backend = Arc::new(Memory::new(64 << 20)?);
    let spec = Spec { queues: 2, depth: 64, ..Spec::default() };
    let bound = Bound::standard(); // no command may take longer than ten seconds

    let device = Device::create(&spec, backend, &bound, Arc::new(report))?;
    device.start(&bound)?;
    println!("/dev/ublkb{} is ready", device.id());

    let _ = std::io::stdin().read_to_end(&mut Vec::new());

    // `false`: fail if the disk is still mounted or open. Dropping the device would remove it in any case.
    device.delete(false, &bound)
}

/// Called on any thread when something goes wrong.
fn report(event: Event) {
    eprintln!("{event:?}");
}
