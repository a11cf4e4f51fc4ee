//! Loads a checkpoint into the parameters of a network: decides which names are used, and explains
//! what differs.

use super::Checkpoint;
use crate::prefix::{self, Expected};
use crate::state::Located;
use crate::{Error, Result};
use invariances_core::names::shown;
use invariances_core::say;
use invariances_ops::Params;
use std::collections::HashMap;

impl Checkpoint {
    /// Loads every value into `params`, by name, converted to the element type and device of
    /// `params`: bf16 and f16 weights become f32 in a network of f32, without rounding. Either all
    /// values are loaded or none: names and shapes are compared before any tensor is read.
    ///
    /// The file's names are used unchanged or without a prefix that all of them share, whichever
    /// gives exactly the network's names. Counters of batches (`num_batches_tracked`) are ignored.
    ///
    /// # Errors
    /// [`Error::Content`] if names or shapes differ. The error lists every missing and unexpected
    /// name and every wrong shape, and the prefix below which the file has the network's names,
    /// if there is one. [`Error::Io`] if the file cannot be read.
    pub fn load_into(&self, params: &Params) -> Result<()> {
        let expected = params.shapes();
        let cuts = self.cuts();
        let fits = |cut: &&usize| prefix::agreement(&self.state.tensors, **cut, &expected).1;
        let Some(&cut) = cuts.iter().find(fits) else {
            return Err(self.of_another_network(params, &expected, &cuts));
        };
        self.say_decision(cut);
        let mut values = HashMap::new();
        for tensor in &self.state.tensors {
            let name = &tensor.name[cut..];
            if expected.contains_key(name) {
                values.insert(name.to_owned(), self.load(tensor)?);
            }
        }
        params.set_all(&values)
    }

    /// Loads values into `params` under other names; either all are loaded or none. `rename`
    /// receives a name and a shape of the file and returns the network's name and shape, or
    /// `None` for a tensor that the network does not have. The number of elements must stay the
    /// same. `what` describes the expected file in the error message.
    ///
    /// # Errors
    /// As [`Checkpoint::load_into`].
    pub fn load_renamed(
        &self,
        params: &Params,
        what: &str,
        rename: impl Fn(&str, &[usize]) -> Option<(String, Vec<usize>)>,
    ) -> Result<()> {
        let mut fault = None;
        for cut in self.cuts() {
            let chosen: Vec<(String, &Located, Vec<usize>)> = self
                .state
                .tensors
                .iter()
                .filter_map(|t| rename(&t.name[cut..], &t.shape).map(|(n, s)| (n, t, s)))
                .collect();
            let shapes = chosen
                .iter()
                .map(|(name, _, shape)| (name.as_str(), &shape[..]));
            if let Err(error) = params.check_shapes(&shapes.collect()) {
                // Keep the first error: it is about the names that `entries` returns.
                fault.get_or_insert(error);
                continue;
            }
            self.say_decision(cut);
            let mut values = HashMap::new();
            for (name, tensor, shape) in chosen {
                // `set_all` converts each value to the type of its parameter or buffer.
                values.insert(name, self.load(tensor)?.reshape(shape)?);
            }
            return params.set_all(&values);
        }
        let fault = fault.map_or(String::new(), |e| format!(": {e}"));
        Err(self.source.wrong(format!("expected {what}{fault}")))
    }

    /// Returns the lengths of the prefixes that all names share. The removed prefix comes first.
    fn cuts(&self) -> Vec<usize> {
        let mut cuts = prefix::shared(&self.state.tensors);
        cuts.retain(|cut| *cut != self.cut);
        cuts.insert(0, self.cut);
        cuts
    }

    /// Prints which names are used, if this differs from the notice printed at opening.
    fn say_decision(&self, cut: usize) {
        if cut != self.cut && cut > 0 {
            self.say_prefix(cut);
        } else if cut != self.cut {
            let file = self.path().file_name().unwrap_or_default().display();
            let prefix = shown(self.prefix());
            say(&format!(
                "{file}: kept the prefix {prefix:?}, which the network's names have"
            ));
        }
    }

    fn of_another_network(&self, params: &Params, expected: &Expected, cuts: &[usize]) -> Error {
        let tensors = &self.state.tensors;
        let agree = |cut: usize| prefix::agreement(tensors, cut, expected).0;
        // Among the prefixes with the most matches, the first one. `max_by_key` returns the last
        // maximum, hence `rev`.
        let cut = cuts.iter().copied().rev().max_by_key(|cut| agree(*cut));
        let cut = cut.unwrap_or(self.cut);
        let named = tensors.iter().map(|t| (&t.name[cut..], &t.shape[..]));
        let mut text = match params.check_shapes(&named.collect()) {
            Ok(()) => "these weights are of another network".into(),
            Err(error) => error.to_string(),
        };
        for name in expected.keys() {
            if let Some(what) = self.unread(name, cut) {
                text += &format!(
                    "\n  {name} is stored in the file as an object of {what}, not as a tensor: save \
                     `torch.as_tensor(x)` instead"
                );
            }
        }
        text += &prefix::advice(tensors, self.cut, expected);
        self.source.wrong(text)
    }
}
