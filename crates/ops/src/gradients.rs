//! Gradients of operations with many parameters.
//!
//! candle's custom operations have at most three arguments, and its backward pass adds every
//! gradient to newly allocated zeros: four passes over memory per parameter and step. Here one
//! operation represents all its parameters in the graph through a placeholder ([`stand`]). The
//! code that runs the backward pass can receive their gradients as they are computed:
//! [`backward`] collects them, and an optimiser can apply each one immediately.

use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Shape, Tensor, TensorId, bail,
};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

/// Receives the gradients of parameters during a backward pass.
pub trait Sink {
    /// Receives one contribution to the gradient of a parameter. A parameter that several
    /// operations use has several contributions.
    fn take(&mut self, parameter: &Tensor, gradient: Tensor) -> Result<()>;

    /// Called after an operation has delivered all its contributions, if no other operation uses
    /// these parameters: their gradients are then complete. Does nothing by default.
    fn finish(&mut self, _parameters: &[Tensor]) -> Result<()> {
        Ok(())
    }
}

thread_local! {
    /// Whether the graphs of this thread are for [`backward`], see [`collected`].
    static COLLECTED: Cell<bool> = const { Cell::new(false) };
    static SINK: RefCell<Option<Rc<RefCell<dyn Sink>>>> = const { RefCell::new(None) };
    /// The original error of an operation's backward pass; candle would keep only its text.
    static FAILURE: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Converts an error of this project into a candle error, so that it can pass through candle's
/// backward pass; [`failure`] recovers the original.
pub fn through_candle(error: Error) -> candle_core::Error {
    let text = error.to_string();
    FAILURE.with(|f| *f.borrow_mut() = Some(error));
    candle_core::Error::Msg(text)
}

/// Returns the error that a backward pass failed with, as it was before [`through_candle`].
pub fn failure(error: candle_core::Error) -> Error {
    let text = error.to_string();
    let ours = FAILURE.with(|f| f.borrow_mut().take());
    // An error that candle's own `backward` returned to the caller may still be stored here.
    let ours = ours.filter(|ours| text.contains(&ours.to_string()));
    ours.unwrap_or(Error::Tensor(error))
}

/// Runs `f`, which computes a loss whose gradients [`backward`] or an optimiser of this project will
/// collect, not candle's own `backward`. On a GPU the graph of a flow then needs one node instead
/// of one per parameter. The trainer calls it for each step.
pub fn collected<R>(f: impl FnOnce() -> R) -> R {
    /// Restores the previous value, also if `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            COLLECTED.with(|c| c.set(self.0));
        }
    }
    let _restore = Restore(COLLECTED.with(|c| c.replace(true)));
    f()
}

/// Returns whether the caller runs within [`collected`].
pub fn is_collected() -> bool {
    COLLECTED.with(Cell::get)
}

fn active() -> Option<Rc<RefCell<dyn Sink>>> {
    SINK.with(|s| s.borrow().clone())
}

/// Runs `f` while `sink` receives the gradients of this thread's backward pass, then returns the
/// sink and the result of `f`.
pub fn with_sink<S: Sink + 'static, R>(sink: S, f: impl FnOnce() -> R) -> (S, R) {
    /// Restores the previous sink, also if `f` panics.
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
        // `active` creates the only other references, and they live only during a call on this
        // thread.
        Err(_) => unreachable!("a sink outlived its backward pass"),
    }
}

/// Passes a parameter's gradient to the active sink. Without a sink, or if `parameter` is not a
/// variable, returns the gradient, which candle then adds up.
pub fn hand_over(parameter: &Tensor, gradient: Tensor) -> candle_core::Result<Option<Tensor>> {
    match active() {
        Some(sink) if parameter.is_variable() => {
            let taken = sink.borrow_mut().take(parameter, gradient);
            taken.map(|()| None).map_err(through_candle)
        }
        _ => Ok(Some(gradient)),
    }
}

/// Passes the gradients of an operation's parameters to the active sink. Without a sink, returns
/// them for a [`GradientSlot`].
///
/// `alone` states that no other operation contributes to these gradients; [`Sink::finish`] is
/// then called for them.
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

/// A sink that adds up all contributions per parameter.
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

/// Computes the gradients of `loss`, as `loss.backward()` does, with fewer passes over memory for
/// the parameters of this crate's operations.
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
/// [`Error::Tensor`] if an operation has no gradient.
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

/// The place where the backward pass of an operation stores the gradients of its parameters.
#[derive(Default)]
pub struct GradientSlot(Mutex<Vec<(ThreadId, Vec<Tensor>)>>);

impl GradientSlot {
    /// Stores the gradients of `parameters`, in the order that was passed to [`stand`]. If a sink
    /// is active, it receives the gradients instead.
    pub fn leave(&self, parameters: &[Tensor], gradients: Vec<Tensor>) -> Result<()> {
        let Some(gradients) = give(parameters, gradients, false)? else {
            return Ok(());
        };
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each thread has its own entry, which its own backward pass reads.
        let thread = std::thread::current().id();
        stored.retain(|(t, _)| *t != thread);
        stored.push((thread, gradients));
        Ok(())
    }

    fn take(&self, index: usize) -> Option<Tensor> {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = std::thread::current().id();
        let place = stored.iter().position(|(t, _)| *t == thread)?;
        let gradient = stored[place].1.get(index)?.clone();
        // candle visits the placeholders from the last to the first, so all gradients have been
        // taken after index 0.
        if index == 0 {
            stored.swap_remove(place);
        }
        Some(gradient)
    }
}

/// A scalar 0 in the graph. It connects one parameter, and the placeholders before it, to the
/// operation.
struct Stand {
    slot: Arc<GradientSlot>,
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
            None => bail!(
                "the gradient of a parameter was requested before the backward pass of its operation stored it"
            ),
        }
    }
}

/// Creates a placeholder, a scalar 0 that depends on all `parameters` in the graph, and its slot.
/// Returns both.
///
/// The operation takes the placeholder as an argument and stores the parameters' gradients in the
/// slot. The placeholder has the dtype and device of `like`.
pub fn stand(parameters: &[Tensor], like: &Tensor) -> Result<(Tensor, Arc<GradientSlot>)> {
    let slot = Arc::<GradientSlot>::default();
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
