//! `sanafarm history`: what happened to a job, an image or a worker.

use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::story_begin::Subject;
use sanafarm_proto::v1::story_response::Part;
use sanafarm_proto::v1::{Event, StoryBegin, StoryEnd, StoryRequest};
use tonic::Code;

use crate::args::HistoryArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::printer::Printer;
use crate::story::{Runs, Words, closing, event_json, heading, older};

/// Tells a story as its events come.
pub async fn run(args: HistoryArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::reading(args.place.clone().into()).await?;
    let mut client = HistoryServiceClient::new(connection.channel.clone());
    let what = || format!("tell the history of {}", args.subject);
    let failed = |status: tonic::Status| {
        let error = Error::call(what(), &status);
        match status.code() {
            Code::NotFound | Code::InvalidArgument => error.hint(
                "`sanafarm jobs` lists jobs, `sanafarm workers` connected workers; image 7 of a job is JOB/7",
            ),
            Code::Unimplemented => error.hint("the coordinator is older than this program"),
            _ => error,
        }
    };
    let request = StoryRequest { subject: args.subject.clone(), limit: args.limit.unwrap_or(0) };
    let mut answers = client.story(request).await.map_err(failed)?.into_inner();
    let mut voice: Option<Voice> = None;
    while let Some(answer) = answers.message().await.map_err(failed)? {
        match (answer.part, &mut voice) {
            (Some(Part::Begin(begin)), None) => voice = Some(Voice::begin(begin, &args, printer)?),
            (Some(Part::Events(events)), Some(voice)) => {
                events.events.into_iter().try_for_each(|event| voice.event(event))?;
            }
            (Some(Part::End(end)), Some(voice)) => voice.end(&end)?,
            (None, _) => {}
            (Some(Part::Begin(_)), Some(_)) | (Some(Part::Events(_) | Part::End(_)), None) => {
                return Err(Error::failure(what()).because("its beginning must come first, and once"));
            }
        }
    }
    drop((client, answers));
    connection.close().await;
    Ok(Exit::Success)
}

/// How a story is told.
struct Voice {
    begin: StoryBegin,
    words: Words,
    /// None for JSON.
    runs: Option<Runs>,
    printer: Printer,
}

impl Voice {
    fn begin(begin: StoryBegin, args: &HistoryArgs, printer: &Printer) -> Result<Self, Error> {
        let with_job = matches!(begin.subject, Some(Subject::Worker(_)));
        let (words, printer) = (Words { with_job }, printer.clone());
        if args.json {
            if begin.older > 0 {
                printer.note(older(begin.older));
            }
            return Ok(Self { begin, words, runs: None, printer });
        }
        heading(&begin).into_iter().try_for_each(|line| printer.data(line))?;
        Ok(Self { begin, words, runs: Some(Runs::new(words, args.all)), printer })
    }

    fn event(&mut self, event: Event) -> Result<(), Error> {
        match &mut self.runs {
            None => self.printer.data(event_json(&event, self.words)),
            Some(runs) => runs.push(event).into_iter().try_for_each(|line| self.printer.data(line)),
        }
    }

    fn end(&mut self, end: &StoryEnd) -> Result<(), Error> {
        let Some(runs) = &mut self.runs else { return Ok(()) };
        runs.end().into_iter().try_for_each(|line| self.printer.data(line))?;
        self.printer.data(closing(&self.begin, end))
    }
}
