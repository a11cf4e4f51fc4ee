//! Renders a digit with a pen, with variation of style, slant, rotation, thickness, proportions
//! and small distortions.
//!
//! Only additions, multiplications, divisions and square roots of f32 are used. IEEE 754 defines
//! all of them to the last bit, so the digit is the same on every machine.

use super::glyphs::STYLES;
use invariances_ops::Rng;

/// The continuous factors of one rendered digit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hand {
    /// Selects the handwriting style: a number in [0, 1), divided among the styles of the digit.
    pub style: f32,
    /// Shear: horizontal shift of the top to the right per unit of height.
    pub slant: f32,
    /// Rotation, clockwise, in radians.
    pub rotation: f32,
    /// Full width of the pen, in image sides.
    pub thickness: f32,
    /// Longer side of the digit's bounding box, including the pen's width, in image sides.
    pub scale: f32,
    /// Ratio of width to height, relative to that of the style.
    pub aspect: f32,
    /// Offset of the strokes' centre from the image's centre, in image sides, right and down.
    /// `path` reduces it if the digit would leave the image.
    pub shift: [f32; 2],
    /// Strength of the elastic warp, in digit heights.
    pub elastic: f32,
}

/// Samples an approximately standard normal number within ±3.5: the sum of four uniform numbers.
/// The usual methods use logarithms, which differ between machines in the last bit.
fn bell(rng: &mut Rng) -> f32 {
    let sum = rng.f32() + rng.f32() + rng.f32() + rng.f32();
    (sum - 2.0) * 1.732_050_8
}

impl Hand {
    /// Samples random factors.
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            style: rng.f32(),
            slant: 0.12 + 0.2 * bell(rng),
            rotation: 0.09 * bell(rng),
            thickness: rng.range(0.055, 0.118),
            scale: rng.range(0.6, 0.74),
            aspect: rng.range(0.84, 1.22),
            shift: [0.022 * bell(rng), 0.022 * bell(rng)],
            elastic: rng.range(0.01, 0.07),
        }
    }

    /// Returns the index of the style of `digit`.
    pub fn style_of(&self, digit: usize) -> usize {
        let styles = STYLES[digit];
        let total: f32 = styles.iter().map(|s| f32::from(s.weight)).sum();
        let mut left = self.style * total;
        for (i, style) in styles.iter().enumerate() {
            left -= f32::from(style.weight);
            if left < 0.0 {
                return i;
            }
        }
        styles.len() - 1
    }
}

/// A point of the pen's path and the pen's half width there, in pixels.
#[derive(Clone, Copy)]
struct Dot {
    x: f32,
    y: f32,
    r: f32,
    /// Whether the path continues from the previous dot.
    joined: bool,
}

/// Number of segments between two control points: enough for smooth curves at 128 pixels.
const PIECES: usize = 8;

/// Renders `digit` into `ink`: `size`×`size` values, from 0 (background) to 1 (foreground), with
/// smooth edges. Variation that `hand` does not contain (jitter of the points, pressure, the
/// warp) is sampled from `rng`.
pub(super) fn draw(digit: usize, hand: &Hand, rng: &mut Rng, size: usize, ink: &mut [f32]) {
    let path = path(digit, hand, rng, size as f32);
    ink.fill(-1e9);
    for pair in path.windows(2) {
        if pair[1].joined {
            stroke_piece(pair[0], pair[1], size, ink);
        }
    }
    // Convert the distance inside the pen's edge into coverage, over about one pixel.
    for value in ink.iter_mut() {
        let t = (*value * 0.8 + 0.5).clamp(0.0, 1.0);
        *value = t * t * (3.0 - 2.0 * t);
    }
}

/// Raises each value of `ink` to at least the pixel's distance inside the edge of one segment of
/// the path.
fn stroke_piece(a: Dot, b: Dot, size: usize, ink: &mut [f32]) {
    let reach = a.r.max(b.r) + 1.0;
    let span = |p: f32, q: f32| {
        // Pixel i's centre is at i + 0.5; a cast to usize clamps below at 0.
        let low = (p.min(q) - reach - 0.5).max(0.0) as usize;
        let high = ((p.max(q) + reach + 0.5).max(0.0) as usize).min(size);
        low..high
    };
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let length2 = dx * dx + dy * dy;
    let inverse = if length2 > 1e-12 { 1.0 / length2 } else { 0.0 };
    let columns = span(a.x, b.x);
    for row in span(a.y, b.y) {
        let py = row as f32 + 0.5 - a.y;
        for column in columns.clone() {
            let px = column as f32 + 0.5 - a.x;
            let t = ((px * dx + py * dy) * inverse).clamp(0.0, 1.0);
            let (ex, ey) = (px - t * dx, py - t * dy);
            let inside = a.r + t * (b.r - a.r) - (ex * ex + ey * ey).sqrt();
            let value = &mut ink[row * size + column];
            *value = value.max(inside);
        }
    }
}

/// Returns the pen's path in pixels.
fn path(digit: usize, hand: &Hand, rng: &mut Rng, size: f32) -> Vec<Dot> {
    let style = &STYLES[digit][hand.style_of(digit)];
    let mut dots: Vec<Dot> = Vec::with_capacity(160);
    for stroke in style.strokes {
        let mut points: Vec<[f32; 2]> = Vec::with_capacity(stroke.len());
        for (i, &(x, y)) in stroke.iter().enumerate() {
            let corner = i > 0 && stroke[i - 1] == (x, y);
            let point = if corner {
                points[i - 1]
            } else {
                let end = if i == 0 || i + 1 == stroke.len() {
                    0.03
                } else {
                    0.02
                };
                [
                    f32::from(x) / 100.0 - 0.3 + end * bell(rng),
                    f32::from(y) / 100.0 - 0.5 + end * bell(rng),
                ]
            };
            points.push(point);
        }
        spline(&points, &mut dots);
    }

    // Warp the path, then stretch, shear and rotate it.
    let warp = Warp::draw(hand.elastic, rng);
    let (sin, cos) = sin_cos(hand.rotation);
    for dot in &mut dots {
        let (wx, wy) = warp.at(dot.x, dot.y);
        let y = dot.y + wy;
        let x = (dot.x + wx) * hand.aspect - hand.slant * y;
        dot.x = cos * x - sin * y;
        dot.y = sin * x + cos * y;
    }

    // Scale the digit's bounding box, then move the centre of the strokes to its position.
    let radius = 0.5 * hand.thickness * size;
    let mut low = [f32::MAX; 2];
    let mut high = [f32::MIN; 2];
    let mut middle = [0.0f32; 2];
    let mut length = 0.0f32;
    for (i, dot) in dots.iter().enumerate() {
        for (k, p) in [dot.x, dot.y].into_iter().enumerate() {
            low[k] = low[k].min(p);
            high[k] = high[k].max(p);
        }
        if dot.joined {
            let (dx, dy) = (dot.x - dots[i - 1].x, dot.y - dots[i - 1].y);
            let piece = (dx * dx + dy * dy).sqrt();
            middle[0] += piece * 0.5 * (dot.x + dots[i - 1].x);
            middle[1] += piece * 0.5 * (dot.y + dots[i - 1].y);
            length += piece;
        }
    }
    let extent = (high[0] - low[0]).max(high[1] - low[1]);
    let zoom = (hand.scale * size - 2.0 * radius) / extent;
    let mut origin = [0.0f32; 2];
    for k in 0..2 {
        let wanted = (0.5 + hand.shift[k]) * size - zoom * middle[k] / length;
        // The digit stays inside the image: at least one pixel of background remains on every
        // side.
        let margin = radius + 1.0;
        let least = margin - zoom * low[k];
        let most = size - margin - zoom * high[k];
        origin[k] = if least < most {
            wanted.clamp(least, most)
        } else {
            0.5 * (least + most)
        };
    }
    // The pen is pressed slightly harder at one end.
    let pressure = 0.1 * bell(rng);
    let count = dots.len().max(2) as f32 - 1.0;
    for (i, dot) in dots.iter_mut().enumerate() {
        dot.x = dot.x * zoom + origin[0];
        dot.y = dot.y * zoom + origin[1];
        dot.r = radius * (1.0 + pressure * (2.0 * i as f32 / count - 1.0));
    }
    dots
}

/// Adds a Catmull-Rom curve through the points, interrupted at corners (points that occur twice).
fn spline(points: &[[f32; 2]], dots: &mut Vec<Dot>) {
    let mut joined = false;
    for run in points.chunk_by(|a, b| a != b) {
        let n = run.len();
        for i in 0..n.saturating_sub(1) {
            let (p1, p2) = (run[i], run[i + 1]);
            // The points beyond the ends are extrapolated in a straight line.
            let p0 = if i > 0 {
                run[i - 1]
            } else {
                [2.0 * p1[0] - p2[0], 2.0 * p1[1] - p2[1]]
            };
            let p3 = if i + 2 < n {
                run[i + 2]
            } else {
                [2.0 * p2[0] - p1[0], 2.0 * p2[1] - p1[1]]
            };
            let first = usize::from(joined);
            for piece in first..=PIECES {
                let t = piece as f32 / PIECES as f32;
                let at = |k: usize| {
                    let a = p2[k] - p0[k];
                    let b = 2.0 * p0[k] - 5.0 * p1[k] + 4.0 * p2[k] - p3[k];
                    let c = 3.0 * (p1[k] - p2[k]) + p3[k] - p0[k];
                    p1[k] + 0.5 * t * (a + t * (b + t * c))
                };
                dots.push(Dot {
                    x: at(0),
                    y: at(1),
                    r: 0.0,
                    joined,
                });
                joined = true;
            }
        }
    }
}

/// Returns sine and cosine of a small angle from their series, normalised.
fn sin_cos(angle: f32) -> (f32, f32) {
    let a2 = angle * angle;
    let sin = angle * (1.0 - a2 / 6.0 * (1.0 - a2 / 20.0 * (1.0 - a2 / 42.0)));
    let cos = 1.0 - a2 / 2.0 * (1.0 - a2 / 12.0 * (1.0 - a2 / 30.0));
    let norm = (sin * sin + cos * cos).sqrt();
    (sin / norm, cos / norm)
}

/// A smooth displacement field: cubic B-splines over a coarse grid of random shifts.
struct Warp([[[f32; 2]; 5]; 5]);

impl Warp {
    fn draw(strength: f32, rng: &mut Rng) -> Self {
        let mut grid = [[[0.0; 2]; 5]; 5];
        for node in grid.iter_mut().flatten().flatten() {
            *node = 2.0 * strength * bell(rng);
        }
        Self(grid)
    }

    /// Returns the shift at a position of a digit that lies in ±0.5.
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        let place = |p: f32| {
            let p = ((p + 0.65) / 1.3 * 2.0).clamp(0.0, 1.999);
            let cell = p as usize;
            let t = p - cell as f32;
            let s = 1.0 - t;
            let weights = [
                s * s * s / 6.0,
                (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0,
                (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0,
                t * t * t / 6.0,
            ];
            (cell, weights)
        };
        let (column, across) = place(x);
        let (row, down) = place(y);
        let mut shift = (0.0, 0.0);
        for (i, d) in down.iter().enumerate() {
            for (j, a) in across.iter().enumerate() {
                let node = self.0[row + i][column + j];
                shift.0 += d * a * node[0];
                shift.1 += d * a * node[1];
            }
        }
        shift
    }
}
