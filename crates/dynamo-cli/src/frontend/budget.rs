//! How much memory request bodies may take.

use dynamo_http::FrontendConfig;
use tracing::info;

use crate::cgroup;

/// The most that is taken without being asked for, in bytes.
const MOST: usize = 1 << 30;

/// Sets the memory for bodies: what was given, else a part of what the process may have. No body is
/// larger than all of it.
pub(super) fn with_body_memory(config: FrontendConfig, given: Option<usize>) -> FrontendConfig {
    let bodies = given.unwrap_or_else(|| part_of(cgroup::memory_limit()));
    let each = *config.body_limit();
    config.with_bodies_limit(bodies).with_body_limit(each.min(bodies))
}

/// Logs how much memory that is.
pub(super) fn told(config: &FrontendConfig) {
    info!(
        mib = *config.bodies_limit() >> 20,
        cgroup_mib = cgroup::memory_limit().map(|bytes| bytes >> 20),
        "memory for request bodies"
    );
}

/// A quarter of what the process may have, at least 1 MiB.
fn part_of(allowed: Option<u64>) -> usize {
    let quarter = allowed.map_or(MOST, |bytes| usize::try_from(bytes / 4).unwrap_or(MOST));
    quarter.clamp(1 << 20, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_take_a_quarter_of_what_the_process_may_have_and_a_gibibyte_at_most() {
        for (allowed, expected) in [
            (None, 1 << 30),
            (Some(64 << 30), 1 << 30),
            (Some(2 << 30), 512 << 20),
            (Some(256 << 20), 64 << 20),
            (Some(1), 1 << 20),
        ] {
            assert_eq!(part_of(allowed), expected, "{allowed:?}");
        }
        let config = with_body_memory(FrontendConfig::new(), Some(64 << 20));
        assert_eq!((*config.bodies_limit(), *config.body_limit()), (64 << 20, 64 << 20));
    }
}
