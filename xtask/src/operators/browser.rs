//! The status page in a real Chromium.

use std::{fs, io::Write as _, path::Path, process::Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    devtools::Browser,
    stage::{HOSTILE, PATIENCE, Stage},
};
use crate::{
    apt::{self, Program},
    poll, pypi,
};

/// The package of PyPI that carries axe-core, which checks whether a page can be used without a mouse
/// and without eyes. It is used here only.
const AXE: &str = "axe-playwright-python==0.1.8";

/// The widths and the colours in which the page is looked at.
const LOOKS: [(u32, &str); 4] = [(1400, "light"), (900, "dark"), (420, "light"), (420, "dark")];

/// The machine's Chromium, else Debian's.
pub(super) fn find() -> Result<Program> {
    let found = apt::find_or_fetch("chromium", "chromium")?;
    // The script in its package names the place where it would be installed.
    let is_unpacked = found.is_unpacked();
    Ok(if is_unpacked { found.beside("../lib/chromium/chromium") } else { found })
}

pub(super) fn check(stage: &mut Stage, program: &Program) -> Result<()> {
    let axe = pypi::unpacked(AXE)
        .and_then(|folder| Ok(fs::read_to_string(folder.join("axe_playwright_python/axe.min.js"))?))
        .inspect_err(|error| println!("note: accessibility is not checked: {error:#}"))
        .ok();
    let mut browser = Browser::start(program, &stage.place)?;
    let mut page = Page { browser: &mut browser, admin: stage.admin.clone() };
    for (width, colours) in LOOKS {
        page.open(width, colours)?;
        page.wait("rows are shown", "document.querySelectorAll('#instances tbody tr').length > 1")?;
        let overflow = "document.documentElement.scrollWidth - innerWidth";
        let overflow = page.browser.evaluate(overflow)?;
        ensure!(overflow.as_i64() <= Some(0), "at {width} px the page is {overflow} px too wide");
        if let Some(axe) = &axe {
            page.check_with_axe(axe, colours)?;
        }
        let file = stage.place.join(format!("status-{width}-{colours}.png"));
        page.save(&file)?;
    }
    page.check_text()?;
    page.check_keyboard()?;
    page.check_search()?;
    page.check_log()?;
    stage.end_load();
    drop(stage.frontend.take());
    let old = "document.getElementById('stream').textContent.includes('what you see is old')";
    Page { browser: &mut browser, admin: stage.admin.clone() }
        .wait("the page says that the frontend is gone", old)
}

/// The status page in a browser.
struct Page<'a> {
    browser: &'a mut Browser,
    admin: String,
}

impl Page<'_> {
    fn open(&mut self, width: u32, colours: &str) -> Result<()> {
        let size = json!({"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": false});
        self.browser.call("Emulation.setDeviceMetricsOverride", &size)?;
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": colours}]});
        self.browser.call("Emulation.setEmulatedMedia", &media)?;
        let url = format!("{}/status", self.admin);
        self.browser.call("Page.navigate", &json!({"url": url})).map(drop)
    }

    fn wait(&mut self, event: &str, condition: &str) -> Result<()> {
        poll::until(event, PATIENCE, || {
            // While a page loads there is none to ask.
            let value = self.browser.evaluate(condition).unwrap_or_default();
            Ok((value == true).then_some(()))
        })
    }

    fn save(&mut self, file: &Path) -> Result<()> {
        let image = self.browser.call("Page.captureScreenshot", &json!({"format": "png"}))?;
        let data = image["data"].as_str().context("no picture")?;
        let mut decode = std::process::Command::new("base64");
        decode.arg("-d").stdin(Stdio::piped()).stdout(fs::File::create(file)?);
        let mut child = decode.spawn()?;
        child.stdin.take().context("no pipe")?.write_all(data.as_bytes())?;
        ensure!(child.wait()?.success(), "base64 fails");
        println!("operators: {}", file.display());
        Ok(())
    }

    /// Names that others have chosen are text.
    fn check_text(&mut self) -> Result<()> {
        let names = "[...document.querySelectorAll('#groups button')].map(b => b.textContent)";
        let names = self.browser.evaluate(names)?;
        let has = names.as_array().is_some_and(|names| names.iter().any(|name| name == HOSTILE));
        ensure!(has, "{HOSTILE} is not among {names}");
        let elements = self.browser.evaluate("document.querySelectorAll('td b').length")?;
        ensure!(elements == 0, "a model's name has become an element");
        Ok(())
    }

    /// The keyboard reaches a model, shows its instances, and keeps its place while the page changes.
    fn check_keyboard(&mut self) -> Result<()> {
        let focus =
            "document.activeElement.closest('#groups') ? document.activeElement.textContent : ''";
        let mut model = Value::Null;
        for _ in 0..40 {
            self.browser.press("Tab")?;
            model = self.browser.evaluate(focus)?;
            if model.as_str().is_some_and(|model| !model.is_empty()) {
                break;
            }
        }
        ensure!(model.as_str().is_some_and(|model| !model.is_empty()), "Tab reaches no model");
        self.browser.press("Enter")?;
        self.wait(
            "one model is shown",
            "document.querySelectorAll('#groups tbody tr').length === 1",
        )?;
        // The page is told anew every two seconds.
        let told = self.browser.evaluate("document.getElementById('time').textContent")?;
        self.wait(
            "the page is told anew",
            &format!("document.getElementById('time').textContent !== {told}"),
        )?;
        let now = self.browser.evaluate(focus)?;
        ensure!(now == model, "the focus has left {model} for {now}");
        self.browser.evaluate("document.getElementById('clear').click()")?;
        self.wait(
            "all models are shown",
            "document.querySelectorAll('#groups tbody tr').length > 1",
        )
    }

    fn check_search(&mut self) -> Result<()> {
        self.browser.evaluate("document.getElementById('search').focus()")?;
        self.browser.write("TEAM-B")?;
        let only = "[...document.querySelectorAll('#instances tbody tr')].map(r => r.cells[2].textContent).join() === 'team-b'";
        self.wait("the search finds team-b's instance", only)
    }

    /// The page asks its own server only, and breaks no rule of its policy.
    fn check_log(&mut self) -> Result<()> {
        for event in self.browser.take_events() {
            let parameters = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => {
                    let url = parameters["request"]["url"].as_str().unwrap_or_default();
                    ensure!(
                        url.starts_with(&self.admin) || url.starts_with("data:"),
                        "the page asks {url}"
                    );
                }
                "Runtime.exceptionThrown" => bail!("the page's script fails: {parameters}"),
                // Browsers ask for an icon by themselves.
                "Log.entryAdded" if !parameters.to_string().contains("favicon") => {
                    bail!("the browser's log has: {parameters}")
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_with_axe(&mut self, axe: &str, colours: &str) -> Result<()> {
        self.browser.evaluate(axe)?;
        let run = "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'best-practice']})\
                   .then(r => r.violations.map(v => `${v.id}: ${v.nodes[0].html}`))";
        let found = self.browser.evaluate(run)?;
        ensure!(found == json!([]), "in {colours} colours: {found}");
        Ok(())
    }
}
