//! The picture that is rendered again: a file, or the stored picture of an image.

use std::io::{self, Read};
use std::path::Path;

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{GetJobRequest, Image, ImageState, Job, ListImagesRequest};
use sanafarm_storage::{Found, Output};

use crate::args::image;
use crate::connect::{Connection, Place};
use crate::error::Error;
use crate::job_view::image_state;
use crate::output::{self, Incoming, storage_error};
use crate::submission::blocking;

/// Largest picture file that is read.
const LARGEST: u64 = 4 << 30;

/// A picture, with what is known of it beside its recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// For people.
    pub name: String,
    /// The whole file.
    pub file: Vec<u8>,
    /// As its job names the model.
    pub model: Option<String>,
    /// What it was rendered on.
    pub device: Option<String>,
    /// The hash that the history has of it.
    pub sha256: Option<String>,
}

impl Source {
    /// Reads what the user named: a file when there is one of this name.
    pub async fn read(named: &str, place: Place) -> Result<Self, Error> {
        if Path::new(named).is_file() {
            return Self::file(named).await;
        }
        match image(named) {
            Ok((job, index)) => Self::stored(&job, index, place).await,
            Err(_) => Err(Error::mistake(format!("there is no file {named}"))
                .hint("name a picture file, or JOB/INDEX for an image of a job")),
        }
    }

    async fn file(named: &str) -> Result<Self, Error> {
        let path = named.to_owned();
        let file = blocking(move || std::fs::read(path)).await?;
        let file = file.map_err(|error| Error::mistake(format!("read {named}")).caused_by(&error))?;
        Ok(Self { name: named.to_owned(), file, model: None, device: None, sha256: None })
    }

    async fn stored(job: &str, index: u64, place: Place) -> Result<Self, Error> {
        let what = format!("find image {index} of job {job}");
        let failed = |status: tonic::Status| Error::call(what.clone(), &status);
        let connection = Connection::reading(place).await?;
        let mut client = JobServiceClient::new(connection.channel.clone());
        let request = GetJobRequest { job_id: job.to_owned() };
        let job: Job = client.get_job(request).await.map_err(failed)?.into_inner();
        let request =
            ListImagesRequest { job_id: job.job_id.clone(), from: index, limit: 1, ..Default::default() };
        let mut images = client.list_images(request).await.map_err(failed)?.into_inner();
        let image = images.message().await.map_err(failed)?.filter(|image| image.index == index);
        drop((client, images));
        connection.close().await;
        let image = image.ok_or_else(|| Error::mistake(&what).because("the job has no such image"))?;
        if image.state() != ImageState::Done {
            return Err(Error::mistake(&what)
                .because(format!("it is {} and has no picture", image_state(image.state()))));
        }
        let output = output::open(&job.output).await?;
        let file = match image.archive.as_str() {
            "" => object(&output, &image.object).await?,
            tar => member(&output, tar, &image).await?,
        };
        let Some(file) = file else {
            return Err(Error::failure(format!("{} is not in {}", image.object, output.place()))
                .hint("`sanafarm verify JOB` tells what else is missing"));
        };
        Ok(Self {
            name: format!("{}/{index}", job.job_id),
            file,
            model: Some(job.model),
            device: Some(image.device).filter(|device| !device.is_empty()),
            sha256: Some(image.sha256),
        })
    }
}

async fn object(output: &Output, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let failed = |error| storage_error(format!("read {name}"), &error);
    match output.get(name, LARGEST).await.map_err(failed)? {
        Found::Nothing => Ok(None),
        Found::Object(bytes) => Ok(Some(bytes.into())),
        Found::Larger => Err(Error::mistake(format!("read {name}")).because("it is larger than any picture")),
    }
}

/// Reads a tar up to the picture.
async fn member(output: &Output, tar: &str, image: &Image) -> Result<Option<Vec<u8>>, Error> {
    let failed = |error| storage_error(format!("read {tar}"), &error);
    let Some(reading) = output.read(tar).await.map_err(failed)? else { return Ok(None) };
    let mut incoming = Incoming::new(reading);
    let (name, bytes) = (image.object.clone(), image.bytes);
    let found = blocking(move || {
        let found = find(&mut incoming, &name, bytes);
        incoming.finish().map(|_| found)
    });
    let found = found.await?.map_err(failed)?;
    found.map_err(|error| Error::failure(format!("find {} in {tar}", image.object)).caused_by(&error))
}

fn find(tar: &mut impl Read, name: &str, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    for member in tar::Archive::new(tar).entries()? {
        let mut member = member?;
        if &*member.path_bytes() == name.as_bytes() && member.size() <= LARGEST {
            let mut file = Vec::with_capacity(bytes as usize);
            member.read_to_end(&mut file)?;
            return Ok(Some(file));
        }
    }
    Ok(None)
}
