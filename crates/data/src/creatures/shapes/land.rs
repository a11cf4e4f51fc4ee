//! The shapes of animals on land: rabbit, elephant, snail, giraffe and cat.

use super::parts::{Figure, Mark, Part};
use crate::paint::{closed, ellipse, open};

pub(super) fn rabbit(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
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

pub(super) fn elephant(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
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

pub(super) fn snail(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
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

pub(super) fn giraffe(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
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

pub(super) fn cat(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
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
