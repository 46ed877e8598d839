//! What is written for the images of a job: the file of a picture, and how pictures lie in the output.

use super::Invalid;
use super::word::words;

/// Highest quality of JPEG and lossy WebP.
pub const MAX_QUALITY: u32 = 100;

words! {
    /// The file of a picture.
    ImageFormat, "image format" {
        /// PNG.
        Png = "png",
        /// JPEG.
        Jpeg = "jpeg",
        /// Lossy WebP.
        Webp = "webp",
        /// WebP that loses nothing.
        WebpLossless = "webp-lossless",
    }
}

impl ImageFormat {
    /// The extension of its files, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp | Self::WebpLossless => "webp",
        }
    }

    /// Whether files with this extension, in lower case, are of this format.
    pub fn has_extension(self, extension: &str) -> bool {
        extension == self.extension() || (self == Self::Jpeg && extension == "jpeg")
    }

    /// Whether its files are the smaller the lower their quality.
    pub fn is_lossy(self) -> bool {
        match self {
            Self::Jpeg | Self::Webp => true,
            Self::Png | Self::WebpLossless => false,
        }
    }

    /// Bytes of a file for each pixel, roughly, for pictures that nothing was measured of.
    pub fn bytes_per_pixel(self) -> f64 {
        match self {
            Self::Png => 1.7,
            Self::Jpeg => 0.35,
            Self::Webp => 0.2,
            Self::WebpLossless => 1.2,
        }
    }
}

words! {
    /// How pictures lie in the output.
    Layout, "layout" {
        /// An object for each.
        Files = "files",
        /// A tar for each lease.
        Webdataset = "webdataset",
    }
}

impl Layout {
    /// The files about the pictures that every job of this layout has in its output when it has ended.
    pub fn indices(self) -> &'static [&'static str] {
        match self {
            Self::Files => &["manifest.parquet", "metadata.jsonl"],
            Self::Webdataset => &["manifest.parquet", "index.json"],
        }
    }
}

/// What is written for the images of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The file of a picture.
    pub format: ImageFormat,
    /// Of a lossy format; 0 for the encoder's own.
    pub quality: u32,
    /// How pictures lie in the output.
    pub layout: Layout,
    /// A small JPEG beside each as well.
    pub thumbnails: bool,
}

impl Default for Form {
    fn default() -> Self {
        Self { format: ImageFormat::Png, quality: 0, layout: Layout::Files, thumbnails: false }
    }
}

impl Form {
    /// Whether pictures can be written like this.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.quality > MAX_QUALITY {
            return Err(Invalid::job(format!("quality {} is not between 1 and {MAX_QUALITY}", self.quality)));
        }
        if self.quality > 0 && !self.format.is_lossy() {
            return Err(Invalid::job(format!(
                "format {} has no quality; leave it out, or choose jpeg or webp",
                self.format
            )));
        }
        Ok(())
    }

    /// Where the thumbnail of an object belongs; none without thumbnails.
    pub fn thumbnail(&self, object: &str) -> Option<String> {
        // A name ends in the extension of its format.
        let stem = object.rsplit_once('.').map_or(object, |(stem, _)| stem);
        self.thumbnails.then(|| format!("{THUMBNAILS}/{stem}.jpg"))
    }
}

/// Folder of thumbnails below the output.
pub const THUMBNAILS: &str = "thumbnails";
/// Folder of the parts of the manifest below the output.
pub const MANIFESTS: &str = "manifests";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_is_of_lossy_formats_only() {
        let form = |format, quality| Form { format, quality, ..Form::default() };
        for good in [form(ImageFormat::Jpeg, 100), form(ImageFormat::Webp, 1), form(ImageFormat::Png, 0)] {
            assert_eq!(good.check(), Ok(()));
        }
        for wrong in
            [form(ImageFormat::Jpeg, 101), form(ImageFormat::Png, 90), form(ImageFormat::WebpLossless, 1)]
        {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_thumbnail_is_named_like_its_picture() {
        let form = Form { thumbnails: true, ..Form::default() };
        assert_eq!(form.thumbnail("a.b/c.png").as_deref(), Some("thumbnails/a.b/c.jpg"));
        assert_eq!(Form::default().thumbnail("c.png"), None);
    }
}
