//! The curve of one bin with its derivatives, and its inverse.

/// A value and its derivatives with respect to x and to the six numbers of a bin: left, width,
/// bottom, height, and the slopes at its ends.
#[derive(Clone, Copy)]
pub(super) struct Dual {
    pub(super) value: f64,
    pub(super) by: [f64; 7],
}

impl Dual {
    fn variable(value: f64, place: usize) -> Self {
        let mut by = [0.0; 7];
        by[place] = 1.0;
        Self { value, by }
    }

    fn chain(self, value: f64, slope: f64) -> Self {
        Self {
            value,
            by: self.by.map(|d| d * slope),
        }
    }

    fn with(self, other: Self, value: f64, slope: f64, other_slope: f64) -> Self {
        let mut by = [0.0; 7];
        for (out, (a, b)) in by.iter_mut().zip(self.by.iter().zip(&other.by)) {
            *out = a * slope + b * other_slope;
        }
        Self { value, by }
    }

    fn plus(self, o: Self) -> Self {
        self.with(o, self.value + o.value, 1.0, 1.0)
    }

    fn minus(self, o: Self) -> Self {
        self.with(o, self.value - o.value, 1.0, -1.0)
    }

    fn times(self, o: Self) -> Self {
        self.with(o, self.value * o.value, o.value, self.value)
    }

    fn over(self, o: Self) -> Self {
        let ratio = self.value / o.value;
        self.with(o, ratio, o.value.recip(), -ratio / o.value)
    }

    fn ln(self) -> Self {
        self.chain(self.value.ln(), self.value.recip())
    }

    fn scaled(self, by: f64) -> Self {
        self.chain(self.value * by, by)
    }
}

/// One bin: left, width, bottom, height, slope at its left end and slope at its right end.
pub(super) type Bin = [f64; 6];

/// Returns y and ln(dy/dx) of a bin at x, with their derivatives.
pub(super) fn curve(x: f64, bin: &Bin) -> (Dual, Dual) {
    let [left, width, bottom, height, d0, d1] =
        [0, 1, 2, 3, 4, 5].map(|i| Dual::variable(bin[i], i + 1));
    let one = Dual {
        value: 1.0,
        by: [0.0; 7],
    };
    let at = Dual::variable(x, 0).minus(left).over(width);
    let rest = one.minus(at);
    let slope = height.over(width);
    let cross = at.times(rest);
    let square = at.times(at);
    let above = slope.times(square).plus(d0.times(cross));
    let below = slope.plus(d0.plus(d1).minus(slope.scaled(2.0)).times(cross));
    let y = bottom.plus(height.times(above).over(below));
    let turn = d1
        .times(square)
        .plus(slope.scaled(2.0).times(cross))
        .plus(d0.times(rest.times(rest)));
    // The logarithm of slope²·turn/below².
    let logdet = slope.ln().minus(below.ln()).scaled(2.0).plus(turn.ln());
    (y, logdet)
}

/// Returns the x in a bin whose value is y (equations 6 to 8 of the paper's appendix).
pub(super) fn solved(y: f64, bin: &Bin) -> f64 {
    let [left, width, bottom, height, d0, d1] = *bin;
    let slope = height / width;
    let up = y - bottom;
    let bend = d0 + d1 - 2.0 * slope;
    let a = height * (slope - d0) + up * bend;
    let b = height * d0 - up * bend;
    let c = -slope * up;
    let root = (b * b - 4.0 * a * c).max(0.0).sqrt();
    left + width * (2.0 * c / (-b - root)).clamp(0.0, 1.0)
}
