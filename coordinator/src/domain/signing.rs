//! Which objects a worker without keys of its own may reach under an attempt.

use std::collections::HashMap;

use super::archive::is_staged_name;
use super::form::{Form, Layout};

/// What an image of a shard is called, and whether it has a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The object of the image.
    pub object: String,
    /// It has no result.
    pub open: bool,
}

/// What may be done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Reading it: there is nothing left to write.
    Read,
    /// Writing it too, if it is not there.
    Write,
}

impl Right {
    fn of(open: bool) -> Self {
        if open { Self::Write } else { Self::Read }
    }
}

/// The objects of one attempt.
#[derive(Clone, Debug)]
pub struct Objects {
    images: HashMap<String, Right>,
    /// Its shard and number, and what may be done with its tars; none where each picture is an object.
    tars: Option<(String, u32, Right)>,
}

impl Objects {
    /// Those of attempt `attempt` at a shard with these images. One whose image has its result is written no more.
    pub fn of(form: &Form, shard: &str, attempt: u32, images: Vec<Named>) -> Self {
        let is_open = images.iter().any(|image| image.open);
        let thumbnails = images.iter().filter_map(|image| Some((form.thumbnail(&image.object)?, image.open)));
        let mut named: Vec<(String, bool)> = thumbnails.collect();
        let tars = match form.layout {
            Layout::Files => {
                named.extend(images.into_iter().map(|image| (image.object, image.open)));
                None
            }
            Layout::Webdataset => Some((shard.to_owned(), attempt, Right::of(is_open))),
        };
        Self { images: named.into_iter().map(|(object, open)| (object, Right::of(open))).collect(), tars }
    }

    /// What may be done with this object; none when it is not one of the attempt's.
    pub fn right(&self, object: &str) -> Option<Right> {
        let of_image = self.images.get(object).copied();
        of_image.or_else(|| {
            let (shard, attempt, right) = self.tars.as_ref()?;
            is_staged_name(object, shard, *attempt).then_some(*right)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(open: [bool; 2]) -> Vec<Named> {
        let named = |(number, open)| Named { object: format!("a/{number}.png"), open };
        open.into_iter().enumerate().map(named).collect()
    }

    #[test]
    fn a_worker_reaches_the_objects_of_its_attempt_and_writes_those_that_are_open() {
        let form = Form { thumbnails: true, ..Form::default() };
        let objects = Objects::of(&form, "s", 2, images([true, false]));
        for (object, right) in [
            ("a/0.png", Right::Write),
            ("a/1.png", Right::Read),
            ("thumbnails/a/0.jpg", Right::Write),
            ("thumbnails/a/1.jpg", Right::Read),
        ] {
            assert_eq!(objects.right(object), Some(right), "{object}");
        }
        for other in [
            "a/2.png",
            "a",
            "",
            "../a/0.png",
            "a/0.png/",
            "A/0.png",
            ".staging/s-2.tar",
            "thumbnails/a/2.jpg",
        ] {
            assert_eq!(objects.right(other), None, "{other}");
        }
        assert_eq!(
            Objects::of(&Form::default(), "s", 2, images([true, false])).right("thumbnails/a/0.jpg"),
            None
        );
    }

    #[test]
    fn in_tars_a_worker_reaches_those_of_its_attempt_while_an_image_is_open() {
        let form = Form { layout: Layout::Webdataset, ..Form::default() };
        let objects = Objects::of(&form, "s", 2, images([true, false]));
        for tar in [".staging/s-2.tar", ".staging/s-2-1.tar"] {
            assert_eq!(objects.right(tar), Some(Right::Write), "{tar}");
        }
        for other in [".staging/s-1.tar", ".staging/s-21.tar", "train-000000.tar", "a/0.png"] {
            assert_eq!(objects.right(other), None, "{other}");
        }
        let done = Objects::of(&form, "s", 2, images([false, false]));
        assert_eq!(done.right(".staging/s-2.tar"), Some(Right::Read));
    }
}
