//! What runs on its own.

use std::sync::Arc;

use crate::farm::Farm;

mod call_off;
mod finish;
pub(crate) mod manifest;
mod publish;
mod purge;
mod rounds;
mod sweep;
pub(crate) mod webhook;

/// Starts the duties; they end when the farm stops.
pub(crate) fn start(farm: &Arc<Farm>) {
    farm.tasks.spawn(crate::auth::keep(Arc::clone(farm)));
    farm.tasks.spawn(sweep::run(Arc::clone(farm)));
    farm.tasks.spawn(purge::run(Arc::clone(farm)));
    farm.tasks.spawn(call_off::run(Arc::clone(farm)));
    farm.tasks.spawn(finish::run(Arc::clone(farm)));
    farm.tasks.spawn(publish::run(Arc::clone(farm)));
    farm.tasks.spawn(webhook::run(Arc::clone(farm)));
}
