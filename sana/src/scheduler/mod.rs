//! Schedulers: which noise levels the steps visit, and how a step moves the sample.

mod dpm_flow;

pub use dpm_flow::FlowDpmSolver;
