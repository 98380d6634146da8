//! The entries of Dynamo 0.6 to 1.6: a card for each model of an instance, and the instance itself.

use dynamo_discovery::{Entry, InstanceId, Kinds, check_model_name};
use dynamo_namespace::{EndpointId, NamespaceScope};
use serde::Deserialize;
use serde_json::Value;

use super::item::{Item, Layout, Offer, Place, Standing};

/// The root of the cards.
pub(super) const CARDS: &str = "v1/mdc/";
/// The root of the instances.
pub(super) const INSTANCES: &str = "v1/instances/";

/// A key below one of the roots: `{namespace}/{component}/{endpoint}/{instance}`, and maybe more.
struct CardKey {
    endpoint: EndpointId,
    instance: InstanceId,
}

impl CardKey {
    fn parse(below_root: &str) -> Option<Self> {
        let parts: Vec<_> = below_root.split('/').collect();
        let [namespace, component, endpoint, instance, ..] = parts[..] else { return None };
        let endpoint = EndpointId::new(namespace.parse().ok()?, component, endpoint).ok()?;
        Some(Self { endpoint, instance: instance.parse().ok()? })
    }
}

/// The fields of a card, or of what is around one.
#[derive(Deserialize)]
struct Wire {
    namespace: Option<String>,
    component: Option<String>,
    endpoint: Option<String>,
    instance_id: Option<u64>,
    card_json: Option<Value>,
}

/// Reads a card; `None` where it is of another namespace, or nobody knows of which.
pub(super) fn read(entry: &Entry, scope: &NamespaceScope) -> Option<Item> {
    let key = entry.key.as_str().and_then(|key| CardKey::parse(key.strip_prefix(CARDS)?));
    let Some(CardKey { endpoint, instance }) = key else {
        let why = "its key is none of Dynamo's";
        return (*scope == NamespaceScope::All)
            .then(|| refused(entry, Place::default(), why, false));
    };
    if !scope.contains(endpoint.namespace()) {
        return None;
    }
    let place = Place {
        namespace: Some(endpoint.namespace().clone()),
        component: Some(endpoint.component().to_owned()),
        endpoint: Some(endpoint.name().to_owned()),
        instance: Some(instance),
    };
    let value: Option<Value> = serde_json::from_slice(&entry.value).ok();
    let Some(value) = value.filter(Value::is_object) else {
        return Some(refused(entry, place, "its value is no object in JSON", false));
    };
    // Release 0.6 wrote the bare card.
    let card = match serde_json::from_value::<Wire>(value.clone()) {
        Ok(Wire { card_json: None, .. }) => value,
        Ok(wire) => {
            let same =
                |told: &Option<String>, key: &str| told.as_deref().is_none_or(|told| told == key);
            let agrees = same(&wire.namespace, endpoint.namespace().as_str())
                && same(&wire.component, endpoint.component())
                && same(&wire.endpoint, endpoint.name())
                && wire.instance_id.is_none_or(|id| id == instance.0);
            if !agrees {
                let why = "the key names another place than the value";
                return Some(refused(entry, place, why, true));
            }
            wire.card_json.unwrap_or_default()
        }
        Err(_) => return Some(refused(entry, place, "its value is no card", false)),
    };
    let text = |name: &str| card.get(name).and_then(Value::as_str);
    let Some(model) = text("display_name").filter(|name| check_model_name(name).is_ok()) else {
        return Some(refused(entry, place, "it has no model's name that can be shown", false));
    };
    let kinds = text("model_type").map(|told| Kinds::parse(told).kinds);
    Some(Item {
        entry: entry.clone(),
        layout: Layout::Dynamo,
        standing: Standing::Foreign,
        place,
        offer: Offer {
            model: Some(model.to_owned()),
            kinds: kinds.filter(|kinds| !kinds.is_empty()).map(|kinds| kinds.to_string()),
            context_length: card.get("context_length").and_then(Value::as_u64),
            ..Offer::default()
        },
    })
}

fn refused(entry: &Entry, place: Place, why: &str, disagrees: bool) -> Item {
    Item {
        entry: entry.clone(),
        layout: Layout::Dynamo,
        standing: Standing::Refused { why: why.to_owned(), disagrees },
        place,
        offer: Offer::default(),
    }
}

/// The key of the instance that a card is of.
pub(super) fn instance_key(item: &Item) -> Option<String> {
    let Place { namespace, component, endpoint, instance } = &item.place;
    let (namespace, component) = (namespace.as_ref()?, component.as_ref()?);
    let (endpoint, instance) = (endpoint.as_ref()?, instance.as_ref()?);
    Some(format!("{INSTANCES}{namespace}/{component}/{endpoint}/{instance}"))
}

/// Where an instance is reached, such as `tcp 192.0.2.5:41409/…`.
pub(super) fn transport(value: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let (kind, address) = value.get("transport")?.as_object()?.iter().next()?;
    Some(format!("{kind} {}", address.as_str()?))
}

#[cfg(test)]
mod tests {
    use dynamo_discovery::{LeaseId, Revision};

    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        Entry {
            key: key.into(),
            value: value.to_owned().into(),
            mod_revision: Revision(1),
            lease: Some(LeaseId(7)),
        }
    }

    fn only(namespace: &str) -> NamespaceScope {
        NamespaceScope::from_target(Some(namespace)).unwrap()
    }

    #[test]
    fn the_cards_of_every_release_are_read_and_only_in_their_namespace() {
        // The bytes that each release put, one JSON string a line.
        let recorded = include_str!("../../testdata/dynamo-cards.jsonl");
        let mut read_cards = 0;
        for line in recorded.lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            let entry = entry(record["key"].as_str().unwrap(), record["value"].as_str().unwrap());
            if !record["key"].as_str().unwrap().starts_with(CARDS) {
                let transport = transport(&entry.value).unwrap();
                assert!(transport.starts_with("tcp ") || transport.starts_with("nats_tcp "));
                continue;
            }
            read_cards += 1;
            let item = read(&entry, &NamespaceScope::All).unwrap();
            assert_eq!(item.standing, Standing::Foreign, "{line}");
            assert_eq!(item.offer.kinds.as_deref(), Some("Chat"));
            assert_eq!(item.offer.context_length, Some(2048));
            let namespace = item.place.namespace.clone().unwrap();
            assert!(read(&entry, &only(namespace.as_str())).is_some());
            assert!(read(&entry, &only("team-c")).is_none());
        }
        assert_eq!(read_cards, 10);
    }

    #[test]
    fn a_card_that_breaks_a_rule_is_refused_and_shows_no_name_that_deceives() {
        let key = "v1/mdc/team-a/backend/generate/1f";
        for (key, value, disagrees) in [
            (key, "no JSON", false),
            (key, "[]", false),
            (key, "{}", false),
            (key, r#"{"display_name":"a\u202eb"}"#, false),
            (key, r#"{"card_json":{"display_name":"m"},"namespace":"team-b"}"#, true),
            (key, r#"{"card_json":{"display_name":"m"},"instance_id":32}"#, true),
            (key, r#"{"card_json":{"display_name":"m"},"namespace":7}"#, false),
            ("v1/mdc/team-a/x", r#"{"display_name":"m"}"#, false),
        ] {
            let item = read(&entry(key, value), &NamespaceScope::All).unwrap();
            let Standing::Refused { disagrees: told, .. } = item.standing else {
                panic!("{value}")
            };
            assert_eq!((told, item.offer.model), (disagrees, None), "{value}");
        }
        let odd = entry("v1/mdc/team-a/x", "{}");
        assert!(read(&odd, &only("team-a")).is_none(), "nobody knows whose it is");
        let lora = entry("v1/mdc/team-a/backend/generate/1f/lora", r#"{"display_name":"m"}"#);
        assert_eq!(read(&lora, &only("team-a")).unwrap().model(), Some("m"));
    }
}
