//! Rows repeated for networks that share a condition.

use crate::Result;
use candle_core::Tensor;

/// Repeats each row of x (rows, width) `times` times. The copies of a row are adjacent; the
/// result has shape (rows·times, width).
pub fn repeated(x: &Tensor, times: usize) -> Result<Tensor> {
    if times == 1 {
        return Ok(x.clone());
    }
    let (rows, width) = x.dims2()?;
    let each = x.unsqueeze(1)?.broadcast_as((rows, times, width))?;
    Ok(each.contiguous()?.reshape((rows * times, width))?)
}
