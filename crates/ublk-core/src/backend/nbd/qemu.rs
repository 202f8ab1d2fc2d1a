//! What QEMU's block layer opens: images of many formats, and disks of other machines. `qemu-nbd` serves each disk.

use super::helper::{Claiming, Image, Program};
use crate::claim::Role;
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
    /// Tells the disk from others of the same, in any process that serves it.
    pub instance: String,
    /// Whether the images are left to others, too.
    pub unclaimed: bool,
}

/// A word of the options that names a file of this machine, which is never the name of a protocol there.
const FILE: &str = "filename";

impl Qemu {
    /// How it is started. Each client may use all of the disk's connections, so that several queues can, and a disk's next
    /// server. Flush is honest with either cache mode.
    pub(super) fn program(&self, read_only: bool) -> Program {
        let cache = if self.direct { "none" } else { "writeback" };
        let option = |word: &str| OsString::from(format!("--{word}"));
        let mut command: Vec<OsString> = vec![PROGRAM.into()];
        command.extend(["shared=0", "discard=unmap", &format!("cache={cache}")].map(option));
        if read_only {
            command.push(option("read-only"));
        }
        if let Some(file) = &self.key_file {
            let mut object = OsString::from(format!("secret,id={KEY},file="));
            object.push(quoted(file));
            command.extend([option("object"), object]);
        }
        command.extend([option("image-opts"), OsString::from(self.unlocked())]);
        let in_run_dir = |mark: &str, extension| Program::path_in(&self.run_dir, mark, extension);
        let images = self.images(read_only);
        let claims = if self.unclaimed {
            Claiming::No
        } else if images.is_empty() {
            let file = in_run_dir(&format!("{:016x}", self.mark()), "lock");
            Claiming::Mark { file, shared: read_only }
        } else {
            Claiming::Images
        };
        let (directory, socket) = (self.directory.clone(), in_run_dir(&self.instance, "socket"));
        Program { command, directory, socket, images, claims, explain }
    }

    /// The files that the options name. What an image itself names, QEMU locks.
    pub fn images(&self, read_only: bool) -> Vec<Image> {
        let files = pairs(&self.options).into_iter().filter_map(|(name, value)| {
            let prefix =
                name.strip_suffix(FILE).filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))?;
            let base = prefix.split('.').any(|word| word == "backing");
            let role = if base { Role::Base } else { Role::Disk };
            Some(Image { path: self.directory.join(value), role, writable: !base && !read_only })
        });
        files.collect()
    }

    /// The options, with no locks of QEMU's on the files that they name: it has none for some formats, and would not get others,
    /// since the files are claimed.
    fn unlocked(&self) -> String {
        let named = pairs(&self.options);
        let mut options = self.options.clone();
        for (name, _) in &named {
            let Some(prefix) = name.strip_suffix(FILE) else { continue };
            let driver = named.iter().find(|(other, _)| other.strip_suffix("driver") == Some(prefix));
            let locks = ["file", "host_device", "host_cdrom"];
            if driver.is_none_or(|(_, driver)| locks.contains(&driver.as_str())) {
                options.push_str(&format!(",{prefix}locking=off"));
            }
        }
        options
    }

    /// Stands for what it is made of: FNV-1a.
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

/// What commas separate: `name=value`. Two commas are one in a value.
fn pairs(options: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut letters = options.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(letter);
        }
    }
    let pair = |word: &String| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    words.iter().filter_map(pair).collect()
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
            instance: "0123456789abcdef".into(),
            unclaimed: false,
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
            "qemu-nbd --shared=0 --discard=unmap --cache=writeback --image-opts driver=vmdk,file.filename=a.vmdk,file.locking=off"
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
        assert_eq!(socket(&disk()), Path::new("/run/ublk-ts/helper-0123456789abcdef.socket"));
        assert_ne!(socket(&disk()), socket(&Qemu { instance: "1".into(), ..disk() }));
    }

    #[test]
    fn what_lies_on_this_machine_is_claimed_and_the_rest_by_its_words() {
        let images = |options: &str, read_only| {
            let disk = Qemu { options: options.into(), ..disk() };
            let found = disk.images(read_only).into_iter();
            let words: Vec<_> = found
                .map(|Image { path, role, writable }| format!("{} {role:?} {writable}", path.display()))
                .collect();
            (words, disk.unlocked())
        };
        let (found, told) = images(
            "driver=qcow2,file.filename=a,,b,backing.driver=raw,backing.file.driver=file,backing.file.filename=/c",
            false,
        );
        assert_eq!(found, ["/images/a,b Disk true", "/c Base false"]);
        assert!(told.ends_with("/c,file.locking=off,backing.file.locking=off"), "{told}");
        let (found, told) = images("driver=file,filename=nbd:x", true);
        assert_eq!(found, ["/images/nbd:x Disk false"]);
        assert!(told.ends_with(",locking=off"), "{told}");
        let rbd = "driver=rbd,pool=a,image=filename";
        assert_eq!(images(rbd, false), (vec![], rbd.to_owned()));
        let claims = |options: &str| Qemu { options: options.into(), ..disk() }.program(false).claims;
        assert!(matches!(claims(rbd), Claiming::Mark { shared: false, .. }));
        assert!(matches!(claims("driver=file,filename=a"), Claiming::Images));
        // A constant: another version must not make a second disk of the same.
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
