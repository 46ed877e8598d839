//! The encoder thread: rows in, picture files out, while the engine is at its next picture.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use sanafarm_proto::v1::ErrorClass;
use tokio::sync::oneshot;

use super::thread::{Outcome, Rendered, text};
use crate::picture;
use crate::recipe::{Failure, Provenance};

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
}

/// What the engine says about the picture that it renders.
enum Part {
    Rows(Vec<u8>),
    /// That was the last row; seconds on the device and in its decode part.
    Whole(f64, f64),
    /// There will be no picture.
    Ended(Rendered),
}

struct Encode {
    provenance: Provenance,
    parts: Receiver<Part>,
    reply: oneshot::Sender<Rendered>,
}

/// The engine's side of one picture.
pub(crate) struct Canvas {
    parts: SyncSender<Part>,
}

impl Canvas {
    /// Takes whole rows; the error means that the encoder has failed.
    pub(crate) fn rows(&self, rows: &[u8]) -> std::io::Result<()> {
        for chunk in rows.chunks(CHUNK_BYTES) {
            let sent = self.parts.send(Part::Rows(chunk.to_vec()));
            sent.map_err(|_| std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the encoder has failed"))?;
        }
        Ok(())
    }

    pub(crate) fn whole(self, render_seconds: f64, decode_seconds: f64) {
        self.end(Part::Whole(render_seconds, decode_seconds));
    }

    pub(crate) fn ended(self, rendered: Rendered) {
        self.end(Part::Ended(rendered));
    }

    fn end(self, part: Part) {
        // An encoder that hears no more has failed and has told why.
        let _ = self.parts.send(part);
    }
}

/// The engine's handle on the encoder thread.
pub(crate) struct Encoder {
    pictures: SyncSender<Encode>,
    thread: JoinHandle<()>,
}

impl Encoder {
    pub(crate) fn start() -> std::io::Result<Self> {
        // One picture in work and one announced: an engine two pictures ahead waits.
        let (pictures, queue) = sync_channel(1);
        let thread = thread::Builder::new().name("encoder".into()).spawn(move || encode_all(&queue))?;
        Ok(Self { pictures, thread })
    }

    /// Announces a picture; the encoder answers `reply` when the picture is whole or has failed. `None` when the encoder
    /// thread is dead.
    pub(crate) fn begin(&self, provenance: Provenance, reply: oneshot::Sender<Rendered>) -> Option<Canvas> {
        let (parts, receiver) = sync_channel(CHUNKS);
        let announced = self.pictures.send(Encode { provenance, parts: receiver, reply });
        announced.is_ok().then_some(Canvas { parts })
    }

    /// Waits until all announced pictures are answered.
    pub(crate) fn finish(self) -> thread::Result<()> {
        drop(self.pictures);
        self.thread.join()
    }
}

fn encode_all(queue: &Receiver<Encode>) {
    while let Ok(Encode { provenance, parts, reply }) = queue.recv() {
        let rendered = guarded(move || encode(provenance, &parts));
        // Nobody listens when the worker was dropped in the middle.
        let _ = reply.send(rendered);
    }
}

/// A panic is an error of this image: without an answer it would count as skipped, and the next worker would
/// take it, at no cost and without end.
fn guarded(encode: impl FnOnce() -> Rendered) -> Rendered {
    catch_unwind(AssertUnwindSafe(encode))
        .unwrap_or_else(|panic| failed(format!("the encoder broke down: {}", text(&*panic))))
}

fn encode(provenance: Provenance, parts: &Receiver<Part>) -> Rendered {
    let mut end = None;
    let file = picture::write(&provenance, || match parts.recv() {
        Ok(Part::Rows(rows)) => Some(rows),
        Ok(other) => {
            end = Some(other);
            None
        }
        Err(_) => None,
    });
    match (end, file) {
        (Some(Part::Ended(rendered)), _) => rendered,
        (Some(Part::Whole(render_seconds, decode_seconds)), Ok(file)) => {
            let sha256 = picture::sha256(&file);
            let picture = Picture { bytes: file.into(), sha256, provenance };
            Rendered { outcome: Outcome::Picture(Box::new(picture)), render_seconds, decode_seconds }
        }
        (_, Err(error)) => failed(format!("encode the picture: {error}")),
        (Some(Part::Rows(_)) | None, Ok(_)) => failed("the engine ended before the picture was whole".into()),
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
        let rendered = guarded(|| panic!("as the test says"));
        let Outcome::Failed(failure) = rendered.outcome else { panic!("{rendered:?}") };
        assert_eq!(failure.class, ErrorClass::Encode);
        assert!(failure.message.ends_with("broke down: as the test says"), "{failure:?}");
    }

    #[test]
    fn the_engine_does_not_wait_for_the_encoder_of_a_whole_picture() {
        let (parts, waiting) = sync_channel(CHUNKS);
        let canvas = Canvas { parts };
        // Nobody takes anything: it would wait here for ever.
        canvas.rows(&vec![7; 4096 * 4096 * 3]).unwrap();
        canvas.whole(1.0, 0.5);
        assert_eq!(waiting.iter().count(), 193);
    }
}
