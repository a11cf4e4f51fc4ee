//! A small 2D renderer for the synthetic datasets: filled shapes with antialiased edges, pens,
//! shading and noise.
//!
//! Positions are (x, y) in units of the image side, right and down, from (0, 0) to (1, 1).
//! Colours are red, green, blue in [0, 1]. Only additions, multiplications, divisions, square
//! roots and roundings of f32 are used. IEEE 754 defines all of them to the last bit, so the
//! image is the same on every machine.

use ab_glyph_rasterizer::{Point, Rasterizer};

/// A position in the image.
pub(super) type At = [f32; 2];
/// Red, green, blue.
pub(super) type Colour = [f32; 3];

/// An image that is being painted, with the rasteriser for shapes.
pub(super) struct Painter {
    size: usize,
    pixels: Vec<Colour>,
    raster: Rasterizer,
}

impl Painter {
    /// Creates a black image of `size`×`size` pixels.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            pixels: vec![[0.0; 3]; size * size],
            raster: Rasterizer::new(size, size),
        }
    }

    /// Returns the side of a pixel in image sides.
    pub fn pixel(&self) -> f32 {
        1.0 / self.size as f32
    }

    /// Sets every pixel to a colour that depends on its position.
    pub fn ground(&mut self, colour: impl Fn(At) -> Colour) {
        let pixel = self.pixel();
        for (i, value) in self.pixels.iter_mut().enumerate() {
            let (row, column) = (i / self.size, i % self.size);
            *value = colour([(column as f32 + 0.5) * pixel, (row as f32 + 0.5) * pixel]);
        }
    }

    /// Fills a closed polygon (the last point is joined to the first). `paint` returns the colour
    /// and opacity at each position. Shapes may extend beyond the image. Areas where the outline
    /// overlaps itself are painted once.
    pub fn fill(&mut self, outline: &[At], paint: impl Fn(At) -> (Colour, f32)) {
        let size = self.size as f32;
        // Coordinates far outside the image are clamped; this does not change the visible part.
        let place = |p: At| {
            [
                (p[0] * size).clamp(-2.0 * size, 3.0 * size),
                (p[1] * size).clamp(-2.0 * size, 3.0 * size),
            ]
        };
        let (mut low, mut high) = ([f32::MAX; 2], [f32::MIN; 2]);
        for &p in outline {
            let p = place(p);
            for k in 0..2 {
                low[k] = low[k].min(p[k]);
                high[k] = high[k].max(p[k]);
            }
        }
        if outline.len() < 3 || !(low[0] < size && low[1] < size && high[0] > 0.0 && high[1] > 0.0)
        {
            return;
        }
        let origin = [low[0].floor(), low[1].floor()];
        let (width, height) = (
            (high[0] - origin[0]).ceil() as usize + 2,
            (high[1] - origin[1]).ceil() as usize + 1,
        );
        self.raster.reset(width, height);
        let mut before = outline[outline.len() - 1];
        for &p in outline {
            let (a, b) = (place(before), place(p));
            self.raster.draw_line(
                Point {
                    x: a[0] - origin[0],
                    y: a[1] - origin[1],
                },
                Point {
                    x: b[0] - origin[0],
                    y: b[1] - origin[1],
                },
            );
            before = p;
        }
        let (left, top) = (origin[0] as isize, origin[1] as isize);
        let (side, pixel, pixels) = (self.size as isize, self.pixel(), &mut self.pixels);
        self.raster.for_each_pixel_2d(|x, y, covered| {
            let (column, row) = (x as isize + left, y as isize + top);
            if covered > 0.002 && (0..side).contains(&column) && (0..side).contains(&row) {
                let at = [(column as f32 + 0.5) * pixel, (row as f32 + 0.5) * pixel];
                let (colour, opacity) = paint(at);
                let share = covered.min(1.0) * opacity.clamp(0.0, 1.0);
                let value = &mut pixels[(row * side + column) as usize];
                *value = mix(*value, colour, share);
            }
        });
    }

    /// Draws a polyline with a round pen whose half width changes from `start` to `end`.
    pub fn pen(&mut self, line: &[At], start: f32, end: f32, colour: Colour, opacity: f32) {
        // The coverage is computed once for the whole polyline, so that joints are not visible if
        // the line is not opaque.
        let (size, pixel) = (self.size, self.pixel());
        let pieces = line.len().saturating_sub(1).max(1) as f32;
        let reach = start.max(end) + 1.5 * pixel;
        let range = |k: usize| {
            let low = line.iter().map(|p| p[k]).fold(f32::MAX, f32::min) - reach;
            let high = line.iter().map(|p| p[k]).fold(f32::MIN, f32::max) + reach;
            let index = |p: f32| (p * size as f32).clamp(0.0, size as f32);
            index(low) as usize..index(high).ceil() as usize
        };
        if line.is_empty() {
            return;
        }
        let columns = range(0);
        for row in range(1) {
            for column in columns.clone() {
                let at = [(column as f32 + 0.5) * pixel, (row as f32 + 0.5) * pixel];
                let mut inside = f32::MIN;
                for i in 0..line.len().max(2) - 1 {
                    let (a, b) = (line[i], line[(i + 1).min(line.len() - 1)]);
                    let (d, p) = (minus(b, a), minus(at, a));
                    let t = (dot(p, d) / dot(d, d).max(1e-12)).clamp(0.0, 1.0);
                    let off = [p[0] - t * d[0], p[1] - t * d[1]];
                    let half = start + (end - start) * (i as f32 + t) / pieces;
                    inside = inside.max(half - dot(off, off).sqrt());
                }
                // A pen thinner than a pixel becomes fainter, not thinner.
                let covered = (inside / pixel + 0.5).clamp(0.0, 1.0);
                if covered > 0.0 {
                    let value = &mut self.pixels[row * size + column];
                    *value = mix(*value, colour, covered * opacity);
                }
            }
        }
    }

    /// Changes the colour of every pixel as a function of its position and its current colour,
    /// for haze, light or grain.
    pub fn finish(&mut self, change: impl Fn(At, Colour) -> Colour) {
        let pixel = self.pixel();
        for (i, value) in self.pixels.iter_mut().enumerate() {
            let (row, column) = (i / self.size, i % self.size);
            let at = [(column as f32 + 0.5) * pixel, (row as f32 + 0.5) * pixel];
            *value = change(at, *value);
        }
    }

    /// Writes the image as three planes in [−1, 1].
    pub fn planes(&self, out: &mut [f32]) {
        let area = self.size * self.size;
        for (c, plane) in out.chunks_mut(area).enumerate() {
            for (value, pixel) in plane.iter_mut().zip(&self.pixels) {
                *value = (2.0 * pixel[c] - 1.0).clamp(-1.0, 1.0);
            }
        }
    }
}

/// Interpolates linearly between two colours: `a` for `share` = 0, `b` for 1.
pub(super) fn mix(a: Colour, b: Colour, share: f32) -> Colour {
    [0, 1, 2].map(|k| a[k] + (b[k] - a[k]) * share)
}

/// Multiplies a colour by a factor: below 1 darker, above 1 lighter.
pub(super) fn shade(colour: Colour, factor: f32) -> Colour {
    colour.map(|c| (c * factor).clamp(0.0, 1.0))
}

/// Converts HSV to RGB: the hue in turns (0 red, 1/3 green, 2/3 blue), saturation and value in
/// [0, 1].
pub(super) fn hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    [5.0, 3.0, 1.0].map(|n: f32| {
        let k = n + 6.0 * (hue - hue.floor());
        let k = k - 6.0 * (k / 6.0).floor();
        let tint = k.min(4.0 - k).clamp(0.0, 1.0);
        value - value * saturation * tint
    })
}

pub(super) fn plus(a: At, b: At) -> At {
    [a[0] + b[0], a[1] + b[1]]
}

pub(super) fn minus(a: At, b: At) -> At {
    [a[0] - b[0], a[1] - b[1]]
}

pub(super) fn dot(a: At, b: At) -> f32 {
    a[0] * b[0] + a[1] * b[1]
}

/// Smoothstep: 0 below `low`, 1 above `high`, smooth in between.
pub(super) fn smooth(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Returns sine and cosine of an angle in turns, accurate to about 1e-6. The functions of the
/// standard library differ between machines in the last bit.
pub(super) fn sin_cos(turns: f32) -> (f32, f32) {
    // Reduce the angle to at most an eighth of a turn from the nearest quarter turn, then use the
    // series around 0.
    let quarters = (4.0 * turns).round();
    let a = (turns - 0.25 * quarters) * std::f32::consts::TAU;
    let a2 = a * a;
    let sin = a * (1.0 - a2 / 6.0 * (1.0 - a2 / 20.0 * (1.0 - a2 / 42.0)));
    let cos = 1.0 - a2 / 2.0 * (1.0 - a2 / 12.0 * (1.0 - a2 / 30.0 * (1.0 - a2 / 56.0)));
    match (quarters as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Returns an ellipse as a polygon, rotated clockwise by `turns`.
pub(super) fn ellipse(centre: At, radii: At, turns: f32) -> Vec<At> {
    const CORNERS: usize = 48;
    let (sin, cos) = sin_cos(turns);
    let corner = |i: usize| {
        let (s, c) = sin_cos(i as f32 / CORNERS as f32);
        let p = [radii[0] * c, radii[1] * s];
        plus(centre, [cos * p[0] - sin * p[1], sin * p[0] + cos * p[1]])
    };
    (0..CORNERS).map(corner).collect()
}

/// Returns a smooth closed outline through the points (Catmull-Rom), with a corner at each point
/// that occurs twice.
pub(super) fn closed(points: &[At]) -> Vec<At> {
    curve(points, true)
}

/// Returns a smooth open curve through the points, with a corner at each point that occurs twice.
pub(super) fn open(points: &[At]) -> Vec<At> {
    curve(points, false)
}

fn curve(points: &[At], closed: bool) -> Vec<At> {
    const PIECES: usize = 8;
    let n = points.len();
    if n < 2 {
        return points.to_vec();
    }
    let mut out = Vec::with_capacity(n * PIECES + 1);
    let pairs = if closed { n } else { n - 1 };
    for i in 0..pairs {
        let (p1, p2) = (points[i], points[(i + 1) % n]);
        if p1 == p2 {
            continue;
        }
        // At a corner or an end there is no neighbouring point; it is extrapolated in a straight
        // line.
        let mut p0 = if closed || i > 0 {
            points[(i + n - 1) % n]
        } else {
            p1
        };
        let mut p3 = if closed || i + 2 < n {
            points[(i + 2) % n]
        } else {
            p2
        };
        if p0 == p1 {
            p0 = minus(plus(p1, p1), p2);
        }
        if p3 == p2 {
            p3 = minus(plus(p2, p2), p1);
        }
        for piece in 0..PIECES {
            let t = piece as f32 / PIECES as f32;
            out.push([0, 1].map(|k| {
                let a = p2[k] - p0[k];
                let b = 2.0 * p0[k] - 5.0 * p1[k] + 4.0 * p2[k] - p3[k];
                let c = 3.0 * (p1[k] - p2[k]) + p3[k] - p0[k];
                p1[k] + 0.5 * t * (a + t * (b + t * c))
            }));
        }
    }
    if !closed {
        out.push(points[n - 1]);
    }
    out
}

/// A coordinate transform: rotation, scaling, reflection and translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    rows: [At; 2],
    origin: At,
}

impl Frame {
    /// Scales by `scale`, rotates clockwise by `turns`, then moves the origin to `to`.
    pub fn new(to: At, scale: At, turns: f32) -> Self {
        let (sin, cos) = sin_cos(turns);
        Self {
            rows: [
                [cos * scale[0], -sin * scale[1]],
                [sin * scale[0], cos * scale[1]],
            ],
            origin: to,
        }
    }

    /// Maps a position from the figure's coordinates to the image's.
    pub fn out(&self, p: At) -> At {
        plus(self.origin, [dot(self.rows[0], p), dot(self.rows[1], p)])
    }

    /// Maps a position from the image's coordinates to the figure's.
    pub fn back(&self, p: At) -> At {
        let [[a, b], [c, d]] = self.rows;
        let p = minus(p, self.origin);
        let determinant = a * d - b * c;
        [
            (d * p[0] - b * p[1]) / determinant,
            (a * p[1] - c * p[0]) / determinant,
        ]
    }

    /// Maps an outline from the figure's coordinates to the image's.
    pub fn all(&self, outline: &[At]) -> Vec<At> {
        outline.iter().map(|&p| self.out(p)).collect()
    }
}

/// Returns the brightness of an ellipsoid at a position, from 0 in shadow to 1 in full light.
/// `light` is the unit vector towards the light (right, down, towards the viewer). Outside the
/// ellipsoid the value is that at its edge.
pub(super) fn ball(at: At, centre: At, radii: At, light: [f32; 3]) -> f32 {
    let p = minus(at, centre);
    let mut n = [p[0] / radii[0], p[1] / radii[1], 0.0];
    let flat = n[0] * n[0] + n[1] * n[1];
    if flat > 1.0 {
        let length = flat.sqrt();
        n = [n[0] / length, n[1] / length, 0.0];
    } else {
        n[2] = (1.0 - flat).sqrt();
    }
    (n[0] * light[0] + n[1] * light[1] + n[2] * light[2]).max(0.0)
}

/// Smooth random values in [0, 1] over the plane (value noise), with about one hill per unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise(pub u32);

impl Noise {
    fn node(self, x: i32, y: i32) -> f32 {
        let mut h =
            self.0 ^ (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77);
        h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
        h = (h ^ (h >> 12)).wrapping_mul(0x297A_2D39);
        h ^= h >> 15;
        (h >> 8) as f32 / 16_777_216.0
    }

    /// Returns the value at a position.
    pub fn at(self, p: At) -> f32 {
        let (x, y) = (p[0].floor(), p[1].floor());
        let (i, j) = (x as i32, y as i32);
        let (s, t) = (smooth(0.0, 1.0, p[0] - x), smooth(0.0, 1.0, p[1] - y));
        let row = |j: i32| {
            let (a, b) = (self.node(i, j), self.node(i.wrapping_add(1), j));
            a + (b - a) * s
        };
        let (a, b) = (row(j), row(j.wrapping_add(1)));
        a + (b - a) * t
    }

    /// Returns the sum of three octaves, scaled to [0, 1].
    pub fn rough(self, p: At) -> f32 {
        let octave = |n: u32, f: f32| Self(self.0.wrapping_add(n)).at([p[0] * f, p[1] * f]);
        (4.0 * octave(0, 1.0) + 2.0 * octave(1, 2.0) + octave(2, 4.0)) / 7.0
    }

    /// Cellular noise with one random point per cell: returns the distance to the nearest point,
    /// the distance to the second nearest, and a random number of the nearest point's cell. Used
    /// for spots, scales and cracks.
    pub fn cells(self, p: At) -> (f32, f32, f32) {
        let (i, j) = (p[0].floor() as i32, p[1].floor() as i32);
        let (mut first, mut second, mut which) = (f32::MAX, f32::MAX, 0.0);
        for y in j - 1..=j + 1 {
            for x in i - 1..=i + 1 {
                let own = Self(self.0 ^ 0x5bd1_e995).node(x, y);
                let centre = [
                    x as f32 + 0.15 + 0.7 * self.node(x, y),
                    y as f32 + 0.15 + 0.7 * own,
                ];
                let d = minus(p, centre);
                let distance = dot(d, d);
                if distance < first {
                    (second, first) = (first, distance);
                    which = Self(self.0 ^ 0x1b87_3593).node(x, y);
                } else {
                    second = second.min(distance);
                }
            }
        }
        (first.sqrt(), second.sqrt(), which)
    }
}
