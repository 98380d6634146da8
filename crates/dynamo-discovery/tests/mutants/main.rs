//! The conformance suite on stores that each break one sentence of the contract on purpose: it names
//! the sentence, or it is no proof.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

mod cursors;
mod faults;
mod harness;
mod leases;
mod lists;
mod races;
mod right;
mod watches;
mod writes;

use std::collections::BTreeSet;
use std::time::Duration;

use dynamo_discovery::conformance::Sentence;

use self::Sentence::*;
use self::cursors::{Ahead, Anchor, AnchorOfNow, Compacted, Compaction, Ends};
use self::faults::{Denial, Outage, Space};
use self::harness::{Broken, on_one_thread, on_several_threads};
use self::leases::{
    ConditionalDelete, ConditionalPut, KeysOfAllTimes, LatePut, Renewal, RenewsNothing, Revoke,
    RevokesOnce, SharedLease, Term,
};
use self::lists::Pages;
use self::races::{
    ConditionalDeleteInTwoSteps, ConditionalPutInTwoSteps, PutIfUnleasedInTwoSteps, PutInTwoSteps,
    UnchangedPutInTwoSteps, WatchComparesLists, WritesInTwoSteps,
};
use self::watches::{Batches, Changes, Leaks, Quiet};
use self::writes::{PutIfUnleased, Stray, UnchangedPut, Writes};

/// One test for each mutant. The first sentence is the one that the mutant is made to break; what
/// breaks one sentence often breaks others, which rest on it.
macro_rules! mutants {
    ($run:ident, $check:ident, $table:ident:
        $($name:ident: $mutant:expr => $first:ident $(and $other:ident)*;)+) => {
        const $table: &[&[Sentence]] = &[$(&[$first $(, $other)*]),+];

        $(#[test]
        fn $name() {
            $check(&$run(|| $mutant), &[$first $(, $other)*]);
        })+
    };
}

/// The suite finds exactly these sentences broken.
fn is_found(broken: &Broken, expected: &[Sentence]) {
    let found: BTreeSet<_> = broken.keys().copied().collect();
    let is_right = found == expected.iter().copied().collect();
    assert!(is_right, "expected {expected:?}, and the suite found {broken:#?}");
}

/// The suite finds these sentences broken, and, as threads go, others.
fn is_among_those_found(broken: &Broken, expected: &[Sentence]) {
    let is_right = expected.iter().all(|sentence| broken.contains_key(sentence));
    assert!(is_right, "expected {expected:?}, and the suite found {broken:#?}");
}

mutants! { on_one_thread, is_found, ON_ONE_THREAD:
    a_list_lacks_its_last_entry: lists::LastIsMissing => ListIsComplete and KeysAreBytes and ListIsOneRevision and ListTellsItsRevision and ListIsCurrent and WatchIsComplete and CompactionSparesLists and LeaseLivesItsTerm and LeaseEndSparesOthers and ConditionalPutObeys and ConditionalDeleteObeys and WritesAreSingleOnes and WritesNeedLease and OutageForgetsNothing and UnchangedPutObeys and UnchangedPutNeedsLease;
    a_list_goes_on_after_its_range: lists::RangeIsTooLong => ListStaysInRange;
    a_list_is_ordered_by_time: lists::NewestFirst => ListIsOrdered;
    an_entry_keeps_its_first_value: lists::FirstValue::default() => ListHasLastValues and ListIsCurrent and WatchTellsChanges and LeaseEndSparesOthers and ConditionalPutObeys and ConditionalDeleteObeys and StraysAreTold and UnchangedPutObeys and UnchangedPutTells;
    an_entry_keeps_its_first_revision: lists::FirstRevision::default() => ListTellsRevisions and RevisionsRise and ListTellsItsRevision and WatchIsComplete and BatchTellsItsRevision and CompactionSparesWatches and UnchangedPutTells;
    an_entry_has_no_lease: lists::NoLease => ListTellsLeases and WatchTellsChanges and AnchorIsOfItsTime and CompactionSparesNewLists and ConditionalPutKeepsLease and StraysAreTold and PutIfUnleasedObeys and OutageForgetsNothing and UnchangedPutTells;
    a_list_has_too_low_a_revision: lists::RevisionOff(-1) => ListTellsItsRevision and ListTellsRevisions and ListIsOneRevision and WatchIsComplete and CursorIsReached and AnchorIsProven and AnchorIsOfItsTime and CompactionSparesNewLists and OutageForgetsNothing;
    a_list_has_too_high_a_revision: lists::RevisionOff(1) => ListTellsItsRevision and ListTellsRevisions and WatchIsComplete and AnchorIsProven and AnchorIsOfItsTime and CompactedIsTold and CompactionSparesNewLists and OutageForgetsNothing;
    a_list_is_read_in_two_halves: lists::TwoReads => ListIsOneRevision;
    each_page_is_of_another_revision: lists::PagesOfTheirOwn => ListIsOneRevision;
    a_second_handle_lists_what_was: lists::LaggingReplica::default() => ListIsCurrent and ListIsComplete;
    pages_overlap: Pages::Overlap => PagesAreTheList;
    pages_miss_an_entry: Pages::Miss => PagesAreTheList;
    no_page_is_the_last: Pages::NoneIsLast => LastPageSaysSo;
    the_first_page_is_the_last: Pages::FirstIsLast => LastPageSaysSo;
    a_page_comes_after_the_last: Pages::OneMore => LastPageSaysSo;
    values_are_text: lists::ValuesAreText => KeysAreBytes;
    keys_are_trimmed: lists::KeysAreTrimmed => KeysAreBytes;
    equal_puts_are_skipped: lists::EqualPutsAreSkipped => RevisionsRise;
    a_long_list_fails: lists::LongListsFail => StoreAnswers and CompactionSparesLists;

    a_watch_begins_now: watches::BeginsNow => WatchIsComplete and OutageForgetsNothing;
    a_watch_begins_at_its_cursor: watches::BeginsAtCursor => WatchBeginsAfterCursor;
    a_watch_goes_on_where_the_last_one_was: watches::GoesOnWhereItWas::default() => WatchIsComplete;
    a_second_handle_watches_nothing: watches::OtherHandleIsDeaf::default() => WatchIsComplete;
    puts_outside_the_range_are_delivered: Leaks::Puts => WatchStaysInRange;
    deletes_outside_the_range_are_delivered: Leaks::Deletes => WatchStaysInRange;
    only_the_last_change_of_a_key_is_delivered: Changes::Coalesced => WatchIsComplete;
    the_newest_change_comes_first: Changes::Reversed => WatchIsOrdered and WatchIsComplete;
    a_change_comes_twice: Changes::Repeated => WatchDeliversOnce;
    a_deletion_is_a_put_of_nothing: Changes::DeletionsAsPuts => WatchTellsChanges and WatchIsOrdered;
    deletions_are_not_delivered: Changes::NoDeletions => WatchIsComplete and FullStoreGoesOn;
    a_put_is_delivered_without_its_lease: Changes::PutsWithoutLease => WatchTellsChanges and AnchorIsOfItsTime;
    a_batch_comes_twice: Batches::Twice => WatchDeliversOnce;
    a_revision_is_split: Batches::Split => RevisionIsWhole;
    the_revision_of_a_batch_is_too_high: Batches::TooHigh => BatchTellsItsRevision;
    the_revision_of_a_deletion_is_too_high: Batches::TooHighForDeletions => BatchTellsItsRevision and RevisionIsWhole;
    the_revision_of_a_batch_is_too_low: Batches::TooLow => BatchTellsItsRevision and WatchBeginsAfterCursor;
    the_revision_of_a_batch_is_its_first: Batches::OfTheFirst => BatchTellsItsRevision;
    the_revision_of_a_batch_is_the_stores: Batches::OfTheStore => BatchTellsItsRevision;
    a_quiet_watch_is_silent: Quiet::Silent => QuietWatchIsAlive;
    a_quiet_watch_speaks_every_8_seconds: Quiet::Slow => QuietWatchIsAlive;
    a_quiet_watch_tells_of_progress: Quiet::Progress => BatchHasChanges;
    a_quiet_watch_ends: Quiet::Ends => WatchLasts;
    a_watch_goes_on_after_an_error: watches::GoesOnAfterError => ErrorEndsWatch;
    a_watch_that_is_overtaken_skips: watches::OvertakenSkips => WatchIsComplete;
    a_dropped_watch_leaves_a_task: watches::LeavesTasks => DroppedWatchEnds;
    a_dropped_watch_ends_the_others: watches::DropEndsAll => DroppedWatchEnds;

    a_cursor_one_ahead_is_believed: Ahead { from: 1, to: 1 } => CursorIsReached;
    a_cursor_far_ahead_is_believed: Ahead { from: 2_000_000, to: u64::MAX } => CursorIsReached;
    a_cursor_very_far_ahead_is_believed: Ahead { from: 1 << 62, to: u64::MAX } => CursorIsReached;
    no_anchor_is_looked_at: Anchor::Nothing => AnchorIsProven;
    the_lease_of_an_anchor_is_not_looked_at: Anchor::Lease => AnchorIsProven;
    the_revision_of_an_anchor_is_not_looked_at: Anchor::Revision => AnchorIsProven;
    an_anchor_is_compared_with_what_is_now: AnchorOfNow => AnchorIsOfItsTime;
    a_compacted_cursor_hangs: Compacted::Hangs => CompactedIsTold;
    a_compacted_cursor_is_taken_for_now: Compacted::BeginsNow => CompactedIsTold;
    a_compacted_cursor_is_no_reason_to_list: Compacted::IsUnavailable => CompactedIsTold;
    a_compaction_ends_a_list: Compaction::that(Ends::Lists) => CompactionSparesLists;
    a_compaction_ends_a_watch: Compaction::that(Ends::Watches) => CompactionSparesWatches and WatchLasts;
    a_compaction_ends_later_watches:
        Compaction::that(Ends::LaterWatches) => CompactionSparesNewLists;

    two_workers_get_one_lease: SharedLease::default() => GrantIsNew;
    a_lease_is_shorter_than_asked_for:
        Term { longer: Duration::ZERO, part: 2, is_told: true } => GrantIsEnough;
    a_lease_ends_early:
        Term { longer: Duration::ZERO, part: 2, is_told: false } => LeaseLivesItsTerm;
    keys_live_8_seconds_longer_than_their_lease:
        Term { longer: Duration::from_secs(8), part: 1, is_told: false } => LeaseEndsInTime;
    keys_outlive_their_lease_for_long:
        Term { longer: Duration::from_secs(1 << 20), part: 1, is_told: false } => LeaseEndsInTime;
    a_renewal_changes_nothing: RenewsNothing::default() => LeaseLivesItsTerm;
    a_renewal_tells_too_short_a_term: Renewal::Short => RenewalTellsTerm;
    a_lease_that_has_ended_is_renewed: Renewal::OfTheDead => RenewalTellsEnd;
    a_put_under_an_ended_lease_is_written: LatePut::Writes => PutNeedsLease;
    a_put_that_is_refused_is_written: LatePut::WritesAndFails => PutNeedsLease;
    an_ended_lease_is_an_outage: LatePut::IsUnavailable => PutNeedsLease;
    a_revoke_deletes_the_keys_later: Revoke::Later => RevokeDeletesKeys and RenewalTellsEnd and PutNeedsLease and ConditionalPutKeepsLease and WritesAreSingleOnes and WritesNeedLease and PutIfUnleasedObeys and UnchangedPutTells and UnchangedPutNeedsLease;
    a_revoke_leaves_the_keys: Revoke::LeavesKeys => RevokeDeletesKeys and WatchTellsChanges and ConditionalPutKeepsLease and WritesAreSingleOnes and PutIfUnleasedObeys and UnchangedPutTells;
    a_revoke_deletes_one_by_one: Revoke::OneByOne => LeaseEndIsOneRevision;
    a_second_revoke_fails: RevokesOnce => RevokeMayRepeat;
    a_revoke_deletes_what_others_put_since: KeysOfAllTimes::default() => LeaseEndSparesOthers and ConditionalPutObeys;
    a_conditional_put_always_writes: ConditionalPut::Always => ConditionalPutObeys;
    a_conditional_put_writes_over_anyone: ConditionalPut::OverAnyone => ConditionalPutObeys;
    a_conditional_put_says_yes: ConditionalPut::SaysYes => ConditionalPutObeys;
    a_conditional_put_says_no: ConditionalPut::SaysNo => ConditionalPutObeys;
    a_conditional_put_writes_nothing: ConditionalPut::WritesNothing => ConditionalPutObeys and RevisionsRise;
    a_conditional_put_loses_the_lease: ConditionalPut::WithoutLease => ConditionalPutKeepsLease;
    a_conditional_delete_always_deletes: ConditionalDelete::Always => ConditionalDeleteObeys;
    a_conditional_delete_says_yes: ConditionalDelete::SaysYes => ConditionalDeleteObeys;
    a_conditional_delete_deletes_nothing:
        ConditionalDelete::DeletesNothing => ConditionalDeleteObeys and ListTellsItsRevision and ListIsCurrent and WatchIsComplete and AnchorIsProven and ConditionalPutObeys and StraysAreTold and PutIfUnleasedObeys and FullStoreGoesOn and UnchangedPutObeys;

    several_writes_say_yes: Writes::SayYes => WritesAreSingleOnes and WritesNeedLease;
    several_writes_are_cut: Writes::AreCut => WritesAreSingleOnes;
    several_writes_are_unconditional: Writes::AreUnconditional => WritesAreSingleOnes and WritesNeedLease;
    several_writes_need_no_lease: Writes::NeedNoLease => WritesNeedLease;
    only_strays_that_are_there_are_told: Stray::OnlyThere => StraysAreTold;
    every_key_is_a_stray: Stray::All => StraysAreTold;
    strays_have_no_entries: Stray::WithoutEntries => StraysAreTold;
    a_put_of_a_stray_always_writes: PutIfUnleased::Always => PutIfUnleasedObeys;
    a_put_of_a_stray_writes_nothing: PutIfUnleased::Never => PutIfUnleasedObeys;
    a_put_of_a_stray_writes_over_ours: PutIfUnleased::OverOurs => PutIfUnleasedObeys;
    a_put_of_a_stray_needs_no_lease: PutIfUnleased::NeedsNoLease => PutIfUnleasedObeys;

    a_put_that_compares_always_writes: UnchangedPut::Always => UnchangedPutObeys;
    a_put_that_compares_writes_over_anyone: UnchangedPut::OverAnyoneInSilence => UnchangedPutObeys;
    a_put_that_compares_writes_what_was_deleted: UnchangedPut::WhereNothingIs => UnchangedPutObeys;
    a_put_that_compares_writes_nothing: UnchangedPut::Never => UnchangedPutObeys and UnchangedPutNeedsLease;
    a_put_that_compares_tells_too_low_a_revision: UnchangedPut::TellsTooLow => UnchangedPutTells and UnchangedPutObeys and UnchangedPutNeedsLease;
    a_put_that_compares_loses_the_lease: UnchangedPut::WithoutLease => UnchangedPutTells;
    a_put_that_compares_needs_no_lease: UnchangedPut::NeedsNoLease => UnchangedPutNeedsLease;

    an_outage_makes_a_call_hang: Outage::Hangs => OutageIsUnavailable;
    an_outage_is_a_denial: Outage::IsDenied => OutageIsUnavailable;
    an_outage_is_an_empty_list: Outage::ListsNothing => OutageIsUnavailable;
    a_watch_outlives_an_outage: Outage::WatchesGoOn => OutageEndsWatches;
    a_watch_takes_an_outage_for_a_denial: Outage::WatchesAreDenied => OutageEndsWatches;
    an_outage_empties_the_store: Outage::LosesAll => OutageForgetsNothing;
    an_outage_loses_the_history: Outage::LosesHistory => OutageForgetsNothing;
    a_denial_is_an_outage: Denial::IsUnavailable => DenialIsTold;
    a_denial_is_an_empty_list: Denial::ListsNothing => DenialIsTold;
    a_denial_is_a_silent_watch: Denial::WatchesNothing => DenialIsTold;
    a_put_that_is_denied_is_written: Denial::Writes => DenialChangesNothing;
    want_of_space_is_an_outage: Space::IsUnavailable => FullIsTold;
    a_lease_is_granted_without_space: Space::Grants => FullIsTold;
    a_put_without_space_is_written: Space::Writes => FullChangesNothing;
    several_writes_without_space_are_done_in_part: Space::WritesInPart => FullChangesNothing;
    without_space_nothing_is_deleted: Space::DeletesNothing => FullStoreGoesOn;
    without_space_no_lease_is_renewed: Space::RenewsNothing => FullStoreGoesOn;
}

mutants! { on_several_threads, is_among_those_found, ON_SEVERAL_THREADS:
    a_conditional_put_takes_two_steps: ConditionalPutInTwoSteps => ConditionalPutIsAtomic;
    a_conditional_delete_takes_two_steps: ConditionalDeleteInTwoSteps => ConditionalDeleteIsAtomic;
    a_put_of_a_stray_takes_two_steps: PutIfUnleasedInTwoSteps => PutIfUnleasedIsAtomic;
    a_put_that_compares_takes_two_steps: UnchangedPutInTwoSteps => UnchangedPutIsAtomic;
    several_writes_take_two_steps:
        WritesInTwoSteps => ConditionalPutIsAtomic and ConditionalDeleteIsAtomic;
    a_put_takes_two_steps: PutInTwoSteps => PutIsAtomic;
    a_list_takes_two_reads: lists::TwoReads => ListIsOneRevision;
    a_watch_compares_lists: WatchComparesLists => WatchIsComplete;
}

#[test]
fn every_sentence_is_broken_by_a_mutant_that_is_made_for_it() {
    let tables = [ON_ONE_THREAD, ON_SEVERAL_THREADS].concat();
    let broken: BTreeSet<_> = tables.iter().map(|sentences| sentences[0]).collect();
    let missing: Vec<_> =
        Sentence::all().iter().filter(|sentence| !broken.contains(sentence)).collect();
    assert!(missing.is_empty(), "no mutant breaks {missing:?}");
}
