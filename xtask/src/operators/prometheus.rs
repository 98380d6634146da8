//! The dashboard and the alerts, in a Prometheus that scrapes the stage.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use ureq::Agent;

use super::stage::{PATIENCE, Stage};
use crate::{
    apt, http, poll,
    process::{self, Service},
    workspace,
};

/// The alerts that the stage gives cause for.
const PROVOKED: [&str; 5] = [
    "DynamoKeyNearLimit",
    "DynamoQueue",
    "DynamoRouteClosed",
    "DynamoWorkerFails",
    "DynamoWorkersOut",
];

/// Runs every expression, and sees the provoked alerts fire. Returns how many expressions there are.
pub(super) fn check(stage: &mut Stage) -> Result<usize> {
    let deploy = workspace::root().join("deploy");
    let rules = fs::read_to_string(deploy.join("prometheus/rules.yaml"))?;
    let board = fs::read_to_string(deploy.join("grafana/dynamo-frontends.json"))?;
    let board: Value = serde_json::from_str(&board).context("the dashboard is no JSON")?;
    let mut expressions = of_board(&board);
    let alerts = of_rules(&rules);
    ensure!(expressions.len() > 40 && alerts.len() > 20, "expressions are missing");
    expressions.extend(alerts);
    let page = fs::read_to_string(workspace::root().join("docs/reference/metrics.md"))?;
    let queries = of_page(&page);
    ensure!(queries.len() > 20, "the queries of the page are missing");
    expressions.extend(queries);

    let program = apt::find_or_fetch("prometheus", "prometheus")?;
    let mut promtool = program.beside("promtool").command();
    promtool.args(["test", "rules", "rules.test.yaml"]);
    process::capture(promtool.current_dir(deploy.join("prometheus")))?;
    let [port] = http::free_ports()?;
    let place = stage.place.clone();
    // Alerts fire as soon as they are true.
    let at_once: String = rules
        .lines()
        .map(|line| if line.trim().starts_with("for: ") { "        for: 0s" } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(place.join("rules.yaml"), at_once)?;
    fs::write(place.join("prometheus.yaml"), configuration(stage))?;
    let data = place.join("prometheus");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    let mut command = program.command();
    command.arg("--config.file").arg(place.join("prometheus.yaml"));
    command.arg("--storage.tsdb.path").arg(&data);
    command.arg("--web.listen-address").arg(format!("127.0.0.1:{port}"));
    let log = place.join("prometheus.log");
    let mut service = Service::start("Prometheus", &mut command, &log)?;
    let base = format!("http://127.0.0.1:{port}");
    poll::until("Prometheus is ready", PATIENCE, || {
        service.check()?;
        Ok(http::get(&format!("{base}/-/ready"))
            .is_ok_and(|answer| answer.status == 200)
            .then_some(()))
    })?;

    let scraped = "sum(dynamo_frontend_requests_total) > 0";
    poll::until("the frontend is scraped", PATIENCE, || {
        Ok(has_value(&base, scraped)?.then_some(()))
    })?;
    // A worker dies without a word: a stream breaks, requests to it fail, and it leaves the rotation.
    drop(stage.workers.swap_remove(0));

    let mut empty: BTreeSet<_> = expressions.iter().cloned().collect();
    let all = empty.len();
    let outcome = poll::until("every expression has a value", PATIENCE, || {
        for expression in empty.clone() {
            if has_value(&base, &expression)? {
                empty.remove(&expression);
            }
        }
        Ok(empty.is_empty().then_some(()))
    });
    outcome.with_context(|| {
        let empty: Vec<_> = empty.iter().map(String::as_str).collect();
        format!("without a value: {}", empty.join("\n"))
    })?;

    let mut firing = BTreeSet::new();
    let outcome = poll::until("the provoked alerts fire", PATIENCE, || {
        service.check()?;
        firing.extend(firing_alerts(&base)?);
        Ok(PROVOKED.iter().all(|alert| firing.contains(*alert)).then_some(()))
    });
    outcome.with_context(|| format!("fired: {firing:?}"))?;
    println!("operators: fired: {}", firing.into_iter().collect::<Vec<_>>().join(", "));
    Ok(all)
}

fn configuration(stage: &Stage) -> String {
    let workers: Vec<_> =
        stage.workers.iter().map(|(_, port)| format!("\"127.0.0.1:{port}\"")).collect();
    format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [rules.yaml]\n\
         scrape_configs:\n\
         - job_name: dynamo-frontend\n  static_configs: [{{targets: [\"{}\"]}}]\n\
         - job_name: dynamo-worker\n  static_configs: [{{targets: [{}]}}]\n",
        stage.admin.trim_start_matches("http://"),
        workers.join(", ")
    )
}

/// The expressions of a dashboard, with its variables as they are at first.
fn of_board(board: &Value) -> Vec<String> {
    let panels = board["panels"].as_array().into_iter().flatten();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions = targets.filter_map(|target| target["expr"].as_str());
    expressions
        .map(|expression| {
            let mut expression = expression.replace("$__rate_interval", "1m");
            for variable in ["$model", "$namespace", "$worker", "$key"] {
                expression = expression.replace(variable, ".*");
            }
            expression
        })
        .collect()
}

/// The values that alerts compare: each expression without its last comparison, since a healthy
/// frontend gives no cause for most alerts.
fn of_rules(rules: &str) -> Vec<String> {
    let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    expressions.map(compared).collect()
}

/// The queries of a page, in the same way.
fn of_page(page: &str) -> Vec<String> {
    let blocks = page.split("```promql\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let lines = blocks.flat_map(|(block, _)| block.lines());
    lines.filter(|line| !line.starts_with('#')).map(compared).collect()
}

/// What an expression compares with a number at its end; else all of it.
fn compared(expression: &str) -> String {
    let split = expression.rsplit_once(" > ").or_else(|| expression.rsplit_once(" < "));
    let value = split.filter(|(_, number)| number.parse::<f64>().is_ok());
    value.map_or(expression, |(value, _)| value).to_owned()
}

fn has_value(base: &str, expression: &str) -> Result<bool> {
    let answer = api(base, "query", &[("query", expression)])?;
    Ok(answer["data"]["result"].as_array().is_some_and(|values| !values.is_empty()))
}

fn firing_alerts(base: &str) -> Result<Vec<String>> {
    let answer = api(base, "alerts", &[])?;
    let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
    let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
    Ok(firing
        .filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned))
        .collect())
}

fn api(base: &str, call: &str, query: &[(&str, &str)]) -> Result<Value> {
    let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = agent.get(&format!("{base}/api/v1/{call}"));
    for (name, value) in query {
        request = request.query(name, value);
    }
    let answer: Value = request.call()?.body_mut().read_json()?;
    if answer["status"] != "success" {
        bail!("Prometheus refuses {query:?}: {}", answer["error"]);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alerts_value_is_its_expression_without_the_last_comparison() {
        let rules = "  expr: sum by (a) (x > 3 or y) > 0\n for: 1m\n expr: min(z) < 0.1\n";
        assert_eq!(of_rules(rules), ["sum by (a) (x > 3 or y)", "min(z)"]);
        let page = "text\n```promql\n# Why?\na and (b < 1)\nc > 0\n```\nmore";
        assert_eq!(of_page(page), ["a and (b < 1)", "c"]);
    }
}
