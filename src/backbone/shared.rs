//! [`Network`] for `Arc<N>`, so that a shared network is a network too. Every function is passed
//! on, also those with a default body: the network may have its own.

use super::gradients::GradientCheck;
use super::{LayerInfo, Network, Preprocess};
use crate::ops::Placement;
use crate::{Outline, Result};
use candle_core::Tensor;
use polars::prelude::DataFrame;
use std::ops::Range;
use std::sync::Arc;

impl<N: Network + ?Sized> Network for Arc<N> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn layers(&self) -> Vec<String> {
        (**self).layers()
    }

    fn layer(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        (**self).layer(index, x)
    }

    fn aliases(&self) -> Vec<(String, String)> {
        (**self).aliases()
    }

    fn output(&self) -> usize {
        (**self).output()
    }

    fn preprocess(&self) -> Preprocess {
        (**self).preprocess()
    }

    fn placement(&self) -> Option<Placement> {
        (**self).placement()
    }

    fn run(&self, x: &Tensor, layers: Range<usize>) -> Result<Tensor> {
        (**self).run(x, layers)
    }

    fn shapes(&self, image: [usize; 3]) -> Result<Vec<Vec<usize>>> {
        (**self).shapes(image)
    }

    fn parameters(&self) -> Option<Vec<usize>> {
        (**self).parameters()
    }

    fn outline(&self) -> Outline {
        (**self).outline()
    }

    fn no_gradient(&self) -> Option<String> {
        (**self).no_gradient()
    }

    fn check_gradients(&self, images: &Tensor) -> Result<GradientCheck> {
        (**self).check_gradients(images)
    }

    fn position(&self, layer: &str) -> Result<usize> {
        (**self).position(layer)
    }

    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        (**self).forward(images)
    }

    fn encode(&self, images: &Tensor, layer: &str) -> Result<Tensor> {
        (**self).encode(images, layer)
    }

    fn decode(&self, z: &Tensor, layer: &str) -> Result<Tensor> {
        (**self).decode(z, layer)
    }

    fn encode_all(&self, images: &Tensor, layers: &[&str]) -> Result<Vec<Tensor>> {
        (**self).encode_all(images, layers)
    }

    fn classify(&self, images: &Tensor) -> Result<Tensor> {
        (**self).classify(images)
    }

    fn describe(&self, size: usize) -> Result<Vec<LayerInfo>> {
        (**self).describe(size)
    }

    fn table(&self, size: usize) -> Result<DataFrame> {
        (**self).table(size)
    }
}
