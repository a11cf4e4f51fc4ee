use crate::{Error, Result};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Makes what the next step needs while this one computes: batches drawn on another thread.
///
/// What it gives for a number is what its function gives for it, whatever was asked before, so that a resumed training
/// sees what it would have seen.
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
    /// The number that is being made, and by whom.
    next: Mutex<Option<(u64, JoinHandle<Result<T>>)>>,
}

type Make<T> = dyn Fn(u64) -> Result<T> + Send + Sync;

impl<T> fmt::Debug for Ahead<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ahead")
    }
}

impl<T: Send + 'static> Ahead<T> {
    /// From a function of a step's number. Nothing is made before it is first asked for.
    pub fn new(make: impl Fn(u64) -> Result<T> + Send + Sync + 'static) -> Self {
        Self {
            make: Arc::new(make),
            next: Mutex::new(None),
        }
    }

    /// What the function gives for `step`; that for `step + 1` is begun.
    ///
    /// # Errors
    /// What the function returns; [`Error::Invalid`] where it panicked.
    pub fn at(&self, step: u64) -> Result<T> {
        // The lock guards a place, whole at any time: one that a panic left is as good.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let made = match next.take() {
            Some((number, thread)) if number == step => thread
                .join()
                .unwrap_or_else(|_| Err(Error::invalid("making the next batch panicked")))?,
            _ => (self.make)(step)?,
        };
        let make = self.make.clone();
        let after = step.saturating_add(1);
        *next = Some((after, std::thread::spawn(move || make(after))));
        Ok(made)
    }
}
