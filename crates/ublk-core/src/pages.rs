//! How the pages of memory are allocated: pre-faulted, as huge pages, or locked.

use crate::abi::page_size;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use std::io;
use std::mem::MaybeUninit;

/// Options for the pages of a mapping. By default each page is allocated on first use, and may be swapped out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize),
    serde(default, rename_all = "camelCase", deny_unknown_fields)
)]
pub struct Pages {
    /// Pre-fault: allocate all pages at once (5.14).
    pub prefault: bool,
    /// Use huge pages, as far as the system has free ones.
    #[cfg_attr(feature = "serde", serde(rename = "hugePages"))]
    pub huge: bool,
    /// Pre-fault all pages, and lock them in memory: they are never swapped out.
    pub lock: bool,
}

impl Pages {
    /// Applies the options to a mapping. `what`: the content of the mapping, for the error.
    pub fn arrange(self, mapping: &Mapping, what: &str) -> Result<()> {
        let failed = |to: &str, error: &io::Error| {
            Error::system(format!("cannot {to} {} bytes of {what}", mapping.length()), error)
        };
        if self.huge {
            mapping.advise(libc::MADV_HUGEPAGE).map_err(|error| {
                failed("have huge pages for", &error).kind(ErrorKind::Unsupported).hint(
                    "do without, or use a kernel that has transparent huge pages (CONFIG_TRANSPARENT_HUGEPAGE)",
                )
            })?;
        }
        if self.prefault {
            mapping
                .advise(libc::MADV_POPULATE_WRITE)
                .map_err(|error| failed("get the memory for", &error).hint("use less, or do not prefault"))?;
        }
        if self.lock {
            mapping.lock().map_err(|error| {
                failed("lock", &error).hint(
                    "raise the limit of locked memory (`ulimit -l`, LimitMEMLOCK= of a systemd service), or use less",
                )
            })?;
        }
        Ok(())
    }
}

/// Gets the memory of what is going to be written soon: that takes far less time at once than page by page. Where it fails, each
/// page is allocated by its first write.
pub fn expect<T>(room: &mut [MaybeUninit<T>]) {
    let page = page_size();
    let (start, length) = (room.as_mut_ptr().cast::<u8>(), size_of_val(room));
    let before = start.align_offset(page);
    let whole = length.saturating_sub(before) / page * page;
    if whole > 0 && cfg!(not(miri)) {
        // SAFETY: within the room, of which nothing is changed: what was never written is zeroes or stays as it is.
        unsafe { libc::madvise(start.add(before).cast(), whole, libc::MADV_POPULATE_WRITE) };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const LENGTH: usize = 4 << 20;

    fn arranged(pages: Pages) -> Mapping {
        let mapping = Mapping::anonymous(LENGTH).unwrap();
        pages.arrange(&mapping, "tests").unwrap();
        mapping
    }

    /// How many of its pages are in memory.
    pub(crate) fn present(mapping: &Mapping) -> usize {
        let mut found = vec![0; mapping.length() / page_size()];
        // SAFETY: one byte for each page of the mapping.
        let done = unsafe { libc::mincore(mapping.at(0).cast(), mapping.length(), found.as_mut_ptr()) };
        assert_eq!(done, 0);
        found.iter().filter(|page| **page & 1 == 1).count()
    }

    /// Whether the kernel shows that flag of it.
    pub(crate) fn has(mapping: &Mapping, flag: &str) -> bool {
        let (at, maps) = (mapping.at(0) as usize, std::fs::read_to_string("/proc/self/smaps").unwrap());
        let mut within = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let ends =
                range.map(|(from, to)| (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)));
            if let Some((Ok(from), Ok(to))) = ends {
                within = (from..to).contains(&at);
            } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| within) {
                return flags.split(' ').any(|other| other == flag);
            }
        }
        panic!("the mapping is not in the list");
    }

    #[test]
    fn pages_come_with_their_first_use_or_all_at_once() {
        let all = LENGTH / page_size();
        assert_eq!(present(&arranged(Pages::default())), 0);
        assert_eq!(present(&arranged(Pages { prefault: true, ..Pages::default() })), all);
        let locked = arranged(Pages { lock: true, ..Pages::default() });
        assert_eq!((present(&locked), has(&locked, "lo")), (all, true));
        assert!(!has(&arranged(Pages { prefault: true, ..Pages::default() }), "lo"));
    }

    #[test]
    fn what_is_expected_has_its_pages_and_keeps_its_content() {
        let mut room = Vec::<u64>::with_capacity(LENGTH / 8);
        room.push(7);
        expect(&mut room.spare_capacity_mut()[..1 << 17]);
        let mut found = vec![0; LENGTH / page_size() + 1];
        let start = room.as_ptr().cast::<u8>().wrapping_sub(room.as_ptr() as usize % page_size());
        // SAFETY: one byte for each page.
        let done = unsafe { libc::mincore(start.cast_mut().cast(), LENGTH, found.as_mut_ptr()) };
        assert_eq!((done, room[0]), (0, 7));
        let present = found.iter().filter(|page| **page & 1 == 1).count();
        assert!(present >= (1 << 20) / page_size() - 1, "{present}");
        expect::<u64>(&mut []);
    }

    #[test]
    fn huge_pages_are_asked_for_where_there_are_any() {
        let huge = Pages { huge: true, prefault: true, lock: false };
        if std::fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
            assert!(has(&arranged(huge), "hg"));
        } else {
            let error = huge.arrange(&Mapping::anonymous(LENGTH).unwrap(), "tests").unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unsupported);
            assert!(error.message.starts_with("cannot have huge pages for 4194304 bytes of tests"));
        }
    }

    #[test]
    fn locked_memory_can_be_given_back() {
        let locked = arranged(Pages { lock: true, ..Pages::default() });
        // SAFETY: within the mapping, which nobody else has.
        unsafe { locked.at(0).write(7) };
        locked.give_back(0, LENGTH / 2).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { locked.at(0).read() }, 0);
        assert!(present(&locked) <= LENGTH / page_size() / 2 + 1);
    }
}
