//! The blocks of a flow network: their settings, and the forward, inverse and backward pass
//! through a sequence of blocks, also with a backward pass that stores no activations.

use super::layer::Layer;
use super::statistics::notice;
use super::{ActNorm, AffineCoupling, InvertibleLeakyRelu, LuMixing, Permutation, SplineCoupling};
use crate::ops::gpu::{self, CouplingTape};
use crate::ops::gradients::{GradientSlot, give, is_collected, stand, through_candle};
use crate::ops::{Placement, Rng, Scope, values};
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Shape, Storage, Tensor, bail,
};
use invariances_core::say;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The nonlinearity between the normalisation and the coupling of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowActivation {
    /// No nonlinearity.
    #[default]
    None,
    /// [`InvertibleLeakyRelu::compatible`]: the log-determinant is counted as 0, as in the
    /// authors' checkpoints.
    Lrelu,
    /// [`InvertibleLeakyRelu::exact`]: the correct log-determinant.
    LreluExact,
}

/// The coupling of a block: how one half of the code transforms the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coupling {
    /// [`AffineCoupling`]: shifts a half and scales it by at most e^clamp. The authors' has clamp
    /// 1.
    Affine {
        /// The largest absolute log-scale of a half-step.
        clamp: f64,
    },
    /// [`SplineCoupling`]: transforms each dimension by a monotone spline.
    Spline {
        /// Number of bins of a spline.
        bins: usize,
        /// The spline acts on [−bound, bound] and is the identity outside.
        bound: f64,
    },
}

impl Default for Coupling {
    /// Returns the authors' coupling: affine with clamp 1.
    fn default() -> Self {
        Self::Affine { clamp: 1.0 }
    }
}

impl Coupling {
    /// Returns an affine coupling with log-scales up to ±2 instead of ±1.
    pub fn soft_clamped() -> Self {
        Self::Affine { clamp: 2.0 }
    }

    /// Returns a spline coupling with 8 bins on [−4, 4].
    pub fn spline() -> Self {
        Self::Spline {
            bins: 8,
            bound: 4.0,
        }
    }
}

/// How a block mixes the dimensions of the code before the next block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// [`Permutation`]: a fixed random permutation, as in the authors' networks.
    #[default]
    Permutation,
    /// [`LuMixing`]: a learned linear map, initialised as a random permutation.
    Lu,
}

/// How the backward pass of a flow gets the activations of the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// Activations are stored. This is the fastest setting; its memory grows with the number of
    /// blocks.
    #[default]
    Ordinary,
    /// Activations are recomputed by inverting the network, block by block (Gomez et al. 2017,
    /// [arXiv 1707.04585](https://arxiv.org/abs/1707.04585)). This needs the memory of one block,
    /// for any number of blocks.
    ///
    /// The inversion ends at the input code, up to rounding. Each backward pass measures the
    /// difference ([`super::Cinn::drift`]). If it exceeds `tolerance`, the pass returns an error,
    /// because its gradients would belong to other activations than the loss.
    Constant {
        /// The largest allowed difference to the code, relative to the code's largest absolute
        /// value (or to 1, if that is larger).
        tolerance: f64,
    },
}

impl Memory {
    /// Returns [`Memory::Constant`] with a tolerance of 10⁻³.
    pub fn constant() -> Self {
        Self::Constant { tolerance: 1e-3 }
    }
}

/// The sizes and layer types of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockConfig {
    pub(super) code: usize,
    pub(super) condition: usize,
    pub(super) hidden: usize,
    pub(super) depth: usize,
    pub(super) activation: FlowActivation,
    pub(super) coupling: Coupling,
    pub(super) mixing: Mixing,
}

/// The scopes of a block's layers in a checkpoint.
pub(super) struct Names {
    pub(super) norm: Scope,
    pub(super) coupling: Scope,
    pub(super) mixing: Scope,
}

/// The layers of a block in order: normalisation, nonlinearity, coupling, mixing.
type Block = Vec<Arc<dyn Layer>>;

fn block(config: &BlockConfig, names: &Names) -> Result<Block> {
    let code = config.code;
    let mut layers: Block = vec![Arc::new(ActNorm::new(code, &names.norm)?)];
    match config.activation {
        FlowActivation::None => {}
        FlowActivation::Lrelu => layers.push(Arc::new(InvertibleLeakyRelu::compatible())),
        FlowActivation::LreluExact => layers.push(Arc::new(InvertibleLeakyRelu::exact())),
    }
    let (condition, hidden, depth) = (config.condition, config.hidden, config.depth);
    layers.push(match config.coupling {
        Coupling::Affine { clamp } => {
            let coupling = AffineCoupling::new(code, condition, hidden, depth, &names.coupling)?;
            Arc::new(coupling.clamped(clamp)?)
        }
        Coupling::Spline { bins, bound } => Arc::new(SplineCoupling::new(
            code,
            condition,
            hidden,
            depth,
            (bins, bound),
            &names.coupling,
        )?),
    });
    layers.push(match config.mixing {
        Mixing::Permutation => Arc::new(Permutation::new(code, &names.mixing)?),
        Mixing::Lu => Arc::new(LuMixing::new(code, &names.mixing)?),
    });
    Ok(layers)
}

/// Returns the condition of block number `block`: none if `width` is 0, the complete condition if
/// all blocks share it, else the block's own columns.
fn condition_of_block(condition: &Tensor, width: usize, block: usize) -> Result<Option<Tensor>> {
    let columns = condition.dim(1)?;
    Ok(match (width, columns) {
        (0, _) => None,
        (w, n) if w == n => Some(condition.clone()),
        (w, _) => Some(condition.narrow(1, block * w, w)?),
    })
}

/// Returns `x` with standard normal values in the given (constant) columns. Later layers are then
/// initialised as if these columns varied like the others. From a constant column they would get
/// a very large scale, and other data in that column would be multiplied by it.
fn varied(x: &Tensor, columns: &[usize]) -> Result<Tensor> {
    let noise = Rng::named(0, "constant columns").normal(x.shape(), x.device())?;
    let noise = noise.to_dtype(x.dtype())?;
    let mut chosen = vec![0u8; x.dim(1)?];
    for &column in columns {
        chosen[column] = 1;
    }
    let chosen = Tensor::new(chosen, x.device())?.broadcast_as(x.shape())?;
    Ok(chosen.where_cond(&noise, x)?)
}

/// The blocks of a network in sequence. A condition is (batch, width) if all blocks share it,
/// (batch, blocks·width) if each block has its own part, and (batch, 0) if the network has no
/// condition.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    code: usize,
    width: usize,
    blocks: Vec<Block>,
    /// The same blocks with shared parameters; their results keep no graph.
    frozen: Vec<Block>,
    memory: Memory,
    backward_state: Arc<BackwardState>,
    placement: Option<Placement>,
}

/// The state of a network's backward passes, shared by its clones.
#[derive(Debug, Default)]
pub(super) struct BackwardState {
    /// The number of existing graphs that were built with [`Memory::Constant`].
    graphs: AtomicUsize,
    drift: Mutex<Option<f64>>,
}

impl Chain {
    pub(super) fn new(
        config: &BlockConfig,
        flows: usize,
        names: impl Fn(usize) -> Names,
    ) -> Result<Self> {
        if flows == 0 {
            return Err(Error::invalid(
                "expected at least 1 block in an invertible network, found 0: set `flows` to 1 or \
                 more",
            ));
        }
        let blocks = (0..flows).map(|i| block(config, &names(i)));
        let blocks: Vec<Block> = blocks.collect::<Result<_>>()?;
        let detached = |b: &Block| b.iter().map(|l| l.detached()).collect();
        let parameters = blocks.iter().flatten().flat_map(|l| l.parameters());
        let placement = parameters.map(|p| Placement::of(&p)).next();
        Ok(Self {
            placement,
            code: config.code,
            width: config.condition,
            frozen: blocks.iter().map(detached).collect(),
            blocks,
            memory: Memory::Ordinary,
            backward_state: Arc::default(),
        })
    }

    pub(super) fn detached(&self) -> Self {
        Self {
            blocks: self.frozen.clone(),
            ..self.clone()
        }
    }

    pub(super) fn with_memory(&self, memory: Memory) -> Self {
        Self {
            memory,
            ..self.clone()
        }
    }

    /// The device and number type of the parameters; `None` if there are none.
    pub(super) fn placement(&self) -> Option<Placement> {
        self.placement.clone()
    }

    /// Moves a tensor to the device of the parameters, and converts it to their number type.
    pub(super) fn take(&self, x: &Tensor) -> Result<Tensor> {
        match &self.placement {
            Some(placement) => placement.take(x),
            None => Ok(x.clone()),
        }
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory
    }

    pub(super) fn drift(&self) -> Option<f64> {
        *self
            .backward_state
            .drift
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_initialized(&self) -> Result<bool> {
        for layer in self.blocks.iter().flatten() {
            if !layer.is_initialized()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Initialises each layer from the output of the layers before it.
    pub(super) fn initialize(&self, x: &Tensor, condition: &Tensor) -> Result<()> {
        let (mut h, condition) = (x.detach(), condition.detach());
        for (i, block) in self.blocks.iter().enumerate() {
            let c = condition_of_block(&condition, self.width, i)?;
            for (layer, frozen) in block.iter().zip(&self.frozen[i]) {
                let constant = layer.initialize(&h)?;
                if !constant.is_empty() {
                    let what = match i {
                        0 => "the code".to_string(),
                        _ => format!("the input of block {i}"),
                    };
                    say(&notice(&what, &constant, self.code));
                }
                (h, _) = frozen.forward(&h, c.as_ref())?;
                if !constant.is_empty() {
                    h = varied(&h, &constant)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn forward(&self, x: &Tensor, condition: &Tensor) -> Result<(Tensor, Tensor)> {
        let on_gpu = gpu::is_available(x);
        if self.memory == Memory::Ordinary && !on_gpu {
            return self.run(&self.blocks, x, condition);
        }
        let parameters: Vec<Tensor> = self.parameters();
        let trained = parameters.iter().any(Tensor::track_op);
        let graph = trained || x.track_op() || condition.track_op();
        let (x0, condition0) = (x.detach(), condition.detach());
        let (out, origin) = match self.memory {
            Memory::Ordinary => {
                let (out, stored) = self.states(&x0, &condition0, graph)?;
                (out, Origin::Stored(Mutex::new(stored)))
            }
            Memory::Constant { tolerance } if graph => {
                let out = if on_gpu {
                    self.states(&x0, &condition0, false)?.0
                } else {
                    let (v, logdet) = self.run(&self.frozen, &x0, &condition0)?;
                    Tensor::cat(&[v, logdet.unsqueeze(1)?], 1)?
                };
                self.backward_state.graphs.fetch_add(1, Ordering::Relaxed);
                (out, Origin::Inverted { tolerance })
            }
            Memory::Constant { .. } if on_gpu => {
                let (out, stored) = self.states(&x0, &condition0, false)?;
                (out, Origin::Stored(Mutex::new(stored)))
            }
            Memory::Constant { .. } => return self.run(&self.blocks, x, condition),
        };
        if !graph {
            let logdet = out.narrow(1, self.code, 1)?.squeeze(1)?;
            return Ok((out.narrow(1, 0, self.code)?.contiguous()?, logdet));
        }
        // On a GPU each node of the graph costs several launches.
        let single_parameter = on_gpu && is_collected();
        let (stand, slot) = if trained {
            let mut linked = parameters.iter().filter(|p| p.track_op()).cloned();
            let (stand, slot) = match linked.next() {
                Some(first) if single_parameter => stand(&[first], x)?,
                _ => stand(&parameters, x)?,
            };
            (stand, Some(slot))
        } else {
            (Tensor::zeros((), x.dtype(), x.device())?, None)
        };
        let op = ChainOp {
            chain: self.clone(),
            origin,
            out,
            slot,
            single_parameter,
            parameters,
        };
        let both = x.apply_op3(condition, &stand, op)?;
        let logdet = both.narrow(1, self.code, 1)?.squeeze(1)?;
        Ok((both.narrow(1, 0, self.code)?.contiguous()?, logdet))
    }

    /// Runs the blocks on a GPU, on states (batch, code + 1), without a graph. With `keep`, the
    /// values that the backward pass needs are returned, one entry per layer.
    fn states(
        &self,
        x: &Tensor,
        condition: &Tensor,
        keep: bool,
    ) -> Result<(Tensor, Vec<Option<LayerState>>)> {
        let zeros = Tensor::zeros((x.dim(0)?, 1), x.dtype(), x.device())?;
        let mut state = Tensor::cat(&[x, &zeros], 1)?;
        let mut stored = Vec::new();
        for (i, block) in self.frozen.iter().enumerate() {
            let c = condition_of_block(condition, self.width, i)?;
            for layer in block {
                let (next, tape) = layer.state_forward(&state, c.as_ref())?;
                if keep {
                    stored.push(Some(LayerState { state, tape }));
                }
                state = next;
            }
        }
        Ok((state, stored))
    }

    fn run(&self, blocks: &[Block], x: &Tensor, condition: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut v = x.clone();
        let mut total = Tensor::zeros(x.dim(0)?, x.dtype(), x.device())?;
        for (i, block) in blocks.iter().enumerate() {
            let c = condition_of_block(condition, self.width, i)?;
            for layer in block {
                let (next, logdet) = layer.forward(&v, c.as_ref())?;
                (v, total) = (next, (total + logdet)?);
            }
        }
        Ok((v, total))
    }

    /// Inverts the chain. Each row of the condition belongs to `share` consecutive rows of v.
    pub(super) fn inverse(&self, v: &Tensor, condition: &Tensor, share: usize) -> Result<Tensor> {
        let mut x = v.clone();
        for i in (0..self.blocks.len()).rev() {
            x = self.block_inverse(i, &x, condition, share)?;
        }
        Ok(x)
    }

    fn block_inverse(
        &self,
        i: usize,
        v: &Tensor,
        condition: &Tensor,
        share: usize,
    ) -> Result<Tensor> {
        let c = condition_of_block(condition, self.width, i)?;
        let mut x = v.clone();
        for layer in self.blocks[i].iter().rev() {
            x = layer.inverse_shared(&x, c.as_ref(), share)?;
        }
        Ok(x)
    }

    /// Returns v and the result after each inverted block.
    pub(super) fn stages(&self, v: &Tensor, condition: &Tensor) -> Result<Vec<Tensor>> {
        let mut stages = vec![v.clone()];
        for i in (0..self.blocks.len()).rev() {
            stages.push(self.block_inverse(i, &stages[stages.len() - 1], condition, 1)?);
        }
        Ok(stages)
    }

    fn parameters(&self) -> Vec<Tensor> {
        let layers = self.blocks.iter().flatten();
        layers.flat_map(|l| l.parameters()).collect()
    }
}

/// The values of the forward pass that the backward pass of a layer on a GPU needs.
#[derive(Debug)]
struct LayerState {
    /// The state before the layer.
    state: Tensor,
    tape: Option<CouplingTape>,
}

/// How the backward pass gets the values of the forward pass.
enum Origin {
    /// The values were stored: one entry per layer, in the order of the forward pass.
    Stored(Mutex<Vec<Option<LayerState>>>),
    /// The values are recomputed by inverting the network.
    Inverted { tolerance: f64 },
}

/// A chain as a single operation in the graph.
struct ChainOp {
    chain: Chain,
    origin: Origin,
    /// v, with the log-determinant as the last column.
    out: Tensor,
    /// Receives the parameters' gradients; present if a parameter is trained.
    slot: Option<Arc<GradientSlot>>,
    /// Whether only one of the trained parameters is connected to the graph.
    single_parameter: bool,
    parameters: Vec<Tensor>,
}

impl Drop for ChainOp {
    fn drop(&mut self) {
        if let Origin::Inverted { .. } = self.origin {
            self.chain
                .backward_state
                .graphs
                .fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Returns the largest absolute value, or NaN if `x` contains NaN.
fn largest(x: &Tensor) -> Result<f64> {
    let values = values(&x.abs()?)?;
    let larger = |max: f64, x: &f64| if x.is_nan() { f64::NAN } else { max.max(*x) };
    Ok(values.iter().fold(0.0, |max: f64, x| match max.is_nan() {
        true => max,
        false => larger(max, x),
    }))
}

impl ChainOp {
    /// The backward pass with stored values, on a GPU.
    fn reverse_stored(
        &self,
        stored: &Mutex<Vec<Option<LayerState>>>,
        condition: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let chain = &self.chain;
        let condition = condition.detach();
        let shared = chain.width == condition.dim(1)?;
        let mut gradient = gradient.contiguous()?;
        let mut to_conditions: Vec<Option<Tensor>> = vec![None; chain.blocks.len()];
        let mut parameter_gradients = Vec::new();
        let layers = chain.blocks.iter().enumerate();
        let layers = layers.flat_map(|(i, block)| block.iter().map(move |layer| (i, layer)));
        let layers: Vec<_> = layers.collect();
        let mut all = stored.lock().unwrap_or_else(PoisonError::into_inner);
        for ((i, layer), entry) in layers.into_iter().zip(all.iter_mut()).rev() {
            let Some(stored) = entry.as_ref() else {
                return Err(Error::unsupported(
                    "the gradients of this loss were already computed, and a training step on a \
                     GPU frees the activations that they need: compute the loss again before \
                     another backward pass",
                ));
            };
            let c = condition_of_block(&condition, chain.width, i)?;
            // If all blocks share the condition, they add to one gradient.
            let place = if shared { 0 } else { i };
            let (to_state, to_parameters) = layer.state_backward(
                &stored.state,
                stored.tape.as_ref(),
                c.as_ref(),
                &gradient,
                &mut to_conditions[place],
            )?;
            gradient = to_state;
            if self.single_parameter {
                // A training step computes the gradients once. The freed memory is used for them.
                *entry = None;
            }
            if self.slot.is_some() {
                parameter_gradients.push(give(&layer.parameters(), to_parameters, false)?);
            }
        }
        self.pass_to_candle(parameter_gradients)?;
        let to_condition = match chain.width {
            0 => None,
            _ if shared => to_conditions.swap_remove(0),
            w => {
                let zeros = || {
                    Tensor::zeros(
                        (condition.dim(0)?, w),
                        condition.dtype(),
                        condition.device(),
                    )
                };
                let parts = to_conditions.into_iter().map(|p| p.map_or_else(zeros, Ok));
                Some(Tensor::cat(
                    &parts.collect::<candle_core::Result<Vec<_>>>()?,
                    1,
                )?)
            }
        };
        let to_x = gradient.narrow(1, 0, chain.code)?.contiguous()?;
        Ok((to_x, to_condition))
    }

    /// If candle's own backward pass collects the gradients of the layers' parameters, passes them
    /// on to it. They are ordered from the last layer to the first.
    fn pass_to_candle(&self, parameter_gradients: Vec<Option<Vec<Tensor>>>) -> Result<()> {
        if let Some(slot) = &self.slot
            && let Some(gradients) = parameter_gradients
                .into_iter()
                .rev()
                .collect::<Option<Vec<_>>>()
        {
            if self.single_parameter {
                return Err(Error::unsupported(
                    "`loss.backward()` does not support a loss that was computed within \
                     `ops::gradients::collected` (as in a training step): use \
                     `ops::backward(&loss)` instead",
                ));
            }
            slot.leave(&self.parameters, gradients.concat())?;
        }
        Ok(())
    }

    fn reverse(
        &self,
        x: &Tensor,
        condition: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let tolerance = match &self.origin {
            Origin::Stored(stored) => return self.reverse_stored(stored, condition, gradient),
            Origin::Inverted { tolerance } => *tolerance,
        };
        let chain = &self.chain;
        let graphs = chain.backward_state.graphs.load(Ordering::Relaxed);
        let condition = condition.detach();
        let mut v = self.out.narrow(1, 0, chain.code)?.contiguous()?;
        let mut gradient = gradient.contiguous()?;
        let to_logdet = gradient.narrow(1, chain.code, 1)?.contiguous()?;
        let blocks = chain.blocks.len();
        let mut to_conditions: Vec<Option<Tensor>> = vec![None; blocks];
        // Gradients of the layers' parameters, collected from the last layer to the first.
        let mut parameter_gradients = Vec::new();
        for (i, block) in chain.blocks.iter().enumerate().rev() {
            let c = condition_of_block(&condition, chain.width, i)?;
            for layer in block.iter().rev() {
                let reversed = layer.reverse(&v, c.as_ref(), &gradient)?;
                v = reversed.x;
                gradient = Tensor::cat(&[&reversed.to_x, &to_logdet], 1)?;
                if let Some(more) = reversed.to_condition {
                    to_conditions[i] = Some(match to_conditions[i].take() {
                        Some(sum) => (sum + more)?,
                        None => more,
                    });
                }
                if self.slot.is_some() {
                    let parameters = layer.parameters();
                    parameter_gradients.push(give(
                        &parameters,
                        reversed.to_parameters,
                        graphs == 1,
                    )?);
                }
            }
        }
        self.pass_to_candle(parameter_gradients)?;
        let scale = largest(&x.detach())?.max(1.0);
        let drift = largest(&(&v - x.detach())?)? / scale;
        let mut known = chain
            .backward_state
            .drift
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Some(known.map_or(drift, |k| if drift.is_nan() { drift } else { k.max(drift) }));
        if drift.is_nan() || drift > tolerance {
            return Err(Error::Diverged(format!(
                "expected the inverted network to return the code within the tolerance of \
                 {tolerance:.1e}, found a difference of {drift:.1e} relative to the code's largest \
                 absolute value: the gradients would be wrong. Use Memory::Ordinary, a smaller \
                 clamp, weight decay or f64"
            )));
        }
        let to_condition = match (chain.width, condition.dim(1)?) {
            (0, _) => None,
            (w, n) => {
                let zeros = Tensor::zeros((x.dim(0)?, w), x.dtype(), x.device())?;
                let parts = to_conditions
                    .into_iter()
                    .map(|p| p.unwrap_or_else(|| zeros.clone()));
                let parts: Vec<Tensor> = parts.collect();
                Some(if w == n {
                    let mut sum = zeros;
                    for part in &parts {
                        sum = (sum + part)?;
                    }
                    sum
                } else {
                    Tensor::cat(&parts, 1)?
                })
            }
        };
        Ok((
            gradient.narrow(1, 0, chain.code)?.contiguous()?,
            to_condition,
        ))
    }

    /// Returns a copy of the precomputed result in the storage of its device.
    fn storage<S>(
        &self,
        of: impl Fn(&Storage, &Layout) -> Option<candle_core::Result<S>>,
    ) -> candle_core::Result<(S, Shape)> {
        let (storage, layout) = self.out.storage_and_layout();
        match of(&storage, layout) {
            Some(copy) => Ok((copy?, self.out.shape().clone())),
            None => bail!(
                "expected the result of a flow on the device of its code, found another device"
            ),
        }
    }
}

impl CustomOp3 for ChainOp {
    fn name(&self) -> &'static str {
        "flow"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.storage(|s, l| match s {
            Storage::Cpu(s) => Some(s.try_clone(l)),
            _ => None,
        })
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.storage(|s, l| match s {
            Storage::Cuda(s) => Some(s.try_clone(l)),
            _ => None,
        })
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        self.storage(|s, l| match s {
            Storage::Metal(s) => Some(s.try_clone(l)),
            _ => None,
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        condition: &Tensor,
        stand: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (to_x, to_condition) = self
            .reverse(x, condition, gradient)
            .map_err(through_candle)?;
        let to_condition = match to_condition {
            None if condition.track_op() => Some(condition.zeros_like()?),
            other => other,
        };
        Ok((
            x.track_op().then_some(to_x),
            condition.track_op().then_some(to_condition).flatten(),
            // A zero gradient, so that candle continues the backward pass to the parameters
            // behind `stand`.
            stand.track_op().then(|| stand.zeros_like()).transpose()?,
        ))
    }
}
