//! One suite of behaviours that every store must pass, whatever its database.
//!
//! The suite knows the trait and the documented views only. It moves the clock itself and never sleeps.

pub(in crate::store) mod archives;
mod bench;
pub(in crate::store) mod changes;
pub(in crate::store) mod demand;
pub(in crate::store) mod ending;
pub(in crate::store) mod guide;
pub(in crate::store) mod history;
pub(in crate::store) mod interleaving;
pub(in crate::store) mod leasing;
pub(in crate::store) mod leaving;
pub(in crate::store) mod listing;
pub(in crate::store) mod logs;
pub(in crate::store) mod overview;
pub(in crate::store) mod presence;
pub(in crate::store) mod refusals;
pub(in crate::store) mod requeue;
pub(in crate::store) mod results;
pub(in crate::store) mod signing;
pub(in crate::store) mod speeds;
pub(in crate::store) mod submission;
pub(in crate::store) mod tail;
pub(in crate::store) mod tokens;
pub(in crate::store) mod waiting;
pub(in crate::store) mod webhooks;

pub(crate) use bench::{Bench, CAPS, LEASE, begun, done, error, row, spec};

/// Runs every behaviour as a test of its own on stores from `$fresh`, an async function that returns an
/// `Arc<dyn Store>` on an empty database and whatever must live as long as it.
macro_rules! conformance_suite {
    ($fresh:path) => {
        $crate::store::conformance::conformance_suite! { $fresh;
            submission: a_sealed_job_is_there_with_its_images,
            submission: an_output_belongs_to_one_job,
            submission: an_unsealed_job_is_invisible,
            submission: a_token_of_a_sealed_job_finds_it,
            submission: a_token_of_unsealed_remains_starts_anew,
            submission: abandoned_rows_are_purged,
            submission: one_name_for_two_images_is_refused,
            submission: a_long_list_streams_in,
            submission: an_id_is_found_by_its_beginning,
            leasing: the_oldest_job_is_leased_first,
            leasing: a_session_may_work_for_one_job_only,
            leasing: claims_of_one_moment_get_different_shards,
            leasing: a_claim_looks_where_it_is_told,
            leasing: an_open_job_tells_what_the_scheduler_goes_by,
            leasing: a_session_is_known_as_it_was_opened,
            leasing: a_lease_holds_what_is_left_to_do,
            leasing: the_first_lease_starts_the_job,
            leasing: an_old_attempt_renews_and_releases_nothing,
            leasing: a_renewed_lease_does_not_expire,
            leasing: release_costs_nothing,
            leasing: a_closed_session_releases_its_leases,
            leasing: a_closed_session_gets_no_lease,
            leasing: silent_sessions_are_closed,
            results: a_result_is_committed_once,
            results: a_late_result_is_accepted_once,
            results: a_late_result_completes_a_shard_that_another_holds,
            results: an_unknown_session_may_report,
            results: what_was_never_leased_is_refused,
            results: a_wrong_report_is_refused_and_the_others_are_kept,
            results: an_error_sent_twice_counts_once,
            results: an_error_is_told_by_whom_the_attempt_was_given_to,
            results: an_image_with_too_many_errors_fails,
            results: an_image_that_fails_on_different_workers_fails,
            results: a_worker_that_fails_image_after_image_is_taken_out_and_forgiven,
            results: a_permanent_error_fails_the_image_at_once,
            results: a_shard_with_errors_waits_before_it_is_tried_again,
            results: an_image_that_loses_its_worker_too_often_fails,
            speeds: measured_speed_is_known,
            speeds: what_was_measured_is_known_however_many_jobs_come_later,
            speeds: of_every_size_of_a_long_job_something_is_known,
            speeds: what_a_cancelled_job_rendered_is_known,
            archives: a_form_is_kept_and_told_with_each_lease,
            archives: what_a_look_at_a_picture_gave_is_kept,
            archives: pictures_of_a_tar_are_committed_together_and_once,
            archives: a_tar_with_an_image_that_is_there_already_is_refused_whole,
            archives: a_report_that_does_not_fit_its_layout_is_refused,
            archives: tars_are_numbered_without_holes_and_then_their_job_ends,
            archives: a_cut_shard_gives_a_smaller_tar,
            archives: tars_of_a_cancelled_job_get_their_names,
            archives: a_lost_tar_is_withdrawn_whole_and_its_number_given_again,
            archives: a_job_may_be_added_to_the_output_of_ended_ones,
            archives: a_name_of_an_earlier_job_is_not_given_again,
            archives: of_two_jobs_that_come_in_for_one_output_the_first_sealed_has_it,
            changes: a_paused_job_gives_nothing_until_it_is_resumed,
            changes: priority_may_change_at_any_time,
            changes: failed_images_are_tried_again,
            changes: only_one_class_is_tried_again,
            changes: a_cancelled_job_is_not_tried_again,
            changes: jobs_of_a_held_owner_wait,
            changes: the_history_tells_who_and_why,
            waiting: a_job_begins_when_the_one_before_it_has_succeeded,
            waiting: a_job_that_waits_for_a_lost_one_is_called_off,
            waiting: a_job_that_waits_for_any_end_begins_after_one,
            waiting: a_retry_takes_nothing_back_from_a_job_that_has_started,
            waiting: a_job_that_failed_and_is_tried_again_is_waited_for_again,
            waiting: only_jobs_that_may_still_succeed_are_waited_for,
            waiting: a_job_that_was_lost_during_the_submission_calls_it_off,
            waiting: nothing_of_a_job_is_leased_at_its_deadline_and_the_rest_is_cancelled,
            waiting: a_complete_job_outlives_its_deadline,
            waiting: a_deadline_that_has_passed_is_refused,
            waiting: what_a_job_waits_for_is_in_the_view_and_in_the_history,
            overview: the_farm_is_told_in_figures,
            presence: what_waits_is_told_by_cause,
            presence: a_session_tells_that_its_worker_was_taken_out,
            presence: open_sessions_are_listed_with_what_they_hold,
            refusals: a_job_that_a_worker_cannot_write_is_left_to_others_for_a_while,
            refusals: a_model_that_a_worker_cannot_load_takes_it_out_of_that_job_alone,
            refusals: the_only_worker_of_a_job_never_refuses_it,
            leaving: a_drained_worker_gets_nothing_more_and_is_told,
            leaving: a_drain_is_told_once_and_may_become_more_urgent,
            leaving: a_worker_that_leaves_gets_nothing_more,
            leaving: what_a_worker_says_of_its_time_is_kept,
            signing: the_objects_of_an_attempt_are_told_to_its_worker_alone,
            signing: what_was_cut_off_meanwhile_is_still_of_the_attempt,
            listing: what_an_output_may_hold_is_listed_in_byte_order,
            listing: a_long_list_comes_in_pages,
            listing: tars_are_listed_on_their_way_to_their_names,
            logs: what_was_logged_is_kept_with_its_attempt,
            logs: of_a_refused_report_nothing_is_kept,
            requeue: lost_pictures_are_rendered_again,
            requeue: what_an_attempt_of_that_time_tells_again_is_passed_over,
            requeue: a_requeued_image_starts_afresh_and_failures_stay,
            requeue: nothing_of_a_cancelled_job_is_requeued,
            requeue: without_images_a_job_that_has_ended_writes_its_files_anew,
            requeue: a_picture_of_a_shard_that_is_held_or_cut_is_requeued,
            requeue: the_history_tells_of_the_picture_that_was_lost,
            requeue: device_time_that_was_used_is_counted_for_ever,
            requeue: a_deadline_that_was_met_ends_no_job_that_is_rendered_again,
            tail: the_end_of_a_job_is_told,
            tail: what_is_cut_off_is_a_shard_of_its_own,
            tail: what_was_rendered_before_the_cut_was_known_counts,
            tail: a_part_may_be_completed_by_who_had_it_before,
            tail: errors_of_what_was_cut_off_count_apart,
            tail: a_permanent_error_of_a_part_fails_it_whoever_tells,
            tail: what_is_in_hand_is_not_cut_off,
            tail: a_lost_part_charges_what_it_had_in_hand,
            tail: a_late_image_is_rendered_by_two,
            tail: only_what_is_held_is_taken_over,
            tail: the_story_of_an_image_follows_it_from_shard_to_shard,
            tail: a_shard_between_those_of_other_groups_is_cut,
            tokens: a_token_is_kept_as_it_was_made,
            tokens: a_rotated_token_has_two_secrets_for_a_while,
            tokens: a_revoked_token_stays_revoked,
            tokens: the_last_use_of_a_token_never_goes_back,
            tokens: jobs_are_listed_by_owner,
            ending: a_job_ends_when_told_and_only_when_complete,
            ending: a_job_with_a_failed_image_fails,
            ending: cancel_revokes_and_keeps_what_is_done,
            ending: a_result_for_a_cancelled_job_is_kept,
            ending: a_restart_releases_what_lived_in_the_process,
            ending: a_restart_leaves_workers_elsewhere_alone,
            ending: every_move_is_in_the_history,
            demand: what_may_run_and_what_is_in_hand_is_counted,
            demand: what_is_held_back_is_not_counted_but_in_hand,
            demand: what_a_worker_must_have_is_told_and_time_goes_by_work,
            webhooks: every_end_of_a_job_calls_its_webhook,
            webhooks: a_webhook_is_tried_by_one_at_a_time_until_it_is_answered,
            webhooks: a_webhook_that_is_given_up_stays_so,
            history: what_the_farm_does_by_itself_is_told_so,
            history: an_image_that_lost_its_worker_is_given_up_by_the_farm,
            history: whoever_does_not_tell_a_name_is_not_the_farm,
            history: a_worker_is_taken_out_and_forgiven_in_words,
            history: a_job_tells_its_events_page_by_page,
            history: a_worker_tells_all_its_sessions_or_one,
            history: sessions_of_a_worker_that_overlap_are_told_in_order,
            history: a_session_that_was_opened_tells_its_devices,
            history: an_image_tells_its_attempts_and_what_came_of_them,
            history: an_image_of_one_size_is_not_told_the_attempts_at_another,
            guide: every_question_of_the_guide_has_its_answer,
            interleaving: nothing_is_lost_or_done_twice,
        }
    };
    ($fresh:path; $($file:ident: $test:ident,)+) => {
        $(
            #[tokio::test]
            async fn $test() {
                let (store, _keep) = $fresh().await;
                $crate::store::conformance::$file::$test($crate::store::conformance::Bench::new(store)).await;
            }
        )+
    };
}

pub(in crate::store) use conformance_suite;
