//! One trainer for every network.
