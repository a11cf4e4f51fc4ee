//! Renders the features of a face: ears, eyes, brows, nose, mouth, skin, beard and glasses.

use super::super::paint::{At, Colour, Noise, Painter, closed, ellipse, mix, open, shade, smooth};
use super::head::Head;

/// The sides of the head: −1 is left in the image, 1 is right.
const SIDES: [f32; 2] = [-1.0, 1.0];

/// Position, half width and opening of an eye.
pub(super) struct Eye {
    pub at: At,
    pub wide: f32,
    pub high: f32,
}

pub(super) fn eye(head: &Head, side: f32) -> Eye {
    let (f, p) = (&head.face, &head.face.person);
    let squint = 1.0 - 0.3 * f.smile.max(0.0) - 0.16 * f.age;
    Eye {
        at: [
            side * (0.335 + 0.035 * p.eye_distance),
            -0.1 + 0.035 * p.eye_height,
        ],
        wide: 0.158 + 0.024 * p.eye_size,
        high: (0.098 + 0.02 * p.eye_size - 0.01 * f.masculine) * squint,
    }
}

pub(super) fn ears(head: &Head, painter: &mut Painter) {
    let p = &head.face.person;
    for side in SIDES {
        let size = 1.0 + 0.16 * p.ears;
        let x = side * (head.wide - 0.01);
        let centre = head.projected([x, 0.04], 0.0);
        let shape = ellipse(
            centre,
            [0.115 * size * head.unit, 0.2 * size * head.unit],
            side * 0.03,
        );
        painter.fill(&shape, |at| (shade(head.flesh(at), 0.93), 1.0));
        let inner = ellipse(
            [centre[0] + side * 0.01 * head.unit, centre[1]],
            [0.06 * size * head.unit, 0.12 * size * head.unit],
            side * 0.03,
        );
        painter.fill(&inner, |_| (head.crease(), 0.35));
    }
}

pub(super) fn eyes(head: &Head, painter: &mut Painter) {
    let (f, p) = (&head.face, &head.face.person);
    let feminine = (0.5 - 0.5 * f.masculine).clamp(0.0, 1.0);
    for side in SIDES {
        let Eye { at, wide, high } = eye(head, side);
        let tilt = 0.035 * p.eye_tilt - 0.02 * f.age;
        // The lids as curves over u from −1 (inner corner) to 1 (outer corner).
        let lid = |u: f32, lift: f32| {
            [
                at[0] + side * u * wide,
                at[1] - lift * (1.0 - u * u) - tilt * u,
            ]
        };
        let us: Vec<f32> = (0..=10).map(|i| i as f32 / 5.0 - 1.0).collect();
        let upper: Vec<At> = us.iter().map(|u| lid(*u, high)).collect();
        let lower: Vec<At> = us.iter().map(|u| lid(*u, -0.62 * high)).collect();
        // The eye socket.
        let hollow = ellipse([at[0], at[1] - 0.02], [wide * 1.35, high * 2.1], 0.0);
        painter.fill(&head.all(&hollow, 0.0), |_| {
            (head.crease(), 0.13 + 0.1 * f.age)
        });
        let outline: Vec<At> = upper.iter().chain(lower.iter().rev()).copied().collect();
        let iris = head.projected(
            [at[0] + 0.02 * f.yaw, at[1] - 0.1 * high + 0.015 * f.pitch],
            0.0,
        );
        let (radius, pixel) = (
            0.092 * head.unit * (1.0 + 0.08 * p.eye_size),
            painter.pixel(),
        );
        let colour = head.iris();
        let white = [0.97, 0.96, 0.94];
        painter.fill(&head.all(&outline, 0.0), |q| {
            let d = [q[0] - iris[0], q[1] - iris[1]];
            let far = (d[0] * d[0] + d[1] * d[1]).sqrt();
            let inside = |r: f32| (0.5 + (r - far) / pixel).clamp(0.0, 1.0);
            let ball = mix(
                shade(white, 0.72 + 0.3 * head.lit(q).min(1.0)),
                shade(colour, 0.62),
                inside(radius),
            );
            let ball = mix(ball, shade(colour, 1.15), inside(0.74 * radius));
            (mix(ball, [0.04, 0.03, 0.04], inside(0.42 * radius)), 1.0)
        });
        let glint = ellipse(
            [
                iris[0] + 0.3 * radius * f.light.signum(),
                iris[1] - 0.34 * radius,
            ],
            [0.24 * radius; 2],
            0.0,
        );
        painter.fill(&glint, |_| ([1.0; 3], 0.92));
        let dark = [0.1, 0.07, 0.07];
        let lash = 0.02 + 0.018 * feminine;
        head.draw(painter, &upper, (lash * 0.7, lash), dark, 0.92);
        head.draw(painter, &lower, (0.008, 0.01), head.crease(), 0.6);
        if feminine > 0.3 {
            let corner = lid(1.0, 0.0);
            let tip = [corner[0] + side * 0.05, corner[1] - 0.055];
            head.draw(painter, &[corner, tip], (lash, 0.006), dark, 0.9 * feminine);
        }
        let fold: Vec<At> = us[1..10].iter().map(|u| lid(*u, high + 0.045)).collect();
        head.draw(painter, &fold, (0.009, 0.009), head.crease(), 0.55);
        brow(head, painter, side, at);
    }
}

fn brow(head: &Head, painter: &mut Painter, side: f32, eye: At) {
    let (f, p) = (&head.face, &head.face.person);
    let high = eye[1] - 0.235 + 0.028 * f.masculine + 0.02 * f.smile.min(0.0);
    let arch = 0.05 + 0.025 * p.brow_arch - 0.02 * f.masculine;
    // A frown pulls the inner ends down.
    let inner = 0.05 * (-f.smile).max(0.0);
    let line = open(&[
        [side * (eye[0].abs() - 0.175), high + 0.02 + inner],
        [eye[0] + side * 0.03, high - arch + 0.3 * inner],
        [eye[0] + side * 0.21, high + 0.035],
    ]);
    let half = 0.032 + 0.012 * p.brow_thickness + 0.016 * f.masculine;
    let colour = shade(mix(greyed(head), head.crease(), 0.35), 0.8);
    head.draw(painter, &line, (half, half * 0.5), colour, 0.88);
}

pub(super) fn nose(head: &Head, painter: &mut Painter) {
    let (f, p) = (&head.face, &head.face.person);
    let tip_y = 0.27 + 0.05 * p.nose_length;
    let half = 0.125 + 0.035 * p.nose_width + 0.015 * f.masculine;
    let tip = head.projected([0.0, tip_y], 0.13);
    // The side away from the light, and the side away from the viewer.
    let shaded = if f.light + 0.5 * f.yaw > 0.0 {
        -1.0
    } else {
        1.0
    };
    let ridge = [
        head.projected([shaded * 0.085, -0.2], 0.0),
        head.projected([shaded * 0.07, 0.0], 0.03),
        head.projected([shaded * half, tip_y - 0.02], 0.05),
    ];
    painter.pen(
        &open(&ridge),
        0.03 * head.unit,
        0.05 * head.unit,
        head.crease(),
        0.22,
    );
    let under = ellipse(
        [tip[0], tip[1] + 0.1 * head.unit],
        [half * 1.15 * head.unit, 0.06 * head.unit],
        0.0,
    );
    painter.fill(&under, |_| (head.crease(), 0.3));
    let bulb = ellipse(tip, [half * 0.95 * head.unit, 0.11 * head.unit], 0.0);
    let light = shade(head.skin, 1.12);
    painter.fill(&bulb, |q| {
        let d = [
            (q[0] - tip[0]) / (half * head.unit),
            (q[1] - tip[1]) / (0.11 * head.unit),
        ];
        (light, 0.55 * (1.0 - d[0] * d[0] - d[1] * d[1]).max(0.0))
    });
    for side in SIDES {
        let hole = head.projected([side * half * 0.55, tip_y + 0.075], 0.06);
        painter.fill(
            &ellipse(hole, [0.036 * head.unit, 0.022 * head.unit], 0.0),
            |_| (shade(head.crease(), 0.5), 0.75),
        );
        let wing = open(&[
            head.projected([side * half * 0.95, tip_y - 0.05], 0.03),
            head.projected([side * half * 1.12, tip_y + 0.03], 0.03),
            head.projected([side * half * 0.8, tip_y + 0.085], 0.05),
        ]);
        painter.pen(
            &wing,
            0.013 * head.unit,
            0.013 * head.unit,
            head.crease(),
            0.6,
        );
    }
}

/// Returns the height of the mouth's centre, its half width, and the rise of its corners.
fn mouth_place(head: &Head) -> (f32, f32, f32) {
    let (f, p) = (&head.face, &head.face.person);
    let y = 0.575 + 0.02 * p.nose_length;
    let half = 0.235 + 0.035 * p.mouth_width + 0.075 * f.smile.max(0.0);
    (y, half, 0.1 * f.smile)
}

pub(super) fn mouth(head: &Head, painter: &mut Painter) {
    let (f, p) = (&head.face, &head.face.person);
    let (y, half, rise) = mouth_place(head);
    let full = (0.062 + 0.024 * p.lips - 0.014 * f.masculine) * (1.0 - 0.25 * f.age);
    let opened = 0.15 * smooth(0.25, 0.95, f.smile);
    let us: Vec<f32> = (0..=12).map(|i| i as f32 / 6.0 - 1.0).collect();
    let along = |u: f32, down: f32| [u * half, y - rise * (u * u) + 0.35 * rise + down];
    let bow = |u: f32| 1.0 - u * u - 0.22 * (1.0 - (2.4 * u).powi(2)).max(0.0);
    let curve =
        |down: &dyn Fn(f32) -> f32| us.iter().map(|u| along(*u, down(*u))).collect::<Vec<At>>();
    let top = curve(&|u| -full * bow(u));
    let inner_top = curve(&|u| 0.12 * opened * (1.0 - u * u));
    let inner_low = curve(&|u| opened * (1.0 - u * u));
    let low = curve(&|u| opened * (1.0 - u * u) + 1.15 * full * (1.0 - u * u * u * u));
    let join = |a: &[At], b: &[At]| a.iter().chain(b.iter().rev()).copied().collect::<Vec<At>>();
    let red = mix(head.skin, [0.72, 0.25, 0.27], 0.52 - 0.16 * f.masculine);
    let lift = 0.04;
    if opened > 0.01 {
        painter.fill(&head.all(&join(&inner_top, &inner_low), lift), |_| {
            ([0.28, 0.08, 0.08], 1.0)
        });
        let teeth = curve(&|u| (0.12 + 0.62 * (1.0 - u * u)) * opened * (1.0 - u * u));
        painter.fill(&head.all(&join(&inner_top, &teeth), lift), |_| {
            ([0.98, 0.97, 0.94], 1.0)
        });
    }
    painter.fill(&head.all(&join(&top, &inner_top), lift), |q| {
        (shade(red, 0.86 * head.lit(q).min(1.08)), 0.95)
    });
    painter.fill(&head.all(&join(&inner_low, &low), lift), |q| {
        (shade(red, 1.02 * head.lit(q).min(1.08)), 0.95)
    });
    let line = head.all(&inner_top, lift);
    painter.pen(
        &line,
        0.012 * head.unit,
        0.012 * head.unit,
        shade(red, 0.42),
        0.85,
    );
    // The corners, and the shadow under the lip.
    for side in SIDES {
        let corner = along(side, 0.0);
        let end = [corner[0] + side * 0.03, corner[1] - 0.03 * f.smile];
        head.draw(painter, &[corner, end], (0.014, 0.006), head.crease(), 0.7);
    }
    let below = ellipse([0.0, y + opened + full * 1.9], [half * 0.5, 0.03], 0.0);
    painter.fill(&head.all(&below, lift), |_| (head.crease(), 0.22));
}

/// Draws blush, freckles and signs of age.
pub(super) fn complexion(head: &Head, painter: &mut Painter) {
    let (f, p) = (&head.face, &head.face.person);
    for side in SIDES {
        let centre = head.projected([side * 0.43, 0.3 - 0.05 * f.smile.max(0.0)], 0.0);
        let radii = [0.24 * head.unit, 0.17 * head.unit];
        let blush = [0.86, 0.36, 0.32];
        painter.fill(&ellipse(centre, radii, 0.0), |q| {
            let d = [(q[0] - centre[0]) / radii[0], (q[1] - centre[1]) / radii[1]];
            let inside = (1.0 - d[0] * d[0] - d[1] * d[1]).max(0.0);
            (
                blush,
                inside * (0.13 + 0.1 * f.smile.max(0.0)) * (1.0 - 0.5 * p.skin),
            )
        });
    }
    if p.freckles > 0.0 {
        let noise = Noise(977);
        for i in 0..26u32 {
            let at = [1.0, 31.0].map(|k| noise.at([i as f32 * 3.7, k]));
            let place = [(at[0] - 0.5) * 1.25, 0.08 + 0.36 * at[1]];
            let dot = ellipse(head.projected(place, 0.0), [0.018 * head.unit; 2], 0.0);
            painter.fill(&dot, |_| (head.crease(), 0.7 * p.freckles));
        }
    }
    age(head, painter);
}

/// Draws signs of age: hollow cheeks, and lines that are still about one pixel wide at 64 pixels.
fn age(head: &Head, painter: &mut Painter) {
    let f = &head.face;
    let old = grown(f.age);
    if old < 0.02 {
        return;
    }
    let colour = head.crease();
    for (n, y) in [-0.54f32, -0.42, -0.65].into_iter().enumerate() {
        let half = 0.4 - 0.06 * n as f32;
        let line = open(&[
            [-half, y + 0.02],
            [-0.12, y - 0.012],
            [0.12, y + 0.012],
            [half, y - 0.01],
        ]);
        let late = if n == 2 { smooth(0.6, 0.9, f.age) } else { 1.0 };
        head.draw(painter, &line, (0.024, 0.018), colour, 0.62 * old * late);
    }
    let (mouth, half, _) = mouth_place(head);
    for side in SIDES {
        let hollow = head.projected([side * 0.38, 0.46], 0.0);
        let radii = [0.14 * head.unit, 0.22 * head.unit];
        painter.fill(&ellipse(hollow, radii, 0.0), |q| {
            let d = [(q[0] - hollow[0]) / radii[0], (q[1] - hollow[1]) / radii[1]];
            let inside = (1.0 - d[0] * d[0] - d[1] * d[1]).max(0.0);
            (colour, 0.42 * old * inside)
        });
        let mut line = |points: &[At], half: (f32, f32), opacity: f32| {
            head.draw(painter, points, half, colour, opacity * old);
        };
        let fold = open(&[
            [side * 0.2, 0.3],
            [side * (half * 0.8 + 0.13), 0.44],
            [side * (half + 0.07), mouth + 0.09],
        ]);
        line(&fold, (0.034, 0.02), 0.72);
        let e = eye(head, side);
        for (dy, down) in [(-0.03f32, -0.07f32), (0.03, 0.05)] {
            let from = [e.at[0] + side * (e.wide + 0.05), e.at[1] + dy];
            let to = [from[0] + side * 0.13, from[1] + down];
            line(&[from, to], (0.022, 0.012), 0.66);
        }
        let bag = e.at[1] + 0.62 * e.high + 0.06;
        let under = open(&[
            [e.at[0] - 0.14, bag - 0.02],
            [e.at[0], bag + 0.03],
            [e.at[0] + 0.14, bag - 0.02],
        ]);
        line(&under, (0.026, 0.026), 0.6);
        let corner = open(&[
            [side * (half + 0.05), mouth + 0.1],
            [side * (half + 0.08), mouth + 0.25],
        ]);
        line(&corner, (0.026, 0.012), 0.6);
    }
}

/// Returns the strength of the signs of age, in [0, 1].
fn grown(age: f32) -> f32 {
    smooth(0.15, 0.85, age)
}

/// Returns the colour of brows and beard, which turn grey with age. The colour of the hair is a
/// separate factor.
fn greyed(head: &Head) -> Colour {
    mix(head.hair, [0.74, 0.73, 0.72], 0.75 * grown(head.face.age))
}

/// Draws the beard around the mouth and along the jaw.
pub(super) fn beard(head: &Head, painter: &mut Painter, jaw: &[At]) {
    let f = &head.face;
    if f.beard <= 0.02 {
        return;
    }
    let noise = Noise(4099);
    let dense = smooth(0.1, 0.85, f.beard);
    let opacity = 0.4 + 0.58 * dense;
    let unit = head.unit;
    let grain = move |q: At, colour: Colour| -> Colour {
        let hairs = noise.at([q[0] / unit * 26.0, q[1] / unit * 9.0]);
        shade(colour, 0.78 + 0.4 * hairs)
    };
    let colour = shade(mix(greyed(head), head.crease(), 0.22), 0.9);
    // The outline runs along the jaw from ear to ear, longer for a full beard. Its upper edge
    // runs over the cheeks and around the mouth.
    let long = 0.2 * smooth(0.45, 1.0, f.beard);
    let (mouth, half, _) = mouth_place(head);
    let mut outline: Vec<At> = jaw
        .iter()
        .map(|p| {
            head.rim([
                p[0] * (1.0 + 0.1 * long),
                p[1] + long * smooth(0.3, 1.0, p[1]),
            ])
        })
        .collect();
    let cheek = 0.34 - 0.12 * dense;
    let upper = [
        [head.wide * 0.86, 0.12],
        [head.wide * 0.74, cheek + 0.12],
        [half + 0.13, mouth - 0.1],
        [half * 0.8, mouth - 0.175],
        [0.0, mouth - 0.19],
        [-half * 0.8, mouth - 0.175],
        [-half - 0.13, mouth - 0.1],
        [-head.wide * 0.74, cheek + 0.12],
        [-head.wide * 0.86, 0.12],
    ];
    outline.extend(head.all(&open(&upper), 0.0));
    painter.fill(&outline, |q| (grain(q, colour), opacity));
}

/// Draws the glasses: round, square or dark.
pub(super) fn glasses(head: &Head, painter: &mut Painter) {
    let f = &head.face;
    if f.glasses == 0 {
        return;
    }
    let (half, frame): (f32, Colour) = match f.glasses {
        1 => (0.026, [0.42, 0.27, 0.12]),
        2 => (0.042, [0.1, 0.09, 0.12]),
        _ => (0.03, [0.07, 0.07, 0.08]),
    };
    let lift = 0.1;
    for side in SIDES {
        let e = eye(head, side);
        let centre = [e.at[0] + side * 0.01, e.at[1] + 0.02];
        let shape = match f.glasses {
            1 => ellipse(centre, [0.235, 0.215], 0.0),
            2 => {
                let (w, h) = (0.25, 0.175);
                closed(&[
                    [centre[0] - w, centre[1] - h * 0.85],
                    [centre[0] - w * 0.8, centre[1] - h],
                    [centre[0] + w * 0.8, centre[1] - h],
                    [centre[0] + w, centre[1] - h * 0.85],
                    [centre[0] + w * 0.96, centre[1] + h * 0.8],
                    [centre[0] + w * 0.75, centre[1] + h],
                    [centre[0] - w * 0.75, centre[1] + h],
                    [centre[0] - w * 0.96, centre[1] + h * 0.8],
                ])
            }
            _ => closed(&[
                [centre[0] - 0.25, centre[1] - 0.15],
                [centre[0], centre[1] - 0.185],
                [centre[0] + 0.25, centre[1] - 0.15],
                [centre[0] + 0.21, centre[1] + 0.13],
                [centre[0], centre[1] + 0.2],
                [centre[0] - 0.21, centre[1] + 0.13],
            ]),
        };
        let outline = head.all(&shape, lift);
        let middle = head.projected(centre, lift);
        let unit = head.unit;
        painter.fill(&outline, |q| {
            let streak = smooth(
                0.16,
                0.05,
                ((q[0] - middle[0]) + (q[1] - middle[1]) + 0.1 * unit).abs() / unit,
            );
            match f.glasses {
                3 => (
                    mix([0.09, 0.09, 0.11], [0.5, 0.55, 0.62], 0.45 * streak),
                    0.96,
                ),
                _ => ([0.9, 0.95, 1.0], 0.07 + 0.16 * streak),
            }
        });
        let mut line = outline;
        line.push(line[0]);
        painter.pen(&line, half * unit, half * unit, frame, 0.95);
        let hinge = head.projected([centre[0] + side * 0.24, centre[1] - 0.05], lift);
        let ear = head.projected([side * head.wide, centre[1] - 0.03], -0.05);
        if (ear[0] - hinge[0]) * side > 0.0 {
            painter.pen(&[hinge, ear], half * unit, half * unit, frame, 0.95);
        }
    }
    let (a, b) = (eye(head, -1.0), eye(head, 1.0));
    let bridge = open(&[
        [a.at[0] + 0.235, a.at[1] - 0.0],
        [0.0, a.at[1] - 0.045],
        [b.at[0] - 0.235, b.at[1] - 0.0],
    ]);
    let bridge = head.all(&bridge, lift);
    painter.pen(&bridge, half * head.unit, half * head.unit, frame, 0.95);
}
