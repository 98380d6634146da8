//! What `--version` says: the release, and what the binary was built from and for.

/// The release, as `-V` prints it.
pub(crate) const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The release, with the commit, the platform and the TLS library of the build, in one line.
///
/// The commit is known to builds that set `DYNAMO_COMMIT`, as `cargo xtask dist` does: a package
/// from a registry has no repository to read it from.
pub(crate) fn with_build() -> String {
    let commit = option_env!("DYNAMO_COMMIT").unwrap_or("unknown");
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{RELEASE} (commit {commit}, {arch}-{os}-{libc}, TLS by rustls with ring)")
}

/// What `--version --verbose` says beside: the features of the libraries, one library a line.
pub(crate) fn built_in() -> String {
    let features =
        [("dynamo-http", dynamo_http::FEATURES), ("dynamo-discovery", dynamo_discovery::FEATURES)];
    let line = |(library, features): (&str, &[&str])| {
        format!("features of {library}: {}\n", features.join(", "))
    };
    features.map(line).concat()
}
