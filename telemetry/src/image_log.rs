//! What is logged while an image is in hand goes into the image's own log, besides wherever else logs go.
//!
//! An [`ImageLog`] has a span. Whatever is logged inside that span, in any thread, is kept in it as a line, up to a limit;
//! work on several images has a span of all of them.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Span, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Bytes of a log: coordinators keep no more.
const MOST_BYTES: usize = 16 << 10;

/// The log of one image. Clones are one log.
#[derive(Clone, Debug)]
pub struct ImageLog {
    span: Span,
    lines: Lines,
}

/// Lines of text.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<String>>);

impl Lines {
    fn push(&self, line: &str) {
        // Nothing panics while it is held.
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() + line.len() < MOST_BYTES {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(line);
        }
    }
}

/// The logs that events inside a span belong to.
#[derive(Debug)]
struct Kept(Vec<Lines>);

impl ImageLog {
    /// Of an image of a job.
    pub fn new(job: &str, index: u64) -> Self {
        Self::going_on(job, index, "")
    }

    /// One that has lines already.
    pub fn going_on(job: &str, index: u64, text: &str) -> Self {
        let lines = Lines(Arc::new(Mutex::new(text.to_owned())));
        let span = tracing::info_span!("image", job, index);
        attach(&span, vec![lines.clone()]);
        Self { span, lines }
    }

    /// Work on this image is done inside it.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Its lines so far.
    pub fn text(&self) -> String {
        self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Work on several images at once is done inside this span.
pub fn together<'a>(logs: impl Iterator<Item = &'a ImageLog>) -> Span {
    let logs: Vec<&ImageLog> = logs.collect();
    match logs.as_slice() {
        [log] => log.span.clone(),
        logs => {
            let span = tracing::info_span!("images", count = logs.len());
            attach(&span, logs.iter().map(|log| log.lines.clone()).collect());
            span
        }
    }
}

fn attach(span: &Span, lines: Vec<Lines>) {
    span.with_subscriber(|(id, dispatch)| {
        // Without a registry nothing is kept.
        if let Some(span) = dispatch.downcast_ref::<Registry>().and_then(|registry| registry.span(id)) {
            span.extensions_mut().insert(Kept(lines));
        }
    });
}

/// Puts lines into the logs of images: one layer of the process's subscriber, which is built on a [`Registry`].
#[derive(Debug)]
pub struct ImageLogLayer(());

/// The layer: it hears our own crates from INFO on, and others from WARN on.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let heard = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("sana", LevelFilter::INFO)
        .with_target("sanafarm", LevelFilter::INFO);
    ImageLogLayer(()).with_filter(heard)
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ImageLogLayer {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(scope) = context.event_scope(event) else { return };
        let mut line = None;
        for span in scope {
            let extensions = span.extensions();
            let Some(Kept(logs)) = extensions.get::<Kept>() else { continue };
            let line = line.get_or_insert_with(|| written(event));
            logs.iter().for_each(|lines| lines.push(line));
            // Its own span within the one of several: not twice.
            return;
        }
    }
}

/// Time, level, message and fields.
fn written(event: &Event<'_>) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let level = match *event.metadata().level() {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    };
    format!("{:.3} {level} {}{}", Timestamp::now(), fields.message, fields.others)
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail. One event is one line.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
            self.message = self.message.replace('\n', " ");
        } else {
            let text = format!("{value:?}").replace('\n', " ");
            let _ = write!(self.others, " {}={text}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn heard(work: impl FnOnce()) {
        let subscriber = tracing_subscriber::registry().with(layer());
        tracing::subscriber::with_default(subscriber, work);
    }

    #[test]
    fn a_line_is_kept_by_the_images_that_it_is_about() {
        heard(|| {
            let (one, two) = (ImageLog::new("a", 1), ImageLog::going_on("a", 2, "before"));
            one.span().in_scope(|| tracing::info!(target: "sanafarm_worker", steps = 3, "first"));
            together([&one, &two].into_iter()).in_scope(|| {
                tracing::warn!("both\nof them");
                one.span().in_scope(|| tracing::error!("inner"));
                tracing::info!(target: "another_crate", "not told");
            });
            tracing::error!("outside");
            let lines = |log: &ImageLog| log.text().lines().map(str::to_owned).collect::<Vec<_>>();
            let (one, two) = (lines(&one), lines(&two));
            assert!(one[0].ends_with("Z INFO first steps=3"), "{one:?}");
            assert!(one[1].ends_with("WARN both of them") && one[2].ends_with("ERROR inner"), "{one:?}");
            assert!(two[0] == "before" && two[1].ends_with("WARN both of them"), "{two:?}");
            assert_eq!((one.len(), two.len()), (3, 2));
        });
    }

    #[test]
    fn a_log_has_an_end() {
        heard(|| {
            let log = ImageLog::new("a", 1);
            let long = "x".repeat(1000);
            for _ in 0..100 {
                log.span().in_scope(|| tracing::warn!("{long}"));
            }
            let text = log.text();
            assert!((14_000..MOST_BYTES).contains(&text.len()), "{}", text.len());
            assert!(text.lines().all(|line| line.ends_with("xxx")));
        });
    }
}
