//! The id of a Dynamo endpoint: namespace, component and name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::namespace::{Namespace, is_valid_name, quoted};

const SCHEME: &str = "dyn://";

/// Where a worker serves, in Dynamo's terms: `namespace.component.name`.
///
/// An endpoint id is an address between workers, and no HTTP route. It displays dotted. It parses from
/// the dotted form, from the slashed form, and from either one after `dyn://`. A clone is cheap.
///
/// ```
/// use dynamo_namespace::EndpointId;
///
/// let id: EndpointId = "dyn://team-a.backend.generate".parse()?;
/// assert_eq!(id.namespace().as_str(), "team-a");
/// assert_eq!(id, "team-a/backend/generate".parse()?);
/// assert_eq!(id.to_string(), "team-a.backend.generate");
/// assert_eq!(id.as_url(), "dyn://team-a.backend.generate");
/// assert!("team-a.backend".parse::<EndpointId>().is_err());
/// # Ok::<(), dynamo_namespace::InvalidEndpointId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(Arc<Parts>);

#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    namespace: Namespace,
    component: Box<str>,
    name: Box<str>,
}

impl EndpointId {
    /// Puts an id together.
    ///
    /// # Errors
    ///
    /// When the component or the name is not one to 253 of `[A-Za-z0-9_-]`.
    ///
    /// ```
    /// use dynamo_namespace::{EndpointId, Namespace, names};
    ///
    /// let id = EndpointId::new(
    ///     Namespace::global(),
    ///     names::FRONTEND_COMPONENT,
    ///     names::HTTP_ENDPOINT,
    /// )?;
    /// assert_eq!(id.to_string(), "global.frontend.http");
    /// # Ok::<(), dynamo_namespace::InvalidEndpointId>(())
    /// ```
    pub fn new(
        namespace: Namespace,
        component: &str,
        name: &str,
    ) -> Result<Self, InvalidEndpointId> {
        for (part, text) in [("component", component), ("name", name)] {
            if !is_valid_name(text) {
                return Err(InvalidEndpointId { quoted: quoted(text), reason: Reason::Part(part) });
            }
        }
        let (component, name) = (component.into(), name.into());
        Ok(Self(Arc::new(Parts { namespace, component, name })))
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    /// The component, such as [`BACKEND_COMPONENT`](crate::names::BACKEND_COMPONENT).
    pub fn component(&self) -> &str {
        &self.0.component
    }

    /// The endpoint's own name, such as [`GENERATE_ENDPOINT`](crate::names::GENERATE_ENDPOINT).
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The id with its scheme: `dyn://namespace.component.name`.
    pub fn as_url(&self) -> String {
        format!("{SCHEME}{self}")
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.namespace(), self.component(), self.name())
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointId({self})")
    }
}

impl FromStr for EndpointId {
    type Err = InvalidEndpointId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.strip_prefix(SCHEME).unwrap_or(text).split(['.', '/']);
        let (Some(namespace), Some(component), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidEndpointId { quoted: quoted(text), reason: Reason::NotThreeParts });
        };
        // An empty part is a missing part, and does not stand for the global namespace.
        let namespace = Some(namespace)
            .filter(|namespace| !namespace.is_empty())
            .and_then(|namespace| namespace.parse().ok())
            .ok_or_else(|| InvalidEndpointId {
                quoted: quoted(namespace),
                reason: Reason::Part("namespace"),
            })?;
        Self::new(namespace, component, name)
    }
}

impl TryFrom<&str> for EndpointId {
    type Error = InvalidEndpointId;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for EndpointId {
    type Error = InvalidEndpointId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A text that is no [`EndpointId`]; its message quotes the text escaped and cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEndpointId {
    quoted: String,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    NotThreeParts,
    Part(&'static str),
}

impl fmt::Display for InvalidEndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::NotThreeParts => {
                write!(f, "invalid endpoint id {}: expected namespace.component.name", self.quoted)
            }
            Reason::Part(part) => write!(
                f,
                "invalid {part} {} in an endpoint id: expected 1 to 253 letters, digits, '-' or '_'",
                self.quoted
            ),
        }
    }
}

impl std::error::Error for InvalidEndpointId {}

/// As in stored values: `{"namespace":…,"component":…,"name":…}`.
#[cfg(feature = "serde")]
mod wire {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    use super::EndpointId;
    use crate::Namespace;

    #[derive(Serialize)]
    struct Borrowed<'a> {
        namespace: &'a Namespace,
        component: &'a str,
        name: &'a str,
    }

    #[derive(Deserialize)]
    struct Owned {
        namespace: Namespace,
        component: String,
        name: String,
    }

    impl Serialize for EndpointId {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            Borrowed { namespace: self.namespace(), component: self.component(), name: self.name() }
                .serialize(serializer)
        }
    }

    impl<'de> Deserialize<'de> for EndpointId {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let Owned { namespace, component, name } = Owned::deserialize(deserializer)?;
            Self::new(namespace, &component, &name).map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_three_parts_is_the_same_id() {
        let expected = EndpointId::new("team-a".parse().unwrap(), "backend", "generate").unwrap();
        for text in [
            "team-a.backend.generate",
            "team-a/backend/generate",
            "dyn://team-a.backend.generate",
            "dyn://team-a/backend/generate",
        ] {
            assert_eq!(text.parse::<EndpointId>().as_ref(), Ok(&expected), "{text}");
            assert_eq!(EndpointId::try_from(text).as_ref(), Ok(&expected), "{text}");
            assert_eq!(EndpointId::try_from(text.to_owned()).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_three_parts_is_refused() {
        for text in [
            "",
            "a",
            "a.b",
            "a.b.c.d",
            "a/b/c/d",
            "dyn://",
            "dyn://a",
            "a..c",
            ".b.c",
            "a.b.",
            "a.b.c.",
            "/a/b/c",
            "dyn:///a/b/c",
            "dyn://dyn://a.b.c",
            "a b.c.d",
            "a.b.ç",
        ] {
            assert!(text.parse::<EndpointId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn messages_say_which_part_was_wrong() {
        let error = |text: &str| text.parse::<EndpointId>().unwrap_err().to_string();
        assert_eq!(error("a.b"), "invalid endpoint id \"a.b\": expected namespace.component.name");
        assert!(error("a.b c.d").starts_with("invalid component \"b c\""));
        assert!(error("a b.c.d").starts_with("invalid namespace \"a b\""));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn the_stored_form_is_an_object_and_nothing_else() {
        let id: EndpointId = "team-a.backend.generate".parse().unwrap();
        let json = r#"{"namespace":"team-a","component":"backend","name":"generate"}"#;
        assert_eq!(serde_json::to_string(&id).unwrap(), json);
        assert_eq!(serde_json::from_str::<EndpointId>(json).unwrap(), id);
        assert!(serde_json::from_str::<EndpointId>(r#""team-a.backend.generate""#).is_err());
    }

    proptest! {
        #[test]
        fn display_and_url_of_an_id_parse_back(
            namespace in "[A-Za-z0-9_-]{1,40}",
            component in "[A-Za-z0-9_-]{1,40}",
            name in "[A-Za-z0-9_-]{1,40}",
        ) {
            let id = EndpointId::new(namespace.parse().unwrap(), &component, &name).unwrap();
            prop_assert_eq!(&id.to_string().parse::<EndpointId>().unwrap(), &id);
            prop_assert_eq!(&id.as_url().parse::<EndpointId>().unwrap(), &id);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "(dyn://)?[a./:é-]{0,12}") {
            let _ = text.parse::<EndpointId>();
        }
    }
}
