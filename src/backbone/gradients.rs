//! Compares the gradient that automatic differentiation gives through a network with a numeric one.
//!
//! # Method
//!
//! Some operations of candle return a wrong gradient, or none, without an error (see
//! `REPLACEMENTS`). For layers with output y(x), the objective is L(x) = w·y(x) with seeded normal
//! weights w. Its gradient g is compared along 6 seeded normal directions d with central
//! differences:
//!
//! - a = g·d, the derivative by automatic differentiation,
//! - n = (L(x + hd) − L(x − hd)) / 2h, the numeric one,
//! - u = |L(x + hd) − 2L(x) + L(x − hd)| / 2h + rounding, its uncertainty: half the difference of the
//!   slopes before and behind x, plus 4 machine epsilons of y, divided by h.
//!
//! With norms over the directions, the difference is ‖a − n‖ / max(‖a‖, ‖n‖), an estimate of the
//! relative error of the whole gradient: a part that is missing is seen along a random direction,
//! and not along g.
//!
//! # Steps and tolerance
//!
//! An element of d has the root mean square (RMS) of x, so h is a relative change. Let κ be the
//! relative change of y per relative change of x, at most about 1. Two errors limit h in f32:
//!
//! - Rounding. A forward pass is exact to a few 10⁻⁷ of y, so n is exact to a few 10⁻⁷/(κh): 1 % at
//!   h = 3·10⁻⁴ and κ = 0.1, and less for larger h.
//! - Kinks. A share of about 0.4·κh of the ReLUs of a layer changes its state, each with an error
//!   of up to half its contribution, so the relative error is about ½·√(0.4·κh) for a layer, and √l
//!   times that for l layers without residual connections: 2.4 % for 20 layers at κh = 3·10⁻⁴, and
//!   less for smaller h.
//!
//! κ is not known: it is 10⁻³ for a deep network with PyTorch's initial weights, whose output is
//! hardly more than its biases. So h takes the values of `STEPS`, the first one 3·10⁻⁴, the others
//! from 3·10⁻⁵ to 10⁻¹, and the check passes at the first with a difference of at most the
//! tolerance of 5 %, twice the error that the two effects leave for deep networks at the best step.
//!
//! If there is none, 6 more directions are taken at the 3 steps with the smallest uncertainty. The
//! check passes if the smallest uncertainty is at most 10 % and explains the difference there, ‖a −
//! n‖² ≤ (5 %)²·max(‖a‖, ‖n‖)² + 4·‖u‖². For u and the error of n come from the same kinks and
//! roundings; they are equally large on average, and the quotient of their squares over 12
//! directions is below 4.2 in 99 % of all cases (F-distribution). An error below 5 % of the
//! gradient is therefore not found, and one below about 20 % may not be found in a deep network of
//! ReLUs.
//!
//! A layer is reported only if none of this holds, and the difference is at least 4 times the
//! uncertainty at the two steps where that is smallest. Layers are examined one by one, with other
//! directions, only if the whole does not pass: so a correct network is refused only if two
//! independent comparisons fail. If no layer can be blamed, the result is undecided, which is no
//! error.
//!
//! Before that, noise of half its RMS is added to x. There is no derivative at the tie of a max
//! pooling or the kink of a ReLU, where flat images and pixels that are 0 are; and weak noise would
//! leave kinks at a distance that is small against h. A gradient that is wrong is wrong there as
//! well.
//!
//! # What was changed after it was measured
//!
//! The tolerance was fixed beforehand and stayed. These were changed after correct networks had
//! failed, on the networks that the tests use, so the rate of false alarms on others is not known:
//!
//! - the noise added to x: 3 % of its RMS, now 50 %,
//! - the directions: 4, now 6, and 6 more if the result is not clear,
//! - the steps: 3·10⁻³ first, 10⁻⁴ to 3·10⁻²; now 3·10⁻⁴ first, 3·10⁻⁵ to 10⁻¹,
//! - the allowance for uncertainty: none, then once and now twice the uncertainty. The reason by
//!   the F-distribution was found after the factor.

use super::Network;
use super::derivative::{Along, Point, number, rms};
use crate::Result;
use crate::ops::{Rng, backward, epsilon};
use candle_core::{DType, Tensor, Var};
use std::cell::Cell;
use std::ops::Range;

/// The largest relative difference at which two derivatives agree.
const TOLERANCE: f64 = 0.05;
/// The largest relative uncertainty at which a difference may be explained by it.
const UNCERTAIN: f64 = 2.0 * TOLERANCE;
/// How many times the uncertainty a difference may be by chance: the root of the 99th percentile of
/// the F-distribution for 12 and 12 directions, 4.2.
const CHANCE: f64 = 2.0;
/// How many times the uncertainty a difference must be to count.
const CERTAIN: f64 = 4.0;
/// Directions of a comparison.
const DIRECTIONS: usize = 6;
/// Further directions where the result is not clear.
const MORE_DIRECTIONS: usize = 6;
/// Steps along the further directions.
const BEST: usize = 3;
/// Steps in units of the RMS of x, the most promising first.
const STEPS: [f64; 7] = [3e-4, 1e-4, 1e-3, 3e-5, 3e-3, 1e-2, 1e-1];
/// How far x is moved first, in the same units.
const SHAKE: f64 = 0.5;
/// Rounding error of y in units of the machine epsilon.
const ROUNDING: f64 = 4.0;
/// Images of a batch that are examined.
const IMAGES: usize = 2;
/// The relative difference of two runs above which a layer is random; sums on a GPU differ by about
/// 10⁻⁶.
const RANDOM: f64 = 1e-4;

/// Operations with a wrong or missing gradient in candle 0.11: a word of candle's error, if there
/// is one, the operation, and what to use instead.
const REPLACEMENTS: [(&str, &str, &str); 7] = [
    (
        "layer-norm",
        "candle_nn's LayerNorm and ops::layer_norm",
        "invariances::ops::layer_norm",
    ),
    (
        "rms-norm",
        "candle_nn's RmsNorm and ops::rms_norm",
        "candle_nn::ops::rms_norm_slow or RmsNorm::forward_diff",
    ),
    (
        "softmax",
        "candle_nn::ops::softmax_last_dim",
        "invariances::ops::softmax",
    ),
    (
        "rotary",
        "candle_nn::rotary_emb::{rope, rope_i, rope_thd}",
        "candle_nn::rotary_emb::{rope_slow, rope_i_slow}",
    ),
    (
        "pool2d",
        "Tensor::max_pool2d, avg_pool2d and those with a stride",
        "invariances::ops::{max_pool2d, avg_pool2d}",
    ),
    (
        "upsampl",
        "Tensor::{upsample_nearest2d, upsample_bilinear2d, interpolate2d}",
        "invariances::ops::{resize_nearest, resize_bilinear}",
    ),
    (
        "conv",
        "Tensor::conv2d with a stride, and conv_transpose2d",
        "invariances::ops::{conv2d, conv_transpose2d}",
    ),
];

/// What a comparison of gradients found, if it found no error.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientCheck {
    /// The result.
    pub verdict: GradientVerdict,
    /// The relative difference of the gradient to the numeric one, at most 0.05 where they agree,
    /// or 0.21 where the uncertainty explains it.
    pub difference: f64,
    /// How far the numeric derivative itself is uncertain, relative to its size.
    pub uncertainty: f64,
}

/// Whether a gradient is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GradientVerdict {
    /// It agrees with the numeric one.
    Agrees,
    /// Both are zero: the output does not change with the input.
    Zero,
    /// It could not be checked, and why: a random layer (dropout), half precision, or a numeric
    /// derivative that is too uncertain.
    Undecided(String),
}

impl GradientCheck {
    fn undecided(why: impl Into<String>) -> Self {
        Self {
            verdict: GradientVerdict::Undecided(why.into()),
            difference: f64::NAN,
            uncertainty: f64::NAN,
        }
    }
}

/// What the comparison of some layers found.
enum Found {
    /// No fault.
    Fine(GradientCheck),
    /// A gradient that differs from the numeric one.
    Differs(GradientCheck),
    /// An output that does not lead back to the input.
    None,
    /// A backward pass that ends with an error.
    Fails(String),
}

/// The result for a whole network.
pub(super) enum Outcome {
    Fine(GradientCheck),
    /// The layers at fault, and the message.
    Faulty(Vec<usize>, String),
}

thread_local! {
    static CHECKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a network in order to check it.
pub(super) fn checking() -> bool {
    CHECKING.with(Cell::get)
}

/// Runs `f` while [`checking`] is true.
pub(super) fn while_checking<R>(f: impl FnOnce() -> R) -> R {
    /// Restores the flag, also if `f` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHECKING.with(|c| c.set(self.0));
        }
    }
    let _restore = Restore(CHECKING.with(|c| c.replace(true)));
    f()
}

/// Compares the gradient through `layers`, for their input x, with the numeric one; see the
/// module's documentation.
///
/// # Errors
/// As [`Network::run`].
pub(super) fn examine<N: Network + ?Sized>(
    network: &N,
    x: &Tensor,
    layers: Range<usize>,
) -> Result<Outcome> {
    while_checking(|| examine_layers(network, &x.detach(), layers))
}

fn examine_layers<N: Network + ?Sized>(
    network: &N,
    x: &Tensor,
    layers: Range<usize>,
) -> Result<Outcome> {
    let count = x.dims().first().copied().unwrap_or(0);
    let few = match count > IMAGES {
        // A layer may insist on the size of the batch; then all of it is taken.
        true => Some(x.narrow(0, 0, IMAGES)?).filter(|x| network.run(x, layers.clone()).is_ok()),
        false => None,
    };
    let x = few.unwrap_or_else(|| x.clone());
    let mut rng = Rng::named(0, "check gradients");
    let whole = compare(&|x| network.run(x, layers.clone()), &x, &mut rng)?;
    if let Found::Fine(check) = &whole {
        let clear = !matches!(check.verdict, GradientVerdict::Undecided(_));
        if clear || half(&x) {
            return Ok(Outcome::Fine(check.clone()));
        }
    }
    let names = network.layers();
    let name = |index: usize| names.get(index).cloned().unwrap_or_default();
    let (mut faulty, mut faults, mut unclear) = (Vec::new(), Vec::new(), Vec::new());
    let mut input = x;
    for index in layers.clone() {
        let run = |x: &Tensor| network.run(x, index..index + 1);
        let mut rng = Rng::named(0, &format!("check gradients of layer {index}"));
        let place = format!("layer {:?}", name(index));
        match compare(&run, &input, &mut rng)? {
            Found::Fine(check) => {
                if let GradientVerdict::Undecided(why) = check.verdict {
                    unclear.push(format!("{place}: {why}"));
                }
            }
            fault => {
                faulty.push(index);
                faults.push((place, fault));
            }
        }
        input = run(&input)?.detach();
    }
    let whole = match whole {
        Found::Fine(check) => Some(check),
        Found::Differs(check) => Some(GradientCheck {
            verdict: GradientVerdict::Undecided(format!(
                "the gradient through all layers differs from the numeric one by {}, but that of \
                 no single layer does",
                percent(check.difference)
            )),
            ..check
        }),
        fault => {
            if faults.is_empty() {
                // It is certain, though no layer has it alone.
                faulty.extend(layers);
                faults.push(("the whole".into(), fault));
            }
            None
        }
    };
    match whole {
        Some(mut check) if faults.is_empty() => {
            if !unclear.is_empty() {
                check.verdict = GradientVerdict::Undecided(unclear.join("; "));
            }
            Ok(Outcome::Fine(check))
        }
        _ => Ok(Outcome::Faulty(faulty, message(&network.name(), &faults))),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The text of the error about layers at fault.
fn message(network: &str, faults: &[(String, Found)]) -> String {
    let mut said = Vec::new();
    let mut errors = String::new();
    for (place, fault) in faults {
        said.push(match fault {
            Found::Differs(check) | Found::Fine(check) => format!(
                "the gradient of {place} of {network} is wrong: it differs from a numeric \
                 derivative by {} (uncertainty of that: {})",
                percent(check.difference),
                percent(check.uncertainty)
            ),
            Found::None => format!(
                "no gradient goes through {place} of {network}: for candle its output does not \
                 depend on its input (`detach`, an operation without a backward pass, or argmax, \
                 rounding and comparisons, whose gradient is zero)"
            ),
            Found::Fails(error) => {
                errors += &error.to_lowercase();
                format!("the backward pass of {place} of {network} fails: {error}")
            }
        });
    }
    // candle's errors say which operation it was; otherwise all are candidates.
    let known: Vec<_> = REPLACEMENTS
        .iter()
        .filter(|(word, ..)| !errors.is_empty() && errors.contains(word))
        .collect();
    let known = match known.is_empty() {
        true => REPLACEMENTS.iter().collect(),
        false => known,
    };
    let replacements = known.iter().map(|(_, with, to)| format!("{with} → {to}"));
    format!(
        "{}. Operations of candle with a wrong or missing gradient, and what to use instead: {}. \
         If the gradient is meant to differ (a straight-through estimator), \
         `Custom::trust_gradients` turns the check off; if none is needed, call `detach()` on the \
         input.",
        said.join("; "),
        replacements.collect::<Vec<_>>().join("; ")
    )
}

fn half(x: &Tensor) -> bool {
    !matches!(x.dtype(), DType::F32 | DType::F64)
}

/// Compares the derivatives of `forward` at x.
fn compare(
    forward: &dyn Fn(&Tensor) -> Result<Tensor>,
    x: &Tensor,
    rng: &mut Rng,
) -> Result<Found> {
    let undecided = |why: &str| Ok(Found::Fine(GradientCheck::undecided(why)));
    if !x.dtype().is_float() || x.elem_count() == 0 {
        return undecided("its input is not floating point, or empty");
    }
    let scale = rms(&x.to_dtype(DType::F32)?)?;
    if !scale.is_finite() {
        return undecided("its input holds NaN or infinity, or is too large");
    }
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let normal = |rng: &mut Rng, like: &Tensor| -> Result<Tensor> {
        let noise = rng.normal(like.shape(), like.device())?;
        Ok(noise.to_dtype(like.dtype())?)
    };
    let shaken = (x + (normal(rng, x)? * (SHAKE * scale))?)?;
    let mut at = Var::from_tensor(&shaken)?;
    let mut out = forward(&at)?;
    if !out.dtype().is_float() {
        return Ok(Found::None);
    }
    let finite = |y: &Tensor| -> Result<bool> { Ok(number(&y.detach())?.is_finite()) };
    if !finite(&out)? {
        // The function may not be defined everywhere (a logarithm of pixels).
        at = Var::from_tensor(x)?;
        out = forward(&at)?;
    }
    if !out.track_op() {
        return Ok(Found::None);
    }
    if half(x) {
        return undecided(&format!(
            "{:?} is not precise enough for a numeric derivative; check the network in f32",
            x.dtype()
        ));
    }
    if !finite(&out)? {
        return undecided("its output holds NaN or infinity");
    }
    // Rounding is that of the output's own dtype.
    let epsilon = epsilon(out.dtype());
    let forward = |x: &Tensor| -> Result<Tensor> { Ok(forward(x)?.to_dtype(x.dtype())?) };
    let out = out.to_dtype(x.dtype())?;
    let y = out.detach();
    let again = forward(&at.as_detached_tensor())?;
    let apart = rms(&(&again - &y)?)?;
    if apart > RANDOM * rms(&y)? {
        return undecided(
            "it is random: two runs on the same input differ (dropout, or noise); check it in \
             evaluation mode",
        );
    }
    let weights = normal(rng, &y)?;
    let mut gradients = match backward(&(out * &weights)?.sum_all()?) {
        Ok(gradients) => gradients,
        Err(error) => return Ok(Found::Fails(error.to_string())),
    };
    let Some(gradient) = gradients.remove(&at) else {
        return Ok(Found::None);
    };
    let at = at.as_detached_tensor();
    let rounding = ROUNDING * epsilon * number(&(&y * &weights)?.sqr()?)?.sqrt();
    let point = Point {
        forward: &forward,
        at: &at,
        y: &y,
        weights: &weights,
        gradient: &gradient,
        rounding,
    };
    let draw = |rng: &mut Rng, count: usize| -> Result<Vec<Tensor>> {
        (0..count).map(|_| normal(rng, x)).collect()
    };
    let few = draw(rng, DIRECTIONS)?;
    let mut steps = Vec::new();
    for step in STEPS {
        let mut found = Along::new(step * scale);
        for direction in &few {
            point.look(direction, &mut found)?;
        }
        if found.is_some() && found.difference() <= TOLERANCE {
            return Ok(Found::Fine(found.check(GradientVerdict::Agrees)));
        }
        steps.push(found);
    }
    if steps.iter().all(Along::is_zero) {
        return Ok(Found::Fine(GradientCheck {
            verdict: GradientVerdict::Zero,
            difference: 0.0,
            uncertainty: 0.0,
        }));
    }
    let by_certainty = |a: &Along, b: &Along| a.uncertainty().total_cmp(&b.uncertainty());
    steps.retain(Along::is_some);
    steps.sort_by(by_certainty);
    steps.truncate(BEST);
    for direction in draw(rng, MORE_DIRECTIONS)? {
        for found in &mut steps {
            point.look(&direction, found)?;
        }
    }
    steps.retain(Along::is_some);
    steps.sort_by(by_certainty);
    let Some(best) = steps.first() else {
        return undecided("its derivative is NaN or infinite, or lost in rounding");
    };
    // What the uncertainty explains, as independent errors add up.
    let explained = TOLERANCE.hypot(CHANCE * best.uncertainty());
    if best.uncertainty() <= UNCERTAIN && best.difference() <= explained {
        return Ok(Found::Fine(best.check(GradientVerdict::Agrees)));
    }
    let mut certain = steps.iter().take(2);
    if steps.len() > 1 && certain.all(|c| c.difference() >= CERTAIN * c.uncertainty()) {
        return Ok(Found::Differs(best.check(GradientVerdict::Agrees)));
    }
    let why = format!(
        "the gradient and the numeric derivative differ by {}, and the latter is uncertain by {}",
        percent(best.difference()),
        percent(best.uncertainty())
    );
    Ok(Found::Fine(best.check(GradientVerdict::Undecided(why))))
}
