//! What QEMU's block layer opens: images of many formats, and disks of other machines. `qemu-nbd` serves each disk.

use super::helper::Program;
use crate::error::{Error, ErrorKind};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Its name, by which the shell finds it.
const PROGRAM: &str = "qemu-nbd";
/// Its name for the contents of the file with a key.
const KEY: &str = "key";

/// What to open, and how.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// A block driver with its options: `driver=vmdk,file.filename=disk.vmdk`. It has to name the driver: otherwise QEMU guesses
    /// the format from bytes that the disk's clients may have written.
    pub options: String,
    /// A file with a key or a password, which the options name `key`.
    pub key_file: Option<PathBuf>,
    /// Whether to go round the page cache, and the caches of QEMU's drivers.
    pub direct: bool,
    /// Where relative paths begin.
    pub directory: PathBuf,
    /// Where its socket and its lock are.
    pub run_dir: PathBuf,
}

impl Qemu {
    /// How it is started. Each client may use all of the disk's connections, so that several queues can, and a disk's next
    /// server. Flush is honest with either cache mode.
    pub(super) fn program(&self, read_only: bool) -> Program {
        let cache = if self.direct { "none" } else { "writeback" };
        let mut command: Vec<OsString> =
            [PROGRAM, "--shared=0", "--discard=unmap"].map(OsString::from).to_vec();
        command.push(format!("--cache={cache}").into());
        if read_only {
            command.push("--read-only".into());
        }
        if let Some(file) = &self.key_file {
            let mut object = OsString::from(format!("secret,id={KEY},file="));
            object.push(quoted(file));
            command.extend(["--object".into(), object]);
        }
        command.extend(["--image-opts".into(), OsString::from(&self.options)]);
        let socket = Program::socket_in(&self.run_dir, self.mark());
        Program { command, directory: self.directory.clone(), socket, explain }
    }

    /// Stands for the disk, in any process: FNV-1a of what it is made of.
    fn mark(&self) -> u64 {
        let Self { options, key_file, directory, .. } = self;
        let key_file = key_file.as_deref().unwrap_or(Path::new(""));
        let parts = [
            options.as_bytes(),
            key_file.as_os_str().as_encoded_bytes(),
            directory.as_os_str().as_encoded_bytes(),
        ];
        let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0]));
        bytes.fold(0xcbf2_9ce4_8422_2325, |mark, byte| {
            (mark ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// A path as QEMU takes it among options, which commas separate.
fn quoted(path: &Path) -> OsString {
    let path = path.to_string_lossy(); // TypeScript's, so it is text
    path.replace(',', ",,").into()
}

/// Makes an error of what it says.
fn explain(said: &str) -> Error {
    let backend = |text: String| Error::new(ErrorKind::Backend, text);
    if said.contains(&format!("{PROGRAM}: not found"))
        || said.contains(&format!("{PROGRAM}: command not found"))
    {
        return backend(format!("{PROGRAM} is not installed"))
            .hint("Debian has it in the package qemu-utils");
    }
    let error = backend(format!("{PROGRAM} cannot serve the disk: {}", without_options(said)));
    if said.contains("Unknown driver") || said.contains("Unknown protocol") {
        return error.hint("Debian has drivers for other machines in the package qemu-block-extra");
    }
    if said.contains("lock") && said.contains("Is another process using the image") {
        return error.kind(ErrorKind::Busy);
    }
    error
}

/// It repeats its options, which may be long, before it says what is wrong.
fn without_options(said: &str) -> &str {
    let rest = said.split_once("Failed to blk_new_open '").map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_once("': ")).map_or(said, |(_, why)| why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Qemu {
        Qemu {
            options: "driver=vmdk,file.filename=a.vmdk".into(),
            key_file: None,
            direct: false,
            directory: "/images".into(),
            run_dir: "/run/ublk-ts".into(),
        }
    }

    #[test]
    fn its_words_are_those_of_an_honest_flush() {
        let words = |disk: &Qemu, read_only| {
            disk.program(read_only).command.join(" ".as_ref()).into_string().unwrap()
        };
        let plain = words(&disk(), false);
        assert_eq!(
            plain,
            "qemu-nbd --shared=0 --discard=unmap --cache=writeback --image-opts driver=vmdk,file.filename=a.vmdk"
        );
        let secret = Qemu { key_file: Some("/a,b".into()), direct: true, ..disk() };
        let told = words(&secret, true);
        assert!(
            told.contains("--cache=none --read-only --object secret,id=key,file=/a,,b --image-opts"),
            "{told}"
        );
    }

    #[test]
    fn another_process_finds_the_same_socket_and_another_disk_has_another() {
        let socket = |disk: &Qemu| disk.program(false).socket;
        assert_eq!(socket(&disk()), socket(&disk()));
        assert!(socket(&disk()).starts_with("/run/ublk-ts"));
        assert_ne!(socket(&disk()), socket(&Qemu { directory: "/other".into(), ..disk() }));
        assert_ne!(socket(&disk()), socket(&Qemu { key_file: Some("/k".into()), ..disk() }));
        // A constant: an upgrade has to find what an earlier version has started.
        assert_eq!(disk().mark(), 16_754_592_958_054_201_440);
    }

    #[test]
    fn what_it_says_becomes_one_line() {
        let error = explain(
            "Failed to blk_new_open 'driver=vmdk,x=y': Could not open 'a': No such file or directory",
        );
        assert_eq!(
            error.message,
            "qemu-nbd cannot serve the disk: Could not open 'a': No such file or directory"
        );
        assert_eq!(explain("sh: 5: exec: qemu-nbd: not found").message, "qemu-nbd is not installed");
        assert!(explain("Failed to blk_new_open 'driver=rbd': Unknown driver 'rbd'").hint.is_some());
        let locked = "Failed to blk_new_open 'x': Failed to get \"write\" lock; Is another process using the image [a]?";
        assert_eq!(explain(locked).kind, ErrorKind::Busy);
    }
}
