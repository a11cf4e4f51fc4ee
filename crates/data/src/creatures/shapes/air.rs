//! The shapes of animals that fly: bird and butterfly.

use super::parts::{Figure, Mark, Part};
use crate::paint::{closed, ellipse};

pub(super) fn bird(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
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

pub(super) fn butterfly(f: &mut Figure, b: f32, l: f32, h: f32, t: f32) {
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
