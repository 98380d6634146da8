//! The contract, sentence by sentence, and the error that names a broken one.

use std::fmt;

macro_rules! sentences {
    ($($name:ident: $text:literal,)+) => {
        /// A sentence of the contract of [`WatchStore`](crate::WatchStore),
        /// [`LeaseStore`](crate::LeaseStore) and [`CounterStore`](crate::CounterStore).
        ///
        /// It displays as the sentence.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Sentence {
            $(#[doc = $text] $name,)+
        }

        impl Sentence {
            /// The whole contract.
            pub const fn all() -> &'static [Self] {
                &[$(Self::$name),+]
            }

            /// The sentence.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

sentences! {
    StoreAnswers: "A store that can be reached answers every call, and without an error unless the contract names one.",
    KeysAreBytes: "Keys and values are bytes, and come back as they were put.",
    RevisionsRise: "Every write has a revision higher than all before, also where it changes nothing; only writes of one call share one.",

    ListIsComplete: "A list has every entry of its range.",
    ListStaysInRange: "A list has no entry outside its range.",
    ListIsOrdered: "A list is ordered by key.",
    ListHasLastValues: "An entry has the value that was put last.",
    ListTellsRevisions: "An entry's `mod_revision` is the revision that put it last.",
    ListTellsLeases: "An entry's `lease` is the lease under which it was put last.",
    ListIsOneRevision: "A list shows the store at one revision, however many reads it takes.",
    ListTellsItsRevision: "A list's revision is the store's revision at which it was read.",
    ListIsCurrent: "A list shows every change that was answered before, through whichever handle.",
    PagesAreTheList: "The pages of a list have each of its entries once, in order.",
    LastPageSaysSo: "Every page says whether another follows, and the last one ends the pages.",

    WatchIsComplete: "A watch delivers every change after its cursor, through whichever handle it was made.",
    WatchBeginsAfterCursor: "A watch delivers no change at or before its cursor.",
    WatchDeliversOnce: "A watch delivers each change once.",
    WatchIsOrdered: "A watch delivers changes in the order of their revisions.",
    WatchStaysInRange: "A watch delivers no change outside its range.",
    WatchTellsChanges: "A watch delivers a put as the entry that a list shows, and a deletion as the key.",
    RevisionIsWhole: "All changes of one revision are in one batch.",
    BatchHasChanges: "A batch has a change.",
    BatchTellsItsRevision: "A batch's revision is that of its last change.",
    QuietWatchIsAlive: "A watch that has nothing to deliver says `Alive` at least every 5 seconds.",
    WatchLasts: "A watch lasts while the store can be reached and its history is kept.",
    ErrorEndsWatch: "A watch ends after an error.",
    DroppedWatchEnds: "A dropped watch leaves no task behind, and other watches go on.",

    CursorIsReached: "A cursor ahead of the store is refused as `Replaced`.",
    AnchorIsProven: "A cursor whose anchor the store did not have at its revision is refused as `Replaced`.",
    AnchorIsOfItsTime: "An anchor that the store had at the cursor's revision is proof, whatever became of it later.",
    CompactedIsTold: "A cursor before the kept history is refused as `Compacted`.",
    CompactionSparesLists: "A list that a compaction interrupts begins again.",
    CompactionSparesNewLists: "A watch can begin after a list that was taken after a compaction.",
    CompactionSparesWatches: "A watch that has delivered everything outlives a compaction.",

    GrantIsNew: "Each grant is a lease of its own.",
    GrantIsEnough: "A lease is granted for the time that was asked for, or longer.",
    LeaseLivesItsTerm: "A lease lives for its `ttl` after the grant and after each renewal.",
    LeaseEndsInTime: "A lease that is not renewed ends with all its keys, at most 5 seconds after its `ttl`.",
    LeaseEndIsOneRevision: "The keys of a lease that ends are deleted in one revision.",
    LeaseEndSparesOthers: "The end of a lease deletes no key that was put under another lease since.",
    RenewalTellsTerm: "A renewal of a lease that lives answers how long it lives from now on.",
    RenewalTellsEnd: "A renewal of a lease that has ended, or never was, answers `None`.",
    PutNeedsLease: "A put under a lease that has ended is refused as `LeaseGone` and writes nothing.",
    PutIsAtomic: "A put under a lease that ends meanwhile is refused, or deleted with the lease.",
    RevokeDeletesKeys: "A revoke has deleted every key of the lease when it is answered.",
    RevokeMayRepeat: "A revoke of a lease that has ended is no error.",
    ConditionalPutObeys: "`put_if_leased` writes if the key is under the lease, and answers whether it did.",
    ConditionalPutKeepsLease: "`put_if_leased` leaves the key under its lease.",
    ConditionalPutIsAtomic: "`put_if_leased`, alone or among several writes, compares and writes in one step.",
    ConditionalDeleteObeys: "`delete_if_leased` deletes if the key is under the lease, and answers whether it did.",
    ConditionalDeleteIsAtomic: "`delete_if_leased`, alone or among several writes, compares and deletes in one step.",
    WritesAreSingleOnes: "`write` does for each of its writes what the single call would do, and answers what that would answer.",
    WritesNeedLease: "`write` under a lease that has ended writes nothing, and is refused as `LeaseGone` if a put is among the writes.",
    StraysAreTold: "`strays` finds nothing ever, or each of the keys that is not under the lease, with its entry.",
    PutIfUnleasedObeys: "`put_if_unleased` of a store that finds strays puts a key that is under no lease, needs a lease that lives, and answers whether it put.",
    PutIfUnleasedIsAtomic: "`put_if_unleased` compares and writes in one step.",

    UnchangedPutObeys: "`put_if_unchanged` puts if the key was last written at the revision, or with `None` is not there, and answers whether it put.",
    UnchangedPutTells: "`put_if_unchanged` answers the revision of its put, and puts the key under the lease.",
    UnchangedPutNeedsLease: "`put_if_unchanged` that would put under a lease that has ended is refused as `LeaseGone`, and writes nothing.",
    UnchangedPutIsAtomic: "`put_if_unchanged` compares and writes in one step.",

    OutageIsUnavailable: "A call to a store that cannot be reached fails with `Unavailable`.",
    OutageEndsWatches: "A watch of a store that cannot be reached ends, or fails with `Unavailable`.",
    OutageForgetsNothing: "A store that can be reached again has what it had, and a watch can go on after its last batch.",
    DenialIsTold: "A call that the store does not allow fails with `Denied`.",
    DenialChangesNothing: "A call that is denied changes nothing.",

    FullIsTold: "A grant, and a put that is not conditional, fails with `Full` while the store has no space.",
    FullChangesNothing: "A call that fails for want of space changes nothing, and works again when there is space.",
    FullStoreGoesOn: "A store without space lists, watches, renews, deletes and revokes as before.",
}

impl Sentence {
    /// A breach of this sentence.
    pub(super) fn broken(self, how: impl Into<String>) -> Breach {
        Breach { sentence: self, how: how.into() }
    }

    /// A breach of this sentence unless it `holds`.
    pub(super) fn holds(self, holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
        if holds { Ok(()) } else { Err(self.broken(otherwise())) }
    }

    /// A breach of this sentence unless the store did what it should.
    pub(super) fn same<T: PartialEq + fmt::Debug>(self, found: &T, expected: &T) -> Outcome {
        self.holds(found == expected, || format!("found {found:?} and not {expected:?}"))
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What a case comes to.
pub type Outcome = Result<(), Breach>;

/// A sentence of the contract that the store broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store breaks the sentence \"{sentence}\": {how}")]
pub struct Breach {
    sentence: Sentence,
    how: String,
}

impl Breach {
    /// The sentence.
    pub fn sentence(&self) -> Sentence {
        self.sentence
    }

    /// A breach of another sentence, if this one is of one of those that rest on it.
    pub(super) fn blamed_on(self, sentence: Sentence, rest_on_it: &[Sentence]) -> Self {
        if rest_on_it.contains(&self.sentence) { sentence.broken(self.how) } else { self }
    }

    /// What the store did.
    pub fn how(&self) -> &str {
        &self.how
    }
}
