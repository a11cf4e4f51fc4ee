//! Element-wise passes, on several threads where there are many elements.

use super::Number;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// From this number of elements on, an element-wise pass is faster on several threads.
pub(crate) const PARALLEL: usize = 1 << 17;

/// Creates a vector whose elements are written once, in pieces on all threads if there are many.
///
/// `write` receives the start of a piece and the piece. Pieces are `piece` long, but for the last.
///
/// # Safety
/// `write` must write every element of the piece that it receives, or panic.
pub(crate) unsafe fn written<T: Copy + Send>(
    length: usize,
    piece: usize,
    write: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    let mut values: Vec<T> = Vec::with_capacity(length);
    let room = &mut values.spare_capacity_mut()[..length];
    if length < PARALLEL {
        write(0, room);
    } else {
        let pieces = room.par_chunks_mut(piece.max(1)).enumerate();
        pieces.for_each(|(i, room)| write(i * piece.max(1), room));
    }
    // SAFETY: the capacity is at least `length`, and the pieces cover all elements. The caller
    // guarantees that `write` wrote every element of each.
    unsafe { values.set_len(length) };
    values
}

/// Number of elements per task in a parallel element-wise pass.
const PIECE: usize = 1 << 14;

/// Applies `f` to each element.
pub(crate) fn map<T: Number>(x: &[T], f: impl Fn(T) -> T + Sync) -> Vec<T> {
    let write = |at: usize, y: &mut [MaybeUninit<T>]| {
        y.iter_mut().zip(&x[at..]).for_each(|(y, &x)| {
            y.write(f(x));
        });
    };
    // SAFETY: a piece ends at x.len() at the latest, so `zip` reaches each of its elements.
    unsafe { written(x.len(), PIECE, write) }
}

/// Applies `f` to each pair of elements; the result is as long as the shorter slice.
pub(crate) fn map2<T: Number>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let length = a.len().min(b.len());
    let write = |at: usize, y: &mut [MaybeUninit<T>]| {
        let pairs = a[at..].iter().zip(&b[at..]);
        y.iter_mut().zip(pairs).for_each(|(y, (&a, &b))| {
            y.write(f(a, b));
        });
    };
    // SAFETY: a piece ends at `length` at the latest, and a and b are at least that long, so `zip`
    // reaches each of its elements.
    unsafe { written(length, PIECE, write) }
}
