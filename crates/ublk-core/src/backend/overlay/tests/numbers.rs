//! How many layers a server makes in its time.

use super::flatten::content;
use super::live_commit::commit;
use super::snapshots::{beside, queues, snapshot};
use super::*;
use crate::backend::overlay::layers::MOST;
use crate::backend::overlay::upper::MOST_LAYERS;

/// One queue serves requests all the time, and the other only now and then: that has to know layers that came and went.
#[test]
fn a_server_makes_more_layers_than_a_disk_can_have_if_they_are_committed_or_flattened() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, path) = (base_file(&dir, 256), dir.path().join("upper"));
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    let mut model: Vec<u8> = (0..256).map(pattern).collect();
    for round in 1..MOST {
        let sector = u64::from(round) * 3;
        write(&mut benches[0], sector, 8, round).unwrap();
        model[sector as usize..sector as usize + 8].fill(round);
        let made = beside(&mut benches, || match round % 5 {
            4 => commit(&disk, true, &|| false),
            _ => Backend::snapshot(disk.clone(), &format!("s{round}"), &|| {}),
        });
        assert!(made.is_ok(), "round {round}: {made:?}");
        assert_eq!(content(&mut benches[0], 256), model, "round {round}");
        if round % 17 == 0 {
            write(&mut benches[1], 200, 8, round).unwrap();
            model[200..208].fill(round);
            assert_eq!(content(&mut benches[1], 256), model, "round {round}");
        }
    }
    let message = refused(snapshot(&disk, &mut benches, "last"));
    assert_eq!(
        message,
        format!("this server of the upper {} has made 64 layers, the most that it can", path.display())
    );
    // The next one can.
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    assert_eq!(content(&mut benches[0], 256), model);
    while Backend::layers(&*disk).len() < MOST_LAYERS {
        let name = format!("t{}", Backend::layers(&*disk).len());
        snapshot(&disk, &mut benches, &name).unwrap();
    }
    let message = refused(snapshot(&disk, &mut benches, "last"));
    assert!(message.ends_with("has 16 layers already, the most that are possible"), "{message}");
    beside(&mut benches, || Backend::flatten(disk.clone(), None, &|| false)).unwrap();
    snapshot(&disk, &mut benches, "last").unwrap();
    write(&mut benches[1], 0, 8, 99).unwrap();
    model[..8].fill(99);
    assert_eq!(content(&mut benches[0], 256), model);
}
