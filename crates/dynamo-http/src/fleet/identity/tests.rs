//! What holds of an entry's identity after any answers of its control port.

use proptest::prelude::*;

use super::*;

const FINDINGS: [Finding; 6] = [
    Finding::Answers,
    Finding::Withdrawn,
    Finding::Refused,
    Finding::Broken,
    Finding::Silent,
    Finding::NotAsked,
];

fn any_findings() -> impl Strategy<Value = Vec<Finding>> {
    proptest::collection::vec(proptest::sample::select(&FINDINGS[..]), 0..40)
}

/// Whether a finding says that the control port knows the id of the entry.
fn knows(finding: &Finding) -> bool {
    matches!(finding, Finding::Answers | Finding::Withdrawn)
}

#[test]
fn a_control_port_that_never_answered_denies_nothing() {
    let others = [Finding::Refused, Finding::Broken, Finding::Silent, Finding::NotAsked];
    for finding in others.into_iter().cycle().take(20) {
        assert_eq!(Identity::Unheard.after(finding), Identity::Unheard);
    }
}

#[test]
fn only_an_answer_of_the_worker_itself_proves_what_the_store_has_lost() {
    for finding in FINDINGS {
        assert_eq!(Identity::is_proven_by(finding), finding == Finding::Answers, "{finding:?}");
    }
}

proptest! {
    #[test]
    fn the_identity_is_what_the_last_answers_say(findings in any_findings()) {
        let mut identity = Identity::default();
        let mut told: Vec<Finding> = Vec::new();
        for finding in findings {
            identity = identity.after(finding);
            if finding != Finding::NotAsked {
                told.push(finding);
            }
            let was_heard = told.iter().any(knows);
            let silences = told.iter().rev().take_while(|one| **one == Finding::Silent).count();
            let last_word = told.iter().rev().find(|one| **one != Finding::Silent);
            let expected = match last_word {
                _ if !was_heard => Identity::Unheard,
                Some(Finding::Answers) if silences < 3 => {
                    Identity::Confirmed { misses: silences as u8 }
                }
                Some(Finding::Answers) => Identity::Lapsed,
                _ => Identity::Denied,
            };
            prop_assert_eq!(identity, expected, "after {:?}", told);
        }
    }

    #[test]
    fn what_was_denied_stays_so_until_the_worker_answers_again(findings in any_findings()) {
        let mut identity = Identity::Denied;
        for finding in findings {
            identity = identity.after(finding);
            if finding == Finding::Answers {
                break;
            }
            prop_assert!(identity.is_denied(), "{:?}", finding);
        }
    }

    #[test]
    fn an_identity_survives_being_packed(findings in any_findings()) {
        let mut identity = Identity::default();
        for finding in findings {
            identity = identity.after(finding);
            prop_assert_eq!(Identity::unpack(identity.pack()), identity);
        }
    }
}
