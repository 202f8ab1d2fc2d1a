//! Histograms of ticks: written by one thread, read by any.
//!
//! Log-linear: every power of two is divided into 32 buckets of equal width, so that a bucket is no wider than a
//! 32nd of the values in it, up to 2⁴⁸ ticks: a day at the rate of the fastest counters.

use super::counters::Counter;
use crate::mapping::Mapping;
use std::io;

/// Buckets in each power of two, as a power of two.
const FINENESS: u32 = 5;
const PER_POWER: usize = 1 << FINENESS;
/// What is not below 2 to this power counts as the largest that is.
const POWERS: u32 = 48;
const BUCKETS: usize = (POWERS - FINENESS + 1) as usize * PER_POWER;

/// See the [module](self). All zeroes is an empty one.
#[repr(C)]
pub struct Histogram {
    sum: Counter,
    max: Counter,
    buckets: [Counter; BUCKETS],
}

impl Histogram {
    /// Counts a value. Only for the one thread that writes.
    #[inline]
    pub fn record(&self, value: u64) {
        self.sum.add(value);
        self.max.raise(value);
        self.buckets[bucket_of(value)].add(1);
    }

    /// What it holds now. A value that is being recorded may be in some of it and not yet in the rest.
    pub fn snapshot(&self) -> Snapshot {
        let (sum, max) = (self.sum.get(), self.max.get());
        let counts = self.buckets.iter().enumerate().map(|(bucket, counter)| (bucket, counter.get()));
        let buckets: Vec<_> =
            counts.filter(|(_, count)| *count > 0).map(|(at, n)| (last_of(at), n)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Snapshot { count, sum, max, buckets }
    }
}

/// A histogram at one moment. Values are ticks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// How many values it has.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The largest.
    pub max: u64,
    /// Each bucket that is not empty: the largest value that belongs to it, and how many do.
    pub buckets: Vec<(u64, u64)>,
}

impl Snapshot {
    /// The arithmetic mean; 0 without values.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64
    }

    /// Takes what another one holds in.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
        for (last, count) in &other.buckets {
            match self.buckets.binary_search_by_key(last, |bucket| bucket.0) {
                Ok(at) => self.buckets[at].1 += count,
                Err(at) => self.buckets.insert(at, (*last, *count)),
            }
        }
    }

    /// A value that `share` of all, from 0 to 1, do not exceed: the smallest such, or up to 1/32 more. 0 without
    /// values.
    pub fn quantile(&self, share: f64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the count")]
        let wanted = ((share * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= wanted
        });
        bucket.map_or(0, |(last, _)| (*last).min(self.max))
    }
}

fn bucket_of(value: u64) -> usize {
    let value = value.min((1 << POWERS) - 1);
    // Of the smallest values every one has a bucket; from then on the topmost bits tell it.
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(FINENESS + 1);
    shift as usize * PER_POWER + (value >> shift) as usize
}

/// The largest value in a bucket.
fn last_of(bucket: usize) -> u64 {
    let shift = (bucket / PER_POWER).saturating_sub(1);
    let top = (bucket - shift * PER_POWER) as u64;
    ((top + 1) << shift) - 1
}

/// Several histograms in memory of their own: pages that nothing was counted in take none.
pub struct Histograms {
    memory: Mapping,
    number: usize,
}

impl Histograms {
    /// Empty ones.
    pub fn new(number: usize) -> io::Result<Self> {
        Mapping::anonymous(number * size_of::<Histogram>()).map(|memory| Self { memory, number })
    }

    /// One of them.
    #[inline]
    pub fn get(&self, at: usize) -> &Histogram {
        assert!(at < self.number);
        // SAFETY: in bounds by the assertion, and aligned: a mapping starts at a page. It was zeroes, which is an empty
        // histogram, and everything in it is atomic. It lives as long as self.
        unsafe { self.memory.base().cast::<Histogram>().add(at).as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn histogram_of(values: &[u64]) -> Snapshot {
        let histograms = Histograms::new(1).unwrap();
        values.iter().for_each(|value| histograms.get(0).record(*value));
        histograms.get(0).snapshot()
    }

    /// Values of every magnitude.
    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value = (0..POWERS, any::<u64>())
            .prop_map(|(power, bits)| (bits & ((1 << power) - 1)) | ((1 << power) >> 1));
        prop::collection::vec(value, 1..200)
    }

    proptest! {
        #[test]
        fn two_taken_together_are_as_one_of_all_their_values(one in values(), other in values()) {
            let mut both = histogram_of(&one);
            both.add(&histogram_of(&other));
            prop_assert_eq!(both, histogram_of(&[one, other].concat()));
        }

        #[test]
        fn quantiles_are_the_exact_ones_or_up_to_a_32nd_more(mut values in values(), share in 0.0..=1.0f64) {
            let found = histogram_of(&values).quantile(share);
            values.sort_unstable();
            let rank = ((share * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1];
            prop_assert!(found >= exact && found - exact <= exact / 32, "{found} for {exact}");
        }

        #[test]
        fn count_mean_and_maximum_are_exact(values in values()) {
            let found = histogram_of(&values);
            prop_assert_eq!(found.count, values.len() as u64);
            prop_assert_eq!(found.sum, values.iter().sum::<u64>());
            prop_assert_eq!(found.mean(), found.sum as f64 / values.len() as f64);
            prop_assert_eq!(Some(&found.max), values.iter().max());
        }

        #[test]
        fn a_bucket_has_the_values_above_the_last_of_the_one_before(value in 0..1u64 << POWERS) {
            let bucket = bucket_of(value);
            prop_assert!(value <= last_of(bucket));
            prop_assert!(bucket == 0 || value > last_of(bucket - 1));
        }
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        for bucket in 1..BUCKETS {
            assert_eq!(bucket_of(last_of(bucket - 1)), bucket - 1);
            assert_eq!(bucket_of(last_of(bucket - 1) + 1), bucket.min(BUCKETS - 1));
        }
        assert_eq!(last_of(BUCKETS - 1), (1 << POWERS) - 1);
    }

    #[test]
    fn what_is_out_of_range_is_counted_as_the_largest_and_known_as_the_maximum() {
        let found = histogram_of(&[u64::MAX >> 1, 1 << POWERS]);
        assert_eq!(found.buckets, [((1 << POWERS) - 1, 2)]);
        assert_eq!(found.max, u64::MAX >> 1);
    }

    #[test]
    fn an_empty_one_has_no_figures() {
        let empty = histogram_of(&[]);
        assert_eq!((empty.clone(), empty.mean(), empty.quantile(0.5)), (Snapshot::default(), 0.0, 0));
    }

    #[test]
    fn another_thread_never_sees_more_than_was_counted_nor_less_than_it_saw_before() {
        const VALUES: u64 = if cfg!(miri) { 200 } else { 200_000 };
        let histograms = Histograms::new(1).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..VALUES).for_each(|value| histograms.get(0).record(value % 1000)));
            let mut before = 0;
            while before < VALUES {
                let count = histograms.get(0).snapshot().count;
                assert!(before <= count && count <= VALUES);
                before = count;
            }
        });
    }

    #[test]
    fn histograms_do_not_share_their_counts() {
        let histograms = Histograms::new(6).unwrap();
        (0..6).for_each(|at| (0..at as u64).for_each(|_| histograms.get(at).record(u64::MAX)));
        (0..6).for_each(|at| assert_eq!(histograms.get(at).snapshot().count, at as u64));
    }
}
