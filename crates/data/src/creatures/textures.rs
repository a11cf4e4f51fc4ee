//! The ten textures of the creatures.

use super::super::paint::{At, Noise, dot, minus, sin_cos, smooth};

/// The names of the textures, by index. Each is the natural texture of the shape with the same
/// index.
pub const TEXTURES: [&str; 10] = [
    "scales", "feathers", "fur", "wrinkles", "plates", "swirls", "eyespots", "patches", "dots",
    "stripes",
];

/// Returns the fraction of the second colour at a position of a texture, in [0, 1]. A texture
/// repeats about once per unit. `soft` is the side of a pixel in texture coordinates and sets the
/// width of the edges.
pub(super) fn texture(number: u32, p: At, soft: f32) -> f32 {
    // The irregularities are the same for every creature. Differences between creatures are then
    // determined by the factors alone, and a code need not represent the position of every crack.
    let noise = Noise(11);
    // 1 inside and 0 outside of a border; `inside` is the signed distance from it, positive
    // inside.
    let edge = |inside: f32, soft: f32| smooth(-soft, soft, inside);
    match number {
        0 => scales(p, soft),
        1 => {
            // Chevrons.
            let wave = (p[0] * 1.1 - (p[0] * 1.1).floor() - 0.5).abs();
            let t = p[1] * 1.9 + 1.5 * wave + 0.25 * noise.at(p);
            edge((t - t.floor() - 0.5).abs() - 0.24, 1.9 * soft + 0.03)
        }
        2 => fur(p, noise, soft),
        3 => {
            // Cracks between horizontal folds.
            let (first, next, _) = noise.cells([p[0] * 0.85, p[1] * 1.7]);
            edge(0.13 - (next - first), 1.4 * soft + 0.04)
        }
        4 => plates(p, soft),
        5 => {
            // Rings around scattered centres.
            let (first, _, _) = noise.cells([p[0] * 0.55, p[1] * 0.55]);
            let t = first * 5.0;
            edge((t - t.floor() - 0.5).abs() - 0.25, 3.0 * soft + 0.03)
        }
        6 => {
            // A ring with a pupil, separate from its neighbours.
            let (first, _, _) = lattice([p[0] * 0.8, p[1] * 0.8]);
            let ring = edge(0.4 - first, soft + 0.02) * edge(first - 0.25, soft + 0.02);
            ring.max(edge(0.13 - first, soft + 0.02))
        }
        7 => {
            // Large patches with light seams between them.
            let (first, next, _) = noise.cells([p[0] * 0.95, p[1] * 0.95]);
            edge(next - first - 0.2, soft + 0.04)
        }
        8 => {
            let (first, _, _) = lattice([p[0] * 1.45, p[1] * 1.45]);
            edge(0.27 - first, 1.45 * soft + 0.02)
        }
        _ => {
            let t = p[0] * 1.15 + 0.9 * noise.at([p[0] * 0.6, p[1] * 0.9]) + 0.12 * p[1];
            edge((t - t.floor() - 0.5).abs() - 0.27, 1.2 * soft + 0.03)
        }
    }
}

/// Returns the distance to the nearest point of a triangular lattice, and that point's column and
/// row.
fn lattice(p: At) -> (f32, f32, f32) {
    const HEIGHT: f32 = 0.866;
    let row = (p[1] / HEIGHT).floor();
    let mut best = (f32::MAX, 0.0, 0.0);
    for r in [row, row + 1.0] {
        let shift = if (r * 0.5).floor() * 2.0 == r {
            0.0
        } else {
            0.5
        };
        let column = (p[0] - shift).round();
        let d = minus(p, [column + shift, r * HEIGHT]);
        let distance = dot(d, d);
        if distance < best.0 {
            best = (distance, column, r);
        }
    }
    (best.0.sqrt(), best.1, best.2)
}

/// Rows of round scales; each row overlaps the one below it.
fn scales(p: At, soft: f32) -> f32 {
    let (x, y) = (p[0] * 1.5, p[1] * 2.2);
    let row = y.floor();
    // The scale of this row covers the positions within its disc; elsewhere the row above is
    // visible.
    let disc = |row: f32| {
        let shift = if (row * 0.5).floor() * 2.0 == row {
            0.0
        } else {
            0.5
        };
        let dx = x - shift - (x - shift).round();
        let dy = (y - row) * 0.68;
        (dx * dx + dy * dy).sqrt()
    };
    let own = disc(row);
    let d = if own < 0.56 { own } else { disc(row - 1.0) };
    let rim = smooth(0.36 - soft, 0.5 + soft, d);
    rim * (1.0 - smooth(0.56, 0.62 + 1.5 * soft, d) * 0.2)
}

/// Short hairs.
fn fur(p: At, noise: Noise, soft: f32) -> f32 {
    let mut share: f32 = 0.0;
    for (n, turn) in [(0u32, 0.06f32), (7, -0.05)] {
        let (sin, cos) = sin_cos(turn);
        let q = [cos * p[0] - sin * p[1], sin * p[0] + cos * p[1]];
        let hair = Noise(noise.0.wrapping_add(n)).at([q[0] * 6.5, q[1] * 1.7]);
        share = share.max(smooth(0.62 - 2.0 * soft, 0.78 + 2.0 * soft, hair));
    }
    0.9 * share
}

/// Hexagons with a dark rim and a dark centre.
fn plates(p: At, soft: f32) -> f32 {
    let q = [p[0] * 1.15, p[1] * 1.15];
    // The nearest and the second nearest point of the lattice: the rim lies half way between
    // them.
    const HEIGHT: f32 = 0.866;
    let row = (q[1] / HEIGHT).floor();
    let (mut first, mut next) = (f32::MAX, f32::MAX);
    for r in [row - 1.0, row, row + 1.0, row + 2.0] {
        let shift = if (r * 0.5).floor() * 2.0 == r {
            0.0
        } else {
            0.5
        };
        let column = (q[0] - shift).floor();
        for c in [column, column + 1.0] {
            let d = minus(q, [c + shift, r * HEIGHT]);
            let distance = dot(d, d).sqrt();
            if distance < first {
                (next, first) = (first, distance);
            } else {
                next = next.min(distance);
            }
        }
    }
    let rim = smooth(0.2 + soft, 0.08 - soft, next - first);
    let heart = smooth(0.42 + soft, 0.34 - soft, next - first)
        * smooth(0.3 - soft, 0.38 + soft, next - first);
    rim.max(0.75 * heart)
}
