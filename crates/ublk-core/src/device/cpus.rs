//! The CPUs on which a queue's thread runs: those whose requests the driver sends to the queue, so that a request is served
//! near the process that sent it.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Some of the machine's CPUs.
pub struct Cpus(CpuSet);

impl Cpus {
    /// From a bit mask in native-endian longs, as the driver gives it. CPUs that the system's calls cannot name are left out.
    pub fn of(mask: &[u8]) -> Self {
        const BITS: usize = libc::c_ulong::BITS as usize;
        let mut set = CpuSet::new();
        for (at, bytes) in mask.chunks_exact(BITS / 8).enumerate() {
            let word = libc::c_ulong::from_ne_bytes(bytes.try_into().unwrap_or_default());
            for bit in (0..BITS).filter(|bit| word >> bit & 1 == 1) {
                let _ = set.set(at * BITS + bit);
            }
        }
        Self(set)
    }

    /// Pins the calling thread to those of them that it may use. If there are none, or pinning fails, the thread is not pinned.
    pub fn keep(&self) {
        let this = Pid::from_raw(0);
        let Ok(allowed) = sched_getaffinity(this) else { return };
        let (mut both, mut any) = (CpuSet::new(), false);
        for cpu in 0..CpuSet::count() {
            if self.has(cpu) && allowed.is_set(cpu).unwrap_or(false) {
                any |= both.set(cpu).is_ok();
            }
        }
        if any {
            let _ = sched_setaffinity(this, &both);
        }
    }

    fn has(&self, cpu: usize) -> bool {
        self.0.is_set(cpu).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_mask_is_read_bit_by_bit() {
        let longs: [libc::c_ulong; 2] = [0b1010, 1];
        let mask: Vec<_> = longs.iter().flat_map(|long| long.to_ne_bytes()).collect();
        let cpus = Cpus::of(&mask);
        let found: Vec<_> = (0..CpuSet::count()).filter(|cpu| cpus.has(*cpu)).collect();
        assert_eq!(found, [1, 3, libc::c_ulong::BITS as usize]);
    }

    #[test]
    fn a_thread_keeps_to_the_cpus_that_it_may_use() {
        let this = Pid::from_raw(0);
        let allowed = move || sched_getaffinity(this).unwrap();
        let all = allowed();
        let first = (0..CpuSet::count()).find(|cpu| all.is_set(*cpu).unwrap()).unwrap();
        std::thread::spawn(move || {
            let mut one = CpuSet::new();
            one.set(first).unwrap();
            Cpus(one).keep();
            assert_eq!(allowed(), one);
            // None of those that it may use: it stays.
            let mut others = all;
            others.unset(first).unwrap();
            Cpus(others).keep();
            assert_eq!(allowed(), one);
        })
        .join()
        .unwrap();
    }
}
