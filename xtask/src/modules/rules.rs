//! The rules, each as the lines that tell where it is broken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::source::{Import, SourceFile, Sources};

/// Everything that is wrong with a crate whose modules stand in this order.
pub(super) fn broken(sources: &Sources, order: &[&str]) -> Vec<String> {
    let mut lines = rows(sources, order);
    lines.extend(directions(sources, order));
    lines.extend(circles(sources));
    lines
}

/// Modules without a row, rows without a module, files without a module.
fn rows(sources: &Sources, order: &[&str]) -> Vec<String> {
    let mut modules = BTreeMap::new();
    for file in &sources.files {
        if let (Some(module), false) = (file.module.first(), file.is_test) {
            modules.entry(module.as_str()).or_insert(&file.path);
        }
    }
    let unknown = modules.iter().filter(|(module, _)| !order.contains(module));
    let unknown = unknown.map(|(module, file)| {
        format!("{}: the module `{module}` has no row in the table", file.display())
    });
    let empty = order.iter().filter(|row| !modules.contains_key(*row));
    let empty = empty.map(|row| format!("the row `{row}` of the table names no module"));
    let stray = sources.stray.iter();
    let stray = stray.map(|file| format!("{}: no `mod` declares this file", file.display()));
    unknown.chain(empty).chain(stray).collect()
}

/// Imports that run upwards.
fn directions(sources: &Sources, order: &[&str]) -> Vec<String> {
    let rank = |module: &str| order.iter().position(|row| *row == module);
    let mut lines = Vec::new();
    for file in &sources.files {
        let Some(own) = file.module.first() else { continue };
        for import in &file.imports {
            let place = place(file, import);
            match sources.files[import.file].module.first() {
                None => lines.push(format!(
                    "{place}: a file must not import the crate's root; name the module instead"
                )),
                Some(other) if rank(other) < rank(own) && rank(other).is_some() => {
                    lines.push(format!(
                        "{place}: `{other}` stands above `{own}`, so `{own}` must not import it"
                    ));
                }
                Some(_) => {}
            }
        }
    }
    lines
}

/// Files that import each other; of several circles through a file, the shortest.
fn circles(sources: &Sources) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut lines = Vec::new();
    for start in 0..sources.files.len() {
        if told.contains(&start) {
            continue;
        }
        let Some(circle) = shortest_circle(sources, start) else { continue };
        told.extend(circle.iter().map(|(file, _)| *file));
        let imports = circle.iter().map(|(file, import)| place(&sources.files[*file], import));
        let imports: Vec<_> = imports.map(|place| format!("\n    {place}")).collect();
        lines.push(format!("these files import each other in a circle:{}", imports.concat()));
    }
    lines
}

/// The imports that lead from a file back to it, each with the file in which it is.
fn shortest_circle(sources: &Sources, start: usize) -> Option<Vec<(usize, &Import)>> {
    let mut reached: BTreeMap<usize, (usize, &Import)> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(file) = next.pop_front() {
        for import in &sources.files[file].imports {
            if reached.contains_key(&import.file) {
                continue;
            }
            reached.insert(import.file, (file, import));
            next.push_back(import.file);
        }
    }
    let mut circle = vec![*reached.get(&start)?];
    while circle[0].0 != start {
        circle.insert(0, reached[&circle[0].0]);
    }
    Some(circle)
}

fn place(file: &SourceFile, import: &Import) -> String {
    format!("{}:{}: `{}`", file.path.display(), import.line, import.written)
}
