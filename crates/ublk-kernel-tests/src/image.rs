//! The source of lazy disks.

use crate::stamp;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ublk_core::backend::{Fill, Source};

/// A source of lazy disks. Every sector holds its own position. Answers come from another thread, out of order.
pub struct Image {
    orders: Mutex<Sender<Fill>>,
    fetched: Arc<Mutex<HashMap<u64, u32>>>,
    /// The number of fetches that are still to fail.
    pub failures: Arc<AtomicU32>,
}

impl Image {
    /// A source that counts fetches by chunks of `chunk` bytes.
    pub fn new(chunk: u64) -> Arc<Self> {
        let (orders, waiting) = channel::<Fill>();
        let fetched: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
        let failures = Arc::new(AtomicU32::new(0));
        let (count, failing) = (fetched.clone(), failures.clone());
        std::thread::spawn(move || {
            while let Ok(first) = waiting.recv() {
                // Fetches that came together are answered in reverse order.
                std::thread::sleep(Duration::from_micros(500));
                let mut fills = vec![first];
                fills.extend(waiting.try_iter());
                for fill in fills.into_iter().rev() {
                    if failing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                        fill.fail(libc::ENODATA);
                        continue;
                    }
                    let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
                    for chunk in fill.offset() / chunk..(fill.offset() + fill.length()).div_ceil(chunk) {
                        *count.entry(chunk).or_default() += 1;
                    }
                    drop(count);
                    let mut data = vec![0; fill.length().try_into().unwrap()];
                    stamp(&mut data, fill.offset());
                    fill.supply(data).unwrap();
                }
            }
        });
        Arc::new(Self { orders: Mutex::new(orders), fetched, failures })
    }

    /// How often each chunk was fetched.
    pub fn fetched(&self) -> HashMap<u64, u32> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for Image {
    fn fetch(&self, fill: Fill) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).send(fill).unwrap();
    }
}
