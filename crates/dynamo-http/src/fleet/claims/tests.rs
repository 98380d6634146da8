//! When control ports are asked, and who waits for whom.

use tokio::time::advance;

use super::*;

fn claim(namespace: &str, id: u64) -> Claim {
    Claim {
        namespace: namespace.parse().unwrap(),
        url: "http://h".parse().unwrap(),
        control: "http://h:9001".parse().unwrap(),
        id: InstanceId(id),
    }
}

fn claimed() -> Arc<Claimed> {
    let claim = claim("a", 1);
    let lane = Lanes::default().of(&claim);
    Arc::new(Claimed::new(claim, lane))
}

/// Asks whenever that is due, for so long; each question shows this at once. Returns how often.
async fn asked(claimed: &Arc<Claimed>, span: Duration, shows: Finding) -> usize {
    let (until, mut asked) = (Instant::now() + span, 0);
    while Instant::now() < until {
        if let Some(asking) = claimed.begin_if_due(Instant::now()) {
            claimed.ask_begins();
            claimed.take_in(shows);
            drop(asking);
            asked += 1;
        }
        advance(Duration::from_millis(100)).await;
    }
    asked
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_asked_about_every_two_seconds_while_its_model_has_requests() {
    let claimed = claimed();
    let minute = Duration::from_secs(60);
    assert_eq!(asked(&claimed, minute, Finding::Answers).await, 0, "nobody uses it");
    claimed.note_use(Instant::now());
    assert_eq!(asked(&claimed, minute, Finding::Answers).await, 30);
    assert_eq!(asked(&claimed, 10 * minute, Finding::Answers).await, 120, "for five minutes");
}

#[tokio::test(start_paused = true)]
async fn a_denied_entry_is_asked_about_every_0_4_s_used_or_not() {
    let claimed = claimed();
    claimed.take_in(Finding::Answers);
    claimed.take_in(Finding::Refused);
    let span = Duration::from_secs(600);
    assert_eq!(asked(&claimed, span, Finding::Refused).await, 1500);
}

#[tokio::test(start_paused = true)]
async fn one_question_is_under_way_at_a_time_and_its_end_is_told() {
    let claimed = claimed();
    claimed.note_use(Instant::now());
    let asking = claimed.begin_if_due(Instant::now()).unwrap();
    assert!(claimed.begin_if_due(Instant::now()).is_none() && claimed.begin().is_none());
    let mut told = std::pin::pin!(claimed.told());
    told.as_mut().enable();
    drop(asking);
    told.await;
    assert!(claimed.begin().is_some());
}

#[tokio::test(start_paused = true)]
async fn only_an_old_answer_of_a_confirmed_entry_makes_a_prompt_wait() {
    let claimed = claimed();
    let is_in_question = || claimed.is_in_question(Instant::now());
    assert!(!is_in_question(), "it was never heard of");
    claimed.take_in(Finding::Answers);
    assert!(!is_in_question());
    advance(ASK_EVERY).await;
    assert!(is_in_question());
    for _ in 0..2 {
        claimed.take_in(Finding::Silent);
        assert!(is_in_question());
    }
    claimed.take_in(Finding::Silent);
    assert!(!is_in_question(), "it has lapsed");
}

#[tokio::test(start_paused = true)]
async fn one_line_says_that_a_control_port_has_not_answered_for_ten_seconds() {
    let claimed = claimed();
    let is_news = || claimed.is_news_that_it_is_unheard(Instant::now());
    advance(UNHEARD).await;
    assert!(!is_news(), "it was never asked");
    claimed.ask_begins();
    assert!(!is_news());
    advance(UNHEARD).await;
    assert_eq!([is_news(), is_news()], [true, false]);
    let heard = self::claimed();
    heard.ask_begins();
    heard.take_in(Finding::Answers);
    advance(UNHEARD).await;
    assert!(!heard.is_news_that_it_is_unheard(Instant::now()));
}

#[tokio::test]
async fn entries_of_one_namespace_take_turns_at_a_control_port_and_no_other_namespace_waits() {
    let lanes = Lanes::default();
    let [one, sibling, neighbour] =
        [("a", 1), ("a", 2), ("b", 1)].map(|(namespace, id)| lanes.of(&claim(namespace, id)));
    let _turn = one.turn.try_lock().unwrap();
    assert!(sibling.turn.try_lock().is_err());
    assert!(neighbour.turn.try_lock().is_ok());
    let _all = one.questions.clone().try_acquire_many_owned(ASKED_AT_ONCE as u32).unwrap();
    assert!(sibling.questions.try_acquire().is_err());
    assert!(neighbour.questions.try_acquire().is_ok());
}
