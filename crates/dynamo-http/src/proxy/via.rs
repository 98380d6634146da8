//! The header `Via`, by which a front door finds a request that has come back to it.

use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, Version};
use memchr::memmem;

use crate::error::ApiError;
use crate::random;

/// How a front door is named in `Via` (RFC 9110 section 7.6.3).
///
/// The name is random for each front door. So two of them can stand one behind the other, and nobody
/// who has not seen the name can make a request look like a loop.
#[derive(Debug)]
pub(crate) struct Via {
    name: String,
    /// The whole value, for requests that came by HTTP/1.0, by HTTP/1.1 and by HTTP/2.
    values: [HeaderValue; 3],
}

impl Via {
    pub(crate) fn new() -> Self {
        let name = format!("dynamo-{:016x}", random::seed());
        let values = ["1.0", "1.1", "2"].map(|version| {
            HeaderValue::try_from(format!("{version} {name}"))
                .unwrap_or_else(|_| unreachable!("visible ASCII and a blank"))
        });
        Self { name, values }
    }

    /// Checks that a request did not pass this front door before.
    ///
    /// # Errors
    ///
    /// 508 when it did: a worker's URL leads back to this front door.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let name = self.name.as_bytes();
        let is_own = |value: &HeaderValue| memmem::find(value.as_bytes(), name).is_some();
        if headers.get_all(header::VIA).iter().any(is_own) {
            return Err(ApiError::new(
                StatusCode::LOOP_DETECTED,
                "The request came back to the front door that has sent it.",
            )
            .with_code("loop_detected"));
        }
        Ok(())
    }

    /// Names this front door in a request that goes on to a worker.
    pub(super) fn add(&self, headers: &mut HeaderMap, received_by: Version) {
        let [old, usual, two] = &self.values;
        let value = match received_by {
            Version::HTTP_09 | Version::HTTP_10 => old,
            Version::HTTP_2 => two,
            _ => usual,
        };
        headers.append(header::VIA, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_loop_for_the_front_door_that_has_passed_it_on_and_for_no_other() {
        // The seed of fastrand is the time, which two front doors may share.
        let seeded = || {
            fastrand::seed(1);
            Via::new()
        };
        let (one, other) = (seeded(), seeded());
        let mut headers = HeaderMap::new();
        assert!(one.check(&headers).is_ok());
        headers.append(header::VIA, HeaderValue::from_static("1.1 elsewhere.example"));
        one.add(&mut headers, Version::HTTP_2);
        let values: Vec<_> = headers.get_all(header::VIA).iter().collect();
        assert_eq!(values, ["1.1 elsewhere.example", &format!("2 {}", one.name)]);
        assert_eq!(one.check(&headers).unwrap_err().status(), StatusCode::LOOP_DETECTED);
        assert!(other.check(&headers).is_ok());
    }
}
