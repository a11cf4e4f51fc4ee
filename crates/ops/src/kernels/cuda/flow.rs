//! Coupling layers on the GPU. A state (rows, code + 1) is the code with the log-determinant
//! as its last column.
//!
//! The nets s and t of a half-step have the same input and the same sizes: one batched product
//! computes a layer of both.

use super::{Address, Arg, Buffer, Gpu, Product};
use crate::coupling::{Nets, Plan, SLOPE};
use candle_core::{Result, Tensor};

/// A layer of the nets s and t of one half-step.
struct Pair {
    weights: [Address; 2],
    biases: [Address; 2],
    outputs: usize,
    inputs: usize,
}

impl Pair {
    /// The distance between both weights in elements.
    fn stride(&self) -> i64 {
        (self.weights[1].0 as i64 - self.weights[0].0 as i64) / 4
    }
}

/// What the backward pass of a half-step needs.
#[derive(Debug)]
struct Step {
    /// The input of the nets, (rows, half + condition).
    seen: Buffer,
    /// The results of the hidden layers of both nets, (2, rows, width).
    hidden: Vec<Buffer>,
    /// s, and the derivative of the changed half with respect to s: (2, rows, half).
    last: Buffer,
}

/// What the backward pass of a coupling needs.
#[derive(Debug)]
pub(crate) struct Tape([Step; 2]);

/// Half-steps as the kernel `couple` numbers them.
#[derive(Clone, Copy)]
enum Way {
    Forward = 0,
    Inverse = 1,
    Undo = 2,
}

/// A row-major array of rows that are `pitch` apart, from column `from` on.
#[derive(Clone, Copy)]
struct Columns {
    address: Address,
    pitch: usize,
    from: usize,
}

/// The gradients of a coupling.
pub(crate) struct Gradients {
    /// The gradient of the state before the coupling, (rows, code + 1).
    pub(crate) state: Buffer,
    /// In the order of `coupling::parameters`.
    pub(crate) parameters: Vec<Tensor>,
}

impl Gpu {
    fn pairs(&self, nets: &Nets, step: usize) -> Result<Vec<Pair>> {
        let (s, t) = (&nets[2 * step], &nets[2 * step + 1]);
        s.iter()
            .zip(t)
            .map(|((ws, bs), (wt, bt))| {
                let (outputs, inputs) = ws.dims2()?;
                Ok(Pair {
                    weights: [self.of_tensor(ws)?, self.of_tensor(wt)?],
                    biases: [self.of_tensor(bs)?, self.of_tensor(bt)?],
                    outputs,
                    inputs,
                })
            })
            .collect()
    }

    /// Runs both nets of a half-step. The last result has no bias yet.
    fn nets(&self, seen: &Buffer, pairs: &[Pair], rows: usize) -> Result<(Vec<Buffer>, Buffer)> {
        let mut results: Vec<Buffer> = Vec::with_capacity(pairs.len());
        for (l, pair) in pairs.iter().enumerate() {
            let (input, stride) = match results.last() {
                None => (seen.address, 0),
                Some(h) => (h.address, (rows * pair.inputs) as i64),
            };
            let out = self.empty(2 * rows * pair.outputs)?;
            self.product(Product {
                a: input,
                b: pair.weights[0],
                out: out.address,
                sizes: (rows, pair.outputs, pair.inputs),
                transposed: (false, true),
                batch: 2,
                strides: [stride, pair.stride(), (rows * pair.outputs) as i64],
                add: false,
            })?;
            if l + 1 < pairs.len() {
                self.bias_leaky(&out, pair.biases, (2, rows, pair.outputs), SLOPE)?;
            }
            results.push(out);
        }
        match results.pop() {
            Some(last) => Ok((results, last)),
            None => candle_core::bail!("a coupling's net has no layers"),
        }
    }

    /// Applies a half-step: `x` are the columns that it changes, `y` where they go; `reads` is the
    /// half that the nets see. `logdet` is (before, after): columns of states.
    #[allow(clippy::too_many_arguments)]
    fn half_step(
        &self,
        way: Way,
        plan: &Plan,
        step: usize,
        nets: &Nets,
        reads: Columns,
        (condition, share): (Address, usize),
        [x, y]: [Columns; 2],
        logdet: Option<[Columns; 2]>,
        rows: usize,
    ) -> Result<Step> {
        let halves = [plan.first, plan.code - plan.first];
        let (half, changed) = (halves[step], halves[1 - step]);
        let seen = self.empty(rows * (half + plan.condition))?;
        let arguments = [
            reads.address.into(),
            reads.pitch.into(),
            reads.from.into(),
            half.into(),
            condition.into(),
            plan.condition.into(),
            share.into(),
            (&seen).into(),
            rows.into(),
        ];
        // SAFETY: `seen` has rows·(half + condition) elements; the caller gives rows of x that
        // have the columns from..from + half, and rows/share conditions.
        unsafe { self.map("seen_pack", (rows * (half + plan.condition), 1), &arguments)? };
        let pairs = self.pairs(nets, step)?;
        let (hidden, last) = self.nets(&seen, &pairs, rows)?;
        let biases = pairs[pairs.len() - 1].biases;
        let [before, after] = match logdet {
            Some([before, after]) => [before, after].map(|c| (c.address.at(c.from), c.pitch)),
            None => [(Address::NULL, 0); 2],
        };
        let arguments = [
            Arg::Int(way as i32),
            (&last).into(),
            biases[0].into(),
            biases[1].into(),
            x.address.into(),
            x.pitch.into(),
            x.from.into(),
            y.address.into(),
            y.pitch.into(),
            y.from.into(),
            changed.into(),
            rows.into(),
            plan.clamp.into(),
            before.0.into(),
            before.1.into(),
            after.0.into(),
            after.1.into(),
        ];
        // SAFETY: `last` has 2·rows·changed elements, and there is a block per row.
        unsafe { self.launch("couple", (rows as u32, 1), (128, 1), &arguments)? };
        Ok(Step { seen, hidden, last })
    }

    /// Applies a coupling to a state (rows, code + 1). Each row has its own condition.
    pub(crate) fn coupling(
        &self,
        state: Address,
        condition: Address,
        nets: &Nets,
        plan: &Plan,
        rows: usize,
    ) -> Result<(Buffer, Tape)> {
        let (pitch, second) = (plan.code + 1, plan.code - plan.first);
        let out = self.empty(rows * pitch)?;
        let of = |address: Address, from: usize| Columns {
            address,
            pitch,
            from,
        };
        let (x, y) = (state, out.address);
        let c = (condition, 1);
        let logdet = Some([of(x, plan.code), of(y, plan.code)]);
        let halves = [of(x, plan.first), of(y, 0)];
        let zero = self.half_step(
            Way::Forward,
            plan,
            0,
            nets,
            of(x, 0),
            c,
            halves,
            logdet,
            rows,
        )?;
        let logdet = Some([of(y, plan.code), of(y, plan.code)]);
        let halves = [of(x, 0), of(y, second)];
        let one = self.half_step(
            Way::Forward,
            plan,
            1,
            nets,
            of(y, 0),
            c,
            halves,
            logdet,
            rows,
        )?;
        Ok((out, Tape([zero, one])))
    }

    /// Inverts a coupling: v and the result are rows of `pitch` elements, of which the first
    /// `code` are used. `undo` keeps the values that [`Gpu::coupling`] would have kept.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn coupling_inverse(
        &self,
        v: Address,
        pitch: usize,
        condition: (Address, usize),
        nets: &Nets,
        plan: &Plan,
        rows: usize,
        undo: bool,
    ) -> Result<(Buffer, Tape)> {
        let second = plan.code - plan.first;
        let way = if undo { Way::Undo } else { Way::Inverse };
        let out = self.empty(rows * plan.code)?;
        let of = |from: usize| Columns {
            address: v,
            pitch,
            from,
        };
        let to = |from: usize| Columns {
            address: out.address,
            pitch: plan.code,
            from,
        };
        let halves = [of(second), to(0)];
        let one = self.half_step(way, plan, 1, nets, of(0), condition, halves, None, rows)?;
        let halves = [of(0), to(plan.first)];
        let zero = self.half_step(way, plan, 0, nets, to(0), condition, halves, None, rows)?;
        Ok((out, Tape([zero, one])))
    }

    /// The gradients of a coupling. `gradient` is that of the state after it, (rows, code + 1).
    /// The gradient of the condition is added to `to_condition` (rows, condition).
    pub(crate) fn coupling_backward(
        &self,
        tape: &Tape,
        gradient: Address,
        to_condition: Address,
        nets: &Nets,
        plan: &Plan,
        rows: usize,
    ) -> Result<Gradients> {
        let (pitch, code) = (plan.code + 1, plan.code);
        let (first, second) = (plan.first, code - plan.first);
        let to_x = self.empty(rows * pitch)?;
        let of_b = self.empty(rows * second)?;
        let logdet = (gradient.at(code), pitch);
        let Tape([zero, one]) = tape;
        // The second half-step changed a, which lies in columns second.. of v.
        let from = (gradient, pitch, second);
        let d = self.couple_backward(
            from,
            one,
            (&to_x, pitch, 0),
            logdet,
            (rows, first),
            plan,
            None,
        )?;
        let (ones, to_seen) = self.nets_backward(one, d, nets, 1, rows)?;
        let base = (gradient, pitch);
        self.seen_add(
            base,
            &to_seen,
            (of_b.address, second),
            (second, plan.condition),
            to_condition,
            rows,
        )?;
        let from = (of_b.address, second, 0);
        let to = (&to_x, pitch, first);
        let d = self.couple_backward(from, zero, to, logdet, (rows, second), plan, Some(code))?;
        let (zeros, to_seen) = self.nets_backward(zero, d, nets, 0, rows)?;
        let base = (to_x.address, pitch);
        self.seen_add(
            base,
            &to_seen,
            base,
            (first, plan.condition),
            to_condition,
            rows,
        )?;
        let parameters = [zeros, ones].concat();
        Ok(Gradients {
            state: to_x,
            parameters,
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn couple_backward(
        &self,
        (g, g_pitch, g_from): (Address, usize, usize),
        step: &Step,
        (to_x, pitch, to): (&Buffer, usize, usize),
        (logdet, logdet_pitch): (Address, usize),
        (rows, m): (usize, usize),
        plan: &Plan,
        tail: Option<usize>,
    ) -> Result<Buffer> {
        let d = self.empty(2 * rows * m)?;
        let arguments = [
            g.into(),
            g_pitch.into(),
            g_from.into(),
            (&step.last).into(),
            (&d).into(),
            to_x.into(),
            pitch.into(),
            to.into(),
            logdet.into(),
            logdet_pitch.into(),
            m.into(),
            rows.into(),
            plan.clamp.into(),
            Arg::Int(tail.map_or(-1, |t| t as i32)),
        ];
        // SAFETY: `last` and d have 2·rows·m elements; g and to_x have rows of their pitch, with
        // the columns that the caller names.
        unsafe { self.map("couple_backward", (rows * m, 1), &arguments)? };
        Ok(d)
    }

    fn seen_add(
        &self,
        (base, base_pitch): (Address, usize),
        to_seen: &Buffer,
        (out, pitch): (Address, usize),
        (half, condition): (usize, usize),
        to_condition: Address,
        rows: usize,
    ) -> Result<()> {
        let arguments = [
            base.into(),
            base_pitch.into(),
            Arg::Int(0),
            to_seen.into(),
            out.into(),
            pitch.into(),
            Arg::Int(0),
            half.into(),
            to_condition.into(),
            condition.into(),
            rows.into(),
        ];
        // SAFETY: `to_seen` has 2·rows·(half + condition) elements, `to_condition` rows·condition.
        unsafe { self.map("seen_add", (rows * (half + condition), 1), &arguments) }
    }

    /// From the gradient d (2, rows, outputs) of the last results of both nets: the gradients of
    /// their parameters (those of s, then those of t), and of their input, (2, rows, inputs).
    fn nets_backward(
        &self,
        step: &Step,
        d: Buffer,
        nets: &Nets,
        i: usize,
        rows: usize,
    ) -> Result<(Vec<Tensor>, Buffer)> {
        let pairs = self.pairs(nets, i)?;
        let mut d = d;
        let mut parameters: [Vec<[Tensor; 2]>; 2] = [Vec::new(), Vec::new()];
        for (l, pair) in pairs.iter().enumerate().rev() {
            let sizes = (2, rows, pair.outputs);
            let results = match step.hidden.get(l) {
                Some(h) => h.address,
                None => Address::NULL,
            };
            let to_bias = self.slope_bias(d.address, results, sizes, SLOPE)?;
            let (input, stride) = match l {
                0 => (step.seen.address, 0),
                l => (step.hidden[l - 1].address, (rows * pair.inputs) as i64),
            };
            let to_weight = self.empty(2 * pair.outputs * pair.inputs)?;
            let d_stride = (rows * pair.outputs) as i64;
            self.product(Product {
                a: d.address,
                b: input,
                out: to_weight.address,
                sizes: (pair.outputs, pair.inputs, rows),
                transposed: (true, false),
                batch: 2,
                strides: [d_stride, stride, (pair.outputs * pair.inputs) as i64],
                add: false,
            })?;
            let to_input = self.empty(2 * rows * pair.inputs)?;
            self.product(Product {
                a: d.address,
                b: pair.weights[0],
                out: to_input.address,
                sizes: (rows, pair.inputs, pair.outputs),
                transposed: (false, false),
                batch: 2,
                strides: [d_stride, pair.stride(), (rows * pair.inputs) as i64],
                add: false,
            })?;
            d = to_input;
            let to_weight = self.tensor(to_weight, (2, pair.outputs, pair.inputs));
            let to_bias = self.tensor(to_bias, (2, pair.outputs));
            for (net, parameters) in parameters.iter_mut().enumerate() {
                let weight = to_weight.narrow(0, net, 1)?;
                let weight = weight.reshape((pair.outputs, pair.inputs))?;
                let bias = to_bias.narrow(0, net, 1)?.reshape(pair.outputs)?;
                parameters.push([weight, bias]);
            }
        }
        let both = parameters.into_iter().flat_map(|p| p.into_iter().rev());
        Ok((both.flatten().collect(), d))
    }
}
