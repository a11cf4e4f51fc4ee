//! Prefetching: computes the value for the next step on a background thread while the current
//! step runs.

use crate::{Error, Result};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Prefetches what the next training step needs, such as a batch, on a background thread while
/// the current step runs.
///
/// The value for a step is always what the function returns for that step, regardless of earlier
/// calls. A resumed training run therefore sees the same batches as an uninterrupted one.
///
/// ```
/// use invariances_data::*;
/// let digits = Digits::strokes(32, 0)?;
/// let batches = Ahead::new({
///     let digits = digits.clone();
///     move |step| digits.batch(Split::Train, (step - 1) * 16, 16)
/// });
/// assert_eq!(batches.at(1)?.labels.to_vec1::<u32>()?, digits.batch(Split::Train, 0, 16)?.labels.to_vec1::<u32>()?);
/// # Ok::<(), invariances_data::Error>(())
/// ```
pub struct Ahead<T> {
    make: Arc<Make<T>>,
    /// The step that is being computed, and the thread that computes it.
    next: Mutex<Option<(u64, JoinHandle<Result<T>>)>>,
}

type Make<T> = dyn Fn(u64) -> Result<T> + Send + Sync;

impl<T> fmt::Debug for Ahead<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ahead")
    }
}

impl<T: Send + 'static> Ahead<T> {
    /// Creates a prefetcher from a function of the step number. The function is not called before
    /// the first call of [`Ahead::at`].
    pub fn new(make: impl Fn(u64) -> Result<T> + Send + Sync + 'static) -> Self {
        Self {
            make: Arc::new(make),
            next: Mutex::new(None),
        }
    }

    /// Returns the function's value for `step` and starts to compute that for `step + 1`.
    ///
    /// # Errors
    /// The errors of the function; [`Error::Invalid`] if it panicked on the background thread.
    pub fn at(&self, step: u64) -> Result<T> {
        // The mutex guards a single `Option`, which is always in a valid state. The value of a
        // poisoned lock can therefore be used.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match next.take() {
            Some((number, thread)) if number == step => thread.join().unwrap_or_else(|_| {
                Err(Error::invalid(
                    "the thread that makes the next batch panicked",
                ))
            })?,
            _ => (self.make)(step)?,
        };
        let make = self.make.clone();
        let after = step.saturating_add(1);
        *next = Some((after, std::thread::spawn(move || make(after))));
        Ok(made)
    }
}
