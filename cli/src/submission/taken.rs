//! An output that another job has: in what that job differs, so that a changed option is seen at once.

use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{GetJobRequest, Job, JobSpec};
use tonic::{Code, Status};

use crate::error::Error;
use crate::job_view::{has_ended, job_json, job_state};

/// What the coordinator says before the id of that job, and after it.
const BEFORE: &str = " holds the pictures of job ";
const AFTER: char = ';';

/// Explains a refusal for such an output; `None` when it is about something else, or when the other job cannot be seen.
pub async fn explain(
    client: &mut JobServiceClient<Channel>,
    status: &Status,
    spec: &JobSpec,
) -> Option<Error> {
    if status.code() != Code::AlreadyExists {
        return None;
    }
    let (_, rest) = status.message().split_once(BEFORE)?;
    let (id, _) = rest.split_once(AFTER)?;
    let other = client.get_job(GetJobRequest { job_id: id.to_owned() }).await.ok()?.into_inner();
    Some(error(&other, spec))
}

fn error(other: &Job, spec: &JobSpec) -> Error {
    let id = &other.job_id;
    let state = job_state(other.state());
    let differs = differences(other, spec);
    let how = match differs.as_slice() {
        [] => "its settings are the same: the list, a seed, the negative prompt or the weights differ"
            .to_owned(),
        some => format!("it has {}", some.join(", ")),
    };
    let hint = match has_ended(other) {
        true => "choose another output, or add to it with --append",
        false => "choose another output, or go on with that job by the command that it was made with",
    };
    Error::mistake("submit the job")
        .because(format!("output {}{BEFORE}{id}, which is {state}", other.output))
        .because(how)
        .hint(hint)
}

/// Of the settings of both that are not the same, those of the other job and ours.
fn differences(other: &Job, spec: &JobSpec) -> Vec<String> {
    // The words are those that users know of `show --json`.
    let theirs = job_json(other);
    let ours = job_json(&Job {
        name: spec.name.clone(),
        model: spec.model.clone(),
        settings: spec.settings,
        form: spec.form,
        ..Job::default()
    });
    let mut found = Vec::new();
    let mut compare = |name: &str, theirs: &serde_json::Value, ours: &serde_json::Value| {
        // What is left open here the coordinator fills in.
        if !ours.is_null() && theirs != ours {
            found.push(format!("{} {} instead of {}", name.replace('_', " "), plain(theirs), plain(ours)));
        }
    };
    for name in ["name", "model"] {
        compare(name, &theirs[name], &ours[name]);
    }
    for group in ["settings", "form"] {
        let Some(fields) = ours[group].as_object() else { continue };
        for (name, ours) in fields {
            compare(name, &theirs[group][name], ours);
        }
    }
    found
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
