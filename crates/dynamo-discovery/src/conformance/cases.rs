//! The cases by their groups, and the macro that writes their tests.

/// Writes one test for each case of a group of the [suite](crate::conformance).
///
/// It takes the name of the group and a comma (none for the first group), the test attribute, and an
/// expression for the store under test, which may await. The expression is evaluated for each test
/// anew, and its type implements the trait that the group needs.
#[macro_export]
macro_rules! conformance_tests {
    (@tests $attribute:tt $backend:expr; $($case:ident)+) => {
        $($crate::conformance_tests! { @test $attribute $backend; $case })+
    };
    (@test [$($attribute:tt)+] $backend:expr; $case:ident) => {
        #[$($attribute)+]
        async fn $case() {
            let backend = $backend;
            if let Err(breach) = $crate::conformance::$case(&backend).await {
                panic!("{breach}");
            }
        }
    };
    (#[$($attribute:tt)+] $backend:expr $(,)?) => {
        $crate::conformance_tests! { basic, #[$($attribute)+] $backend }
    };
    ($group:ident, #[$($attribute:tt)+] $backend:expr $(,)?) => {
        $crate::__conformance_cases! {
            $group [$crate::conformance_tests] @tests [$($attribute)+] $backend;
        }
    };
}

/// Hands the names of a group's cases to another macro, after what that macro gets besides.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    (basic [$($to:tt)+] $($besides:tt)*) => {
        $($to)+! { $($besides)*
            a_list_is_ordered_by_key_and_has_the_last_value_of_each
            an_entry_tells_which_revision_and_which_lease_put_it_last
            a_list_tells_the_revision_at_which_it_was_read
            a_list_shows_what_was_written_through_any_handle
            a_list_of_several_pages_is_complete_and_shows_one_revision
            the_pages_of_a_list_are_the_list_and_the_last_one_says_so
            a_range_ends_at_its_boundary
            keys_and_values_that_are_not_utf_8_survive
            a_watch_delivers_every_later_change_once_in_order
            a_watch_delivers_what_was_written_through_any_handle
            a_change_between_list_and_watch_is_delivered
            nothing_is_lost_or_twice_while_others_write
            a_put_that_changes_nothing_is_a_change
            a_deletion_is_delivered_without_a_value
            a_revision_with_several_keys_arrives_whole
            a_batch_tells_the_revision_of_its_last_change
            a_quiet_watch_says_that_it_is_alive
            a_dropped_watch_leaves_no_task
            a_resume_goes_on_after_its_cursor
            a_resume_from_a_batch_goes_on_after_the_batch
            an_anchor_proves_what_was_live_then_and_not_what_is_now
            a_wrong_anchor_says_replaced
            a_cursor_ahead_of_the_store_says_replaced
            each_grant_is_a_lease_of_its_own
            a_live_lease_is_renewed
            a_lease_that_is_gone_is_not_renewed
            a_put_under_a_lease_that_is_gone_is_refused
            an_expired_lease_takes_its_keys_along
            a_renewed_lease_outlives_its_first_term
            a_revoked_lease_takes_its_keys_along
            a_lease_may_be_revoked_twice
            a_key_put_under_another_lease_survives_the_end_of_the_first
            a_conditional_put_never_writes_over_a_successor
            a_conditional_put_leaves_the_key_under_its_lease
            a_conditional_delete_never_deletes_a_successor
            several_writes_do_what_single_ones_would
            several_writes_under_a_lease_that_is_gone_write_nothing
            keys_that_are_not_under_the_lease_are_strays
            a_put_of_a_key_without_a_lease_never_writes_over_a_successor
        }
    };
    (races [$($to:tt)+] $($besides:tt)*) => {
        $($to)+! { $($besides)*
            a_conditional_put_that_meets_a_successor_never_writes_over_it
            a_conditional_delete_that_meets_a_successor_never_deletes_it
            a_put_of_a_stray_that_meets_a_successor_never_writes_over_it
            a_put_that_meets_the_end_of_its_lease_leaves_no_key
            writers_on_several_threads_get_revisions_of_their_own
            a_list_shows_one_revision_while_other_threads_write
        }
    };
    (counters [$($to:tt)+] $($besides:tt)*) => {
        $($to)+! { $($besides)*
            a_put_that_compares_never_writes_over_what_came_since
            a_put_that_compares_tells_its_revision
            a_put_that_compares_needs_its_lease
        }
    };
    (counter_races [$($to:tt)+] $($besides:tt)*) => {
        $($to)+! { $($besides)*
            puts_that_compare_and_meet_lose_no_step
        }
    };
    (compaction [$($to:tt)+] $($besides:tt)*) => {
        $($to)+! { $($besides)*
            a_resume_after_a_compaction_says_compacted_and_never_hangs
            an_anchor_that_was_compacted_proves_nothing
            a_list_that_a_compaction_interrupts_begins_again
            a_list_taken_after_a_compaction_can_be_watched_from
            a_watch_that_is_up_to_date_survives_a_compaction
            a_watch_that_a_compaction_overtakes_skips_nothing
        }
    };
    (outage [$($to:tt)+] $($besides:tt)*) => {
        $($to)+! { $($besides)*
            every_call_to_a_store_that_cannot_be_reached_says_unavailable
            a_watch_of_a_store_that_cannot_be_reached_ends
            a_store_that_can_be_reached_again_has_forgotten_nothing
        }
    };
    (denial [$($to:tt)+] $($besides:tt)*) => {
        $($to)+! { $($besides)*
            every_call_that_is_denied_says_so_and_changes_nothing
        }
    };
    (space [$($to:tt)+] $($besides:tt)*) => {
        $($to)+! { $($besides)*
            a_store_without_space_takes_no_puts_and_does_all_else
        }
    };
}
