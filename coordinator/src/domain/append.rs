//! Jobs that share an output: what a new one finds there, and whether its names may be those of others.

use super::Invalid;
use super::form::{Form, Layout};
use super::id::JobId;
use super::state::JobState;
use super::template::Template;

/// A job that was submitted to the same output before.
#[derive(Clone, Debug, PartialEq)]
pub struct Earlier {
    /// Names it.
    pub job: JobId,
    /// Where it stands.
    pub state: JobState,
    /// Images whose picture is committed.
    pub done: u64,
    /// Images of the jobs before it, and its own: names of later ones go on after these.
    pub end: u64,
    /// What is written for its images.
    pub form: Form,
    /// For people.
    pub name: String,
    /// As it was submitted.
    pub name_template: String,
}

impl Earlier {
    /// Cancelled before its first picture it has left nothing there.
    fn has_left_something(&self) -> bool {
        self.state != JobState::Cancelled || self.done > 0
    }
}

/// Why a job has no place in its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// The output is that of this job.
    Taken(JobId),
    /// This job, which is there already, does not go with the new one.
    Unlike(JobId, &'static str),
}

/// How many images come before those of a new job of this form in its output.
pub fn place(append: bool, form: &Form, earlier: &[Earlier]) -> Result<u64, NoPlace> {
    if !append {
        return match earlier.iter().find(|job| job.has_left_something()) {
            Some(taken) => Err(NoPlace::Taken(taken.job.clone())),
            None => Ok(0),
        };
    }
    for job in earlier {
        let unlike = |why| Err(NoPlace::Unlike(job.job.clone(), why));
        if !job.state.has_ended() {
            return unlike("has not ended; submit again when it has");
        }
        if job.form.layout != form.layout && job.has_left_something() {
            return unlike("has another layout; choose the same, or another output");
        }
        if form.layout == Layout::Webdataset && job.form.format != form.format && job.has_left_something() {
            return unlike(
                "has another format; tars of one data set hold one format: choose the same, or another output",
            );
        }
    }
    Ok(earlier.iter().map(|job| job.end).max().unwrap_or(0))
}

/// Whether a job whose rows came in meanwhile still has its place after so many images: the job that took it, if not.
pub fn lost_place(before: u64, earlier: &[Earlier]) -> Option<JobId> {
    let last = earlier.iter().filter(|job| before > 0 || job.has_left_something()).max_by_key(|job| job.end);
    last.filter(|job| job.end != before).map(|job| job.job.clone())
}

/// What names the images of a job.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// For people; may stand in names.
    pub name: &'a str,
    /// As it was submitted.
    pub template: &'a str,
    /// What is written for its images.
    pub form: &'a Form,
}

impl Names<'_> {
    /// Whether names may meet those of earlier jobs, which then has to be looked at. Those that follow from one template
    /// and go on counting do not.
    pub fn may_meet(&self, earlier: &[Earlier]) -> Result<bool, Invalid> {
        if !Template::parse(self.template, self.form)?.tells_by_index() {
            return Ok(!earlier.is_empty());
        }
        let names_job = self.template.contains("{job}");
        let alike =
            |job: &Earlier| job.name_template == self.template && (job.name == self.name || !names_job);
        Ok(!earlier.iter().all(alike))
    }

    /// Where names may meet: the job of another format whose thumbnails may have the names of this one's.
    pub fn thumbnails_may_meet(&self, earlier: &[Earlier]) -> Option<NoPlace> {
        let other = earlier.iter().find(|job| job.form.format != self.form.format)?;
        let why = "has another format, and thumbnails of both could have one name; name images by {index:08}, or choose \
                   another output";
        self.form.thumbnails.then(|| NoPlace::Unlike(other.job.clone(), why))
    }
}

/// What is said of a name that an image of an earlier job has.
pub fn same_name(object: &str) -> Invalid {
    Invalid::job(format!(
        "the name template gives the name {object:?}, which an image of an earlier job in this output has; add \
         {{index:08}} to it"
    ))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::domain::form::ImageFormat;

    fn earlier(state: JobState, done: u64, end: u64) -> Earlier {
        Earlier {
            job: JobId::from(format!("{state}")),
            state,
            done,
            end,
            form: Form::default(),
            name: "n".to_owned(),
            name_template: String::new(),
        }
    }

    #[test]
    fn an_output_is_shared_only_on_request_and_with_ended_jobs_alike() {
        let form = Form::default();
        let done = earlier(JobState::Succeeded, 10, 10);
        let nothing = earlier(JobState::Cancelled, 0, 30);
        assert_eq!(place(false, &form, from_ref(&nothing)), Ok(0));
        assert_eq!(place(false, &form, from_ref(&done)), Err(NoPlace::Taken(done.job.clone())));
        assert_eq!(place(true, &form, &[]), Ok(0));
        assert_eq!(place(true, &form, &[done.clone(), nothing.clone()]), Ok(30));
        let running = earlier(JobState::Running, 1, 40);
        assert!(matches!(place(true, &form, &[done.clone(), running]), Err(NoPlace::Unlike(..))));
        let tars = Form { layout: Layout::Webdataset, ..form };
        assert!(matches!(place(true, &tars, from_ref(&done)), Err(NoPlace::Unlike(..))));
        assert_eq!(place(true, &tars, &[nothing]), Ok(30));
        let jpegs = Form { format: ImageFormat::Jpeg, ..form };
        assert_eq!(place(true, &jpegs, &[done]), Ok(10));
    }

    #[test]
    fn a_place_is_lost_to_a_job_that_was_sealed_meanwhile() {
        let done = earlier(JobState::Succeeded, 10, 10);
        let late = earlier(JobState::Pending, 0, 25);
        assert_eq!(lost_place(10, from_ref(&done)), None);
        assert_eq!(lost_place(10, &[done, late.clone()]), Some(late.job.clone()));
        assert_eq!(lost_place(0, from_ref(&late)), Some(late.job));
        assert_eq!(lost_place(0, &[earlier(JobState::Cancelled, 0, 9)]), None);
    }

    #[test]
    fn names_of_one_template_go_on_counting() {
        let form = Form::default();
        let meets = |name, template, other: &Earlier| {
            Names { name, template, form: &form }.may_meet(from_ref(other)).unwrap()
        };
        let plain = earlier(JobState::Succeeded, 10, 10);
        assert!(!meets("m", "", &plain));
        assert!(meets("m", "{id}", &plain) && meets("m", "a{index}", &plain));
        let named = Earlier { name_template: "{job}{index}".to_owned(), ..plain };
        assert!(meets("m", "{job}{index}", &named) && !meets("n", "{job}{index}", &named));
    }
}
