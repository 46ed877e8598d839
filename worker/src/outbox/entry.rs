//! A finished picture in the outbox, and what is to be done with it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use sanafarm_proto::v1::ImageResult;
use sanafarm_telemetry::image_log::ImageLog;

use super::folder::Id;
use super::record::Record;
use crate::leases::LeaseKey;
use crate::report::Report;
use crate::told::{Origin, Which};

/// A finished picture.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: Id,
    pub(crate) record: Record,
    pub(crate) payload: Payload,
    /// Takes what is said about it from now on.
    pub(crate) log: ImageLog,
    /// None of one that the process before rendered.
    pub(crate) origin: Option<Arc<Origin>>,
    /// It was left by the process before.
    pub(crate) recovered: bool,
    /// This run has put its thumbnail into the output.
    pub(crate) thumbnail_is_stored: AtomicBool,
}

/// Where the file of a picture is.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Disk,
    /// The outbox could not take it: it is lost with this process.
    Memory {
        picture: Bytes,
        thumbnail: Option<Bytes>,
    },
    /// In the output.
    Gone,
}

impl Entry {
    /// As the coordinator is told, with all that was said about it so far.
    pub(crate) fn result(&self) -> ImageResult {
        ImageResult { log: self.log.text(), ..self.record.result() }
    }

    /// The report of its result.
    pub(super) fn report(&self) -> Report {
        Report {
            lease: self.record.lease.clone(),
            job: self.record.job.clone(),
            result: self.record.result(),
            entry: Some(self.id),
            origin: self.origin.clone(),
            recovered: self.recovered,
        }
    }

    pub(crate) fn which(&self) -> Which<'_> {
        let Record { lease, job, index, .. } = &self.record;
        Which { lease, job, index: *index }
    }

    /// Room that it takes.
    pub(super) fn bytes(&self) -> u64 {
        let record = (self.record.recipe.len() + self.record.log.len()) as u64;
        let thumbnail = self.record.thumbnail.as_ref().map_or(0, |thumbnail| thumbnail.file.bytes);
        match self.payload {
            Payload::Disk | Payload::Memory { .. } => record + self.record.picture.bytes + thumbnail,
            Payload::Gone => record,
        }
    }

    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.payload, Payload::Memory { .. })
    }

    /// It waits for the others of its tar.
    pub(super) fn collects(&self) -> bool {
        self.record.sample.is_some()
    }
}

/// What the store stage is to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// Upload a picture.
    Picture(Arc<Entry>),
    /// Pack and upload the pictures that collected for a lease.
    Archive(LeaseKey),
}
