//! The page `/status`: one document without any other file, and the headers that hold it to that.

use std::sync::OnceLock;

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, header};
use sha2::{Digest as _, Sha256};

const PAGE: &str = include_str!("page.html");

/// `GET /status`
pub(super) async fn page() -> Response {
    static POLICY: OnceLock<HeaderValue> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        HeaderValue::try_from(policy(PAGE)).unwrap_or_else(|_| {
            // The policy is ASCII, so this is never used; it forbids everything.
            HeaderValue::from_static("default-src 'none'")
        })
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy.clone()),
    ];
    (headers, PAGE).into_response()
}

/// The content security policy of a page: its own script and style run, no other does, and it talks
/// to nobody but the server that it came from.
fn policy(page: &str) -> String {
    let (script, style) = (inline(page, "script"), inline(page, "style"));
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(script),
        hash(style),
    )
}

/// The text of the page's one inline element of this name.
fn inline<'a>(page: &'a str, element: &str) -> &'a str {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let text = page.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    text.map_or("", |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_names_no_other_host() {
        for element in ["script", "style"] {
            assert!(!inline(PAGE, element).is_empty());
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1);
        }
        for forbidden in
            ["http://", "https://", " src=", " href=", " style=", " onclick=", "@import"]
        {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert!(!PAGE.contains("innerHTML"), "what clients have named is text, never HTML");
    }
}
