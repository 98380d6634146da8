//! Tests of placement: what is known, what is chosen, and what it takes of memory and time.

mod keeping;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::index::{Index, Known, Turn};
use super::sessions::Sessions;
use super::*;

fn servers(count: usize, now: Instant) -> Vec<Arc<Server>> {
    (0..count).map(|n| Arc::new(Server::new(&format!("http://192.0.2.1:{n}"), now))).collect()
}

fn idle(servers: &[Arc<Server>]) -> Vec<Candidate<'_>> {
    servers.iter().map(|server| Candidate { server, in_flight: 0 }).collect()
}

fn placement(blocks: usize) -> Placement {
    Placement::new(Limits::new().with_blocks(blocks))
}

/// A text that begins as all texts of the same name do.
fn text(name: u64, bytes: usize) -> Vec<u8> {
    let mut text = vec![0; bytes];
    fastrand::Rng::with_seed(name).fill(&mut text);
    text
}

fn path(pieces: &[&[u8]]) -> Path {
    Path::of(Seed::of([&b"scope"[..], b"model"]), b"", [&pieces.concat()[..]])
}

fn ask(path: &Path) -> Request<'_> {
    Request { path, session: None }
}

/// Chooses, sends, and has the answer end at once.
fn send(
    knowledge: &Knowledge,
    request: Request<'_>,
    servers: &[Arc<Server>],
    now: Instant,
) -> usize {
    let choice = knowledge.choose(request, &idle(servers), now).unwrap();
    drop(knowledge.begun(request, &choice, &servers[choice.server], true, now));
    choice.server
}

#[test]
fn a_conversation_returns_to_its_server_and_others_spread() {
    let now = Instant::now();
    let (knowledge, servers) = (placement(100_000).knowledge(), servers(4, now));
    let mut homes = BTreeMap::new();
    for conversation in 0..64 {
        let all = text(conversation, 20_000);
        let home = send(&knowledge, ask(&path(&[&all[..5000]])), &servers, now);
        for end in [8000, 12_000, 20_000] {
            let path = path(&[&all[..end]]);
            let choice = knowledge.choose(ask(&path), &idle(&servers), now).unwrap();
            assert!(choice.known_tokens > 0 && choice.known_tokens < choice.tokens);
            assert_eq!(send(&knowledge, ask(&path), &servers, now), home);
        }
        *homes.entry(home).or_insert(0) += 1;
    }
    assert!(homes.len() == 4 && homes.values().all(|count| *count >= 5), "{homes:?}");
}

#[test]
fn a_server_that_joins_leaves_or_begins_anew_has_only_what_was_sent_to_it_since() {
    let now = Instant::now();
    let (knowledge, mut all) = (placement(100_000).knowledge(), servers(2, now));
    let long = path(&[&text(1, 40_000)]);
    let home = send(&knowledge, ask(&long), &all, now);
    let known = |all: &[Arc<Server>]| {
        let choice = knowledge.choose(ask(&long), &idle(all), now).unwrap();
        (choice.server, choice.known_tokens)
    };
    assert_eq!(known(&all).0, home);
    all.extend(servers(3, now).pop());
    assert_eq!(known(&all).0, home, "one that joined knows nothing");
    all[home].forget();
    assert_eq!(known(&all).1, 0, "it began anew");
    assert_eq!(send(&knowledge, ask(&long), &all[home..=home], now), 0);
    assert_eq!(known(&all).0, home);
    knowledge.forget(&all[home]);
    assert_eq!(known(&all).1, 0, "it left");
    send(&knowledge, ask(&long), &all[home..=home], now);
    let gone = all.remove(home);
    assert_eq!(known(&all).1, 0);
    let url = format!("http://192.0.2.1:{home}");
    drop(gone);
    all.insert(home, Arc::new(Server::new(&url, now)));
    assert_eq!(known(&all).1, 0, "another one at the same address");
    send(&knowledge, ask(&long), &all, now);
    // What was dropped is given back little by little.
    for name in 0..20 {
        send(&knowledge, ask(&path(&[&text(name + 10, 2000)])), &all, now);
    }
    assert!(knowledge.blocks() <= 40 + 20 * 2, "{}", knowledge.blocks());
}

#[test]
fn a_scope_learns_nothing_from_the_requests_of_another_one() {
    let now = Instant::now();
    let (placement, servers) = (placement(100_000), servers(4, now));
    let (theirs, ours) = (placement.knowledge(), placement.knowledge());
    // The worst case: both have the same hashes.
    let secret = path(&[&text(1, 40_000)]);
    let before = ours.choose(ask(&secret), &idle(&servers), now).unwrap();
    for _ in 0..10 {
        let session = Request { path: &secret, session: Some(b"s") };
        let choice = theirs.choose(session, &idle(&servers[3..]), now).unwrap();
        drop(theirs.begun(session, &choice, &servers[3], true, now));
    }
    for session in [None, Some(&b"s"[..])] {
        let request = Request { path: &secret, session };
        let after = ours.choose(request, &idle(&servers), now).unwrap();
        assert_eq!((after.server, after.known_tokens), (before.server, 0));
        assert_eq!(after.cost, before.cost);
    }
    assert_eq!(ours.blocks(), 0);
    let [one, other] = ["team-a", "team-b"].map(|scope| Seed::of([scope.as_bytes(), b"m"]));
    let text = text(1, 4000);
    let paths = [one, other].map(|seed| Path::of(seed, b"", [&text[..]]));
    assert_eq!(paths[0].shared_with(&paths[1]), 0);
    assert_ne!(Seed::of([&b"ab"[..], b"c"]), Seed::of([&b"a"[..], b"bc"]));
}

#[test]
fn work_at_a_server_sends_a_prompt_elsewhere_only_when_waiting_costs_more_than_computing() {
    let now = Instant::now();
    let (knowledge, servers) = (placement(100_000).knowledge(), servers(2, now));
    let hot = text(1, 16_000);
    let home = send(&knowledge, ask(&path(&[&hot])), &servers, now);
    let asked: Vec<_> = (0..40).map(|n| path(&[&hot, &text(100 + n, 4000)])).collect();
    let mut sent: Vec<Vec<Sent>> = vec![Vec::new(), Vec::new()];
    for path in &asked {
        let candidates: Vec<_> = servers
            .iter()
            .zip(&sent)
            .map(|(server, sent)| Candidate { server, in_flight: sent.len() })
            .collect();
        let choice = knowledge.choose(ask(path), &candidates, now).unwrap();
        let server = choice.server;
        sent[server].push(knowledge.begun(ask(path), &choice, &servers[server], true, now));
    }
    let counts = [sent[home].len(), sent[1 - home].len()];
    assert!(counts[0] >= 20 && counts[1] >= 10, "{counts:?}");
    // The first content of the last one: all before it are done as well.
    let later = now + Duration::from_secs(1);
    for (server, sent) in servers.iter().zip(&mut sent) {
        assert!(server.outstanding(1.0, later) >= 10_000.0);
        sent.last_mut().unwrap().first_content(later);
        assert_eq!(server.outstanding(1.0, later), 0.0);
    }
    drop(sent);
    assert_eq!(servers[0].outstanding(1.0, later), 0.0);
}

#[test]
fn what_is_owed_goes_with_the_request_and_with_time_where_no_content_is_seen() {
    let now = Instant::now();
    let (knowledge, servers) = (placement(1000).knowledge(), servers(1, now));
    let server = &servers[0];
    let rate = knowledge.rate();
    let after = |seconds: f32| server.outstanding(rate, now + Duration::from_secs_f32(seconds));
    let fails = knowledge.begun_blindly(40_000, server, true, now);
    assert_eq!(after(0.0), 10_000.0);
    drop(fails);
    assert_eq!(after(0.0), 0.0);
    let before = knowledge.begun_blindly(40_000, server, true, now);
    let mut refused = knowledge.begun_blindly(400, server, true, now);
    refused.failed(now);
    refused.first_content(now);
    assert_eq!(after(0.0), 10_000.0, "an error comes out of turn");
    drop(before);
    let first = knowledge.begun_blindly(40_000, server, false, now);
    let second = knowledge.begun_blindly(40_000, server, false, now);
    assert!((19_900.0..=20_100.0).contains(&after(0.0)), "{}", after(0.0));
    assert!((9900.0..=10_100.0).contains(&after(1.0)), "{}", after(1.0));
    assert_eq!(after(2.5), 0.0);
    second.ended(now + Duration::from_secs(1));
    assert_eq!(after(1.0), 0.0, "the second one was not begun yet");
    first.ended(now + Duration::from_secs(3));
    assert_eq!(after(3.0), 0.0);
}

#[test]
fn a_server_that_is_no_candidate_is_never_chosen_whatever_it_knows() {
    proptest!(|(
        sent in vec((0..8_u64, 1..20_usize, 0..8_usize), 0..40),
        candidates in vec(any::<bool>(), 8),
        loads in vec(0..20_usize, 8),
        asked in (0..8_u64, 0..20_usize, proptest::option::of(0..4_u8)),
        frontends in 1..3_usize,
    )| {
        let now = Instant::now();
        let limits = Limits::new().with_blocks(60).with_frontends(NonZeroUsize::new(frontends).unwrap());
        let (knowledge, servers) = (Placement::new(limits).knowledge(), servers(8, now));
        for (name, kib, server) in sent {
            let path = path(&[&text(name, kib * BLOCK)]);
            let session = [server as u8];
            let request = Request { path: &path, session: Some(&session) };
            let only = [Candidate { server: &servers[server], in_flight: 0 }];
            let choice = knowledge.choose(request, &only, now).unwrap();
            drop(knowledge.begun(request, &choice, &servers[server], true, now));
            prop_assert!(knowledge.blocks() <= 60);
        }
        let in_rotation: Vec<_> = (0..8).filter(|n| candidates[*n]).collect();
        let offered: Vec<_> = in_rotation
            .iter()
            .map(|n| Candidate { server: &servers[*n], in_flight: loads[*n] })
            .collect();
        let path = path(&[&text(asked.0, asked.1 * BLOCK)]);
        let session = asked.2.map(|name| [name]);
        let request = Request { path: &path, session: session.as_ref().map(|name| &name[..]) };
        match knowledge.choose(request, &offered, now) {
            Some(choice) => prop_assert!(choice.server < offered.len()),
            None => prop_assert!(offered.is_empty()),
        }
    });
}

#[test]
fn the_index_agrees_with_a_list_for_each_server() {
    let paths: Vec<_> = (0..6).map(|name| path(&[&text(name, 12 * BLOCK)])).collect();
    proptest!(|(
        slots in prop_oneof![Just(3_usize), Just(70)],
        most in 4..40_usize,
        steps in vec((0..6_u64, 1..12_usize, any::<prop::sample::Index>(), any::<bool>()), 1..60),
    )| {
        let mut index = Index::new();
        let mut ids: Vec<_> = (0..slots).map(|_| index.join()).collect();
        // For each server its blocks, the one used last in front.
        let mut model: Vec<VecDeque<(u64, usize)>> = vec![VecDeque::new(); slots];
        for (name, length, slot, is_dropped) in steps {
            let path = &paths[name as usize].steps()[..length];
            let slot = slot.index(slots);
            if is_dropped && length > 9 {
                index.drop_slot(ids[slot]);
                for _ in 0..3 {
                    index.reap();
                }
                ids[slot] = index.join();
                model[slot].clear();
                continue;
            }
            let id = ids[slot];
            let mut held = model[slot].len();
            index.touch(path, 0, id, Turn::new(0), |index| {
                if held == most {
                    index.evict(id);
                } else {
                    held += 1;
                }
                true
            });
            for block in (0..length).rev() {
                model[slot].retain(|one| *one != (name, block));
                model[slot].push_front((name, block));
                model[slot].truncate(most);
            }
            prop_assert_eq!(index.len(), model.iter().map(VecDeque::len).sum::<usize>());
            let candidates: Vec<_> = ids.iter().copied().map(Some).collect();
            let mut known = Known::default();
            for (name, path) in (0..).zip(&paths) {
                index.known(path.steps(), &candidates, &mut known);
                for (blocks, model) in known.blocks.iter().zip(&model) {
                    let expected = (0..12).take_while(|at| model.contains(&(name, *at))).count();
                    prop_assert_eq!(*blocks as usize, expected);
                }
            }
        }
    });
}

#[test]
fn memory_stays_bounded_under_random_prompts_and_each_model_keeps_its_share() {
    let now = Instant::now();
    let (placement, servers) = (placement(3000), servers(3, now));
    let (greedy, modest) = (placement.knowledge(), placement.knowledge());
    for n in 0..2000 {
        send(&greedy, ask(&path(&[&text(n, 20_000)])), &servers, now);
        assert!(placement.blocks() <= 3000);
    }
    assert_eq!(greedy.blocks(), 3000);
    for n in 0..100 {
        send(&modest, ask(&path(&[&text(n, 20_000)])), &servers, now);
        assert!(placement.blocks() <= 3000);
    }
    assert!((1400..=1600).contains(&modest.blocks()), "{} of 3000", modest.blocks());
    // One that uses nothing wants no share.
    let _idle: Vec<_> = (0..10).map(|_| placement.knowledge()).collect();
    for n in 0..100 {
        send(&modest, ask(&path(&[&text(n, 20_000)])), &servers, now);
    }
    assert!(modest.blocks() >= 1400, "{} of 3000", modest.blocks());
    drop(greedy);
    assert_eq!(placement.blocks(), modest.blocks());
}

#[test]
fn memory_does_not_grow_with_the_number_of_random_prompts() {
    let (mut index, most) = (Index::new(), 4000);
    let slots = [0; 8].map(|_| index.join());
    let mut touch_many = |prompts: std::ops::Range<u64>| {
        for n in prompts {
            let slot = slots[n as usize % slots.len()];
            let path = path(&[&n.to_le_bytes(), &[0; 4000]]);
            index.touch(path.steps(), 0, slot, Turn::new(n), |index| {
                index.len() < most || index.evict(index.to_shrink(slot))
            });
        }
        (index.len(), index.capacity())
    };
    let (full, room) = touch_many(0..4000);
    assert_eq!(full, most);
    let (still, later) = touch_many(4000..20_000);
    assert_eq!(still, most);
    // A table that has had many removals may double once.
    assert!(later <= 2 * room, "{later} after {room}");
}

#[test]
fn an_engine_that_started_later_than_the_one_before_has_an_empty_cache() {
    let now = Instant::now();
    let (placement, servers) = (placement(1000), servers(1, now));
    let (ours, theirs) = (placement.knowledge(), placement.knowledge());
    let long = path(&[&text(1, 40_000)]);
    let known = |knowledge: &Knowledge| {
        knowledge.choose(ask(&long), &idle(&servers), now).unwrap().known_tokens
    };
    ours.engine_started(&servers[0], 90);
    for knowledge in [&ours, &theirs] {
        send(knowledge, ask(&long), &servers, now);
    }
    // The first time is that of the engine that got the prompt. Of two workers of one engine, one may
    // tell an earlier time.
    for started in [100, 100, 99] {
        ours.engine_started(&servers[0], started);
        assert!(known(&ours) > 9000, "{started}");
    }
    ours.engine_started(&servers[0], 101);
    assert_eq!(known(&ours), 0);
    assert!(known(&theirs) > 9000, "nobody said so to them");
    send(&ours, ask(&long), &servers, now);
    ours.engine_started(&servers[0], 101);
    assert!(known(&ours) > 9000);
}

#[test]
fn sessions_are_bounded_and_the_last_ones_stay() {
    let now = Instant::now();
    let (sessions, servers) = (Sessions::default(), servers(1, now));
    let name = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for n in 0..300_000 {
        sessions.note(name(n), &servers[0], now);
    }
    assert!(sessions.len() <= 100_000, "{}", sessions.len());
    assert!((260_000..300_000).all(|n| sessions.last(name(n), now).is_some()));
    assert!(sessions.last(name(0), now).is_none());
    let hour = now + Duration::from_secs(3600);
    assert!(sessions.last(name(299_999), hour).is_none(), "idle for an hour");
}

#[test]
fn a_session_stays_unless_its_server_costs_much_more() {
    let now = Instant::now();
    let (knowledge, servers) = (placement(1000).knowledge(), servers(2, now));
    let path = path(&[b"short"]);
    let request = Request { path: &path, session: Some(b"chat") };
    let home = send(&knowledge, request, &servers, now);
    let with = |in_flight: usize| {
        let candidates = [0, 1].map(|n| {
            let in_flight = if n == home { in_flight } else { 0 };
            Candidate { server: &servers[n], in_flight }
        });
        knowledge.choose(request, &candidates, now).unwrap()
    };
    assert_eq!((with(20).server, with(20).reason), (home, Reason::Session));
    assert_ne!(with(21).server, home);
}

#[test]
fn a_path_does_not_depend_on_how_its_text_is_cut_and_tools_come_first() {
    proptest!(|(length in 0..9000_usize, cut in any::<prop::sample::Index>())| {
        let (seed, all) = (Seed::of([&b"s"[..]]), text(1, length));
        let cut = cut.index(length + 1);
        let whole = Path::of(seed, b"", [&all[..]]);
        let halves = Path::of(seed, b"", [&all[..cut], &all[cut..]]);
        prop_assert_eq!(whole.blocks(), length / BLOCK);
        prop_assert_eq!(whole.shared_with(&halves), whole.blocks());
        prop_assert_eq!((halves.blocks(), halves.text()), (whole.blocks(), whole.text()));
        let with_tools = Path::of(seed, b"[]", [&all[..]]);
        prop_assert_eq!(with_tools.blocks(), whole.blocks() + 1);
        prop_assert_eq!(with_tools.shared_with(&whole), 0);
    });
    let huge = Path::of(Seed::of([]), b"", [&vec![b'x'; 5 << 20][..]]);
    assert_eq!((huge.blocks(), huge.text()), (4096, 5 << 20));
}

#[test]
fn base64_counts_as_a_thousand_tokens_for_each_part() {
    let seed = Seed::of([]);
    let encoded = "QUJD".repeat(50_000);
    let body = format!(
        r#"[{{"type":"text","text":"what is this?"}},{{"image_url":{{"url":"data:image/png;base64,{encoded}"}}}},{{"input_audio":{{"data": "{encoded}","format":"wav"}}}},{{"data":"short"}}]"#
    );
    let path = Path::of(seed, b"", [body.as_bytes()]);
    assert_eq!((path.parts(), path.text()), (2, body.len() - 2 * encoded.len()));
    assert_eq!(path.blocks(), body.len() / BLOCK);
    assert!((2000.0..2100.0).contains(&path.tokens(4.0)), "{}", path.tokens(4.0));
    assert!(path.tokens_of(path.blocks(), 4.0) <= path.tokens(4.0));
}

#[test]
fn bytes_in_a_token_are_learned_from_usage_and_bounded() {
    let now = Instant::now();
    let (knowledge, servers) = (placement(1000).knowledge(), servers(1, now));
    let long = path(&[&text(1, 6000)]);
    let tell = |path: &Path, tokens: u32| {
        let choice = knowledge.choose(ask(path), &idle(&servers), now).unwrap();
        knowledge.begun(ask(path), &choice, &servers[0], true, now).usage(tokens, None);
    };
    (0..200).for_each(|_| tell(&long, 3000));
    assert!((1.9..2.1).contains(&knowledge.bytes_per_token()), "{}", knowledge.bytes_per_token());
    (0..500).for_each(|_| tell(&long, 1));
    assert!((15.0..=16.0).contains(&knowledge.bytes_per_token()));
    (0..500).for_each(|_| tell(&long, u32::MAX));
    assert!((1.0..1.1).contains(&knowledge.bytes_per_token()));
    (0..500).for_each(|_| tell(&path(&[b"short"]), 1));
    assert!(knowledge.bytes_per_token() < 1.1, "a short text tells nothing");
}

#[test]
fn with_more_servers_than_are_looked_at_the_one_that_knows_the_prompt_is_found() {
    let now = Instant::now();
    let (knowledge, servers) = (placement(100_000).knowledge(), servers(500, now));
    for name in 0..200 {
        let all = text(name, 30_000);
        let home = send(&knowledge, ask(&path(&[&all[..20_000]])), &servers, now);
        let longer = path(&[&all]);
        let choice = knowledge.choose(ask(&longer), &idle(&servers), now).unwrap();
        assert_eq!(choice.server, home);
        assert!(choice.known_tokens > 4000);
    }
}

#[test]
fn chosen_prompts_with_a_common_beginning_neither_pile_up_nor_empty_the_memory_of_others() {
    let now = Instant::now();
    let (placement, servers) = (placement(4000), servers(4, now));
    let (victim, attacker) = (placement.knowledge(), placement.knowledge());
    let prompts: Vec<_> = (0..20).map(|n| path(&[&text(n, 20_000)])).collect();
    let homes: Vec<_> = prompts.iter().map(|one| send(&victim, ask(one), &servers, now)).collect();
    let common = text(77, 50_000);
    let mut spread: [Vec<Sent>; 4] = Default::default();
    for n in 0..500 {
        let path = path(&[&common, &text(1000 + n, 3000)]);
        let candidates: Vec<_> = servers
            .iter()
            .zip(&spread)
            .map(|(server, held)| Candidate { server, in_flight: held.len() })
            .collect();
        let choice = attacker.choose(ask(&path), &candidates, now).unwrap();
        let sent = attacker.begun(ask(&path), &choice, &servers[choice.server], true, now);
        spread[choice.server].push(sent);
    }
    let most = spread.iter().map(Vec::len).max().unwrap();
    assert!(most <= 500 / 4 * 2, "{most} of 500 at one of 4");
    drop(spread);
    for (prompt, home) in prompts.iter().zip(homes) {
        let choice = victim.choose(ask(prompt), &idle(&servers), now).unwrap();
        assert_eq!(choice.server, home);
        assert!(choice.known_tokens > 4000);
    }
}

#[test]
fn frontends_that_share_nothing_agree_on_the_home_of_a_conversation() {
    let now = Instant::now();
    let count = Frontends::default();
    let limits = Limits::new().with_frontends(count.clone());
    let fronts = [0, 1].map(|_| Placement::new(limits.clone()).knowledge());
    // The second one comes later.
    count.set(NonZeroUsize::new(2).unwrap());
    let both = [0, 1].map(|_| servers(4, now));
    let system = text(1, 6000);
    let (mut same, conversations) = (0, 40);
    for conversation in 0..conversations {
        let all = text(100 + conversation, 20_000);
        let at = [3000, 8000, 12_000, 20_000].map(|end| {
            let front = usize::from(end % 3000 != 0);
            send(&fronts[front], ask(&path(&[&system, &all[..end]])), &both[front], now)
        });
        same += u32::from(at.iter().all(|one| *one == at[0]));
    }
    assert!(same >= 36, "{same} of {conversations}");
}

#[test]
fn many_threads_may_choose_and_begin_at_the_same_time() {
    let now = Instant::now();
    let (placement, servers) = (placement(2000), servers(8, now));
    let models = [placement.knowledge(), placement.knowledge()];
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (models, servers) = (&models, &servers);
            scope.spawn(move || {
                for n in 0..500 {
                    let prompt = path(&[&text(n % 7 * 4 + thread, 30_000)]);
                    send(&models[n as usize % 2], ask(&prompt), servers, now);
                    if n % 50 == 0 {
                        servers[n as usize % 8].forget();
                    }
                }
            });
        }
    });
    assert!(placement.blocks() <= 2000 + 4, "{}", placement.blocks());
    assert_eq!(placement.blocks(), models.iter().map(|one| one.blocks()).sum::<usize>());
    assert!(servers.iter().all(|server| server.outstanding(1.0, now) == 0.0));
}
