//! The networks s and t on a block of rows: forward, backward, and the gradients of their layers.

use super::half_step::{Before, Step};
use super::{Nets, SLOPE};
use crate::kernels::Real;
use crate::kernels::product::{Matrix, product, product_new, product_shared};
use crate::slices::slice;
use candle_core::Tensor;
use rayon::prelude::*;

/// The layers of a network as slices: (weight, bias).
pub(super) type Net<'a, T> = Vec<(&'a [T], &'a [T])>;

/// Calls `f` with the elements of all layers.
pub(super) fn with_nets<T: Real, R>(
    nets: &Nets,
    f: impl FnOnce(&[Net<T>; 4]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let layers = nets.iter().flatten();
    let guards: Vec<_> = layers
        .flat_map(|(w, b)| [w.storage_and_layout(), b.storage_and_layout()])
        .collect();
    let mut views = Vec::with_capacity(guards.len());
    for (storage, layout) in &guards {
        views.push(slice::<T>(storage, layout)?);
    }
    let mut pairs = views.chunks_exact(2).map(|p| (p[0], p[1]));
    let nets = [0, 1, 2, 3].map(|i| pairs.by_ref().take(nets[i].len()).collect());
    f(&nets)
}

/// Returns a matrix view of rows of `width` elements.
pub(super) fn row_major<T>(values: &[T], width: usize) -> Matrix<'_, T> {
    Matrix {
        values,
        row: width,
        column: 1,
    }
}

/// Returns the transposed view of rows of `width` elements.
pub(super) fn transposed<T>(values: &[T], width: usize) -> Matrix<'_, T> {
    Matrix {
        values,
        row: 1,
        column: width,
    }
}

/// Returns each bias repeated for every row, (outputs, rows).
pub(super) fn biases<T: Copy>(bias: &[T], rows: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(bias.len() * rows);
    bias.iter().for_each(|&b| out.resize(out.len() + rows, b));
    out
}

fn leaky<T: Real>(values: &mut [T]) {
    let slope = T::from_f64(SLOPE);
    for x in values {
        *x *= if *x > T::zero() { T::ONE } else { slope };
    }
}

/// Returns the results of the hidden layers and of the last layer. `start` is the result of the
/// first layer before the contribution of `net_input` is added: the biases, or the biases and the
/// contribution of the condition.
pub(super) fn net_forward<T: Real>(
    net: &Net<T>,
    net_input: &[T],
    mut start: Vec<T>,
    rows: usize,
) -> (Vec<Vec<T>>, Vec<T>) {
    let mut results: Vec<Vec<T>> = Vec::with_capacity(net.len());
    for (l, (weight, bias)) in net.iter().enumerate() {
        let input = results.last().map_or(net_input, |h| h.as_slice());
        let (width, outputs) = (weight.len() / bias.len(), bias.len());
        let mut out = if l == 0 {
            std::mem::take(&mut start)
        } else {
            biases(bias, rows)
        };
        product_shared(
            (outputs, rows, input.len() / rows),
            row_major(weight, width),
            row_major(input, rows),
            &mut out,
            true,
        );
        if l + 1 < net.len() {
            leaky(&mut out);
        }
        results.push(out);
    }
    let last = results.pop().unwrap_or_default();
    (results, last)
}

/// Computes, from the gradient of a network's result, the gradients of every layer before its
/// activation, and that of the network's input.
pub(super) fn net_backward<T: Real>(
    net: &Net<T>,
    hidden: &[Vec<T>],
    gradient: Vec<T>,
    rows: usize,
) -> (Vec<Vec<T>>, Vec<T>) {
    let slope = T::from_f64(SLOPE);
    let mut before = vec![gradient];
    for (l, (weight, bias)) in net.iter().enumerate().rev() {
        let (inputs, outputs) = (weight.len() / bias.len(), bias.len());
        let gradient = &before[before.len() - 1];
        let mut to_input = vec![T::zero(); inputs * rows];
        product_shared(
            (inputs, rows, outputs),
            transposed(weight, inputs),
            row_major(gradient, rows),
            &mut to_input,
            false,
        );
        if l > 0 {
            for (g, h) in to_input.iter_mut().zip(&hidden[l - 1]) {
                *g *= if *h > T::zero() { T::ONE } else { slope };
            }
        }
        before.push(to_input);
    }
    let to_input = before.pop().unwrap_or_default();
    before.reverse();
    (before, to_input)
}

/// Computes the gradients of a weight and of its bias from the inputs and gradients of all
/// blocks: one product over the whole batch, added block by block.
fn layer_gradient<'a, T: Real + 'a>(
    (outputs, inputs): (usize, usize),
    blocks: impl Iterator<Item = (&'a [T], &'a [T])>,
) -> [Vec<T>; 2] {
    let mut to_weight = Vec::new();
    let mut to_bias = vec![T::zero(); outputs];
    for (input, gradient) in blocks {
        let rows = gradient.len() / outputs;
        let (a, b) = (row_major(gradient, rows), transposed(input, rows));
        let sizes = (outputs, inputs, rows);
        if to_weight.is_empty() {
            to_weight = product_new(sizes, a, b);
        } else {
            product(sizes, a, b, &mut to_weight, inputs, true);
        }
        for (b, line) in to_bias.iter_mut().zip(gradient.chunks_exact(rows)) {
            line.iter().for_each(|&g| *b += g);
        }
    }
    [to_weight, to_bias]
}

/// Computes the gradients of all layers, in the order of [`super::parameters`]; the layers run in
/// parallel.
pub(super) fn layer_gradients<T: Real>(
    nets: &Nets,
    tape: &[[Step<T>; 2]],
    before: &[[Before<T>; 2]],
) -> candle_core::Result<Vec<Tensor>> {
    let one = |&(net, layer): &(usize, usize)| -> candle_core::Result<[Tensor; 2]> {
        let (weight, bias) = &nets[net][layer];
        let blocks = tape.iter().zip(before).map(|(steps, before)| {
            let step = &steps[net / 2];
            let input = match layer {
                0 => &step.input,
                l => &step.hidden[net % 2][l - 1],
            };
            let gradient = &before[net / 2][net % 2][layer];
            (input.as_slice(), gradient.as_slice())
        });
        let [to_weight, to_bias] = layer_gradient(weight.dims2()?, blocks);
        Ok([
            Tensor::from_vec(to_weight, weight.shape(), weight.device())?,
            Tensor::from_vec(to_bias, bias.shape(), bias.device())?,
        ])
    };
    let places = nets.iter().enumerate();
    let places = places.flat_map(|(n, layers)| (0..layers.len()).map(move |l| (n, l)));
    let places: Vec<_> = places.collect();
    // One layer per task, because the layers differ in size.
    let all = places.par_iter().with_max_len(1).map(one);
    let all: Vec<_> = all.collect::<candle_core::Result<_>>()?;
    Ok(all.into_iter().flatten().collect())
}
