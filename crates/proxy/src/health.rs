//! Which members are fit to serve, learnt from what they do: state machines without I/O or clock.

pub mod outlier;
