//! What a list of an output tells.

use std::time::SystemTime;

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name below the output.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, by the clock of the place.
    pub modified: SystemTime,
    /// The store's own mark of this content; some tell it only to those who read, and folders have none.
    pub e_tag: Option<String>,
}

impl Entry {
    /// Whether both may be of the same content. Lists and answers tell the time with more or fewer digits.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map(|since| since.as_secs()).ok();
        let tags = self.e_tag.as_ref().zip(other.e_tag.as_ref());
        (self.bytes, seconds(self.modified)) == (other.bytes, seconds(other.modified))
            && tags.is_none_or(|(one, two)| one == two)
    }
}
