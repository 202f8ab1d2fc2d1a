//! Against QEMU's own tools, which have to be installed.

mod crash;
mod differential;
mod fuzz;
mod opening;
mod through;

use std::path::Path;
use std::process::{Command, Output};

/// A command of QEMU's, and what it says.
fn qemu(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().expect("qemu-utils is installed")
}

/// The same, which must succeed.
pub fn qemu_ok(program: &str, words: &[&str]) -> String {
    let output = qemu(program, words);
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {words:?}: {said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn create(path: &Path, options: &str, size: &str) {
    qemu_ok("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(path), size]);
}

/// Whether `qemu-img check` finds no error. Leaks are none.
fn has_no_errors(path: &Path) -> Result<(), String> {
    let output = qemu("qemu-img", &["check", "-f", "qcow2", text(path)]);
    match output.status.code() {
        Some(0 | 3) => Ok(()),
        _ => Err(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Numbers that look random, the same for the same seed.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A number from the environment, for longer runs.
fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
