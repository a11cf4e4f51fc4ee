//! The independent classifier, which predicts attributes of generated and original images.

use super::same_answers;
use crate::backbone::{Backbone, Network};
use crate::data::{Attribute, Factors};
use crate::ops::widened as wide;
use crate::{Error, Result};
use candle_core::{D, Tensor};
use std::collections::BTreeMap;

/// An independent classifier that predicts attributes of images. Its predictions on a
/// reconstruction are compared with those on the original. The network must not have taken part
/// in making the images and must not be the network under study.
///
/// Its outputs are the logits of all [`Attribute`]s, concatenated in their order.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::backbone::plain_small;
/// use invariances::metric::IndependentClassifier;
/// let faces = Faces::new(32, 0)?;
/// let questions = faces.attributes();
/// let outputs = questions.iter().map(|q| q.answers.len()).sum();
/// let independent = IndependentClassifier::new(&plain_small(outputs, &Params::new(0).root())?, &questions)?;
/// let batch = faces.batch(Split::Test, 0, 4)?;
/// assert_eq!(independent.names(&batch.images)?["glasses"].len(), 4);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct IndependentClassifier {
    network: Backbone,
    attributes: Vec<Attribute>,
}

impl IndependentClassifier {
    /// Creates a classifier from a network with one output per answer of each attribute.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no attributes.
    pub fn new(network: &Backbone, attributes: &[Attribute]) -> Result<Self> {
        if attributes.is_empty() {
            return Err(Error::invalid(
                "expected at least one attribute for an independent classifier, found none",
            ));
        }
        Ok(Self {
            network: network.clone(),
            attributes: attributes.to_vec(),
        })
    }

    /// Returns the attributes that it predicts.
    pub fn attributes(&self) -> Vec<Attribute> {
        self.attributes.clone()
    }

    /// Returns the classifier's network.
    pub fn network(&self) -> Backbone {
        self.network.clone()
    }

    /// Returns the logits of each attribute, (batch, answers).
    fn logits(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let all = self.network.forward(images)?;
        let outputs: usize = self.attributes.iter().map(|a| a.answers.len()).sum();
        if all.dims().last() != Some(&outputs) {
            return Err(Error::shape(format!(
                "expected a network with {outputs} outputs, one per answer of each attribute, \
                 found outputs of shape {:?}",
                all.dims()
            )));
        }
        let mut from = 0;
        let mut parts = Vec::new();
        for attribute in &self.attributes {
            let count = attribute.answers.len();
            parts.push(all.narrow(D::Minus1, from, count)?.contiguous()?);
            from += count;
        }
        Ok(parts)
    }

    /// Predicts, per attribute, the index of the answer for each image, without a graph.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not fit the network.
    pub fn names(&self, images: &Tensor) -> Result<BTreeMap<String, Vec<u32>>> {
        let mut answers: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let count = images.dims().first().copied().unwrap_or(0);
        for start in (0..count).step_by(128) {
            let images = images.narrow(0, start, 128.min(count - start))?.detach();
            for (attribute, logits) in self.attributes.iter().zip(self.logits(&images)?) {
                let predictions = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
                answers
                    .entry(attribute.name.clone())
                    .or_default()
                    .extend(predictions);
            }
        }
        Ok(answers)
    }

    /// Returns, per attribute and image, 1 if the predictions for `a` and `b` are equal, else 0.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes of `a` and `b` differ.
    pub fn agreement(&self, a: &Tensor, b: &Tensor) -> Result<BTreeMap<String, Vec<f64>>> {
        if a.dims() != b.dims() {
            return Err(Error::shape(format!(
                "expected two batches of images of the same shape, found {:?} and {:?}",
                a.dims(),
                b.dims()
            )));
        }
        let (a, b) = (self.names(a)?, self.names(b)?);
        let agreements = a.into_iter().map(|(name, a)| {
            let same = same_answers(&a, &b[&name])?;
            Ok((name, same))
        });
        agreements.collect()
    }

    /// Returns, per attribute, the index of the correct answer for each image, from its factors.
    ///
    /// # Errors
    /// [`Error::Unknown`] if a factor is unknown.
    pub fn truth(&self, factors: &Factors) -> Result<BTreeMap<String, Vec<u32>>> {
        let each = self.attributes.iter();
        each.map(|a| Ok((a.name.clone(), a.of(factors)?))).collect()
    }

    /// Returns, per attribute and image, 1 if the prediction is correct, else 0.
    ///
    /// # Errors
    /// [`Error::Unknown`] if a factor is unknown.
    pub fn right(&self, images: &Tensor, factors: &Factors) -> Result<BTreeMap<String, Vec<f64>>> {
        let truth = self.truth(factors)?;
        let each = self.names(images)?.into_iter().map(|(name, predictions)| {
            let correct = same_answers(&predictions, &truth[&name])?;
            Ok((name, correct))
        });
        each.collect()
    }

    /// Computes the training loss: the cross-entropy in nats, averaged over attributes and
    /// images, a scalar.
    ///
    /// # Errors
    /// [`Error::Unknown`] if a factor is unknown; [`Error::Shape`] if the images do not fit the
    /// network.
    pub fn loss(&self, images: &Tensor, factors: &Factors) -> Result<Tensor> {
        let mut losses = Vec::new();
        for (attribute, logits) in self.attributes.iter().zip(self.logits(images)?) {
            let truth = Tensor::new(attribute.of(factors)?, logits.device())?;
            losses.push(candle_nn::loss::cross_entropy(&wide(&logits)?, &truth)?);
        }
        Ok(Tensor::stack(&losses, 0)?.mean_all()?)
    }
}
