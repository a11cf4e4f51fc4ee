//! Figures: image grids, curves, diagrams; PNG and SVG from one drawing.
