//! Between messages and the words of the domain.

use jiff::Timestamp;
use sanafarm_proto::v1;
use tonic::Status;

use crate::domain::form::{Form, ImageFormat, Layout};
use crate::domain::settings::{BinMode, DecodeMode, Settings};

mod history;
mod job;
mod leaving;
mod worker;

pub(super) use history::*;
pub(super) use job::*;
pub(super) use leaving::*;
pub(super) use worker::*;

type Converted<T> = Result<T, Status>;

/// A message without one of its parts.
pub(super) fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("the message has no {what}"))
}

fn settings(settings: &v1::Settings) -> Settings {
    Settings {
        width: settings.width,
        height: settings.height,
        steps: settings.steps,
        guidance: settings.guidance,
        bin: match settings.bin() {
            v1::BinMode::Unspecified | v1::BinMode::Auto => BinMode::Auto,
            v1::BinMode::Always => BinMode::Always,
            v1::BinMode::Never => BinMode::Never,
        },
        decode: match settings.decode() {
            v1::DecodeMode::Unspecified | v1::DecodeMode::Exact => DecodeMode::Exact,
            v1::DecodeMode::Blend => DecodeMode::Blend,
            v1::DecodeMode::Whole => DecodeMode::Whole,
        },
    }
}

pub(super) fn settings_message(settings: &Settings) -> v1::Settings {
    let bin = match settings.bin {
        BinMode::Auto => v1::BinMode::Auto,
        BinMode::Always => v1::BinMode::Always,
        BinMode::Never => v1::BinMode::Never,
    };
    let decode = match settings.decode {
        DecodeMode::Exact => v1::DecodeMode::Exact,
        DecodeMode::Blend => v1::DecodeMode::Blend,
        DecodeMode::Whole => v1::DecodeMode::Whole,
    };
    v1::Settings {
        width: settings.width,
        height: settings.height,
        steps: settings.steps,
        guidance: settings.guidance,
        bin: bin.into(),
        decode: decode.into(),
    }
}

/// Absent, it is that of PNG files. A word that this program does not know is no guess.
pub(super) fn form(form: Option<v1::Form>) -> Converted<Form> {
    let Some(form) = form else { return Ok(Form::default()) };
    let unknown = |what: &str, number: i32| Status::invalid_argument(format!("unknown {what} {number}"));
    Ok(Form {
        format: match v1::ImageFormat::try_from(form.format) {
            Ok(v1::ImageFormat::Unspecified | v1::ImageFormat::Png) => ImageFormat::Png,
            Ok(v1::ImageFormat::Jpeg) => ImageFormat::Jpeg,
            Ok(v1::ImageFormat::Webp) => ImageFormat::Webp,
            Ok(v1::ImageFormat::WebpLossless) => ImageFormat::WebpLossless,
            Err(_) => return Err(unknown("image format", form.format)),
        },
        quality: form.quality,
        layout: match v1::Layout::try_from(form.layout) {
            Ok(v1::Layout::Unspecified | v1::Layout::Files) => Layout::Files,
            Ok(v1::Layout::Webdataset) => Layout::Webdataset,
            Err(_) => return Err(unknown("layout", form.layout)),
        },
        thumbnails: form.thumbnails,
    })
}

pub(super) fn form_message(form: &Form) -> v1::Form {
    let format = match form.format {
        ImageFormat::Png => v1::ImageFormat::Png,
        ImageFormat::Jpeg => v1::ImageFormat::Jpeg,
        ImageFormat::Webp => v1::ImageFormat::Webp,
        ImageFormat::WebpLossless => v1::ImageFormat::WebpLossless,
    };
    let layout = match form.layout {
        Layout::Files => v1::Layout::Files,
        Layout::Webdataset => v1::Layout::Webdataset,
    };
    v1::Form {
        format: format.into(),
        quality: form.quality,
        layout: layout.into(),
        thumbnails: form.thumbnails,
    }
}

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    // The sub-second part of a time before 1970 would be negative, which no time here is.
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

/// A time that somebody else wrote; `what` it is is told when it is none.
pub(super) fn time(what: &str, time: prost_types::Timestamp) -> Converted<Timestamp> {
    Timestamp::new(time.seconds, time.nanos)
        .map_err(|error| Status::invalid_argument(format!("the {what} is no time: {error}")))
}
