//! The objects that an output may hold, as far as the database knows.

use super::form::{Layout, MANIFESTS};
use super::word::words;

/// Images of a part of the manifest in the layout of files, at least; the last has fewer.
pub const PART_IMAGES: u64 = 65_536;
/// The card of the data set.
pub const CARD: &str = "README.md";

words! {
    /// What an object is to the database.
    ObjectState, "object state" {
        /// That of an image that is done: it is there unless it was lost.
        Done = "done",
        /// That of an image, or the tar of an attempt, that may still come: it may be there.
        Pending = "pending",
        /// That of an image without a picture whose job has ended: nobody needs it.
        Dead = "dead",
        /// A committed tar under its final name.
        Archive = "archive",
        /// A committed tar that has no final name yet.
        Staged = "staged",
        /// Written about the pictures when a job ends: it may be there.
        Manifest = "manifest",
    }
}

/// The name of a part of the manifest in the layout of files.
pub fn part_name(number: u64) -> String {
    format!("{MANIFESTS}/part-{number:06}.parquet")
}

/// What is written about so many images of this layout, but for the parts that belong to tars.
pub fn manifests(layout: Layout, images: u64) -> Vec<String> {
    let mut names: Vec<String> = layout.indices().iter().copied().chain([CARD]).map(str::to_owned).collect();
    if layout == Layout::Files {
        names.extend((0..=images / PART_IMAGES).map(part_name));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_about_images_has_its_names() {
        let files = manifests(Layout::Files, 65_537);
        let parts = ["manifests/part-000000.parquet", "manifests/part-000001.parquet"];
        assert_eq!(files, [&["manifest.parquet", "metadata.jsonl", "README.md"], &parts[..]].concat());
        assert_eq!(manifests(Layout::Webdataset, 9), ["manifest.parquet", "index.json", "README.md"]);
    }
}
