//! `sanafarm images`: the images of a job.

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Image, ImageState, ListImagesRequest};

use crate::args::ImagesArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::job_view::{error_class, image_json, image_state};
use crate::printer::{Printer, Table, shortened};

/// Letters of a prompt and of an error in the table: `--json` has them whole.
const LONGEST_PROMPT: usize = 60;
const LONGEST_ERROR: usize = 80;

/// Lists images in index order.
pub async fn run(args: ImagesArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::reading(args.place.into()).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let failed = |status| Error::call(format!("list images of job {}", args.job), &status);
    let failed_only = args.failed.then_some(ImageState::Failed);
    let states = args.state.iter().map(|state| ImageState::from(*state)).chain(failed_only);
    let states = states.map(i32::from).collect();
    let request = ListImagesRequest {
        job_id: args.job.clone(),
        states,
        limit: args.limit.unwrap_or(0),
        ..Default::default()
    };
    let mut images = client.list_images(request).await.map_err(failed)?.into_inner();
    if args.json {
        while let Some(image) = images.message().await.map_err(failed)? {
            printer.data(image_json(&image))?;
        }
    } else {
        let mut table =
            Table::on_stdout(&["index", "state", "seed", "size", "seconds", "object", "prompt", "error"]);
        while let Some(image) = images.message().await.map_err(failed)? {
            table.row(cells(&image))?;
        }
        table.finish()?;
    }
    drop((client, images));
    connection.close().await;
    Ok(Exit::Success)
}

fn cells(image: &Image) -> Vec<String> {
    let size = image.settings.as_ref().map(|settings| format!("{}x{}", settings.width, settings.height));
    let (seconds, object, error) = match image.state() {
        ImageState::Done => (format!("{:.1}", image.seconds), image.object.clone(), String::new()),
        ImageState::Failed => {
            let error = format!("{}: {}", error_class(image.error_class()), image.error);
            (String::new(), String::new(), shortened(&error, LONGEST_ERROR))
        }
        ImageState::Pending | ImageState::Unspecified => (String::new(), String::new(), String::new()),
    };
    vec![
        image.index.to_string(),
        image_state(image.state()).to_owned(),
        image.seed.to_string(),
        size.unwrap_or_default(),
        seconds,
        object,
        shortened(&image.prompt, LONGEST_PROMPT),
        error,
    ]
}
