//! `--after`, `--after-any` and `--deadline`.

use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{GetJobRequest, JobSpec};

use crate::args::TimingArgs;
use crate::error::Error;

/// Not a part of what makes the same command the same job: nothing of it changes a picture.
pub fn apply(spec: &mut JobSpec, timing: TimingArgs) {
    spec.after = timing.after;
    spec.after_any = timing.after_any;
    spec.deadline = timing.deadline.map(|deadline| prost_types::Timestamp {
        seconds: deadline.as_second(),
        nanos: deadline.subsec_nanosecond(),
    });
}

/// Looks the named jobs up: their whole ids stand in place of beginnings then. A wrong one is told before a long list is
/// read.
pub async fn find_jobs(timing: &mut TimingArgs, channel: &Channel) -> Result<(), Error> {
    let mut client = JobServiceClient::new(channel.clone());
    for (option, jobs) in [("--after", &mut timing.after), ("--after-any", &mut timing.after_any)] {
        for job in jobs {
            let found = client.get_job(GetJobRequest { job_id: job.clone() }).await;
            let found =
                found.map_err(|status| Error::call(format!("wait for job {job} ({option})"), &status))?;
            *job = found.into_inner().job_id;
        }
    }
    Ok(())
}
