//! Opens an image and its backing files. A backing file is opened only where the caller allows, and only with the format
//! that the image states: an image from elsewhere must not make the server read any other file.

use super::Options;
use super::header::{BackingName, Header};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ublk_core::claim::Which;
use ublk_core::error::{Error, ErrorKind, Hint, Remedy, Result};

/// How many files a chain may have.
pub const LONGEST: usize = 32;

/// One file of a chain.
#[derive(Debug)]
pub struct Layer {
    pub path: PathBuf,
    pub file: Arc<File>,
    /// `None`: its bytes are the disk's.
    pub header: Option<Header>,
    /// Bytes: of the file.
    pub length: u64,
}

/// Opens the image, and what is below it; the image is the first.
pub fn open(path: &Path, options: &Options) -> Result<Vec<Layer>> {
    let allowed = Allowed::new(&options.backing)?;
    let (file, length) = open_file(path, !options.read_only)?;
    let mut layers = vec![Layer {
        header: Some(Header::read(&file, path)?),
        path: path.to_owned(),
        file: Arc::new(file),
        length,
    }];
    check_writable(&layers[0], options.read_only)?;
    while let Some(Layer { header: Some(Header { backing: Some(backing), .. }), path, .. }) = layers.last() {
        let layer = open_backing(path, backing, &allowed)?;
        let which = |layer: &Layer| Which::of(&layer.file).ok();
        if layers.iter().any(|above| which(above) == which(&layer)) {
            return Err(wrong(format!("{} is below itself", layer.path.display())));
        }
        layers.push(layer);
        if layers.len() > LONGEST {
            return Err(wrong(format!(
                "{} has more than {LONGEST} files below it",
                layers[0].path.display()
            ))
            .hint("qemu-img convert makes one image of them"));
        }
    }
    Ok(layers)
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Backend, message)
}

fn check_writable(image: &Layer, read_only: bool) -> Result<()> {
    let name = image.path.display();
    match &image.header {
        Some(header) if header.snapshots > 0 && !read_only => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{name} has snapshots inside, and cannot be written to"),
        )
        .hint(
            Hint::from("serve it read-only, delete them with qemu-img snapshot -d, or let qemu-nbd serve it")
                .by(Remedy::ReadOnly),
        )),
        _ => Ok(()),
    }
}

fn open_file(path: &Path, writable: bool) -> Result<(File, u64)> {
    let name = path.display();
    let mut options = OpenOptions::new();
    // Without waiting for the other end of a pipe.
    options.read(true).write(writable).custom_flags(libc::O_NONBLOCK);
    let mut file = options.open(path).map_err(|error| {
        let failed = Error::system(format!("cannot open {name}"), &error).kind(ErrorKind::Backend);
        match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM | libc::EROFS) if writable => {
                failed.hint(Hint::from("make the disk read-only").by(Remedy::ReadOnly))
            }
            _ => failed,
        }
    })?;
    let failed = |error| Error::system(format!("cannot use {name}"), &error).kind(ErrorKind::Backend);
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && (writable || !kind.is_block_device()) {
        return Err(wrong(format!("{name} is not a regular file")).hint("an image is a regular file"));
    }
    // SAFETY: plain numbers and an open descriptor.
    if unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_SETFL, 0) } < 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok((file, length))
}

fn open_backing(image: &Path, backing: &BackingName, allowed: &Allowed) -> Result<Layer> {
    let (name, shown) = (&backing.name, image.display());
    if let Some((protocol, _)) = name.split_once(':').filter(|(before, _)| !before.contains('/')) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{shown} has the backing file {name}, by the protocol {protocol}"),
        )
        .hint("only files can be below it; qemu-nbd serves it"));
    }
    let path = image.parent().unwrap_or(Path::new("")).join(name);
    let Some(path) = allowed.resolve(&path) else {
        return Err(wrong(format!(
            "{shown} has the backing file {}, which may not be opened",
            path.display()
        ))
        .hint("name it, or its directory, in the option backing if you trust the image"));
    };
    let is_raw = match backing.format.as_deref() {
        Some("raw" | "file" | "host_device") => true,
        Some("qcow2") => false,
        Some(other) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{shown} has the backing file {name} with the format {other}"),
            )
            .hint("qcow2 and raw can be below it; qemu-nbd serves it"));
        }
        None => {
            return Err(wrong(format!("{shown} does not state the format of its backing file {name}")).hint(
                format!("qemu-img rebase -u -b {name} -F raw {shown} states it; qcow2 is possible, too"),
            ));
        }
    };
    let (file, length) = open_file(&path, false)?;
    let header = if is_raw { None } else { Some(Header::read(&file, &path)?) };
    Ok(Layer { path, file: Arc::new(file), header, length })
}

/// The files and directories that the caller allows, without symbolic links.
struct Allowed(Vec<PathBuf>);

impl Allowed {
    fn new(paths: &[PathBuf]) -> Result<Self> {
        let real = |path: &PathBuf| {
            fs::canonicalize(path).map_err(|error| {
                Error::system(
                    format!("cannot find {}, which is allowed as a backing file", path.display()),
                    &error,
                )
                .kind(ErrorKind::Backend)
            })
        };
        paths.iter().map(real).collect::<Result<_>>().map(Self)
    }

    /// The path without symbolic links, if it is one of them or below one.
    fn resolve(&self, path: &Path) -> Option<PathBuf> {
        // One that does not exist is reported by its name when it is opened.
        let real = fs::canonicalize(path).or_else(|_| match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => fs::canonicalize(parent).map(|parent| parent.join(name)),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        });
        real.ok().filter(|real| self.0.iter().any(|allowed| real.starts_with(allowed)))
    }
}
