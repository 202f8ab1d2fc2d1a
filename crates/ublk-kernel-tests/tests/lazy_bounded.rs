//! Lazy disks whose cache is bounded: it never takes more space, loses no write, and shows no hole.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use ublk_core::backend::{File as Stored, Handle, Identity, Lazy, Map, Memory};
use ublk_core::{Bound, Spec, registry};
use ublk_kernel_tests::system::{Mounted, run};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 64 << 10;
const SIZE: u64 = 32 * MIB;
const MOST: u64 = 6 * MIB;
const BLOCK: u64 = 4096;
/// Clients write only to the first blocks: what is written stays in the cache.
const WRITTEN: u64 = 2 * MIB / BLOCK;

/// Set in a server's environment, to the directory of its cache.
const SERVER: &str = "UBLK_TEST_BOUNDED_SERVER";

fn in_memory(image: &Arc<Image>) -> Lazy {
    let map = Map::volatile_bounded(SIZE, CHUNK).unwrap();
    Lazy::bounded(Arc::new(Memory::new(SIZE).unwrap()), map, image.clone(), MOST).unwrap()
}

fn in_file(image: &Arc<Image>, dir: &Path, direct: bool) -> Lazy {
    let (storage, found) = Stored::open_or_create(&dir.join("cache"), SIZE, direct).unwrap();
    let identity = Identity { size: SIZE, chunk: CHUNK, name: "image".into() };
    let map = Map::open_bounded(&dir.join("map"), &identity, found).unwrap();
    Lazy::bounded(Arc::new(storage), map, image.clone(), MOST).unwrap()
}

fn space(dir: &Path) -> u64 {
    ["cache", "map"].iter().map(|name| fs::metadata(dir.join(name)).unwrap().blocks() * 512).sum()
}

fn present(handle: &Handle) -> u64 {
    handle.progress().unwrap().present
}

/// Reads all over the disk, and writes to its own blocks among the first ones; each of four clients has every fourth.
fn use_share(disk: &File, rest: u64, rounds: u64, written: &mut HashMap<u64, u8>) -> std::io::Result<()> {
    let mut state = rest + rounds;
    let mut below = move |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    for round in 0..rounds {
        let mut data = Aligned::new(BLOCK as usize);
        if below(4) == 0 {
            let (block, byte) = (below(WRITTEN / 4) * 4 + rest, (round % 251) as u8 + 1);
            data.fill(byte);
            disk.write_all_at(&data, block * BLOCK)?;
            written.insert(block, byte);
        } else {
            let block = below(SIZE / BLOCK / 4) * 4 + rest;
            disk.read_exact_at(&mut data, block * BLOCK)?;
            check(&data, block, written);
        }
    }
    Ok(())
}

fn check(data: &[u8], block: u64, written: &HashMap<u64, u8>) {
    match written.get(&block) {
        Some(byte) => assert!(data.iter().all(|found| found == byte), "block {block}"),
        None => assert_eq!(first_wrong(data, block * BLOCK), None, "block {block}"),
    }
}

fn check_all(disk: &File, written: &HashMap<u64, u8>) {
    let mut data = Aligned::new(CHUNK as usize);
    for chunk in 0..SIZE / CHUNK {
        disk.read_exact_at(&mut data, chunk * CHUNK).unwrap();
        for (block, data) in (chunk * CHUNK / BLOCK..).zip(data.chunks(BLOCK as usize)) {
            check(data, block, written);
        }
    }
}

#[test]
fn a_cache_never_exceeds_its_bound_and_clients_see_the_image_and_their_writes() {
    let _alone = alone();
    for kind in ["memory", "file", "direct"] {
        let (dir, image) = (tempfile::tempdir().unwrap(), Image::new(CHUNK));
        let lazy = match kind {
            "memory" => in_memory(&image),
            _ => in_file(&image, dir.path(), kind == "direct"),
        };
        let handle = lazy.handle();
        let spec = Spec { queues: 2, ..Spec::default() };
        let disk = Disk::start(&spec, lazy);
        let (ended, most, written) = (AtomicBool::new(false), AtomicU64::new(0), std::sync::Mutex::default());
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|rest| {
                    let (disk, written) = (&disk, &written);
                    scope.spawn(move || {
                        let mut mine = HashMap::new();
                        use_share(&disk.open(), rest, 500, &mut mine).unwrap();
                        let all: &std::sync::Mutex<HashMap<u64, u8>> = written;
                        all.lock().unwrap().extend(mine);
                    })
                })
                .collect();
            let (ended, most, handle, dir) = (&ended, &most, &handle, dir.path());
            scope.spawn(move || {
                while !ended.load(SeqCst) {
                    let now = if kind == "memory" { present(handle) } else { space(dir) };
                    most.fetch_max(now, SeqCst);
                    // Without a pause it would take the processor from those that it watches.
                    std::thread::sleep(std::time::Duration::from_micros(300));
                }
            });
            clients.into_iter().for_each(|client| client.join().unwrap());
            ended.store(true, SeqCst);
        });
        check_all(&disk.open(), &written.into_inner().unwrap());
        let progress = handle.progress().unwrap();
        let most = most.into_inner();
        assert!(most <= MOST && most > MOST / 2, "{kind}: {most}");
        assert!(
            progress.evicted > SIZE && progress.dirty.is_some_and(|dirty| dirty <= 2 * MIB),
            "{progress:?}"
        );
        disk.finish();
    }
}

#[test]
fn writes_that_do_not_fit_fail_with_enospc_and_reads_go_on() {
    let _alone = alone();
    let (dir, image) = (tempfile::tempdir().unwrap(), Image::new(CHUNK));
    let lazy = in_file(&image, dir.path(), false);
    let disk = Disk::start(&Spec::default(), lazy);
    let file = disk.open();
    let mut full = 0;
    for chunk in 0..SIZE / CHUNK {
        match file.write_all_at(&Aligned::filled(CHUNK as usize, 5), chunk * CHUNK) {
            Ok(()) => assert_eq!(full, 0),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "chunk {chunk}");
                full += 1;
            }
        }
    }
    let kept = SIZE / CHUNK - full;
    assert!(kept * CHUNK > MOST / 2 && kept * CHUNK < MOST, "{kept}");
    let mut data = Aligned::new(CHUNK as usize);
    for chunk in 0..SIZE / CHUNK {
        file.read_exact_at(&mut data, chunk * CHUNK).unwrap();
        if chunk < kept {
            assert!(data.iter().all(|byte| *byte == 5), "chunk {chunk}");
        } else {
            assert_eq!(first_wrong(&data, chunk * CHUNK), None, "chunk {chunk}");
        }
    }
    assert!(space(dir.path()) <= MOST);
    drop(file);
    disk.device().delete(true, &Bound::standard()).unwrap();
}

/// Not a test: the server.
#[test]
fn the_server() {
    if let Some(dir) = std::env::var_os(SERVER) {
        let lazy = in_file(&Image::new(CHUNK), Path::new(&dir), false);
        let disk = Disk::start(&Spec { queues: 2, ..Spec::default() }, lazy);
        println!("\ndevice {}", disk.device().id());
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn a_cache_outlives_killed_servers_without_a_hole_and_without_growing() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut written: [HashMap<u64, u8>; 4] = Default::default();
    for round in 0..3u64 {
        let (mut server, id) = Beside::server(SERVER, dir.path().to_str().unwrap());
        std::thread::scope(|scope| {
            for (rest, written) in (0..4).zip(&mut written) {
                let mut options = OpenOptions::new();
                options.read(true).write(true).custom_flags(libc::O_DIRECT);
                let file = options.open(format!("/dev/ublkb{id}")).unwrap();
                scope.spawn(move || {
                    // It ends with the server.
                    use_share(&file, rest, 1_000_000 + round, written).unwrap_err();
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(1000));
            assert!(space(dir.path()) <= MOST, "round {round}");
            server.child().kill().unwrap();
        });
        server.end("a killed server");
        eventually("the disk is gone", || !Path::new(&format!("/dev/ublkb{id}")).exists());
        registry::delete(id, false, &Bound::standard()).unwrap();
        let image = Image::new(CHUNK);
        let lazy = in_file(&image, dir.path(), false);
        let handle = lazy.handle();
        assert!(space(dir.path()) <= MOST, "round {round}: {}", space(dir.path()));
        assert!(present(&handle) > 0, "round {round}");
        let disk = Disk::start(&Spec::default(), lazy);
        let file = disk.open();
        let (mut chunk, mut wrong) = (Aligned::new(CHUNK as usize), Vec::new());
        for block in 0..SIZE / BLOCK {
            let at = block * BLOCK % CHUNK;
            if at == 0 {
                file.read_exact_at(&mut chunk, block * BLOCK).unwrap();
            }
            let data = &chunk[at as usize..][..BLOCK as usize];
            let mine = &mut written[(block % 4) as usize];
            let (first, even) = (data[0], data.iter().all(|byte| *byte == data[0]));
            let right = match mine.get(&block) {
                Some(byte) => even && first == *byte,
                None => first_wrong(data, block * BLOCK).is_none(),
            };
            if !right {
                // The write that was under way: of each client one at most, and all of it.
                assert!(even && first != 0 && block < WRITTEN, "round {round}, block {block}");
                wrong.push(block % 4);
                mine.insert(block, first);
            }
        }
        wrong.sort_unstable();
        assert!(wrong.windows(2).all(|pair| pair[0] != pair[1]), "round {round}: {wrong:?}");
        assert!(space(dir.path()) <= MOST, "round {round}");
        drop(file);
        disk.finish();
    }
}

/// If a chunk were smaller than what the file system frees at once, the bound would not hold.
#[test]
fn chunks_below_the_unit_of_the_cache_s_file_system_are_refused() {
    let (clusters, huge) =
        (Mounted::ext4_with(64 * MIB, &["-O", "bigalloc", "-C", "65536"]), tempfile::tempdir());
    let open = |dir: &Path, chunk: u64| {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let (storage, found) = Stored::open_or_create(&dir.path().join("cache"), SIZE, false).unwrap();
        let identity = Identity { size: SIZE, chunk, name: "image".into() };
        let map = Map::open_bounded(&dir.path().join("map"), &identity, found).unwrap();
        let opened = Lazy::bounded(Arc::new(storage), map, Image::new(chunk), MOST);
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, if opened.is_ok() { vec!["cache", "map"] } else { vec![] });
        opened.map(drop)
    };
    let file = clusters.join("file");
    fs::write(&file, [1; 4096]).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().blocks() * 512, 65536, "one block takes up a cluster");
    let refused = open(clusters.path(), 16 << 10).unwrap_err().to_string();
    assert!(refused.contains("allocates 65536 bytes at a time, so chunks of 16384 bytes"), "{refused}");
    for chunk in [64 << 10, 128 << 10] {
        open(clusters.path(), chunk).unwrap();
    }
    open(&std::env::temp_dir(), 4096).unwrap();

    if fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
        let huge = huge.unwrap();
        run("mount", &["-t", "tmpfs", "-o", "huge=always", "tmpfs", huge.path().to_str().unwrap()]);
        let (small, large) = (open(huge.path(), 1 << 20), open(huge.path(), 2 << 20));
        run("umount", &[huge.path().to_str().unwrap()]);
        assert!(small.unwrap_err().to_string().contains("allocates 2097152 bytes at a time"));
        large.unwrap();
    }
}

#[test]
fn requests_that_together_need_more_than_the_cache_holds_all_end() {
    const LENGTH: u64 = 512 << 10;
    let _alone = alone();
    let map = Map::volatile_bounded(SIZE, CHUNK).unwrap();
    let storage = Arc::new(Memory::new(SIZE).unwrap());
    // Three quarters will be full of written data: what is left holds two requests of that length.
    let lazy = Lazy::bounded(storage, map, Image::new(CHUNK), 4800 << 10).unwrap();
    let handle = lazy.handle();
    let disk = Disk::start(&Spec::default(), lazy);
    let file = disk.open();
    let mut written = 0;
    while file.write_all_at(&Aligned::filled(CHUNK as usize, 5), SIZE - (written + 1) * CHUNK).is_ok() {
        written += 1;
    }
    std::thread::scope(|scope| {
        for client in 0..16 {
            let disk = &disk;
            scope.spawn(move || {
                let (file, mut data) = (disk.open(), Aligned::new(LENGTH as usize));
                for round in 0..3 {
                    let blocks = (SIZE / 4 * 3 - LENGTH) / BLOCK;
                    let at = (client * 7919 + round * 104_729) % blocks * BLOCK;
                    file.read_exact_at(&mut data, at).unwrap();
                    assert_eq!(first_wrong(&data, at), None);
                }
            });
        }
    });
    let now = handle.progress().unwrap();
    assert_eq!((now.failures, now.dirty), (0, Some(written * CHUNK)), "{now:?}");
    assert!(now.evicted > 2 * MIB, "{now:?}");
    drop(file);
    disk.device().delete(true, &Bound::standard()).unwrap();
}
