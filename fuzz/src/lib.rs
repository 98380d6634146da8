//! What must hold for any bytes at all, one function for each fuzz target.
//!
//! Not only that nothing panics: what is read and written again is the same, nothing of another
//! namespace comes through, and what we read of a request is what any JSON parser would.

mod json;

use std::time::{Duration, UNIX_EPOCH};

use dynamo_discovery::{
    Catalog, CatalogOrigin, Change, Entry, ModelEntry, ModelKey, ModelUpdate, NetworkPrefix,
    Revision, SavedCatalog, Snapshot, State, StoreEvent, WorkerUrl, check_model_name,
    is_forbidden_address,
};
use dynamo_http::fuzzing;
use dynamo_namespace::{EndpointId, Namespace, NamespaceScope, is_global_namespace};

/// A stored value: what is read can be written and read again, and means the same.
pub fn entry(bytes: &[u8]) {
    let Ok(entry) = ModelEntry::from_json(bytes) else { return };
    assert!(bytes.len() <= ModelEntry::MAX_VALUE_LEN);
    assert!(check_model_name(entry.name()).is_ok());
    assert!(!entry.kinds().is_empty());
    assert!(entry.served_kinds().difference(entry.kinds()).is_empty());
    let again = ModelEntry::from_json(&entry.to_json()).unwrap();
    assert!(again.unknown_kinds().is_empty(), "what is not known is not written");
    assert_eq!(again.name(), entry.name());
    assert_eq!(again.endpoint(), entry.endpoint());
    assert_eq!(again.kinds(), entry.kinds());
    assert_eq!(again.url(), entry.url());
    assert_eq!(again.created(), entry.created());
    assert_eq!(again.state(), entry.state());
    assert_eq!(again.context_length(), entry.context_length());
    assert_eq!(again.to_json(), entry.to_json());
}

/// A key under the root: one place has one spelling.
pub fn key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(key) = text.parse::<ModelKey>() else { return };
    assert_eq!(key.to_string(), text);
    match key {
        ModelKey::Flat(name) => assert!(name == text && !name.contains('/')),
        ModelKey::Native { endpoint, instance, model } => {
            let segments: Vec<_> = text.split('/').collect();
            assert_eq!(segments.len(), 5);
            assert_eq!(segments[0], endpoint.namespace().as_str());
            assert_eq!(u64::from_str_radix(segments[3], 16).unwrap(), instance.0);
            assert!(!model.is_empty());
        }
        _ => {}
    }
}

/// A key, a blank and a value, as anyone may have put them: nothing of another namespace comes
/// through, neither as an instance nor as a complaint, and what was added can be removed.
pub fn catalog(bytes: &[u8]) {
    let (key, value) = match bytes.iter().position(|byte| *byte == b' ') {
        Some(blank) => (&bytes[..blank], &bytes[blank + 1..]),
        None => (bytes, &b""[..]),
    };
    let key = [b"models/", key].concat();
    let team_a: Namespace = "team-a".parse().unwrap();
    for scope in [
        NamespaceScope::Only(team_a.clone()),
        NamespaceScope::AnyOf([team_a.clone()].into()),
        NamespaceScope::Generations(team_a.clone()),
        NamespaceScope::Prefix("team-a".into()),
        NamespaceScope::All,
    ] {
        let entry = Entry {
            key: key.clone().into(),
            value: value.to_vec().into(),
            mod_revision: Revision(1),
            lease: None,
        };
        let mut listed = Catalog::new(NetworkPrefix::default(), scope.clone());
        let snapshot = Snapshot { revision: Revision(1), entries: vec![entry.clone()] };
        let by_list = listed.apply(StoreEvent::Resync(snapshot));
        let mut watched = Catalog::new(NetworkPrefix::default(), scope.clone());
        let by_watch = watched.apply(StoreEvent::Batch(vec![Change::Put(entry.clone())]));
        assert_eq!(by_list, by_watch, "a list and a watch say the same");

        assert!(by_watch.updates.len() + by_watch.refused.len() + by_watch.out_of_scope <= 1);
        for refused in &by_watch.refused {
            assert!(refused.namespace.as_ref().is_none_or(|namespace| scope.contains(namespace)));
            assert!(refused.model.as_ref().is_none_or(|model| check_model_name(model).is_ok()));
        }
        for instance in watched.instances() {
            assert!(scope.contains(instance.endpoint().namespace()));
            assert_eq!(instance.entry().state(), State::Serving);
            assert_eq!(*instance.entry(), ModelEntry::from_json(value).unwrap());
        }
        let live = watched.instances().count();
        let gone = watched.apply(StoreEvent::Batch(vec![Change::Delete(entry.key)]));
        let removed = |update: &&ModelUpdate| matches!(update, ModelUpdate::Removed(..));
        assert_eq!(gone.updates.iter().filter(removed).count(), live);
        assert_eq!((gone.updates.len(), watched.instances().count()), (live, 0));
    }
}

/// An endpoint id in any spelling is the same id in all of them.
pub fn endpoint_id(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(id) = text.parse::<EndpointId>() else { return };
    for spelling in [id.to_string(), id.as_url(), id.to_string().replace('.', "/")] {
        assert_eq!(spelling.parse::<EndpointId>().unwrap(), id);
    }
    for part in [id.namespace().as_str(), id.component(), id.name()] {
        assert!(part.parse::<Namespace>().is_ok_and(|name| name.as_str() == part));
    }
    assert_eq!(EndpointId::new(id.namespace().clone(), id.component(), id.name()).unwrap(), id);
}

/// Two lines, a base and a name: a namespace is what was written, and each scope is wider than the
/// one before.
pub fn namespace(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (base, name) = text.split_once('\n').unwrap_or((text, ""));
    if let Err(error) = name.parse::<Namespace>() {
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
    let (Ok(base), Ok(name)) = (base.parse::<Namespace>(), name.parse::<Namespace>()) else {
        return;
    };
    assert_eq!(name.to_string().parse::<Namespace>().unwrap(), name);
    assert_eq!(name.is_global(), is_global_namespace(name.as_str()));
    let contains = |scope: NamespaceScope| scope.contains(&name);
    let only = contains(NamespaceScope::Only(base.clone()));
    let generations = contains(NamespaceScope::Generations(base.clone()));
    let prefix = contains(NamespaceScope::Prefix(base.as_str().into()));
    assert_eq!(only, base == name);
    assert_eq!(contains(NamespaceScope::AnyOf([base.clone()].into())), only);
    assert!((!only || generations) && (!generations || prefix));
    assert!(contains(NamespaceScope::All));
    let asked = NamespaceScope::from_target(Some(base.as_str())).unwrap();
    assert_eq!(contains(asked), base.is_global() || only);
}

/// A worker's URL leads where it says, and says no more than where.
pub fn worker_url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(url) = text.parse::<WorkerUrl>() else { return };
    assert_eq!(url.as_str().parse::<WorkerUrl>().unwrap(), url);
    let rest = url.as_str().strip_prefix("http://").or(url.as_str().strip_prefix("https://"));
    let rest = rest.unwrap();
    assert!(rest.bytes().all(|byte| byte.is_ascii_graphic()) && !rest.contains(['?', '#']));
    let host = rest.split('/').next().unwrap();
    assert!(!host.is_empty() && !host.contains(['@', '\\']));
    let address = host.parse().ok().or(host.parse().ok().map(|at: std::net::SocketAddr| at.ip()));
    assert!(!address.is_some_and(is_forbidden_address), "{host}");
}

/// A state file, as it is and with the checksum that its content should have: nothing of another
/// namespace comes through, and what is read can be written and read again.
pub fn state_file(bytes: &[u8]) {
    let origin = CatalogOrigin::new("s", NamespaceScope::Only("team-a".parse().unwrap()));
    let (now, limit) = (UNIX_EPOCH + Duration::from_secs(1_790_000_000), Duration::from_secs(60));
    let sealed = [bytes, format!("crc32:{:08x}\n", crc32fast::hash(bytes)).as_bytes()].concat();
    for file in [bytes, &sealed] {
        let Ok(saved) = origin.decode(file, now, limit) else { continue };
        assert!(saved.age <= limit);
        for one in &saved.instances {
            assert_eq!(one.endpoint().namespace().as_str(), "team-a");
            assert!(one.key().as_bytes().starts_with(b"models/"));
        }
        let again = origin.decode(&origin.encode(&saved.instances, now), now, limit).unwrap();
        let told = |saved: &SavedCatalog| -> Vec<_> {
            saved.instances.iter().map(|one| (one.key().clone(), one.entry().to_json())).collect()
        };
        assert_eq!(told(&again), told(&saved));
        assert_eq!(again.dropped, 0);
    }
}

/// A request's body: what we read of it is what any JSON parser would, duplicates are refused, and
/// all of it is JSON.
pub fn peek(bytes: &[u8]) {
    match (fuzzing::peek(bytes), json::read(bytes)) {
        (Ok(peeked), Ok(document)) => {
            let [model] = &document.all("model")[..] else { panic!("a duplicate was let through") };
            assert_eq!(Some(&*peeked.model), model.as_str());
            assert!(check_model_name(&peeked.model).is_ok());
            let stream = document.all("stream");
            assert!(stream.len() <= 1);
            assert_eq!(peeked.stream, stream.first() == Some(&&serde_json::Value::Bool(true)));
            let session = peeked.session.map(|raw| serde_json::from_str(&raw).unwrap());
            let names = ["prompt_cache_key", "conversation", "previous_response_id"];
            let named = names.iter().filter_map(|name| document.all(name).pop());
            assert!(
                session.is_none() || named.into_iter().any(|one| Some(one) == session.as_ref())
            );
            let prompt = document.first_of(&["messages", "prompt", "input"]);
            let told = peeked.prompt.map(|raw| serde_json::from_str(&raw).unwrap());
            assert_eq!(told.as_ref(), prompt);
            let (before, behind) = (&bytes[..peeked.place.start], &bytes[peeked.place.end..]);
            assert_eq!(peeked.renamed, [before, fuzzing::NAME.as_bytes(), behind].concat());
            // The name is another one, and nothing else differs.
            let renamed = fuzzing::peek(&peeked.renamed).expect("the edited body is good as well");
            assert_eq!(Some(renamed.model), serde_json::from_str(fuzzing::NAME).ok());
            if let Ok(renamed) = json::read(&peeked.renamed) {
                assert!(renamed.differs_in_values_of("model", &document));
            }
        }
        // Limits of that parser, which are not ours.
        (Ok(_), Err(json::Refused::BeyondLimits)) => {}
        (Ok(_), Err(json::Refused::NoJson(error))) => panic!("no JSON, and let through: {error}"),
        (Err(message), Ok(document)) => {
            assert!(!message.contains("not valid JSON"), "JSON, and refused: {message}");
            let one = |name| document.all(name).len() == 1;
            let named = one("model")
                && document.all("model")[0]
                    .as_str()
                    .is_some_and(|name| check_model_name(name).is_ok());
            assert!(
                !(document.is_object && named && document.all("stream").len() <= 1),
                "good, and refused: {message}"
            );
        }
        (Err(message), Err(_)) => assert!(!message.contains(char::is_control)),
    }
}

/// A plain answer whose model gets another name: the name is the first `model` of its object, nothing else
/// changes, and it does not matter where the answer is cut.
pub fn answer(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let renamed = fuzzing::rename(bytes, bytes.len());
    assert_eq!(fuzzing::rename(bytes, usize::from(*piece)), renamed);
    let Ok(document) = json::read(bytes) else { return };
    // A name that is spelled with escapes is not found, and of several names only the first is.
    if bytes.windows(2).any(|two| two == br"\u") || document.all("model").len() > 1 {
        return;
    }
    let mut expected: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    if let Some(name) = expected.get_mut("model").filter(|name| name.is_string()) {
        *name = serde_json::from_str(fuzzing::NAME).unwrap();
    }
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&renamed).unwrap(), expected);
}

/// What a worker sends for an answer: it does not matter where it is cut, the body is no longer than what
/// was sent, and nothing frames it but what was read.
pub fn exchange(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let answer = fuzzing::exchange(bytes, bytes.len());
    assert_eq!(fuzzing::exchange(bytes, usize::from(*piece)), answer);
    let Some(answer) = answer else { return };
    assert!(answer.body.len() < bytes.len());
    if let (true, Some(length)) = (answer.is_whole, answer.headers.get("content-length"))
        && answer.headers.get("transfer-encoding").is_none()
        && !matches!(answer.status, 100..=199 | 204 | 304)
    {
        assert_eq!(length.to_str().unwrap().parse(), Ok(answer.body.len()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_seed_holds() {
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 10] = [
            ("entry", super::entry),
            ("key", super::key),
            ("catalog", super::catalog),
            ("endpoint_id", super::endpoint_id),
            ("namespace", super::namespace),
            ("worker_url", super::worker_url),
            ("peek", super::peek),
            ("answer", super::answer),
            ("exchange", super::exchange),
            ("state_file", super::state_file),
        ];
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
        for (name, target) in targets {
            let files: Vec<_> = fs::read_dir(seeds.join(name)).unwrap().collect();
            assert!(!files.is_empty(), "{name} has no seeds");
            for file in files {
                target(&fs::read(file.unwrap().path()).unwrap());
            }
        }
    }
}
