//! Well-known names of components and endpoints.

/// Component of a worker that decodes, or does everything itself.
pub const BACKEND_COMPONENT: &str = "backend";
/// Component of a worker that only prefills for others; it opens no route.
pub const PREFILL_COMPONENT: &str = "prefill";
/// Component of a frontend.
pub const FRONTEND_COMPONENT: &str = "frontend";
/// Endpoint of a worker.
pub const GENERATE_ENDPOINT: &str = "generate";
/// Endpoint of a frontend.
pub const HTTP_ENDPOINT: &str = "http";

/// Reads any of our names from a string, borrowed or not.
#[cfg(feature = "serde")]
pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    struct Parse<T>(std::marker::PhantomData<T>);

    impl<T: std::str::FromStr<Err: std::fmt::Display>> serde::de::Visitor<'_> for Parse<T> {
        type Value = T;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a name")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Parse(std::marker::PhantomData))
}
