//! One error for the whole engine: a kind to match on, the context it happened in, and a way out.

pub use crate::hint::{Hint, Remedy};

use nix::errno::Errno;
use std::fmt;
use std::sync::Arc;

/// What went wrong, for callers that decide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kernel has no ublk driver, or it is not loaded.
    NoDriver,
    /// The caller may not do this.
    NoPermission,
    /// io_uring is missing or switched off.
    NoIoUring,
    /// This kernel's driver lacks what was asked for.
    Unsupported,
    /// The driver's limit of devices is reached.
    Limit,
    /// The device id is taken.
    Exists,
    /// There is no such device.
    NotFound,
    /// The device is in use.
    Busy,
    /// A value given by the caller is wrong.
    Invalid,
    /// What the disk's data lives in (a file, memory) cannot be used.
    Backend,
    /// A bounded wait ran out.
    Timeout,
    /// The caller cancelled the operation.
    Cancelled,
    /// The device was stopped or deleted already.
    Closed,
    /// Any other failure of the system.
    System,
}

impl ErrorKind {
    /// The kind's name in the public API.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoDriver => "no-driver",
            Self::NoPermission => "no-permission",
            Self::NoIoUring => "no-io-uring",
            Self::Unsupported => "unsupported",
            Self::Limit => "limit",
            Self::Exists => "exists",
            Self::NotFound => "not-found",
            Self::Busy => "busy",
            Self::Invalid => "invalid",
            Self::Backend => "backend",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Closed => "closed",
            Self::System => "system",
        }
    }
}

/// A failure, with everything needed to explain it in one line.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Error {
    /// What went wrong.
    pub kind: ErrorKind,
    /// One line that says what was wrong.
    pub message: String,
    /// One sentence that says what to do about it.
    pub hint: Option<Hint>,
    /// The control command that failed, by the kernel's name.
    pub command: Option<&'static str>,
    /// The device it was about.
    pub device: Option<u32>,
    /// The system's error number, positive.
    pub errno: Option<i32>,
    /// The error underneath.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message, hint: None, command: None, device: None, errno: None, source: None }
    }

    /// A value given by the caller is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A system call failed while doing `what`.
    pub fn system(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error();
        // An error of the system cannot be cloned: this one says the same.
        let source = match errno {
            Some(errno) => std::io::Error::from_raw_os_error(errno),
            None => std::io::Error::new(error.kind(), error.to_string()),
        };
        let failed = Self::new(ErrorKind::System, format!("{what}: {}", describe(errno, error)));
        Self { errno, source: Some(Arc::new(source)), ..failed }
    }

    /// The same failure seen as another kind.
    pub fn kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Adds the way out.
    pub fn hint(mut self, hint: impl Into<Hint>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the device it is about.
    pub fn device(mut self, id: u32) -> Self {
        self.device = Some(id);
        self
    }

    /// The error number's name, such as `EBUSY`.
    pub fn code(&self) -> Option<String> {
        self.errno.map(|errno| format!("{:?}", Errno::from_raw(errno)))
    }
}

/// "Device or resource busy (EBUSY)"
fn describe(errno: Option<i32>, error: &std::io::Error) -> String {
    match errno {
        Some(number) => {
            let errno = Errno::from_raw(number);
            format!("{} ({errno:?})", errno.desc())
        }
        None => error.to_string(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_one_line_with_its_hint() {
        let error = Error::system("cannot open /dev/x", &std::io::Error::from_raw_os_error(libc::EACCES))
            .kind(ErrorKind::NoPermission)
            .hint("run as root");
        assert_eq!(error.to_string(), "cannot open /dev/x: Permission denied (EACCES); run as root");
        assert_eq!(error.code().as_deref(), Some("EACCES"));
        assert_eq!(error.kind.name(), "no-permission");
        let source = std::error::Error::source(&error).unwrap().downcast_ref::<std::io::Error>();
        assert_eq!(source.unwrap().raw_os_error(), Some(libc::EACCES));
    }
}
