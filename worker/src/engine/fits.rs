//! What was learnt about the memory of a device: how pictures of each model and size are rendered there.

use std::collections::HashMap;

use sana::plan::Fit;
use sana::{BinMode, DecodeMode, Memory, Recipe};

/// Images that go through a model together of which only one part is in memory at a time: each part is loaded once for them.
const SEQUENTIAL: usize = 4;

/// Pictures that take the same memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    model: String,
    size: (u32, u32),
    bin: BinMode,
    decode: DecodeMode,
}

impl Kind {
    pub(super) fn of(model: &str, recipe: &Recipe) -> Self {
        let &Recipe { width, height, bin, decode, .. } = recipe;
        Self { model: model.to_owned(), size: (width, height), bin, decode }
    }
}

/// By kind, for as long as the worker runs.
#[derive(Debug, Default)]
pub(super) struct Fits(HashMap<Kind, Fit>);

impl Fits {
    pub(super) fn get<E>(&mut self, kind: Kind, plan: impl FnOnce() -> Result<Fit, E>) -> Result<Fit, E> {
        if let Some(known) = self.0.get(&kind) {
            return Ok(known.clone());
        }
        let planned = plan()?;
        tracing::info!(model = %kind.model, size = ?kind.size, "planned: {planned}");
        self.0.insert(kind, planned.clone());
        Ok(planned)
    }

    /// It was too much: remembers the next smaller one, if there is any. What cannot even be loaded is loaded in parts.
    pub(super) fn step_down(&mut self, kind: &Kind, loading: bool) -> Option<Fit> {
        let known = self.0.get_mut(kind)?;
        let mut next = known.step_down()?;
        // Another tiling does not help a decode that has its own way.
        let in_vain = |next: &Fit| {
            next.memory == known.memory
                && (loading || (kind.decode != DecodeMode::Exact && next.batch == known.batch))
        };
        while in_vain(&next) {
            next = next.step_down()?;
        }
        *known = next.clone();
        Some(next)
    }
}

/// Images that are rendered in one go.
pub(super) fn together(fit: &Fit) -> usize {
    match fit.memory {
        Memory::Resident => fit.batch,
        Memory::Sequential => fit.batch.max(SEQUENTIAL),
    }
}
