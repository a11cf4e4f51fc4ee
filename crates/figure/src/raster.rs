//! Draws a canvas as pixels, with plain arithmetic in a fixed order: the result has the same
//! bytes on every machine.
//!
//! tiny-skia 0.12 (4 more crates) has no text, estimates the coverage of a pixel from samples on
//! four lines, and has different SIMD code for different processors; here the coverage is the exact
//! area, with one code for shapes and glyphs. resvg 0.49, which adds text, brings 26 crates.

use super::canvas::{Canvas, Pixels, Shape};
use super::font::{EM, Piece};
use super::style::Colour;
use ab_glyph::OutlineCurve;

/// Draws a canvas on white, with `scale` pixels per logical pixel.
pub(crate) fn draw(canvas: &Canvas, scale: f64) -> Pixels {
    let width = (canvas.width * scale).round() as usize;
    let height = (canvas.height * scale).round() as usize;
    let mut page = Page {
        width,
        height,
        rgb: vec![255; width * height * 3],
        mask: Vec::new(),
        area: Vec::new(),
        clip: [0, 0, width, height],
    };
    for item in &canvas.items {
        page.clip = match item.clip {
            None => [0, 0, width, height],
            Some([x, y, w, h]) => {
                let limit =
                    |v: f64, most: usize| (v * scale).round().clamp(0.0, most as f64) as usize;
                [
                    limit(x, width),
                    limit(y, height),
                    limit(x + w, width),
                    limit(y + h, height),
                ]
            }
        };
        page.shape(&item.shape, scale);
    }
    Pixels {
        width,
        height,
        rgb: page.rgb,
    }
}

type Point = [f64; 2];

struct Page {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
    /// The covered share of each pixel in the bounding box of the current shape.
    mask: Vec<f32>,
    /// Signed area per pixel. Its sum from left to right is the coverage of a polygon.
    area: Vec<f32>,
    /// Left, top, right, bottom.
    clip: [usize; 4],
}

impl Page {
    fn shape(&mut self, shape: &Shape, scale: f64) {
        let scaled = |points: &[Point]| -> Vec<Point> {
            points
                .iter()
                .map(|p| [p[0] * scale, p[1] * scale])
                .collect()
        };
        match shape {
            Shape::Fill { points, colour } => self.fill(&[ring(scaled(points))], *colour),
            Shape::Stroke {
                points,
                colour,
                width,
                dash,
            } => {
                let points = scaled(points);
                let parts = match dash {
                    None => vec![points],
                    Some([on, off]) => dashes(&points, on * scale, off * scale),
                };
                let pieces: Vec<Vec<[Point; 2]>> = parts
                    .iter()
                    .flat_map(|part| pen(part, width * scale / 2.0, dash.is_none()))
                    .collect();
                self.fill(&pieces, *colour);
            }
            Shape::Rect {
                area,
                radius,
                fill,
                stroke,
            } => {
                let a = area.map(|v| v * scale);
                let r = radius * scale;
                if let Some(colour) = fill {
                    self.fill(&[ring(rounded(a, r))], *colour);
                }
                if let Some((colour, width)) = stroke {
                    let h = width * scale / 2.0;
                    let outer = [a[0] - h, a[1] - h, a[2] + 2.0 * h, a[3] + 2.0 * h];
                    let inner = [a[0] + h, a[1] + h, a[2] - 2.0 * h, a[3] - 2.0 * h];
                    let corner = |r: f64| if radius == &0.0 { 0.0 } else { r.max(0.0) };
                    let mut hole = rounded(inner, corner(r - h));
                    hole.reverse();
                    let mut edges = ring(rounded(outer, corner(r + h)));
                    edges.extend(ring(hole));
                    self.fill(&[edges], *colour);
                }
            }
            Shape::Text {
                at,
                line,
                size,
                colour,
                upwards,
                ..
            } => {
                let k = size * scale / EM;
                let place = |x: f64, y: f64| -> Point {
                    let (x, y) = if *upwards {
                        (-y * k, -x * k)
                    } else {
                        (x * k, -y * k)
                    };
                    [at[0] * scale + x, at[1] * scale + y]
                };
                for piece in &line.pieces {
                    let edges = match *piece {
                        Piece::Bar([x, y, w, h]) => ring(vec![
                            place(x, y),
                            place(x + w, y),
                            place(x + w, y + h),
                            place(x, y + h),
                        ]),
                        Piece::Glyph { font, id, x, y, .. } => {
                            let put =
                                |p: ab_glyph::Point| place(x + f64::from(p.x), y + f64::from(p.y));
                            flatten(&font.outline(id), put)
                        }
                    };
                    self.fill(&[edges], *colour);
                }
            }
            Shape::Image { area, pixels } => self.image(area.map(|v| v * scale), pixels),
        }
    }

    /// Copies an image by nearest-neighbour sampling.
    fn image(&mut self, [x, y, w, h]: [f64; 4], image: &Pixels) {
        let [left, top, right, bottom] = self.clip;
        let first = |v: f64, least: usize| ((v - 0.5).ceil().max(0.0) as usize).max(least);
        for py in first(y, top)..first(y + h, 0).min(bottom) {
            let sy = ((py as f64 + 0.5 - y) / h * image.height as f64) as usize;
            for px in first(x, left)..first(x + w, 0).min(right) {
                let sx = ((px as f64 + 0.5 - x) / w * image.width as f64) as usize;
                let from = (sy.min(image.height - 1) * image.width + sx.min(image.width - 1)) * 3;
                let to = (py * self.width + px) * 3;
                self.rgb[to..to + 3].copy_from_slice(&image.rgb[from..from + 3]);
            }
        }
    }

    /// Fills the union of polygons. Each is given by its edges; holes have the opposite
    /// orientation.
    fn fill(&mut self, polygons: &[Vec<[Point; 2]>], colour: Colour) {
        let Some(all) = extent(polygons.iter().flatten()) else {
            return;
        };
        let [left, top, right, bottom] = self.clip;
        let x0 = (all[0].floor().max(left as f64)) as usize;
        let y0 = (all[1].floor().max(top as f64)) as usize;
        let x1 = (all[2].ceil().min(right as f64).max(0.0)) as usize;
        let y1 = (all[3].ceil().min(bottom as f64).max(0.0)) as usize;
        if x0 >= x1 || y0 >= y1 {
            return;
        }
        let (w, h) = (x1 - x0, y1 - y0);
        self.mask.clear();
        self.mask.resize(w * h, 0.0);
        for polygon in polygons {
            self.cover(polygon, [x0, y0, w, h]);
        }
        for y in 0..h {
            for x in 0..w {
                let alpha = self.mask[y * w + x] * colour.alpha;
                if alpha <= 0.0 {
                    continue;
                }
                let to = ((y0 + y) * self.width + x0 + x) * 3;
                for (i, c) in [colour.red, colour.green, colour.blue]
                    .into_iter()
                    .enumerate()
                {
                    let old = f32::from(self.rgb[to + i]);
                    self.rgb[to + i] = (old + (f32::from(c) - old) * alpha).round() as u8;
                }
            }
        }
        debug_assert!(x1 <= self.width && y1 <= self.height);
    }

    /// Raises each pixel of the mask to the share of it that the polygon covers. Every edge adds
    /// its signed area to the pixels it crosses; the sum from the left is the coverage.
    fn cover(&mut self, polygon: &[[Point; 2]], [x0, y0, w, h]: [usize; 4]) {
        let Some(b) = extent(polygon) else { return };
        let rows = |v: f64| (v - y0 as f64).clamp(0.0, h as f64);
        let cols = |v: f64| (v - x0 as f64).clamp(0.0, w as f64);
        let (top, bottom) = (rows(b[1]).floor() as usize, rows(b[3]).ceil() as usize);
        let (left, right) = (cols(b[0]).floor() as usize, cols(b[2]).ceil() as usize);
        if top >= bottom || left >= right {
            return;
        }
        let width = right - left;
        let stride = width + 2;
        self.area.clear();
        self.area.resize(stride * (bottom - top), 0.0);
        let origin = [(x0 + left) as f64, (y0 + top) as f64];
        for [p, q] in polygon {
            let p = [p[0] - origin[0], p[1] - origin[1]];
            let q = [q[0] - origin[0], q[1] - origin[1]];
            edge(&mut self.area, stride, width, bottom - top, p, q);
        }
        for y in 0..bottom - top {
            let mut sum = 0.0;
            for x in 0..width {
                sum += self.area[y * stride + x];
                let covered = sum.abs().min(1.0);
                let mask = &mut self.mask[(top + y) * w + left + x];
                // Rounding errors leave a small area in pixels that are not covered.
                if covered > 0.002 && covered > *mask {
                    *mask = covered;
                }
            }
        }
    }
}

/// Adds the signed area of an edge, row by row.
fn edge(area: &mut [f32], stride: usize, width: usize, height: usize, p: Point, q: Point) {
    let (direction, [ax, ay], [bx, by]) = if p[1] < q[1] {
        (1.0, p, q)
    } else {
        (-1.0, q, p)
    };
    if by - ay <= 1e-9 {
        return;
    }
    let slope = (bx - ax) / (by - ay);
    let first = ay.max(0.0).floor() as usize;
    let last = by.min(height as f64).ceil().max(0.0) as usize;
    for y in first..last {
        let (from, to) = (ay.max(y as f64), by.min(y as f64 + 1.0));
        if to <= from {
            continue;
        }
        let dy = (to - from) * direction;
        // Area to the left of the box is added to its first column; area to the right of it is
        // ignored.
        let limit = |x: f64| x.clamp(0.0, width as f64);
        let (xa, xb) = (
            limit(ax + (from - ay) * slope),
            limit(ax + (to - ay) * slope),
        );
        let (xa, xb) = if xa < xb { (xa, xb) } else { (xb, xa) };
        let row = &mut area[y * stride..(y + 1) * stride];
        let start = xa.floor() as usize;
        if xb <= start as f64 + 1.0 {
            let middle = (xa + xb) / 2.0 - start as f64;
            row[start] += (dy * (1.0 - middle)) as f32;
            row[start + 1] += (dy * middle) as f32;
            continue;
        }
        let per = dy / (xb - xa);
        let mut before = 0.0; // the area so far, right of the edge
        let end = xb.ceil() as usize;
        for (x, area) in row.iter_mut().enumerate().take(end).skip(start) {
            let (l, r) = (xa.max(x as f64), xb.min(x as f64 + 1.0));
            // Inside this column the edge covers a width of (r − l). The area swept in the
            // columns before it fills the whole column.
            let swept = (r - l) * per;
            let middle = (l + r) / 2.0 - x as f64;
            let here = (l - xa) * per + swept * (1.0 - middle);
            *area += (here - before) as f32;
            before = here;
        }
        row[end.min(width + 1)] += (dy - before) as f32;
    }
}

/// Returns the bounding box of edges: left, top, right, bottom.
fn extent<'a>(edges: impl IntoIterator<Item = &'a [Point; 2]>) -> Option<[f64; 4]> {
    edges
        .into_iter()
        .flatten()
        .fold(None, |b: Option<[f64; 4]>, p| {
            let [l, t, r, d] = b.unwrap_or([p[0], p[1], p[0], p[1]]);
            Some([l.min(p[0]), t.min(p[1]), r.max(p[0]), d.max(p[1])])
        })
}

/// Returns the edges of the closed polygon.
fn ring(points: Vec<Point>) -> Vec<[Point; 2]> {
    let n = points.len();
    (0..n).map(|i| [points[i], points[(i + 1) % n]]).collect()
}

/// Returns the outline of a rectangle with rounded corners.
fn rounded([x, y, w, h]: [f64; 4], radius: f64) -> Vec<Point> {
    let r = radius.min(w / 2.0).min(h / 2.0);
    if r <= 0.0 {
        return vec![[x, y], [x + w, y], [x + w, y + h], [x, y + h]];
    }
    let steps = (r.sqrt() * 4.0).ceil().clamp(4.0, 32.0) as usize;
    let centres = [
        ([x + w - r, y + r], -0.25),
        ([x + w - r, y + h - r], 0.0),
        ([x + r, y + h - r], 0.25),
        ([x + r, y + r], 0.5),
    ];
    let mut points = Vec::with_capacity(4 * (steps + 1));
    for (c, turn) in centres {
        for i in 0..=steps {
            let angle = (turn + 0.25 * i as f64 / steps as f64) * std::f64::consts::TAU;
            points.push([c[0] + r * angle.cos(), c[1] + r * angle.sin()]);
        }
    }
    points
}

/// Returns the polygons that make up a line of the given half width: a rectangle for every
/// segment and, if `round` is set, a disc at every joint.
fn pen(points: &[Point], half: f64, round: bool) -> Vec<Vec<[Point; 2]>> {
    let mut pieces = Vec::new();
    for pair in points.windows(2) {
        let (p, q) = (pair[0], pair[1]);
        let (dx, dy) = (q[0] - p[0], q[1] - p[1]);
        let length = (dx * dx + dy * dy).sqrt();
        if length <= 0.0 {
            continue;
        }
        let n = [-dy / length * half, dx / length * half];
        pieces.push(ring(vec![
            [p[0] + n[0], p[1] + n[1]],
            [q[0] + n[0], q[1] + n[1]],
            [q[0] - n[0], q[1] - n[1]],
            [p[0] - n[0], p[1] - n[1]],
        ]));
    }
    if round && points.len() > 2 {
        for p in &points[1..points.len() - 1] {
            let disc = [p[0] - half, p[1] - half, 2.0 * half, 2.0 * half];
            pieces.push(ring(rounded(disc, half)));
        }
    }
    pieces
}

/// Cuts a line into dashes.
fn dashes(points: &[Point], on: f64, off: f64) -> Vec<Vec<Point>> {
    let mut parts = Vec::new();
    let mut part: Vec<Point> = points.first().copied().into_iter().collect();
    let (mut drawing, mut left) = (true, on);
    for pair in points.windows(2) {
        let (mut p, q) = (pair[0], pair[1]);
        loop {
            let length = ((q[0] - p[0]).powi(2) + (q[1] - p[1]).powi(2)).sqrt();
            if length <= left || left <= 0.0 {
                left -= length;
                if drawing {
                    part.push(q);
                }
                break;
            }
            let share = left / length;
            p = [p[0] + (q[0] - p[0]) * share, p[1] + (q[1] - p[1]) * share];
            if drawing {
                part.push(p);
                parts.push(std::mem::take(&mut part));
            } else {
                part = vec![p];
            }
            drawing = !drawing;
            left = if drawing { on } else { off };
        }
    }
    if drawing && part.len() > 1 {
        parts.push(part);
    }
    parts
}

/// Converts curves to short straight edges.
fn flatten(curves: &[OutlineCurve], put: impl Fn(ab_glyph::Point) -> Point) -> Vec<[Point; 2]> {
    const STEPS: usize = 6;
    let mut edges = Vec::with_capacity(curves.len() * 4);
    for curve in curves {
        let control: Vec<Point> = match *curve {
            OutlineCurve::Line(a, b) => vec![put(a), put(b)],
            OutlineCurve::Quad(a, b, c) => vec![put(a), put(b), put(c)],
            OutlineCurve::Cubic(a, b, c, d) => vec![put(a), put(b), put(c), put(d)],
        };
        if control.len() == 2 {
            edges.push([control[0], control[1]]);
            continue;
        }
        let mut last = control[0];
        for i in 1..=STEPS {
            let t = i as f64 / STEPS as f64;
            // De Casteljau's algorithm: interpolate neighbours until one point is left.
            let mut level = control.clone();
            while level.len() > 1 {
                level = level
                    .windows(2)
                    .map(|w| {
                        [
                            w[0][0] + (w[1][0] - w[0][0]) * t,
                            w[0][1] + (w[1][1] - w[0][1]) * t,
                        ]
                    })
                    .collect();
            }
            edges.push([last, level[0]]);
            last = level[0];
        }
    }
    edges
}
