//! The encoder thread: rows in, picture files out, while the engine is at its next picture.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use bytes::Bytes;
use sanafarm_proto::v1::ErrorClass;
use sanafarm_telemetry::image_log::ImageLog;

use super::command::{Effort, Outcome, Rendered, Reply};
use super::thread::text;
use crate::picture::{self, Encoding, Quality, Written};
use crate::recipe::{Failure, Provenance};
use crate::stats::Stage;
use crate::told::Period;

/// Rows of one picture on their way to the encoder: at most this many chunks, 64 MiB. A picture of 4096x4096
/// that the engine hands out in one piece fits, so that the engine goes on while it is encoded.
const CHUNKS: usize = 256;
/// Largest chunk of rows in bytes; larger pieces are cut, so that the number of chunks bounds the memory.
const CHUNK_BYTES: usize = 256 << 10;

/// A finished picture file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture {
    pub(crate) bytes: Bytes,
    /// Of `bytes`, in hex.
    pub(crate) sha256: String,
    pub(crate) provenance: Provenance,
    pub(crate) encoding: Encoding,
    pub(crate) quality: Quality,
    /// A small JPEG, when the encoding asks for it.
    pub(crate) thumbnail: Option<Bytes>,
}

/// What the engine says about the picture that it renders.
enum Part {
    Rows(Vec<u8>),
    /// That was the last row.
    Whole(Effort),
}

struct Encode {
    provenance: Provenance,
    encoding: Encoding,
    parts: Receiver<Part>,
    log: ImageLog,
    reply: Reply,
}

/// The engine's side of one picture. There is none when it is dropped before the picture is whole, and the engine has to
/// answer, or to begin anew.
pub(crate) struct Canvas {
    parts: SyncSender<Part>,
}

impl Canvas {
    /// Takes as many of the bytes as it can without waiting, and says how many. The error means that the encoder has failed
    /// and has answered.
    pub(crate) fn try_rows(&self, rows: &[u8]) -> std::io::Result<usize> {
        let mut taken = 0;
        for chunk in rows.chunks(CHUNK_BYTES) {
            match self.parts.try_send(Part::Rows(chunk.to_vec())) {
                Ok(()) => taken += chunk.len(),
                Err(TrySendError::Full(_)) => break,
                Err(TrySendError::Disconnected(_)) => return Err(has_failed()),
            }
        }
        Ok(taken)
    }

    /// Takes all of the bytes.
    pub(crate) fn rows(&self, rows: &[u8]) -> std::io::Result<()> {
        let mut chunks = rows.chunks(CHUNK_BYTES);
        chunks.try_for_each(|chunk| self.parts.send(Part::Rows(chunk.to_vec())).map_err(|_| has_failed()))
    }

    pub(crate) fn whole(self, effort: Effort) {
        // An encoder that hears no more has failed and has told why.
        let _ = self.parts.send(Part::Whole(effort));
    }
}

fn has_failed() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the encoder has failed")
}

/// The engine's handle on the encoder thread.
pub(crate) struct Encoder {
    pictures: SyncSender<Encode>,
    thread: JoinHandle<()>,
}

impl Encoder {
    pub(crate) fn start(stage: Arc<Stage>) -> std::io::Result<Self> {
        // One picture in work and one announced: an engine two pictures ahead waits.
        let (pictures, queue) = sync_channel(1);
        let thread =
            thread::Builder::new().name("encoder".into()).spawn(move || encode_all(&queue, &stage))?;
        Ok(Self { pictures, thread })
    }

    /// Announces a picture; the encoder answers `reply` when the picture is whole or has failed. `None` when the encoder
    /// thread is dead.
    pub(crate) fn begin(
        &self,
        provenance: Provenance,
        encoding: Encoding,
        log: ImageLog,
        reply: Reply,
    ) -> Option<Canvas> {
        let (parts, receiver) = sync_channel(CHUNKS);
        let announced = self.pictures.send(Encode { provenance, encoding, parts: receiver, log, reply });
        announced.is_ok().then_some(Canvas { parts })
    }

    /// Waits until all announced pictures are answered.
    pub(crate) fn finish(self) -> thread::Result<()> {
        drop(self.pictures);
        self.thread.join()
    }
}

fn encode_all(queue: &Receiver<Encode>, stage: &Arc<Stage>) {
    while let Ok(Encode { provenance, encoding, parts, log, reply }) = queue.recv() {
        let _about = log.span().enter();
        // Whoever sends rows to an encoder that has failed finds it answered: the parts go last.
        if let Some(rendered) = guarded(|| encode(provenance, encoding, &parts, stage)) {
            reply.answer(rendered);
        }
    }
}

/// A panic is an error of this image: without an answer it would count as skipped, and the next worker would
/// take it, at no cost and without end.
fn guarded(encode: impl FnOnce() -> Option<Rendered>) -> Option<Rendered> {
    catch_unwind(AssertUnwindSafe(encode))
        .unwrap_or_else(|panic| Some(failed(format!("the encoder broke down: {}", text(&*panic)))))
}

/// Nothing when the engine gave the picture up.
fn encode(
    provenance: Provenance,
    encoding: Encoding,
    parts: &Receiver<Part>,
    stage: &Arc<Stage>,
) -> Option<Rendered> {
    let provenance = Provenance { quality: encoding.quality(), ..provenance };
    let (mut effort, mut given_up) = (None, false);
    let (mut busy, mut started) = (None, None);
    let written = picture::write(&provenance, encoding, || {
        // While it waits for rows it is idle.
        busy = None;
        let part = parts.recv();
        busy = Some(stage.busy());
        started.get_or_insert_with(SystemTime::now);
        match part {
            Ok(Part::Rows(rows)) => Some(rows),
            Ok(Part::Whole(took)) => {
                effort = Some(took);
                None
            }
            Err(_) => {
                given_up = true;
                None
            }
        }
    });
    match (effort, written) {
        _ if given_up => None,
        (Some(mut effort), Ok(Written { file, quality, thumbnail })) => {
            effort.stages.extend(started.map(|start| ("encode", Period::since(start))));
            let picture = Picture {
                sha256: picture::sha256(&file),
                bytes: file.into(),
                provenance,
                encoding,
                quality,
                thumbnail: thumbnail.map(Bytes::from),
            };
            Some(Rendered { outcome: Outcome::Picture(Box::new(picture)), effort })
        }
        (_, Err(error)) => Some(Rendered::failed(error.into())),
        (None, Ok(_)) => Some(failed("the picture ended before its last row".into())),
    }
}

fn failed(message: String) -> Rendered {
    Rendered::failed(Failure::new(ErrorClass::Encode, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_encoder_is_an_error_of_the_image() {
        let rendered = guarded(|| panic!("as the test says")).unwrap();
        let Outcome::Failed(failure) = rendered.outcome else { panic!("{rendered:?}") };
        assert_eq!(failure.class, ErrorClass::Encode);
        assert!(failure.message.ends_with("broke down: as the test says"), "{failure:?}");
    }

    #[test]
    fn the_engine_does_not_wait_for_the_encoder_of_a_whole_picture() {
        let (parts, waiting) = sync_channel(CHUNKS);
        let canvas = Canvas { parts };
        // Nobody takes anything: it would wait here for ever.
        let picture = vec![7; 4096 * 4096 * 3];
        assert_eq!(canvas.try_rows(&picture).unwrap(), picture.len());
        canvas.whole(Effort::default());
        assert_eq!(waiting.iter().count(), 193);
    }

    #[test]
    fn what_the_engine_gives_up_has_no_answer_and_can_begin_anew() {
        let encoder = Encoder::start(Arc::default()).unwrap();
        let recipe = sana::Recipe {
            prompt: "p".into(),
            negative_prompt: String::new(),
            seed: 1,
            width: 4,
            height: 2,
            steps: 1,
            guidance: 1.0,
            bin: sana::BinMode::Auto,
            decode: sana::DecodeMode::Exact,
        };
        let model = sana::ModelInfo {
            name: "test-model".into(),
            weights_sha256: String::new(),
            native_size: 64,
            weights_bytes: 1,
            scheduler: "flow-dpm-solver++",
            family: sana::Family::Sana,
        };
        let provenance = Provenance::new(&recipe, &model, (4, 2), "f32");
        let (log, (reply, mut answer)) = (ImageLog::new("job", 0), Reply::new());
        let first =
            encoder.begin(provenance.clone(), Encoding::new(None).unwrap(), log.clone(), reply.clone());
        let first = first.unwrap();
        first.rows(&[1; 12]).unwrap();
        drop(first);
        let second = encoder.begin(provenance, Encoding::new(None).unwrap(), log, reply).unwrap();
        assert!(answer.try_recv().is_err(), "not answered yet");
        // Not of one colour: that would be refused.
        second.rows(&std::array::from_fn::<u8, 24, _>(|at| at as u8)).unwrap();
        second.whole(Effort { render_seconds: 2.0, ..Effort::default() });
        encoder.finish().unwrap();
        let rendered = answer.blocking_recv().unwrap();
        assert!(matches!(rendered.outcome, Outcome::Picture(_)) && rendered.effort.render_seconds == 2.0);
    }
}
