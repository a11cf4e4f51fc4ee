//! The ten shapes of the creatures, built from outlines and marks.

use super::super::paint::{At, closed, ellipse, open};
use super::creature::Creature;

/// The names of the shapes, by index.
pub const SHAPES: [&str; 10] = [
    "fish",
    "bird",
    "rabbit",
    "elephant",
    "turtle",
    "snail",
    "butterfly",
    "giraffe",
    "octopus",
    "cat",
];

/// A part of a figure: a closed outline in the figure's coordinates (about ±1, facing right), and
/// its brightness. Parts behind the body, such as a leg, are darker.
pub(super) struct Part {
    pub outline: Vec<At>,
    pub bright: f32,
}

/// A detail that is drawn over the parts.
pub(super) enum Mark {
    /// A line, with half the width of the pen.
    Line(Vec<At>, f32),
    /// An eye, with its radius.
    Eye(At, f32),
    /// A shape of one colour, such as a beak or a tusk; `true` for light, `false` for dark.
    Plain(Vec<At>, bool),
}

/// A figure: parts from back to front, and marks.
pub(super) struct Figure {
    pub parts: Vec<Part>,
    pub marks: Vec<Mark>,
}

impl Figure {
    fn new() -> Self {
        Self {
            parts: Vec::new(),
            marks: Vec::new(),
        }
    }

    fn part(&mut self, points: &[At]) {
        self.parts.push(Part {
            outline: closed(points),
            bright: 1.0,
        });
    }

    fn behind(&mut self, points: &[At]) {
        self.parts.push(Part {
            outline: closed(points),
            bright: 0.72,
        });
    }

    fn oval(&mut self, centre: At, radii: At, turns: f32) {
        self.parts.push(Part {
            outline: ellipse(centre, radii, turns),
            bright: 1.0,
        });
    }

    /// Adds a limb along points, with a round end. Its half width changes from `start` to `end`.
    fn limb(&mut self, line: &[At], start: f32, end: f32, bright: f32) {
        self.parts.push(Part {
            outline: thick(&open(line), start, end),
            bright,
        });
    }

    fn line(&mut self, points: &[At], half: f32) {
        self.marks.push(Mark::Line(open(points), half));
    }

    fn eye(&mut self, at: At, radius: f32) {
        self.marks.push(Mark::Eye(at, radius));
    }

    fn plain(&mut self, points: &[At], light: bool) {
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

/// Returns the figure of a creature.
pub(super) fn figure(creature: &Creature) -> Figure {
    let c = creature;
    let (b, l, h, t) = (c.build, c.limbs, c.head, c.bend);
    let mut f = Figure::new();
    match c.shape {
        0 => fish(&mut f, b, l, h, t),
        1 => bird(&mut f, b, l, h, t),
        2 => rabbit(&mut f, b, l, h, t),
        3 => elephant(&mut f, b, l, h, t),
        4 => turtle(&mut f, b, l, h, t),
        5 => snail(&mut f, b, l, h, t),
        6 => butterfly(&mut f, b, l, h, t),
        7 => giraffe(&mut f, b, l, h, t),
        8 => octopus(&mut f, b, l, h, t),
        _ => cat(&mut f, b, l, h, t),
    }
    f
}

fn fish(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    let w = 0.46 + 0.13 * b;
    let fin = 0.3 + 0.12 * l;
    let tail = 0.12 * t;
    f.part(&[
        [-0.55, 0.0 + tail],
        [-0.98, -0.42 - 0.12 * l + tail],
        [-0.98, -0.42 - 0.12 * l + tail],
        [-0.84, 0.0 + tail],
        [-0.98, 0.42 + 0.12 * l + tail],
        [-0.98, 0.42 + 0.12 * l + tail],
    ]);
    f.part(&[
        [-0.25, -w * 0.8],
        [0.0, -w - fin],
        [0.35, -w * 0.95],
        [0.1, -w * 0.6],
    ]);
    f.part(&[[-0.1, w * 0.75], [-0.15, w + 0.65 * fin], [0.2, w * 0.85]]);
    let nose = 0.94 + 0.06 * h;
    f.part(&[
        [nose, 0.03 - 0.05 * t],
        [0.62 + 0.08 * h, -w * 0.66],
        [0.15, -w],
        [-0.35, -w * 0.62],
        [-0.68, -0.1 + 0.8 * tail],
        [-0.68, 0.1 + 0.8 * tail],
        [-0.35, w * 0.62],
        [0.15, w],
        [0.62 + 0.08 * h, w * 0.66],
    ]);
    f.part(&[
        [0.2, 0.08],
        [-0.1, 0.06 + 0.1 * t],
        [-0.22 - 0.1 * l, 0.3],
        [0.05, 0.26],
    ]);
    f.line(&[[0.42, -w * 0.62], [0.34, 0.0], [0.42, w * 0.62]], 0.02);
    f.line(&[[nose - 0.05, 0.1], [nose - 0.2, 0.13]], 0.018);
    f.eye([0.62, -0.12 - 0.05 * b], 0.085 + 0.025 * h);
}

fn bird(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    let w = 0.42 + 0.1 * b;
    let leg = 0.26 + 0.16 * l;
    let up = 0.2 * t;
    // Longer legs lift the whole body.
    let y = 0.12 - 0.5 * leg;
    f.marks.push(Mark::Line(
        vec![
            [-0.02, y + w * 0.8],
            [-0.06, y + w + leg],
            [0.1, y + w + leg],
        ],
        0.03,
    ));
    f.marks.push(Mark::Line(
        vec![[0.16, y + w * 0.8], [0.14, y + w + leg], [0.3, y + w + leg]],
        0.03,
    ));
    f.part(&[
        [-0.45, y - 0.05],
        [-1.0, y - 0.02 - up],
        [-1.0, y - 0.02 - up],
        [-0.96, y + 0.2 - up],
        [-0.96, y + 0.2 - up],
        [-0.4, y + 0.22],
    ]);
    let r = 0.27 + 0.06 * h;
    let head = [0.5 + 0.05 * t, y - w - 0.12 - 0.08 * t];
    f.part(&[
        [0.56, y - w * 0.5],
        [0.64, y + 0.05],
        [0.42, y + w * 0.85],
        [0.0, y + w],
        [-0.42, y + w * 0.62],
        [-0.62, y + 0.05],
        [-0.32, y - w * 0.55],
        [0.15, y - w * 0.85],
        [0.3, y - w - 0.1],
    ]);
    f.oval(head, [r, r], 0.0);
    let flap = 0.35 * t.max(0.0);
    f.part(&[
        [0.28, y - 0.16],
        [0.12, y + 0.24],
        [-0.5, y + 0.2 - flap],
        [-0.74, y + 0.02 - 1.6 * flap],
        [-0.3, y - 0.22],
    ]);
    f.plain(
        &[
            [head[0] + r * 0.82, head[1] - 0.09],
            [head[0] + r * 0.82, head[1] - 0.09],
            [head[0] + r + 0.3, head[1] + 0.03],
            [head[0] + r + 0.3, head[1] + 0.03],
            [head[0] + r * 0.82, head[1] + 0.11],
            [head[0] + r * 0.82, head[1] + 0.11],
        ],
        true,
    );
    f.eye([head[0] + 0.1, head[1] - 0.06], 0.075 + 0.015 * h);
}

fn rabbit(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    let ear = 0.66 + 0.22 * l;
    let r = 0.29 + 0.06 * h;
    let head = [0.42, -0.2 - 0.05 * t];
    let lean = 0.18 * t;
    let ear_at = |f: &mut Figure, x: f32, lean: f32, bright: f32| {
        let foot = [head[0] + x, head[1] - r * 0.7];
        let tip = [foot[0] - 0.2 - lean, foot[1] - ear];
        f.parts.push(Part {
            outline: closed(&[
                foot,
                [foot[0] - 0.19 - 0.4 * lean, foot[1] - ear * 0.5],
                tip,
                [foot[0] + 0.06 - 0.6 * lean, foot[1] - ear * 0.62],
            ]),
            bright,
        });
    };
    ear_at(f, 0.1, lean * 0.3 - 0.12, 0.76);
    f.oval([-0.74 - 0.1 * b, 0.34], [0.17, 0.16], 0.0);
    f.behind(&[[0.4, 0.3], [0.5, 0.78], [0.66, 0.84], [0.62, 0.3]]);
    f.part(&[
        [0.42, 0.05],
        [0.5, 0.5],
        [0.3, 0.84],
        [-0.5, 0.86],
        [-0.78 - 0.08 * b, 0.45],
        [-0.55 - 0.06 * b, -0.02 - 0.1 * b],
        [-0.05, -0.2 - 0.1 * b],
    ]);
    f.part(&[
        [-0.52, 0.42],
        [-0.3, 0.12 - 0.05 * b],
        [0.02, 0.34],
        [0.0, 0.7],
        [0.22, 0.82],
        [0.16, 0.9],
        [-0.45, 0.9],
        [-0.62, 0.7],
    ]);
    f.limb(&[[0.3, 0.3], [0.36, 0.6], [0.44, 0.84]], 0.13, 0.09, 1.0);
    f.oval(head, [r + 0.04, r], 0.03);
    ear_at(f, -0.06, lean, 1.0);
    f.eye([head[0] + 0.1, head[1] - 0.04], 0.075);
    f.plain(
        &ellipse([head[0] + r + 0.02, head[1] + 0.05], [0.05, 0.04], 0.0),
        false,
    );
}

fn elephant(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    let w = 0.45 + 0.09 * b;
    let leg = 0.42 + 0.14 * l;
    let y = -0.12 - 0.3 * (leg - 0.42);
    let foot = y + w * 0.6 + leg;
    let r = 0.31 + 0.05 * h;
    let head = [0.52, y - 0.16];
    f.limb(&[[-0.34, y + 0.2], [-0.34, foot]], 0.13, 0.12, 0.7);
    f.limb(&[[0.24, y + 0.2], [0.24, foot]], 0.13, 0.12, 0.7);
    f.marks.push(Mark::Line(
        open(&[
            [-0.82, y - 0.1],
            [-0.94, y + 0.14],
            [-0.93 - 0.06 * t, y + 0.42],
        ]),
        0.028,
    ));
    f.part(&[
        [0.5, y - 0.2],
        [0.55, y + 0.2],
        [0.3, y + w * 0.9],
        [-0.5, y + w * 0.92],
        [-0.86, y + 0.24],
        [-0.8, y - 0.22],
        [-0.4, y - w],
        [0.15, y - w * 0.95],
    ]);
    f.limb(&[[-0.6, y + 0.25], [-0.62, foot]], 0.16, 0.14, 1.0);
    f.limb(&[[0.4, y + 0.25], [0.42, foot]], 0.16, 0.14, 1.0);
    let curl = 0.35 * t;
    f.limb(
        &[
            [head[0] + 0.14, head[1] + 0.05],
            [head[0] + 0.36, head[1] + 0.3],
            [
                head[0] + 0.4 + 0.06 * t,
                head[1] + 0.64 - 0.4 * curl.max(0.0),
            ],
            [
                head[0] + 0.44 + 0.2 * t.max(0.0) - 0.1,
                head[1] + 0.84 - 1.3 * curl.max(0.0),
            ],
        ],
        0.16,
        0.075,
        1.0,
    );
    f.oval(head, [r, r * 1.04], 0.0);
    let e = 0.3 + 0.07 * l;
    f.part(&[
        [head[0] - 0.02, head[1] - r * 0.72],
        [head[0] + 0.06, head[1] + 0.05],
        [head[0] - 0.06, head[1] + 0.34],
        [head[0] - 0.24 - 0.3 * e, head[1] + 0.26],
        [head[0] - 0.2 - e, head[1] - 0.12],
        [head[0] - 0.26, head[1] - r * 0.95],
    ]);
    f.line(
        &[
            [head[0] - 0.02, head[1] - r * 0.72],
            [head[0] + 0.06, head[1] + 0.05],
            [head[0] - 0.06, head[1] + 0.34],
        ],
        0.016,
    );
    f.plain(
        &[
            [head[0] + 0.2, head[1] + 0.2],
            [head[0] + 0.2, head[1] + 0.2],
            [head[0] + 0.28, head[1] + 0.42],
            [head[0] + 0.5, head[1] + 0.46],
            [head[0] + 0.5, head[1] + 0.46],
            [head[0] + 0.34, head[1] + 0.28],
        ],
        true,
    );
    f.eye([head[0] + 0.17, head[1] - 0.06], 0.055 + 0.01 * h);
}

fn turtle(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    let high = 0.55 + 0.14 * b;
    let leg = 0.26 + 0.09 * l;
    let y = 0.22;
    let r = 0.19 + 0.05 * h;
    let head = [0.84 + 0.04 * t, y - 0.16 - 0.2 * t];
    f.limb(&[[-0.4, y], [-0.3, y + leg]], 0.13, 0.1, 0.7);
    f.limb(&[[0.28, y], [0.4, y + leg]], 0.13, 0.1, 0.7);
    f.part(&[
        [-0.66, y - 0.02],
        [-0.98, y + 0.12],
        [-0.98, y + 0.12],
        [-0.64, y + 0.14],
    ]);
    f.limb(
        &[[0.5, y + 0.0], [0.68, y - 0.06 - 0.08 * t], head],
        0.14,
        0.12,
        1.0,
    );
    f.oval(head, [r + 0.03, r], 0.0);
    f.limb(
        &[[-0.5, y + 0.05], [-0.62, y + leg + 0.04]],
        0.15,
        0.13,
        1.0,
    );
    f.limb(&[[0.5, y + 0.05], [0.56, y + leg + 0.04]], 0.15, 0.13, 1.0);
    f.part(&[
        [0.7, y + 0.06],
        [0.7, y + 0.06],
        [0.6, y - high * 0.55],
        [0.0, y - high],
        [-0.6, y - high * 0.55],
        [-0.72, y + 0.06],
        [-0.72, y + 0.06],
        [0.0, y + 0.17],
    ]);
    f.line(
        &[[0.7, y + 0.05], [0.0, y + 0.02], [-0.72, y + 0.05]],
        0.025,
    );
    f.line(&[[0.68, y - 0.1], [0.0, y - 0.17], [-0.7, y - 0.1]], 0.014);
    f.eye([head[0] + 0.07, head[1] - 0.05], 0.055 + 0.012 * h);
    f.line(
        &[
            [head[0] + r + 0.01, head[1] + 0.06],
            [head[0] + 0.04, head[1] + 0.09],
        ],
        0.014,
    );
}

fn snail(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    let r = 0.52 + 0.09 * b;
    let shell = [-0.14, 0.0 - 0.06 * b];
    let y = 0.5;
    let reach = 0.3 + 0.12 * l;
    let head = [0.78, y - 0.34 - 0.12 * t];
    f.limb(
        &[
            [head[0] - 0.05, head[1]],
            [head[0] + 0.02, head[1] - reach],
            [head[0] + 0.06 + 0.08 * t, head[1] - reach - 0.08],
        ],
        0.035,
        0.035,
        0.8,
    );
    f.limb(
        &[
            [head[0] + 0.08, head[1]],
            [head[0] + 0.16, head[1] - reach * 0.9],
            [head[0] + 0.24 + 0.08 * t, head[1] - reach],
        ],
        0.038,
        0.038,
        1.0,
    );
    f.part(&[
        [-1.0, y + 0.2],
        [-1.0, y + 0.2],
        [-0.5, y - 0.06],
        [0.3, y - 0.02],
        [0.56, y - 0.2],
        [head[0] - 0.16, head[1] - 0.1 - 0.03 * h],
        [head[0] + 0.1, head[1] - 0.14 - 0.04 * h],
        [head[0] + 0.22 + 0.05 * h, head[1] + 0.06],
        [0.84, y + 0.02],
        [0.66, y + 0.2],
        [0.66, y + 0.2],
    ]);
    f.oval(shell, [r, r], 0.0);
    // The spiral of the shell: points in eight directions with decreasing radius.
    let mut spiral = Vec::new();
    let mut radius = r * 0.98;
    let directions = [
        [0.7, 0.7],
        [0.0, 1.0],
        [-0.7, 0.7],
        [-1.0, 0.0],
        [-0.7, -0.7],
        [0.0, -1.0],
        [0.7, -0.7],
        [1.0, 0.0],
    ];
    for i in 0..22 {
        let d = directions[i % 8];
        spiral.push([shell[0] + d[0] * radius, shell[1] + d[1] * radius]);
        radius *= 0.9;
    }
    f.line(&spiral, 0.026);
    f.eye([head[0] + 0.06 + 0.08 * t, head[1] - reach - 0.1], 0.062);
    f.eye([head[0] + 0.26 + 0.08 * t, head[1] - reach - 0.02], 0.062);
    f.line(
        &[
            [head[0] + 0.18, head[1] + 0.04],
            [head[0] + 0.08, head[1] + 0.08],
        ],
        0.014,
    );
}

fn butterfly(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    // Seen from above; the wings are drawn on both sides.
    let span = 0.86 + 0.1 * l;
    let lift = 0.16 * t;
    for side in [-1.0f32, 1.0] {
        let at = |x: f32, y: f32| [side * x, y];
        f.part(&[
            at(0.05, 0.0),
            at(0.3, 0.06),
            at(0.66 + 0.1 * l, 0.22 - 0.1 * lift),
            at(0.62 + 0.08 * b, 0.66 - lift),
            at(0.3, 0.8 - 0.4 * lift),
            at(0.08, 0.42),
        ]);
        f.part(&[
            at(0.05, -0.12),
            at(0.32, -0.56 - lift),
            at(span, -0.78 - lift),
            at(span + 0.06, -0.4 - lift),
            at(0.62 + 0.1 * b, 0.06),
            at(0.1, 0.12),
        ]);
    }
    let w = 0.085 + 0.025 * b;
    f.parts.push(Part {
        outline: closed(&[
            [0.0, -0.4],
            [w, -0.2],
            [w * 0.9, 0.2],
            [0.0, 0.62],
            [-w * 0.9, 0.2],
            [-w, -0.2],
        ]),
        bright: 0.6,
    });
    let r = 0.1 + 0.025 * h;
    f.parts.push(Part {
        outline: ellipse([0.0, -0.42], [r, r], 0.0),
        bright: 0.6,
    });
    for side in [-1.0f32, 1.0] {
        f.line(
            &[
                [side * 0.04, -0.5],
                [side * 0.12, -0.74],
                [side * (0.26 + 0.05 * t), -0.92],
            ],
            0.018,
        );
        f.plain(
            &ellipse([side * (0.26 + 0.05 * t), -0.92], [0.04, 0.04], 0.0),
            false,
        );
    }
}

fn giraffe(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    let neck = 0.74 + 0.12 * l;
    let leg = 0.5 + 0.09 * l;
    let y = 0.22;
    let foot = y + 0.2 + leg;
    let w = 0.23 + 0.06 * b;
    let head = [0.62 + 0.16 * t, y - neck - 0.2 + 0.08 * t.abs()];
    f.limb(&[[-0.36, y], [-0.38, foot]], 0.09, 0.05, 0.7);
    f.limb(&[[0.2, y], [0.2, foot]], 0.09, 0.05, 0.7);
    f.line(
        &[[-0.62, y - 0.1], [-0.74, y + 0.1], [-0.72, y + 0.32]],
        0.026,
    );
    f.part(&[
        [0.42, y - 0.12],
        [0.42, y + w * 0.7],
        [0.0, y + w],
        [-0.5, y + w * 0.85],
        [-0.66, y - 0.04],
        [-0.45, y - w],
        [0.1, y - w * 1.1],
    ]);
    f.limb(&[[-0.52, y + 0.05], [-0.54, foot]], 0.11, 0.06, 1.0);
    f.limb(&[[0.34, y + 0.05], [0.36, foot]], 0.11, 0.06, 1.0);
    f.limb(
        &[
            [0.22, y],
            [0.4 + 0.03 * t, y - neck * 0.5],
            [head[0] - 0.06, head[1] + 0.04],
        ],
        0.2 + 0.03 * b,
        0.1,
        1.0,
    );
    let r = 0.13 + 0.03 * h;
    f.part(&[
        [head[0] - 0.14, head[1] - r * 0.9],
        [head[0] + 0.1, head[1] - r],
        [head[0] + 0.3 + 0.06 * h, head[1] + 0.06],
        [head[0] + 0.3 + 0.06 * h, head[1] + 0.17],
        [head[0] + 0.02, head[1] + r],
        [head[0] - 0.16, head[1] + r * 0.7],
    ]);
    f.part(&[
        [head[0] - 0.12, head[1] - r * 0.7],
        [head[0] - 0.34, head[1] - r * 1.1],
        [head[0] - 0.16, head[1] - 0.01],
    ]);
    for x in [-0.05, 0.06] {
        f.line(
            &[
                [head[0] + x, head[1] - r * 0.9],
                [head[0] + x - 0.02, head[1] - r - 0.15],
            ],
            0.026,
        );
        f.plain(
            &ellipse([head[0] + x - 0.02, head[1] - r - 0.16], [0.045, 0.04], 0.0),
            false,
        );
    }
    f.eye([head[0] + 0.06, head[1] - 0.03], 0.05 + 0.01 * h);
}

fn octopus(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    let r = 0.46 + 0.07 * h;
    let y = -0.3;
    let reach = 0.78 + 0.16 * l;
    let thick = 0.115 + 0.03 * b;
    for (i, x) in [-1.0f32, 1.0, -0.62, 0.62, -0.22, 0.22]
        .into_iter()
        .enumerate()
    {
        let bright = if i < 2 { 0.75 } else { 1.0 };
        let end = [
            x * (0.95 + 0.12 * l) + 0.1 * t,
            y + reach + 0.42 * (1.0 - x.abs()) - 0.04,
        ];
        let hook = if x > 0.0 { 0.2 } else { -0.2 };
        f.limb(
            &[
                [x * 0.34, y + 0.2],
                [x * 0.62 - 0.05 * t, y + 0.2 + reach * 0.45],
                end,
                [end[0] + hook, end[1] - 0.1 - 0.12 * t],
            ],
            thick,
            0.04,
            bright,
        );
    }
    f.part(&[
        [0.0 + 0.06 * t, y - r * 1.3],
        [r * 0.95, y - 0.2],
        [0.42, y + 0.34],
        [0.0, y + 0.46],
        [-0.42, y + 0.34],
        [-r * 0.95, y - 0.2],
    ]);
    f.eye([0.19, y + 0.05], 0.1 + 0.015 * h);
    f.eye([-0.19, y + 0.05], 0.1 + 0.015 * h);
    f.line(
        &[[-0.12, y + 0.25], [0.0, y + 0.3], [0.12, y + 0.25]],
        0.018,
    );
}

fn cat(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
    // Sits facing the viewer, with its tail to one side.
    let w = 0.4 + 0.09 * b;
    let r = 0.36 + 0.05 * h;
    let head = [0.1, -0.44];
    let foot = 0.86;
    let tail = 0.3 * t;
    f.limb(
        &[
            [-0.25, foot - 0.12],
            [-0.7, foot - 0.1],
            [-0.92, 0.4 - tail],
            [-0.76 - 0.1 * l, 0.0 - 1.2 * tail - 0.1 * l],
        ],
        0.11,
        0.075,
        0.85,
    );
    f.part(&[
        [0.1 + 0.22, -0.2],
        [0.1 + w * 0.9, 0.3],
        [0.1 + w * 1.05, foot - 0.1],
        [0.1 + w * 0.7, foot],
        [-0.3, foot],
        [-0.1 - w * 0.9, foot - 0.12],
        [-0.05 - w * 0.8, 0.3],
        [-0.12, -0.2],
    ]);
    f.oval([-0.12 - w * 0.35, foot - 0.2], [0.27 + 0.04 * b, 0.23], 0.0);
    f.limb(&[[-0.02, 0.2], [-0.02, foot - 0.04]], 0.12, 0.1, 1.0);
    f.limb(&[[0.24, 0.2], [0.24, foot - 0.04]], 0.12, 0.1, 1.0);
    f.line(&[[0.11, 0.34], [0.11, foot - 0.02]], 0.014);
    let ear = 0.3 + 0.1 * l;
    for side in [-1.0f32, 1.0] {
        let (inner, tip, outer) = (
            [head[0] + side * 0.08, head[1] - r * 0.82],
            [head[0] + side * r * 0.86, head[1] - r * 0.7 - ear],
            [head[0] + side * r * 1.0, head[1] - r * 0.15],
        );
        f.part(&[inner, inner, tip, tip, outer, outer]);
    }
    f.oval(head, [r * 1.1, r * 0.92], 0.0);
    f.eye([head[0] - 0.16, head[1] - 0.02], 0.078);
    f.eye([head[0] + 0.16, head[1] - 0.02], 0.078);
    f.plain(
        &[
            [head[0] - 0.055, head[1] + 0.1],
            [head[0] + 0.055, head[1] + 0.1],
            [head[0], head[1] + 0.16],
        ],
        false,
    );
    for side in [-1.0f32, 1.0] {
        f.line(
            &[
                [head[0], head[1] + 0.15],
                [head[0] + side * 0.06, head[1] + 0.21],
                [head[0] + side * 0.12, head[1] + 0.19],
            ],
            0.014,
        );
        for dy in [0.1f32, 0.18] {
            f.line(
                &[
                    [head[0] + side * 0.2, head[1] + dy],
                    [head[0] + side * (r + 0.22), head[1] + dy * 1.5 - 0.08],
                ],
                0.01,
            );
        }
    }
}
