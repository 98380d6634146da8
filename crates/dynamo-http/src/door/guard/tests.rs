//! Who reads which page of the admin port: by its address, its key and its name.

use axum::body::Body;

use super::*;

const KEY: &str = "a-key-that-nobody-could-guess";
const PAGES: [&str; 8] = [
    "/live",
    "/ready",
    "/metrics",
    "/health",
    "/status",
    "/status.json",
    "/status/events",
    "/other",
];

fn access(listener: &str) -> AdminAccess {
    AdminAccess::new(listener.parse().unwrap())
}

fn keyed() -> AdminAccess {
    let key = AdminKey::default();
    key.set(KEY).unwrap();
    access("192.0.2.1").with_key(key)
}

fn status(access: &AdminAccess, path: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    match access.admit(&request.body(Body::empty()).unwrap()) {
        Ok(()) => 200,
        Err(error) => error.status().as_u16(),
    }
}

fn statuses(access: &AdminAccess, headers: &[(&str, &str)]) -> [u16; PAGES.len()] {
    PAGES.map(|path| status(access, path, headers))
}

#[test]
fn without_a_key_the_status_is_for_this_machine_only() {
    for (listener, expected) in
        [("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("0.0.0.0", 403), ("::", 403)]
    {
        let statuses = statuses(&access(listener), &[]);
        assert_eq!(statuses, [200, 200, 200, 200, expected, expected, expected, 200], "{listener}");
    }
}

#[test]
fn a_key_is_needed_for_all_but_probes_and_open_metrics() {
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let access = keyed();
    let closed = [200, 200, 401, 401, 401, 401, 401, 401];
    assert_eq!(statuses(&access, &[]), closed);
    let open = access.clone().with_open_metrics(true);
    assert_eq!(statuses(&open, &[]), [200, 200, 200, 401, 401, 401, 401, 401]);
    for right in [format!("Bearer {KEY}"), format!("bearer  {KEY}"), basic(&format!("ops:{KEY}"))] {
        assert_eq!(statuses(&access, &[("authorization", &right)]), [200; 8], "{right}");
    }
    for wrong in [
        KEY.to_owned(),
        format!("Bearer {KEY}x"),
        format!("Digest {KEY}"),
        format!("Basic {KEY}"),
        basic(KEY),
        basic(&format!("{KEY}:")),
        "Bearer".to_owned(),
    ] {
        assert_eq!(statuses(&access, &[("authorization", &wrong)]), closed, "{wrong}");
    }
}

#[test]
fn before_a_key_is_set_no_key_is_right() {
    let access = access("127.0.0.1").with_key(AdminKey::default());
    let shown = format!("Bearer {KEY}");
    assert_eq!(status(&access, "/status", &[("authorization", &shown)]), 401);
}

#[test]
fn a_name_that_is_not_listed_reads_nothing_but_probes_and_open_metrics() {
    let access = access("127.0.0.1").with_hosts(["Admin.example".to_owned()]);
    for host in [
        "127.0.0.1",
        "127.0.0.1:9",
        "[::1]:9",
        "[2001:db8::1]",
        "localhost:9",
        "LOCALHOST.",
        "admin.EXAMPLE:1",
    ] {
        assert_eq!(statuses(&access, &[("host", host)]), [200; 8], "{host}");
    }
    for host in
        ["rebound.example", "localhost.rebound.example", "127.0.0.1.rebound.example", "a b", ""]
    {
        let expected = [200, 200, 403, 403, 403, 403, 403, 403];
        assert_eq!(statuses(&access, &[("host", host)]), expected, "{host}");
        let open = access.clone().with_open_metrics(true);
        assert_eq!(status(&open, "/metrics", &[("host", host)]), 200);
    }
}

#[test]
fn a_name_that_is_not_listed_learns_nothing_of_the_key() {
    let shown = format!("Bearer {KEY}");
    let headers = [("host", "rebound.example"), ("authorization", shown.as_str())];
    assert_eq!(status(&keyed(), "/status", &headers), 403);
    assert_eq!(status(&keyed(), "/status", &headers[..1]), 403);
}
