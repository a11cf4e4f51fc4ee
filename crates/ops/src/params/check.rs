//! Sets the values of all parameters from tensors, after names and shapes have been compared.

use super::{Entry, Params};
use crate::{Error, Result};
use candle_core::{Tensor, Var};
use invariances_core::names::{is_bookkeeping, nearest, shown};
use std::collections::{BTreeMap, HashMap};

/// Maximum number of faults that an error lists.
const LISTED: usize = 20;
/// Maximum number of names, with the same shape, that a missing name is compared with.
const COMPARED: usize = 500;

impl Params {
    /// Sets every value from `tensors`, by name, converted to the dtype and device of these
    /// parameters.
    ///
    /// All names and shapes are compared, and all values converted, before the first value changes. Batch
    /// counters in
    /// `tensors` (`num_batches_tracked`), which evaluation does not need, are ignored if this set
    /// has none.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every missing name, every unexpected name and every wrong shape.
    /// For a missing name it suggests the unexpected name that is probably meant.
    pub fn set_all(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        self.check_all(tensors)?;
        let entries = self.lock();
        // All values are converted before the first is set: a conversion can fail on a device.
        let convert = |(name, entry): (&String, &Entry)| {
            let value = tensors[name]
                .to_dtype(entry.var.dtype())?
                .to_device(&self.device)?;
            // The copy is needed: a variable cannot be set from a value that shares its memory.
            Ok((entry.var.clone(), value.copy()?))
        };
        let values: Vec<(Var, Tensor)> = entries.iter().map(convert).collect::<Result<_>>()?;
        for (var, value) in values {
            var.set(&value)?;
        }
        Ok(())
    }

    /// Checks whether [`Params::set_all`] would accept these tensors; changes nothing.
    ///
    /// # Errors
    /// As [`Params::set_all`].
    pub fn check_all(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let shapes = tensors.iter().map(|(n, t)| (n.as_str(), t.dims()));
        self.check_shapes(&shapes.collect())
    }

    /// Checks whether [`Params::set_all`] would accept tensors with these names and shapes.
    ///
    /// # Errors
    /// As [`Params::set_all`].
    pub fn check_shapes(&self, shapes: &BTreeMap<&str, &[usize]>) -> Result<()> {
        let entries = self.lock();
        let mut unexpected: Vec<&str> = shapes
            .keys()
            .copied()
            .filter(|n| !entries.contains_key(*n) && !is_bookkeeping(n))
            .collect();
        let mut faults = Vec::new();
        for (name, entry) in entries.iter() {
            let expected = entry.var.dims();
            match shapes.get(name.as_str()) {
                None if faults.len() < LISTED => {
                    // The parameter may be present under another name; that tensor then has the
                    // same shape.
                    let alike: Vec<&str> = unexpected
                        .iter()
                        .copied()
                        .filter(|n| shapes[n] == expected)
                        .take(COMPARED)
                        .collect();
                    let near = nearest(name, &alike);
                    unexpected.retain(|n| Some(*n) != near);
                    let near = near.map_or(String::new(), |n| {
                        format!("; perhaps the unexpected {} is meant", shown(n))
                    });
                    faults.push(format!("missing {name} {expected:?}{near}"));
                }
                None => faults.push(format!("missing {name} {expected:?}")),
                Some(dims) if *dims != expected => {
                    faults.push(format!("{name} has shape {dims:?}, expected {expected:?}"));
                }
                Some(_) => {}
            }
        }
        faults.extend(
            unexpected
                .iter()
                .map(|n| format!("unexpected {}", shown(n))),
        );
        if !faults.is_empty() {
            let more = faults.len().saturating_sub(LISTED);
            faults.truncate(LISTED);
            let tail = if more > 0 {
                format!("\n  … and {more} more")
            } else {
                String::new()
            };
            return Err(Error::invalid(format!(
                "these weights are of another network:\n  {}{tail}",
                faults.join("\n  ")
            )));
        }
        Ok(())
    }
}
