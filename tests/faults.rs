//! What must hold when something goes wrong, each fault by its name.

#[cfg(target_os = "linux")]
mod backup;
mod clock;
mod frozen;
mod killed;
mod leaving;
mod lies;
mod outbox;
mod pool;
mod refusals;
mod render;
mod reports;
mod tars;
