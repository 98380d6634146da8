//! How much memory the process's control groups allow it.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The smallest limit of memory, in bytes, of the groups that the process is in; none if there is none.
pub(crate) fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    smallest(&groups, Path::new("/sys/fs/cgroup"))
}

/// The smallest limit among the groups that `/proc/self/cgroup` names, and those around them.
///
/// A container may see its own group as the root of the tree, whatever the name in the list is. So a
/// group that is not there has no limit of its own, and the root is looked at as well.
fn smallest(groups: &str, tree: &Path) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (parts.next(), parts.next(), parts.next());
        let (trees, file) = match (hierarchy, controllers) {
            // Version 2, alone or beside version 1.
            (Some("0"), Some("")) => (vec![tree.into(), tree.join("unified")], "memory.max"),
            (_, Some(list)) if list.split(',').any(|one| one == "memory") => {
                (vec![tree.join("memory")], "memory.limit_in_bytes")
            }
            _ => (Vec::new(), ""),
        };
        let below: PathBuf = Path::new(path.unwrap_or_default())
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        let at = move |tree: PathBuf| {
            let groups: Vec<_> =
                below.ancestors().map(|group| tree.join(group).join(file)).collect();
            groups.into_iter().filter_map(|file| limit(&file))
        };
        trees.into_iter().flat_map(at)
    });
    limits.min()
}

/// The limit in a file. Version 1 says "none" by the largest multiple of a page.
fn limit(file: &Path) -> Option<u64> {
    let limit = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (limit < u64::MAX / 4).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit of a process in `groups`, where these files of the tree exist.
    fn found(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let tree = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let file = tree.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        smallest(groups, tree.path())
    }

    #[test]
    fn the_smallest_limit_around_the_process_counts() {
        let pod = "0::/kubepods/pod7/c1\n";
        for (groups, files, expected) in [
            (pod, &[("kubepods/pod7/c1/memory.max", "1000\n")][..], Some(1000)),
            (
                pod,
                &[("kubepods/pod7/c1/memory.max", "max\n"), ("kubepods/memory.max", "3000\n")],
                Some(3000),
            ),
            (
                pod,
                &[("kubepods/pod7/c1/memory.max", "2000"), ("kubepods/pod7/memory.max", "1500")],
                Some(1500),
            ),
            // A container's own group is the root of what it sees.
            ("0::/\n", &[("memory.max", "500")], Some(500)),
            (pod, &[("memory.max", "500")], Some(500)),
            ("0::/../../other\n", &[("memory.max", "500")], Some(500)),
            (pod, &[("elsewhere/memory.max", "1")], None),
            (pod, &[("memory.max", "max")], None),
            // Version 1, and both at one time.
            (
                "4:cpu,memory:/docker/x\n1:name=systemd:/docker/x\n",
                &[("memory/docker/x/memory.limit_in_bytes", "700")],
                Some(700),
            ),
            (
                "4:memory:/docker/x\n0::/system\n",
                &[
                    ("memory/memory.limit_in_bytes", "9223372036854771712"),
                    ("unified/system/memory.max", "800"),
                ],
                Some(800),
            ),
            ("4:cpu:/x\n", &[("memory/memory.limit_in_bytes", "1")], None),
            ("", &[("memory.max", "1")], None),
            ("nonsense", &[("memory.max", "1")], None),
        ] {
            assert_eq!(found(groups, files), expected, "{groups:?} {files:?}");
        }
    }
}
