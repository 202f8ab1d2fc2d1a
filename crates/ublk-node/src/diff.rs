//! Diffs of disks, for JavaScript.

use crate::Cancel;
use crate::number::{number, whole};
use crate::task::{promise, raised};
use napi::bindgen_prelude::{Float64Array, Object};
use napi::{Env, Result};
use napi_derive::napi;
use std::io::{self, BufWriter, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use ublk_core::Device;
use ublk_core::backend::Sink;
use ublk_core::error::{Error as CoreError, ErrorKind, Result as CoreResult};
use ublk_formats::{
    Applied, Aside, BackingFile, Output, Qcow2Diff, RawDiff, StreamDiff, apply, apply_ranges, is_on,
};

/// Which diff to write, and where.
#[napi(object)]
pub struct DiffWishes {
    /// The checkpoint; without it, all of the disk.
    pub since: Option<String>,
    /// The path of the file, or of a socket to connect to.
    pub out: String,
    /// Whether it is a socket: for streams only.
    pub socket: bool,
    /// `stream`, `raw` or `qcow2`.
    pub format: String,
    /// What a qcow2 image names as its backing file.
    pub backing: Option<String>,
    /// The format of that.
    pub backing_format: Option<String>,
}

/// What was applied.
#[napi(object)]
pub struct AppliedDiff {
    /// How many extents the diff has.
    pub extents: f64,
    /// Bytes that they cover.
    pub bytes: f64,
}

fn to_js(applied: Applied) -> AppliedDiff {
    AppliedDiff { extents: number(applied.extents), bytes: number(applied.bytes) }
}

/// Puts a stream into a file or block device.
#[napi(ts_return_type = "Promise<AppliedDiff>")]
pub fn apply_diff<'env>(env: &'env Env, diff: String, base: String, cancel: &Cancel) -> Result<Object<'env>> {
    let cancel = cancel.0.clone();
    let work = move || apply(Path::new(&diff), Path::new(&base), &|| cancel.is_cancelled()).map(to_js);
    promise(env, work, |_, applied: AppliedDiff| Ok(applied))
}

/// Puts ranges of a raw file into a file or block device; `ranges`: offset and length of each.
#[napi(ts_return_type = "Promise<AppliedDiff>")]
pub fn apply_raw_diff<'env>(
    env: &'env Env,
    diff: String,
    size: f64,
    ranges: Float64Array,
    base: String,
    cancel: &Cancel,
) -> Result<Object<'env>> {
    let range = |pair: &[f64]| {
        let (offset, length): (u64, u64) = (whole("offset", pair[0])?, whole("length", pair[1])?);
        Ok(offset..offset.saturating_add(length))
    };
    let checked = whole("size", size).and_then(|size| {
        Ok((size, ranges.chunks_exact(2).map(range).collect::<CoreResult<Vec<Range<u64>>>>()?))
    });
    let (size, ranges) = checked.map_err(|error| raised(env, &error))?;
    let cancel = cancel.0.clone();
    let work = move || {
        apply_ranges(Path::new(&diff), size, &ranges, Path::new(&base), &|| cancel.is_cancelled()).map(to_js)
    };
    promise(env, work, |_, applied: AppliedDiff| Ok(applied))
}

/// Writes the diff of a device's disk to a file, which appears when it is complete, or to a socket.
pub fn write_diff(device: &Device, wishes: &DiffWishes, cancel: &ublk_core::Cancel) -> CoreResult<()> {
    let cancelled = || cancel.is_cancelled();
    let take = |sink: &mut (dyn Sink + Send)| {
        device.with_changes(|changes| changes.diff(wishes.since.as_deref(), sink, &cancelled))
    };
    let path = Path::new(&wishes.out);
    let failed = |error: io::Error| {
        CoreError::system(format!("cannot write {}", path.display()), &error).kind(ErrorKind::Backend)
    };
    if wishes.socket {
        let aside = Aside::temporary();
        let what = format!("{}, for what the output is too slow for,", aside.path().display());
        refuse_own_disk(device, aside.path(), &what, "start the disk's server with another TMPDIR")?;
        let client = Client::connect(path, cancel).map_err(failed)?;
        let socket = client.socket.try_clone().map_err(failed)?;
        let mut sink = StreamDiff::new(BufWriter::with_capacity(1 << 18, client), aside)
            .interrupted_by(move || drop(socket.shutdown(Shutdown::Both))); // it may be closed already
        take(&mut sink)?;
        return sink.finish().map(drop).map_err(failed);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let hint = "write the diff to another file system, or to standard output";
    refuse_own_disk(device, dir, &path.display().to_string(), hint)?;
    let output = Output::create(path)?;
    let (file, aside) = (output.file()?, output.aside());
    match &*wishes.format {
        "raw" => {
            let list = Output::create(Path::new(&format!("{}.json", wishes.out)))?;
            let mut sink = RawDiff::new(file, aside);
            take(&mut sink)?;
            list.file()?.write_all(sink.finish().as_bytes()).map_err(failed)?;
            // The list is the sign that both are complete.
            output.complete()?;
            list.complete()
        }
        "qcow2" => {
            let name = wishes.backing.clone();
            let format = wishes.backing_format.clone().unwrap_or_else(|| "raw".into());
            let backing = name.map(|name| BackingFile { name, format });
            let mut sink = Qcow2Diff::new(file, aside, backing);
            take(&mut sink)?;
            sink.finish().map_err(failed)?;
            output.complete()
        }
        _ => {
            let mut sink = StreamDiff::new(BufWriter::with_capacity(1 << 18, file), aside);
            take(&mut sink)?;
            sink.finish().map_err(failed)?;
            output.complete()
        }
    }
}

/// Refuses a directory on the disk itself: writing there would change what is copied, and could wait for that.
fn refuse_own_disk(device: &Device, dir: &Path, what: &str, hint: &'static str) -> CoreResult<()> {
    if is_on(dir, &format!("ublkb{}", device.id())) {
        return Err(CoreError::invalid(format!("{what} is on the disk itself")).hint(hint));
    }
    Ok(())
}

/// How often a client that does not read is looked after.
const LOOK: Duration = Duration::from_millis(200);

/// Who reads a stream from a socket.
struct Client<'a> {
    socket: UnixStream,
    cancel: &'a ublk_core::Cancel,
}

impl<'a> Client<'a> {
    fn connect(path: &Path, cancel: &'a ublk_core::Cancel) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_write_timeout(Some(LOOK))?;
        Ok(Self { socket, cancel })
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.cancel.is_cancelled() => {}
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
