//! Takes a backend's files for a disk that is about to be served.

use crate::backend::Backend;
use crate::claim::Claims;
use crate::error::{Error, ErrorKind, Result};
use std::time::Duration;

/// Takes the files of a backend back, for a disk of `size` bytes, and claims them.
///
/// What the files hold is checked before, since it may be refused at once, and again when they are claimed: whoever had them
/// while this waited may have changed them.
pub fn claim(backend: &dyn Backend, size: u64, patience: Duration) -> Result<Claims> {
    backend.take_back(size)?;
    let has = backend.properties().size;
    if has < size {
        let what = format!("the disk has {size} bytes, and its backend {has}");
        return Err(Error::new(ErrorKind::Backend, what)
            .hint("another server has resized the disk: let a new server take it over"));
    }
    let claims = Claims::take(&backend.places(), patience)?;
    backend.check_claimed()?;
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Concat, Faults, File, Observed, Overlay, Slice, Stripe, Tracked};
    use std::path::Path;
    use std::sync::Arc;

    const SIZE: u64 = 1 << 20;

    type Made = Result<Arc<dyn Backend>>;

    fn made<B: Backend>(disk: Result<B>) -> Made {
        disk.map(|disk| Arc::new(disk) as Arc<dyn Backend>)
    }

    /// An overlay below each kind of disk that has others below it.
    fn kinds(dir: &Path) -> Vec<(&'static str, Made)> {
        let overlay = |name: &str| -> Arc<dyn Backend> {
            let base = Arc::new(File::open(&dir.join("base"), true, false).unwrap());
            Arc::new(Overlay::in_file(base, &dir.join(name), None, false).unwrap())
        };
        let in_memory = || -> Arc<dyn Backend> {
            let base = Arc::new(File::open(&dir.join("base"), true, false).unwrap());
            Arc::new(Overlay::in_memory(base, None).unwrap())
        };
        vec![
            ("overlay", Ok(overlay("one"))),
            ("overlay in memory", Ok(in_memory())),
            ("overlay over an overlay", made(Overlay::in_memory(overlay("two"), None))),
            ("observed", Ok(Arc::new(Observed::new(in_memory(), Arc::new(|_| {}))))),
            ("tracked", made(Tracked::open(overlay("three"), &dir.join("map"), false))),
            ("faults", made(Faults::new(in_memory(), Vec::new(), 1))),
            ("slice", made(Slice::new(in_memory(), 0, Some(4096)))),
            ("concat", made(Concat::new(vec![in_memory()]))),
            ("stripe", made(Stripe::new(vec![in_memory(), in_memory()], 4096))),
        ]
    }

    #[test]
    fn a_base_that_its_former_user_has_changed_before_it_was_claimed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        std::fs::File::create(&base).unwrap().set_len(SIZE).unwrap();
        let writer = File::open(&base, false, false).unwrap();
        for (kind, disk) in kinds(dir.path()) {
            let disk = disk.unwrap_or_else(|error| panic!("{kind}: {error}"));
            let size = disk.properties().size;
            drop(claim(&*disk, size, Duration::ZERO).unwrap_or_else(|error| panic!("{kind}: {error}")));
            let before = std::fs::metadata(&base).unwrap().modified().unwrap();
            let committing = Claims::take(&writer.places(), Duration::ZERO).unwrap();
            let refused = std::thread::scope(|scope| {
                let next = scope.spawn(|| claim(&*disk, size, Duration::from_secs(10)));
                std::thread::sleep(Duration::from_millis(50));
                assert!(!next.is_finished(), "{kind}");
                let file = std::fs::File::options().write(true).open(&base).unwrap();
                file.set_modified(before + Duration::from_secs(1)).unwrap();
                drop(committing);
                next.join().unwrap().err()
            });
            let message = refused.map(|error| error.message).unwrap_or_default();
            assert!(message.starts_with("the base was changed: "), "{kind}: {message}");
            std::fs::File::options().write(true).open(&base).unwrap().set_modified(before).unwrap();
        }
    }
}
