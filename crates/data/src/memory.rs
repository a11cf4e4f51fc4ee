//! Limits the total memory of all images that are decoded at the same time.

use std::sync::{Condvar, Mutex, PoisonError};

/// Maximum number of bytes that all images being decoded may use together. A single image may use
/// all of it.
pub(super) const LIMIT: u64 = 1 << 30;

/// Bytes in use.
static USED: Mutex<u64> = Mutex::new(0);
static RETURNED: Condvar = Condvar::new();

/// A share of [`LIMIT`], returned when dropped.
///
/// A thread that holds a share must not wait for other threads, because they may be waiting for
/// this share.
#[derive(Debug)]
pub(super) struct Share(u64);

impl Share {
    /// Waits until `bytes` of the limit are free; `None` if `bytes` exceeds the limit.
    pub(super) fn take(bytes: u64) -> Option<Self> {
        if bytes > LIMIT {
            return None;
        }
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > LIMIT - bytes {
            used = RETURNED.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Some(Self(bytes))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        *used -= self.0;
        drop(used);
        RETURNED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn shares_never_exceed_the_limit_together() {
        static SUM: AtomicU64 = AtomicU64::new(0);
        static PEAK: AtomicU64 = AtomicU64::new(0);
        assert!(Share::take(LIMIT + 1).is_none());
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                scope.spawn(move || {
                    for i in 0..200 {
                        // Between a tenth of the limit and the whole limit.
                        let bytes = LIMIT / 10 * (1 + (thread * 7 + i) % 10);
                        let share = Share::take(bytes).expect("within the limit");
                        let sum = SUM.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        PEAK.fetch_max(sum, Ordering::SeqCst);
                        std::thread::yield_now();
                        SUM.fetch_sub(bytes, Ordering::SeqCst);
                        drop(share);
                    }
                });
            }
        });
        let peak = PEAK.load(Ordering::SeqCst);
        assert!(peak > LIMIT / 2 && peak <= LIMIT, "{peak}");
    }
}
