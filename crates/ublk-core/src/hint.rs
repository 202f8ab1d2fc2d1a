//! What to do about an error, in words that suit each reader: an API user passes options, a user of the command line flags.

use std::fmt;
use std::ops::Deref;

/// Something that the reader can ask for. Each surface has its own words for it: an option, a flag, a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Do it although the disk is in use.
    Force,
    /// Wait until the disk is free.
    Wait,
    /// Make the disk read-only.
    ReadOnly,
    /// Accept another file than the disk was made from.
    OtherFile,
    /// Serve a file that is in use, or cannot be locked.
    NotExclusive,
    /// Bound the cache of a lazy disk.
    CacheBound,
    /// Record the changes of a disk.
    Track,
    /// Make a disk with rules for faults.
    Faults,
    /// List the devices.
    List,
    /// List what the kernel's driver can do.
    Features,
    /// Look for what is wrong with this machine.
    Diagnose,
}

impl Remedy {
    /// Every one there is.
    pub const ALL: [Self; 11] = [
        Self::Force,
        Self::Wait,
        Self::ReadOnly,
        Self::OtherFile,
        Self::NotExclusive,
        Self::CacheBound,
        Self::Track,
        Self::Faults,
        Self::List,
        Self::Features,
        Self::Diagnose,
    ];

    /// Its name, by which a surface finds its words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Force => "force",
            Self::Wait => "wait",
            Self::ReadOnly => "read-only",
            Self::OtherFile => "other-file",
            Self::NotExclusive => "not-exclusive",
            Self::CacheBound => "cache-bound",
            Self::Track => "track",
            Self::Faults => "faults",
            Self::List => "list",
            Self::Features => "features",
            Self::Diagnose => "diagnose",
        }
    }
}

/// One sentence that names no option and no flag, and the places in it where a surface names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint(Box<Sentence>); // boxed: every result has room for an error

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sentence {
    text: String,
    /// At which byte, in order.
    remedies: Vec<(usize, Remedy)>,
}

impl Hint {
    /// Names a remedy here.
    #[must_use]
    pub fn by(mut self, remedy: Remedy) -> Self {
        let at = self.0.text.len();
        self.0.remedies.push((at, remedy));
        self
    }

    /// Goes on with more text.
    #[must_use]
    pub fn and(mut self, text: &str) -> Self {
        self.0.text.push_str(text);
        self
    }

    /// The sentence with a surface's words for each remedy.
    pub fn worded(&self, words: impl Fn(Remedy) -> String) -> String {
        let (mut sentence, mut from) = (String::new(), 0);
        for (at, remedy) in &self.0.remedies {
            sentence.push_str(&self.0.text[from..*at]);
            sentence.push_str(&words(*remedy));
            from = *at;
        }
        sentence.push_str(&self.0.text[from..]);
        sentence
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self(Box::new(Sentence { text, remedies: Vec::new() }))
    }
}

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Deref for Hint {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0.text
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_surface_words_the_remedies_and_the_engine_none() {
        let hint = Hint::from("wait for that").by(Remedy::Wait).and(", or remove it").by(Remedy::Force);
        assert_eq!(hint.to_string(), "wait for that, or remove it");
        let flags = hint.worded(|remedy| format!(" (--{})", remedy.name()));
        assert_eq!(flags, "wait for that (--wait), or remove it (--force)");
    }

    #[test]
    fn remedies_have_different_names() {
        let names: std::collections::BTreeSet<_> = Remedy::ALL.map(Remedy::name).into();
        assert_eq!(names.len(), Remedy::ALL.len());
    }
}
