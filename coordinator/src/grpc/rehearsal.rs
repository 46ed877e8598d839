//! A submission that is taken in as any other, and of which nothing is stored: what would become of it.

use std::time::Duration;

use sanafarm_proto::v1;

use super::convert;
use crate::domain::Invalid;
use crate::domain::speed::Speed;
use crate::domain::submission::{Batch, Submission};

/// Takes the messages of a submission in and counts what a coordinator would store.
#[derive(Debug)]
pub struct Rehearsal {
    submission: Submission,
    groups: Vec<RehearsedGroup>,
}

/// Images of one size and one set of settings.
#[derive(Clone, Debug, PartialEq)]
pub struct RehearsedGroup {
    /// What they have in common.
    pub settings: v1::Settings,
    /// How many they are.
    pub images: u64,
    /// Shards that they are cut into.
    pub shards: u64,
}

impl Rehearsal {
    /// Checks the spec. `target` is what a shard should take, `speeds` what was measured with the model.
    pub fn new(spec: v1::JobSpec, target: Duration, speeds: Vec<Speed>) -> Result<Self, Invalid> {
        let spec = convert::spec(spec).map_err(|status| Invalid::job(status.message()))?;
        Ok(Self { submission: Submission::new(spec, target, speeds)?, groups: Vec::new() })
    }

    /// Adds rows.
    pub fn add(&mut self, batch: v1::PromptBatch) -> Result<(), Invalid> {
        for row in batch.rows {
            self.submission.push(convert::row(row))?;
            if self.submission.is_full() {
                let batch = self.submission.take_batch();
                count(&mut self.groups, &batch);
            }
        }
        Ok(())
    }

    /// Ends the submission: its settings groups in the order of their first image.
    pub fn seal(self, rows: u64) -> Result<Vec<RehearsedGroup>, Invalid> {
        let Self { submission, mut groups } = self;
        count(&mut groups, &submission.seal(rows)?);
        Ok(groups)
    }
}

fn count(groups: &mut Vec<RehearsedGroup>, batch: &Batch) {
    let fresh = |(_, settings): &(u32, _)| RehearsedGroup {
        settings: convert::settings_message(settings),
        images: 0,
        shards: 0,
    };
    // They are numbered as they come.
    groups.extend(batch.groups.iter().map(fresh));
    for image in &batch.images {
        groups[image.group as usize].images += 1;
    }
    for shard in &batch.shards {
        groups[shard.group as usize].shards += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> v1::JobSpec {
        v1::JobSpec {
            client_token: "t".to_owned(),
            model: "m".to_owned(),
            output: "/out".to_owned(),
            settings: Some(v1::Settings { width: 64, height: 64, steps: 4, ..v1::Settings::default() }),
            images_per_prompt: 2,
            ..v1::JobSpec::default()
        }
    }

    fn row(line: u64, width: Option<u32>) -> v1::PromptRow {
        v1::PromptRow { prompt: "p".to_owned(), width, line, ..v1::PromptRow::default() }
    }

    #[test]
    fn images_and_shards_are_counted_by_group_and_cut_by_what_was_measured() {
        let format = crate::domain::form::ImageFormat::Png;
        let speed = Speed { pixels: 64 * 64, steps: 4, format, seconds: 30.0, bytes: 9.0, images: 1 };
        let mut rehearsal = Rehearsal::new(spec(), Duration::from_secs(120), vec![speed]).unwrap();
        // More than one batch of the store.
        for chunk in 0..50 {
            let rows = (0..50).map(|at| row(chunk * 50 + at + 1, (at == 0).then_some(96))).collect();
            rehearsal.add(v1::PromptBatch { rows }).unwrap();
        }
        let groups = rehearsal.seal(2500).unwrap();
        let counts: Vec<_> =
            groups.iter().map(|group| (group.settings.width, group.images, group.shards)).collect();
        assert_eq!(counts, [(96, 100, 4), (64, 4900, 1225)]);
    }

    #[test]
    fn what_a_coordinator_would_refuse_is_refused() {
        let rehearsal = || Rehearsal::new(spec(), Duration::from_secs(120), vec![]).unwrap();
        let refused = rehearsal().add(v1::PromptBatch { rows: vec![row(7, Some(0))] }).unwrap_err();
        assert_eq!(refused.to_string(), "line 7: width 0 is not between 1 and 16384");
        assert!(rehearsal().seal(0).is_err());
        assert!(Rehearsal::new(v1::JobSpec::default(), Duration::ZERO, vec![]).is_err());
    }
}
