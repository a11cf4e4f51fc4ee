//! Gradients of operations with many parameters.
//!
//! candle's operations have three arguments at most, and its backward pass adds every gradient to zeros made
//! for it: four passes over memory for each parameter and step. Here an operation stands in the graph for all
//! its parameters ([`stand`]), and whoever runs the backward pass may take their gradients as they come
//! ([`backward`], or the optimiser, which updates by them at once).

use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Shape, Tensor, TensorId, bail,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

/// Who takes the gradients of parameters during a backward pass.
pub trait Sink {
    /// A share of this parameter's gradient.
    fn take(&mut self, parameter: &Tensor, gradient: Tensor) -> Result<()>;

    /// An operation that no other shares these parameters with has given all its shares.
    fn finish(&mut self, _parameters: &[Tensor]) -> Result<()> {
        Ok(())
    }
}

thread_local! {
    static SINK: RefCell<Option<Rc<RefCell<dyn Sink>>>> = const { RefCell::new(None) };
    /// What an operation's backward pass failed with, which candle would make a text of.
    static FAILURE: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// An error of ours on its way through candle's backward pass; [`failure`] has it back.
pub fn through_candle(error: Error) -> candle_core::Error {
    let text = error.to_string();
    FAILURE.with(|f| *f.borrow_mut() = Some(error));
    candle_core::Error::Msg(text)
}

/// The error that a backward pass failed with, as it was before [`through_candle`].
pub fn failure(error: candle_core::Error) -> Error {
    let text = error.to_string();
    let ours = FAILURE.with(|f| f.borrow_mut().take());
    // An error that candle's own `backward` returned to the caller may still be there.
    let ours = ours.filter(|ours| text.contains(&ours.to_string()));
    ours.unwrap_or(Error::Tensor(error))
}

fn active() -> Option<Rc<RefCell<dyn Sink>>> {
    SINK.with(|s| s.borrow().clone())
}

/// Runs `f` while `sink` takes the gradients that this thread's backward pass gives, and gives it back.
pub fn with_sink<S: Sink + 'static, R>(sink: S, f: impl FnOnce() -> R) -> (S, R) {
    /// Puts the sink before this one back, also where `f` panics.
    struct Restore(Option<Rc<RefCell<dyn Sink>>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SINK.with(|s| *s.borrow_mut() = self.0.take());
        }
    }
    let sink = Rc::new(RefCell::new(sink));
    let before = SINK.with(|s| s.borrow_mut().replace(sink.clone()));
    let restore = Restore(before);
    let result = f();
    drop(restore);
    match Rc::try_unwrap(sink) {
        Ok(sink) => (sink.into_inner(), result),
        // `active` is the only other holder, and only within a call on this thread.
        Err(_) => unreachable!("a sink outlived its backward pass"),
    }
}

/// Gives a parameter's gradient to the sink; without one it comes back, for candle to sum.
pub fn hand_over(parameter: &Tensor, gradient: Tensor) -> candle_core::Result<Option<Tensor>> {
    match active() {
        Some(sink) if parameter.is_variable() => {
            let taken = sink.borrow_mut().take(parameter, gradient);
            taken.map(|()| None).map_err(through_candle)
        }
        _ => Ok(Some(gradient)),
    }
}

/// Gives the gradients of an operation's parameters to the sink, and says that they are whole where `alone`, no
/// other operation having a share in them; without a sink they come back, for a [`Slot`].
pub fn give(
    parameters: &[Tensor],
    gradients: Vec<Tensor>,
    alone: bool,
) -> Result<Option<Vec<Tensor>>> {
    let Some(sink) = active() else {
        return Ok(Some(gradients));
    };
    let mut sink = sink.borrow_mut();
    for (parameter, gradient) in parameters.iter().zip(gradients) {
        if parameter.is_variable() {
            sink.take(parameter, gradient)?;
        }
    }
    if alone {
        sink.finish(parameters)?;
    }
    Ok(None)
}

/// Adds up what it is given.
#[derive(Default)]
struct Collect(HashMap<TensorId, (Tensor, Tensor)>);

impl Sink for Collect {
    fn take(&mut self, parameter: &Tensor, gradient: Tensor) -> Result<()> {
        let sum = match self.0.remove(&parameter.id()) {
            Some((_, before)) => (before + gradient)?,
            None => gradient,
        };
        self.0.insert(parameter.id(), (parameter.clone(), sum));
        Ok(())
    }
}

/// The gradients of `loss`, as `loss.backward()` gives them, with fewer passes over memory for the parameters
/// of this crate's own operations.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use invariances_ops::{Activation, backward, dense};
/// let w = Var::new(&[[2f32]], &Device::Cpu)?;
/// let x = Tensor::new(&[[3f32]], &Device::Cpu)?;
/// let y = dense(&x, &w, &Tensor::zeros(1, x.dtype(), x.device())?, Activation::None)?;
/// let gradients = backward(&y.sum_all()?)?;
/// assert_eq!(gradients.get(&w).unwrap().to_vec2::<f32>()?, [[3.0]]);
/// # Ok::<(), invariances_ops::Error>(())
/// ```
///
/// # Errors
/// [`Error::Tensor`] where an operation has no gradient.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let (collected, store) = with_sink(Collect::default(), || loss.backward());
    let mut store = store.map_err(failure)?;
    for (parameter, gradient) in collected.0.into_values() {
        let sum = match store.remove(&parameter) {
            Some(other) => (other + gradient)?,
            None => gradient,
        };
        store.insert(&parameter, sum);
    }
    Ok(store)
}

/// Where the backward pass of an operation leaves its parameters' gradients.
#[derive(Default)]
pub struct Slot(Mutex<Vec<(ThreadId, Vec<Tensor>)>>);

impl Slot {
    /// Leaves the gradients of `parameters`, in the order that [`stand`] had them in.
    pub fn leave(&self, parameters: &[Tensor], gradients: Vec<Tensor>) -> Result<()> {
        let Some(gradients) = give(parameters, gradients, false)? else {
            return Ok(());
        };
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each thread's backward pass takes what it left itself.
        let thread = std::thread::current().id();
        left.retain(|(t, _)| *t != thread);
        left.push((thread, gradients));
        Ok(())
    }

    fn take(&self, index: usize) -> Option<Tensor> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = std::thread::current().id();
        let place = left.iter().position(|(t, _)| *t == thread)?;
        let gradient = left[place].1.get(index)?.clone();
        // The stands are visited from the last to the first.
        if index == 0 {
            left.swap_remove(place);
        }
        Some(gradient)
    }
}

/// A 0 in the graph that stands for one parameter and for the stands before it.
struct Stand {
    slot: Arc<Slot>,
    index: usize,
}

impl CustomOp2 for Stand {
    fn name(&self) -> &'static str {
        "parameter"
    }

    fn cpu_fwd(
        &self,
        before: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((before.clone(), ().into()))
    }

    fn cuda_fwd(
        &self,
        before: &CudaStorage,
        layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((before.try_clone(layout)?, ().into()))
    }

    fn metal_fwd(
        &self,
        before: &MetalStorage,
        layout: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        Ok((before.try_clone(layout)?, ().into()))
    }

    fn bwd(
        &self,
        before: &Tensor,
        parameter: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let before = before.track_op().then(|| gradient.clone());
        if active().is_some() && parameter.is_variable() {
            return Ok((before, None));
        }
        match self.slot.take(self.index) {
            Some(gradient) => Ok((before, Some(gradient))),
            None => bail!("the gradient of a parameter was taken before it was there"),
        }
    }
}

/// A 0 that depends on all `parameters`, and the slot where the operation that takes it as an argument leaves
/// their gradients. It has the number type and device of `like`.
pub fn stand(parameters: &[Tensor], like: &Tensor) -> Result<(Tensor, Arc<Slot>)> {
    let slot = Arc::<Slot>::default();
    let mut stand = Tensor::zeros((), like.dtype(), like.device())?;
    for (index, parameter) in parameters.iter().enumerate() {
        let op = Stand {
            slot: slot.clone(),
            index,
        };
        stand = stand.apply_op2(parameter, op)?;
    }
    Ok((stand, slot))
}
