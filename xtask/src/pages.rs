//! The check that `docs/testing.md` names tests that are there, and that no page has an address in its
//! examples that may be somebody's.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::workspace;

const TESTS: &str = "docs/testing.md";
/// Where pages and sources are.
const FOLDERS: [&str; 5] = ["crates", "docs", "fuzz", "tests", "xtask"];
/// Networks whose addresses nobody has: this machine, any address, and those of RFC 5737.
const NOBODYS: [[u8; 3]; 3] = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];
/// Addresses that pages name since the frontend refuses them.
const REFUSED: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 0, 0),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Reads all pages and sources, and names what is wrong.
pub(crate) fn check() -> Result<()> {
    let root = workspace::root();
    let mut files = files_in(root, false)?;
    for folder in FOLDERS {
        files.extend(files_in(&root.join(folder), true)?);
    }
    let of_kind = |end: &str| {
        let of_kind = files.iter().filter(|path| path.extension().is_some_and(|is| is == end));
        of_kind.map(|path| Ok((path, fs::read_to_string(path)?))).collect::<Result<Vec<_>>>()
    };
    let functions: BTreeSet<_> =
        of_kind("rs")?.iter().flat_map(|(_, source)| functions(source)).collect();
    let mut complaints = Vec::new();
    for (path, page) in of_kind("md")? {
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        if name == TESTS {
            complaints.extend(missing_tests(&page, &functions));
        }
        let somebodys = somebodys(&page).into_iter();
        complaints.extend(somebodys.map(|one| format!("{name}: {one} may be somebody's")));
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("the pages are wrong:\n  {}", complaints.join("\n  "))
}

fn files_in(folder: &Path, deeply: bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        } else if deeply && path.is_dir() && !path.ends_with("target") {
            files.extend(files_in(&path, true)?);
        }
    }
    Ok(files)
}

/// The names of a source's functions.
fn functions(source: &str) -> Vec<String> {
    let name =
        |after: &str| after.split(|sign: char| !is_of_a_name(sign)).next().map(str::to_owned);
    source.split("fn ").skip(1).filter_map(name).collect()
}

fn is_of_a_name(sign: char) -> bool {
    sign.is_ascii_alphanumeric() || sign == '_'
}

/// The names of tests that no function has. A name may end in `…`.
fn missing_tests(page: &str, functions: &BTreeSet<String>) -> Vec<String> {
    let is_a_test = |name: &&str| {
        let is_of_a_test = |sign: char| is_of_a_name(sign) && !sign.is_ascii_uppercase();
        name.matches('_').count() > 2 && name.trim_end_matches('…').chars().all(is_of_a_test)
    };
    let is_there = |name: &str| match name.strip_suffix('…') {
        Some(begin) => functions.iter().any(|function| function.starts_with(begin)),
        None => functions.contains(name),
    };
    let named = codes(page).into_iter().filter(is_a_test).filter(|name| !is_there(name));
    named.map(|name| format!("{TESTS}: there is no test {name}")).collect()
}

/// All that stands in backticks, and each line of a block of code.
fn codes(page: &str) -> Vec<&str> {
    let (mut codes, mut in_block) = (Vec::new(), false);
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            codes.push(line);
        } else {
            codes.extend(line.split('`').skip(1).step_by(2));
        }
    }
    codes
}

/// Addresses in text and hosts of URLs in code that are not known to be nobody's.
fn somebodys(page: &str) -> Vec<String> {
    let numbers = page.split(|sign: char| !(sign.is_ascii_digit() || sign == '.'));
    let addresses = numbers.filter_map(|text| text.trim_end_matches('.').parse().ok());
    let addresses = addresses.filter(|address| !is_nobodys(*address));
    let hosts = codes(page).into_iter().flat_map(hosts).filter(|host| {
        let is_name = host.contains('.') && host.parse::<Ipv4Addr>().is_err();
        is_name && !host.ends_with(".example")
    });
    addresses.map(|address| address.to_string()).chain(hosts.map(str::to_owned)).collect()
}

fn is_nobodys(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_loopback()
        || address.is_unspecified()
        || NOBODYS.contains(&[a, b, c])
        || REFUSED.contains(&address)
}

/// The hosts of URLs, of which the one before `://` is the scheme.
fn hosts(code: &str) -> Vec<&str> {
    let is_of_a_host = |sign: char| sign.is_ascii_alphanumeric() || ".-".contains(sign);
    let parts: Vec<_> = code.split("://").collect();
    let of_http =
        parts.windows(2).filter(|pair| pair[0].ends_with("http") || pair[0].ends_with("https"));
    let hosts = of_http.map(|pair| {
        let authority = pair[1].split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let end = host.find(|sign| !is_of_a_host(sign)).unwrap_or(host.len());
        host[..end].trim_end_matches('.')
    });
    hosts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_not_there_is_named() {
        let functions =
            functions("async fn a_test_that_is_there() {}\npub fn one_of_many_words<T>()");
        let functions = functions.into_iter().collect();
        let page = "| `file.rs` `a_test_that_is_there`, `one_of_many…` | `two_words` |\n\
                    | `one_of_the_few…` and `a_test_that_is` | |";
        let missing = missing_tests(page, &functions);
        let named = |name| format!("{TESTS}: there is no test {name}");
        assert_eq!(missing, [named("one_of_the_few…"), named("a_test_that_is")]);
    }

    #[test]
    fn addresses_and_hosts_that_may_be_somebodys_are_named() {
        let nobodys = "127.0.0.1, 192.0.2.7:8001. 203.0.113.9, version 1.22.3, `http://gpu-7.example:1/v1`,\
                       `http://user:secret@gpu.example` `http://host:1`, `dyn://a.b.c`, [a link](https://semver.org)";
        assert_eq!(somebodys(nobodys), Vec::<String>::new());
        let page =
            "10.0.0.1 and `http://user@gpu.corp.internal:8001/v1`\n```sh\ncurl https://a.test\n```";
        assert_eq!(somebodys(page), ["10.0.0.1", "gpu.corp.internal", "a.test"]);
    }

    #[test]
    fn the_pages_of_this_project_are_right() {
        check().unwrap();
    }
}
