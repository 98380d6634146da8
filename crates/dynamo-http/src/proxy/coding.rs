//! The content codings of request bodies: which are unpacked, and which are refused.

use http::{HeaderMap, StatusCode, header};

use crate::error::ApiError;

/// The content codings that are unpacked, as in `Accept-Encoding`.
pub(super) const ACCEPTED: &str =
    if cfg!(feature = "decompress") { "gzip, deflate, zstd, br" } else { "identity" };

/// Whether an error is the refusal of another content coding.
pub(super) fn is_refusal(error: &ApiError) -> bool {
    error.code() == Some("unsupported_encoding")
}

/// A content coding that is unpacked (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[cfg(feature = "decompress")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Zstd,
    Brotli,
}

/// A content coding that is unpacked. Without the feature `decompress` there is none.
#[cfg(not(feature = "decompress"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {}

impl Coding {
    /// The content coding of a request, if it has one.
    ///
    /// # Errors
    ///
    /// 415 for a coding that is not unpacked, and for several.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let name = value.as_bytes().trim_ascii().to_ascii_lowercase();
        let is_identity = name.is_empty() || name == b"identity";
        match Self::named(&name) {
            coding if values.next().is_none() && (is_identity || coding.is_some()) => Ok(coding),
            _ => Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("The Content-Encoding must be one of: {ACCEPTED}."),
            )
            .with_code("unsupported_encoding")),
        }
    }

    #[cfg(feature = "decompress")]
    fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"gzip" | b"x-gzip" => Self::Gzip,
            b"deflate" => Self::Deflate,
            b"zstd" => Self::Zstd,
            b"br" => Self::Brotli,
            _ => return None,
        })
    }

    #[cfg(not(feature = "decompress"))]
    fn named(_: &[u8]) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Result<bool, StatusCode> {
        let headers = values.iter().map(|value| (header::CONTENT_ENCODING, value.parse().unwrap()));
        let coding = Coding::of(&headers.collect());
        coding.map(|coding| coding.is_some()).map_err(|error| error.status())
    }

    #[test]
    fn one_known_coding_is_unpacked_and_all_others_are_refused() {
        for values in [&[][..], &["identity"], &[""]] {
            assert_eq!(of(values), Ok(false), "{values:?}");
        }
        for name in ["gzip", "GZIP", "x-gzip", "deflate", "zstd", "br"] {
            let is_known = cfg!(feature = "decompress");
            assert_eq!(of(&[name]).is_ok(), is_known, "{name}");
        }
        for values in [&["compress"][..], &["gzip, gzip"], &["gzip", "gzip"], &["zstd;q=1"]] {
            assert_eq!(of(values), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{values:?}");
        }
    }
}
