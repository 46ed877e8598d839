//! What the history knows of an output, in byte order of the names.

use std::collections::VecDeque;

use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{ListObjectsRequest, ListObjectsResponse, ListedObject};
use tonic::{Code, Status, Streaming};

use crate::error::Error;

/// The list on its way.
pub struct Known {
    output: String,
    source: Source,
    page: VecDeque<ListedObject>,
    last: String,
}

enum Source {
    Coordinator(Box<Streaming<ListObjectsResponse>>),
    /// All of it is in the first page.
    #[cfg(test)]
    Nothing,
}

impl Known {
    /// Asks for all objects of an output.
    pub async fn list(client: &mut JobServiceClient<Channel>, output: &str) -> Result<Self, Error> {
        let request = ListObjectsRequest { output: output.to_owned() };
        let listed = client.list_objects(request).await.map_err(|status| match status.code() {
            Code::NotFound => Error::mistake(format!("no job has the output {output}"))
                .hint("name it as `sanafarm show JOB` does, or name one of its jobs"),
            Code::Unimplemented => failed(output, &status).hint("the coordinator is older than this program"),
            _ => failed(output, &status),
        })?;
        let source = Source::Coordinator(Box::new(listed.into_inner()));
        Ok(Self { output: output.to_owned(), source, page: VecDeque::new(), last: String::new() })
    }

    /// These and no others.
    #[cfg(test)]
    pub fn of(objects: impl IntoIterator<Item = ListedObject>) -> Self {
        let page = objects.into_iter().collect();
        Self { output: "out".to_owned(), source: Source::Nothing, page, last: String::new() }
    }

    /// The next object; of one name there may be several.
    pub async fn next(&mut self) -> Result<Option<ListedObject>, Error> {
        while self.page.is_empty() {
            let more = match &mut self.source {
                Source::Coordinator(listed) => {
                    listed.message().await.map_err(|status| failed(&self.output, &status))?
                }
                #[cfg(test)]
                Source::Nothing => None,
            };
            match more {
                Some(more) => self.page.extend(more.objects),
                None => return Ok(None),
            }
        }
        let object = self.page.pop_front();
        if let Some(object) = &object {
            // Out of order, what is known would look unknown, and what lives dead.
            if object.name < self.last {
                return Err(Error::failure(format!("list what is known of {}", self.output))
                    .because(format!("{} comes after {}", object.name, self.last)));
            }
            self.last.clone_from(&object.name);
        }
        Ok(object)
    }
}

fn failed(output: &str, status: &Status) -> Error {
    Error::call(format!("list what is known of {output}"), status)
}
