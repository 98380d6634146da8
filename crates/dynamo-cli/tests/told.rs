//! What a frontend tells its operators of its files: certificates that end, and changes that it refused.

#![expect(clippy::unwrap_used, reason = "it is a test")]

mod process;

use std::fs;
use std::path::Path;

use process::{FRONTEND, echo_engine, finish, get, ready_frontend, series, until};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::{Value, json};

const TRUST: &str =
    "dynamo_frontend_tls_certificate_expiry_timestamp_seconds{certificate=\"worker_ca\"}";
/// The first days of 2020 and of 2096, in unix seconds.
const STARTS: [(i32, u64); 2] = [(2020, 1_577_836_800), (2096, 3_976_214_400)];

/// Writes a certificate that ends with the begin of a year.
fn write_certificate(path: &Path, year: i32) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(year, 1, 1));
    let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    fs::write(path, made.pem()).unwrap();
}

/// The texts of what `/status` says needs a look.
fn problems(admin: &str) -> Vec<String> {
    let status: Value = serde_json::from_str(&get(&format!("{admin}/status.json")).1).unwrap();
    let problems = status["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem["text"].as_str().unwrap().to_owned()).collect()
}

fn until_told(admin: &str, begin: &str) -> String {
    let told = || problems(admin).into_iter().find(|text| text.starts_with(begin));
    until(&format!("{begin:?} is told"), || told().is_some());
    told().unwrap()
}

fn until_not_told(admin: &str, begin: &str) {
    let is_told = || problems(admin).iter().any(|text| text.starts_with(begin));
    until(&format!("{begin:?} is told no more"), || !is_told());
}

#[test]
fn a_certificate_that_has_ended_is_told_until_another_one_takes_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let [(ended, at), (far, later)] = STARTS;
    write_certificate(&path, ended);
    let (_worker, engine) = echo_engine();
    let arguments = ["--worker-ca", path.to_str().unwrap()];
    let (frontend, _, admin) = ready_frontend(&engine, &arguments, &[]);
    assert_eq!(series(&admin, TRUST), Some(at), "it is there from the start");
    let line = frontend.wait_for("a certificate has ended");
    assert!(line.contains("certificate=\"worker_ca\"") && line.contains("2020"), "{line}");
    until_told(&admin, "The certificate worker_ca has ended");
    write_certificate(&path, far);
    until("the new end is shown", || series(&admin, TRUST) == Some(later));
    until_not_told(&admin, "The certificate worker_ca");
    let page = get(&format!("{admin}/metrics")).1;
    let others = page.lines().filter(|line| line.contains("certificate=")).count();
    assert_eq!(others, 1, "what is not loaded has no series");
}

#[test]
fn files_that_were_refused_are_told_until_they_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str| fs::write(at(name), text).unwrap();
    let hash = finish(FRONTEND, &["hash-key", "--generate"], &[]).stdout;
    let hash = hash.lines().last().unwrap().to_owned();
    let keys = json!([{ "name": "a", "hash": hash, "namespace": "global" }]).to_string();
    write("keys.json", &keys);
    write("frontend.yaml", "log: info\n");
    let (_worker, engine) = echo_engine();
    let [config, list] = ["frontend.yaml", "keys.json"].map(|name| at(name).display().to_string());
    let arguments = ["--config", &config, "--api-keys", &list];
    let (_frontend, _, admin) = ready_frontend(&engine, &arguments, &[]);
    assert_eq!(problems(&admin), Vec::<String>::new());

    write("frontend.yaml", "log: info\n\"<b>\\e[2J\": 1\n");
    let text = until_told(&admin, "The configuration file cannot be used");
    assert!(text.contains("frontend.yaml") && !text.contains('\u{1b}'), "{text:?}");
    write("keys.json", "[");
    let text = until_told(&admin, "A changed file of --api-keys cannot be used");
    assert!(text.contains("keys.json") && !text.contains('\n'), "{text:?}");
    write("frontend.yaml", "log: debug\n");
    until_not_told(&admin, "The configuration file");
    write("keys.json", &keys);
    until_not_told(&admin, "A changed file");
}
