//! What a figure consists of: parts with closed outlines, and marks that are drawn over them.

use crate::paint::{At, closed, ellipse, open};

/// A part of a figure: a closed outline in the figure's coordinates (about ±1, facing right), and
/// its brightness. Parts behind the body, such as a leg, are darker.
pub(crate) struct Part {
    pub outline: Vec<At>,
    pub bright: f32,
}

/// A detail that is drawn over the parts.
pub(crate) enum Mark {
    /// A line, with half the width of the pen.
    Line(Vec<At>, f32),
    /// An eye, with its radius.
    Eye(At, f32),
    /// A shape of one colour, such as a beak or a tusk; `true` for light, `false` for dark.
    Plain(Vec<At>, bool),
}

/// A figure: parts from back to front, and marks.
pub(crate) struct Figure {
    pub parts: Vec<Part>,
    pub marks: Vec<Mark>,
}

impl Figure {
    pub(super) fn new() -> Self {
        Self {
            parts: Vec::new(),
            marks: Vec::new(),
        }
    }

    pub(super) fn part(&mut self, points: &[At]) {
        self.parts.push(Part {
            outline: closed(points),
            bright: 1.0,
        });
    }

    pub(super) fn behind(&mut self, points: &[At]) {
        self.parts.push(Part {
            outline: closed(points),
            bright: 0.72,
        });
    }

    pub(super) fn oval(&mut self, centre: At, radii: At, turns: f32) {
        self.parts.push(Part {
            outline: ellipse(centre, radii, turns),
            bright: 1.0,
        });
    }

    /// Adds a limb along points, with a round end. Its half width changes from `start` to `end`.
    pub(super) fn limb(&mut self, line: &[At], start: f32, end: f32, bright: f32) {
        self.parts.push(Part {
            outline: thick(&open(line), start, end),
            bright,
        });
    }

    pub(super) fn line(&mut self, points: &[At], half: f32) {
        self.marks.push(Mark::Line(open(points), half));
    }

    pub(super) fn eye(&mut self, at: At, radius: f32) {
        self.marks.push(Mark::Eye(at, radius));
    }

    pub(super) fn plain(&mut self, points: &[At], light: bool) {
        self.marks.push(Mark::Plain(closed(points), light));
    }
}

/// Returns the outline of a thick line with a round end.
fn thick(line: &[At], start: f32, end: f32) -> Vec<At> {
    let n = line.len();
    let (mut left, mut right) = (Vec::with_capacity(n + 8), Vec::with_capacity(n));
    for i in 0..n {
        let (a, b) = (line[i.saturating_sub(1)], line[(i + 1).min(n - 1)]);
        let d = [b[0] - a[0], b[1] - a[1]];
        let length = (d[0] * d[0] + d[1] * d[1]).sqrt().max(1e-6);
        let half = start + (end - start) * i as f32 / (n - 1).max(1) as f32;
        let across = [-d[1] / length * half, d[0] / length * half];
        left.push([line[i][0] + across[0], line[i][1] + across[1]]);
        right.push([line[i][0] - across[0], line[i][1] - across[1]]);
        if i + 1 == n {
            let along = [d[0] / length * end, d[1] / length * end];
            for (s, c) in [(0.5, 0.866), (0.0, 1.0), (-0.5, 0.866)] {
                left.push([
                    line[i][0] + s / half.max(1e-6) * end * across[0] + c * along[0],
                    line[i][1] + s / half.max(1e-6) * end * across[1] + c * along[1],
                ]);
            }
        }
    }
    left.extend(right.into_iter().rev());
    left
}
