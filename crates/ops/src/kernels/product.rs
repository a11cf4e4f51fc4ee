//! Matrix products of slices, on one thread or several.

use super::Number;
use gemm::Parallelism;
use rayon::prelude::*;

/// A matrix view: the elements, and the steps between rows and between columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// Computes out (m × n, rows `pitch` apart) = keep·out + a (m × k) · b (k × n) on this thread.
/// With k = 0, `out` is left unchanged.
pub(crate) fn product<T: Number>(
    sizes: (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
    out: &mut [T],
    pitch: usize,
    keep: bool,
) {
    let (m, n, _) = sizes;
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * pitch + n <= out.len());
    // SAFETY: the assertion bounds every element of `out` that is accessed, and all elements of a
    // slice are initialised.
    unsafe { product_at(sizes, a, b, out.as_mut_ptr(), pitch, keep) };
}

/// Number of rows of a result that one thread computes at a time. It is fixed, so that sums do
/// not depend on the number of threads.
pub(crate) const SHARE: usize = 256;

/// From this number of multiplications on, a product is faster on several threads.
pub(crate) const LARGE: usize = 1 << 22;

/// As [`product`] with contiguous rows of `out`; runs on all threads if the product is large
/// enough.
pub(crate) fn product_shared<T: Number>(
    (m, n, k): (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
    out: &mut [T],
    keep: bool,
) {
    if m <= SHARE || m * n * k < LARGE {
        return product((m, n, k), a, b, out, n, keep);
    }
    let shares = out[..m * n].par_chunks_mut(SHARE * n).enumerate();
    shares.for_each(|(i, out)| {
        let a = Matrix {
            values: &a.values[i * SHARE * a.row..],
            ..a
        };
        product((out.len() / n, n, k), a, b, out, n, keep);
    });
}

/// Returns a (m × k) · b (k × n) as contiguous rows, computed on this thread. The memory is
/// written once, without zeros before.
pub(crate) fn product_new<T: Number>(
    sizes: (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
) -> Vec<T> {
    let (m, n, k) = sizes;
    if k == 0 {
        return vec![T::default(); m * n];
    }
    let mut out: Vec<T> = Vec::with_capacity(m * n);
    if m * n > 0 {
        // SAFETY: the capacity is at least m·n. Without `keep` the product does not read the
        // elements, and as k > 0 it writes every one, so all m·n are initialised.
        unsafe {
            product_at(sizes, a, b, out.as_mut_ptr(), n, false);
            out.set_len(m * n);
        }
    }
    out
}

/// As [`product`], to a pointer.
///
/// # Safety
/// `out` must be valid for writes of m rows of n elements, `pitch` apart, that no other thread
/// accesses. With `keep` these elements must be initialised.
pub(crate) unsafe fn product_at<T: Number>(
    (m, n, k): (usize, usize, usize),
    a: Matrix<T>,
    b: Matrix<T>,
    out: *mut T,
    pitch: usize,
    keep: bool,
) {
    if k == 0 {
        return;
    }
    assert!((m - 1) * a.row + (k - 1) * a.column < a.values.len());
    assert!((k - 1) * b.row + (n - 1) * b.column < b.values.len());
    // SAFETY: the assertions above bound every element that is read from `a` and `b`; the caller
    // guarantees that the elements of `out` are valid.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            pitch as isize,
            keep,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Copies `images` blocks of shape (channels, positions) into one matrix
/// (channels, images·positions).
pub(crate) fn side_by_side<T: Number>(
    blocks: &[T],
    out: &mut [T],
    channels: usize,
    positions: usize,
    images: usize,
) {
    for g in 0..images {
        for c in 0..channels {
            out[(c * images + g) * positions..][..positions]
                .copy_from_slice(&blocks[(g * channels + c) * positions..][..positions]);
        }
    }
}

/// Returns a (batch × inputs) times the transpose of `weight` (outputs × inputs), both contiguous,
/// on all threads.
pub(crate) fn product_transposed<T: Number>(
    (batch, outputs, inputs): (usize, usize, usize),
    a: &[T],
    weight: &[T],
) -> Vec<T> {
    assert!(a.len() >= batch * inputs && weight.len() >= outputs * inputs);
    let mut out = vec![T::default(); batch * outputs];
    let parallelism = match candle_core::utils::get_num_threads() {
        0 | 1 => Parallelism::None,
        n => Parallelism::Rayon(n),
    };
    let (rows, columns) = (outputs as isize, inputs as isize);
    // SAFETY: `out` has batch·outputs elements; the assertion bounds what is read from `a` and
    // `weight`. The strides describe contiguous matrices, the weight's transposed.
    unsafe {
        gemm::gemm(
            batch,
            outputs,
            inputs,
            out.as_mut_ptr(),
            1,
            rows,
            false,
            a.as_ptr(),
            1,
            columns,
            weight.as_ptr(),
            columns,
            1,
            T::default(),
            T::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
    out
}
