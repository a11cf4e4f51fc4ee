//! The ten shapes of the creatures, built from outlines and marks: `parts` has what a figure
//! consists of, and `water`, `air` and `land` have the shapes.

mod air;
mod land;
mod parts;
mod water;

pub(super) use parts::Mark;

use super::creature::Creature;
use air::{bird, butterfly};
use land::{cat, elephant, giraffe, rabbit, snail};
use parts::Figure;
use water::{fish, octopus, turtle};

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
