//! Chooses the transport and copy mode of a device: the requested ones, or the best ones on this kernel; with the reason.

use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::features::{FEATURES, Features};
use crate::queue::{CopyMode, Mode, Transport};
use std::fmt::Display;

/// What was chosen, and the reason in a few words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Choice {
    /// What was chosen.
    pub mode: Mode,
    /// Why this transport.
    pub transport_because: String,
    /// Why this copy mode.
    pub copy_because: String,
}

/// What is chosen on this kernel by default, for each of `kinds`: a name, and the copy modes that disks of this kind
/// support.
pub(crate) fn usual<'a>(
    features: Features,
    kinds: impl IntoIterator<Item = (&'a str, &'a [CopyMode])>,
) -> Vec<(&'a str, Choice)> {
    let of = |able| Choice::make(None, None, &Offer { features, able, trusted: trusted() });
    kinds.into_iter().filter_map(|(kind, able)| Some((kind, of(able).ok()?))).collect()
}

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer<'a> {
    /// The driver's features.
    pub features: Features,
    /// The copy modes that the backend supports, the best first.
    pub able: &'a [CopyMode],
    /// Whether this process may access the pages of requests: the driver requires CAP_SYS_ADMIN for that.
    pub trusted: bool,
}

impl Choice {
    /// The requested transport and copy mode if they are possible, and the best ones where nothing was requested.
    pub(crate) fn make(
        transport: Option<Transport>,
        copy: Option<CopyMode>,
        offer: &Offer<'_>,
    ) -> Result<Self> {
        let (transport, transport_because) = match transport {
            Some(wish) => (wish, offer.lacks(wish, wish.flags()).map(|()| ASKED)?),
            None => {
                (Transport::PerIo, "costs less while few requests are in flight, little more when many are")
            }
        };
        let (copy, copy_because) = match copy {
            Some(wish) => (wish, offer.refusal(wish).map(|()| ASKED)?),
            None => offer.best(),
        };
        Ok(Self {
            mode: Mode { transport, copy },
            transport_because: transport_because.to_owned(),
            copy_because: copy_because.to_owned(),
        })
    }

    /// For an existing device.
    pub(crate) fn made(mode: Mode) -> Self {
        const MADE: &str = "set when the device was created";
        Self { mode, transport_because: MADE.to_owned(), copy_because: MADE.to_owned() }
    }
}

const ASKED: &str = "asked for";

impl Offer<'_> {
    fn best(&self) -> (CopyMode, &'static str) {
        let best = self.able.first().copied().unwrap_or_default();
        match (best, self.refusal(best)) {
            (CopyMode::Copy, _) => (CopyMode::Copy, "fastest for small requests"),
            (CopyMode::User, Ok(())) => (CopyMode::User, "avoids a copy"),
            (CopyMode::Zero, Ok(())) => (CopyMode::Zero, "avoids all copies in the server"),
            (_, Err(_)) if !self.trusted => (CopyMode::Copy, "all that is possible without CAP_SYS_ADMIN"),
            (_, Err(_)) => (CopyMode::Copy, "all that this kernel can do"),
        }
    }

    /// Fails with the reason if a copy mode is not possible.
    fn refusal(&self, copy: CopyMode) -> Result<()> {
        if !self.able.contains(&copy) {
            let names: Vec<_> = self.able.iter().map(|able| able.name()).collect();
            return Err(impossible("copy", copy, "this disk's backend cannot")
                .hint(format!("{} is possible", names.join(" or "))));
        }
        if copy != CopyMode::Copy && !self.trusted {
            return Err(impossible("copy", copy, "it takes CAP_SYS_ADMIN")
                .hint("an ordinary user's disk has its data copied by the driver: leave it at auto"));
        }
        self.lacks(copy, copy.flags())
    }

    fn lacks(&self, wish: impl Display, flags: u64) -> Result<()> {
        let lacking = flags & !self.features.0;
        let Some(feature) = FEATURES.iter().rfind(|feature| lacking & feature.flag != 0) else {
            return Ok(());
        };
        let what = if feature.name == "BATCH_IO" { "transport" } else { "copy" };
        Err(impossible(what, wish, format!("this kernel lacks {}", feature.name))
            .hint(Hint::from(format!("Linux {} or newer has it", feature.since)).by(Remedy::Features)))
    }
}

fn impossible(what: &str, wish: impl Display, why: impl Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} {wish} is not possible: {why}"))
}

/// Whether this process has CAP_SYS_ADMIN.
pub(crate) fn trusted() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    capabilities
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set & (1 << CAP_SYS_ADMIN) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[CopyMode] = &[CopyMode::Zero, CopyMode::Copy];
    const MEMORY: &[CopyMode] = &[CopyMode::Copy, CopyMode::User];
    const ALL: Offer<'_> = Offer { features: Features(u64::MAX), able: FILE, trusted: true };
    const OLD: Features = Features(0x1fe);

    fn chosen(offer: Offer<'_>) -> (CopyMode, String) {
        let choice = Choice::make(None, None, &offer).unwrap();
        (choice.mode.copy, choice.copy_because)
    }

    #[test]
    fn the_best_that_kernel_and_backend_and_caller_have_is_taken() {
        assert_eq!(chosen(ALL).0, CopyMode::Zero);
        assert_eq!(chosen(Offer { able: MEMORY, ..ALL }).0, CopyMode::Copy);
        assert_eq!(
            chosen(Offer { features: OLD, ..ALL }),
            (CopyMode::Copy, "all that this kernel can do".to_owned())
        );
        assert_eq!(
            chosen(Offer { trusted: false, ..ALL }),
            (CopyMode::Copy, "all that is possible without CAP_SYS_ADMIN".to_owned())
        );
    }

    #[test]
    fn an_impossible_wish_says_what_is_missing() {
        let refused = |transport, copy, offer| {
            let error = Choice::make(transport, copy, &offer).unwrap_err();
            (error.message, error.hint.unwrap().to_string())
        };
        let old = Offer { features: OLD, ..ALL };
        assert_eq!(
            refused(Some(Transport::Batch), None, old),
            (
                "transport batch is not possible: this kernel lacks BATCH_IO".to_owned(),
                "Linux 7.0 or newer has it".to_owned()
            )
        );
        assert_eq!(
            refused(None, Some(CopyMode::Zero), old),
            (
                "copy zero is not possible: this kernel lacks AUTO_BUF_REG".to_owned(),
                "Linux 6.16 or newer has it".to_owned()
            )
        );
        assert_eq!(
            refused(None, Some(CopyMode::Zero), Offer { able: MEMORY, ..ALL }),
            (
                "copy zero is not possible: this disk's backend cannot".to_owned(),
                "copy or user is possible".to_owned()
            )
        );
        let (message, _) = refused(None, Some(CopyMode::Zero), Offer { trusted: false, ..ALL });
        assert_eq!(message, "copy zero is not possible: it takes CAP_SYS_ADMIN");
    }
}
