//! The blocks of a flow network in sequence: how they are built, initialised, evaluated and
//! inverted.

use super::chain_op::{ChainOp, LayerState, Origin};
use super::config::{CouplingConfig, FlowActivation, Memory, Mixing};
use super::layer::Layer;
use super::statistics::notice;
use super::{
    ActNorm, Affine, Coupling, CouplingNets, InvertibleLeakyRelu, LuMixing, Permutation,
    RationalQuadratic,
};
use crate::ops::gpu;
use crate::ops::gradients::{is_collected, stand};
use crate::ops::{Placement, Rng, Scope};
use crate::{Error, Outline, Result};
use candle_core::Tensor;
use invariances_core::say;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The sizes and layer types of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockConfig {
    pub(super) code: usize,
    pub(super) condition: usize,
    pub(super) hidden: usize,
    pub(super) depth: usize,
    pub(super) activation: FlowActivation,
    pub(super) coupling: CouplingConfig,
    pub(super) mixing: Mixing,
}

/// The scopes of a block's layers in a checkpoint.
pub(super) struct Names {
    pub(super) norm: Scope,
    pub(super) coupling: Scope,
    pub(super) mixing: Scope,
}

/// The layers of a block in order: normalisation, nonlinearity, coupling, mixing.
pub(super) type Block = Vec<Arc<dyn Layer>>;

fn block(config: &BlockConfig, names: &Names) -> Result<Block> {
    let code = config.code;
    let mut layers: Block = vec![Arc::new(ActNorm::new(code, &names.norm)?)];
    match config.activation {
        FlowActivation::None => {}
        FlowActivation::Lrelu => layers.push(Arc::new(InvertibleLeakyRelu::compatible())),
        FlowActivation::LreluExact => layers.push(Arc::new(InvertibleLeakyRelu::exact())),
    }
    let nets = CouplingNets {
        condition: config.condition,
        hidden: config.hidden,
        depth: config.depth,
    };
    let scope = &names.coupling;
    layers.push(match config.coupling {
        CouplingConfig::Affine { clamp } => {
            Arc::new(Coupling::new(code, Affine::clamped(clamp)?, &nets, scope)?)
        }
        CouplingConfig::Spline { bins, bound } => {
            let splines = RationalQuadratic::new(bins, bound)?;
            Arc::new(Coupling::new(code, splines, &nets, scope)?)
        }
    });
    layers.push(match config.mixing {
        Mixing::Permutation => Arc::new(Permutation::new(code, &names.mixing)?),
        Mixing::Lu => Arc::new(LuMixing::new(code, &names.mixing)?),
    });
    Ok(layers)
}

/// Returns the condition of block number `block`: none if `width` is 0, the complete condition if
/// all blocks share it, else the block's own columns.
pub(super) fn condition_of_block(
    condition: &Tensor,
    width: usize,
    block: usize,
) -> Result<Option<Tensor>> {
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
    pub(super) code: usize,
    pub(super) width: usize,
    pub(super) blocks: Vec<Block>,
    /// The same blocks with shared parameters; their results keep no graph.
    frozen: Vec<Block>,
    memory: Memory,
    pub(super) backward_state: Arc<BackwardState>,
    placement: Option<Placement>,
}

/// The state of a network's backward passes, shared by its clones.
#[derive(Debug, Default)]
pub(super) struct BackwardState {
    /// The number of existing graphs that were built with [`Memory::Constant`].
    pub(super) graphs: AtomicUsize,
    pub(super) drift: Mutex<Option<f64>>,
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
                let constant = layer.initialize_layer(&h)?;
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

    /// Describes the blocks, one part per block.
    pub(super) fn outlines(&self) -> Vec<Outline> {
        let blocks = self.blocks.iter();
        let block = |b: &Block| Outline::new("Block").with_parts(b.iter().map(|l| l.outline()));
        blocks.map(block).collect()
    }

    fn parameters(&self) -> Vec<Tensor> {
        let layers = self.blocks.iter().flatten();
        layers.flat_map(|l| l.parameters()).collect()
    }
}
