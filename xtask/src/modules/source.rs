//! The files of a crate, and which of them each one imports.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::{
    Attribute, Expr, Item, ItemMod, ItemUse, Lit, Macro, Meta, UseTree, Visibility,
    visit::{self, Visit},
};

/// A module by the names that lead to it; the crate's root is the empty path.
pub(super) type ModulePath = Vec<String>;

/// All files of a crate that are reached by `mod`, the root first.
pub(super) struct Sources {
    pub(super) files: Vec<SourceFile>,
    /// Files below the root's folder that no `mod` declares.
    pub(super) stray: Vec<PathBuf>,
}

/// One file, with its path in the workspace.
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) module: ModulePath,
    /// Empty for the root and for tests.
    pub(super) imports: Vec<Import>,
    pub(super) is_test: bool,
}

/// A path in one file that names another one.
pub(super) struct Import {
    pub(super) line: usize,
    /// As in the file, without what a `use` groups.
    pub(super) written: String,
    /// The place in [`Sources::files`] of the file that it names.
    pub(super) file: usize,
}

impl Sources {
    /// Reads a crate from its root file, which is relative to the workspace, as all paths are.
    pub(super) fn read(workspace: &Path, root: &str) -> Result<Self> {
        let mut reader = Reader { workspace, parsed: Vec::new(), modules: BTreeMap::new() };
        let folder = Path::new(root).parent().context("a root file is in a folder")?;
        reader.read(Path::new(root), folder, &[], false)?;
        let Reader { parsed, modules, .. } = reader;
        let files: Vec<_> = parsed.into_iter().map(|file| file.resolved(&modules)).collect();
        let mut stray = Vec::new();
        walk(workspace, folder, &mut stray)?;
        stray.retain(|path| files.iter().all(|file| file.path != *path));
        Ok(Self { files, stray })
    }
}

/// All `.rs` files below a folder. A `bin` in it holds the roots of other crates.
fn walk(workspace: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(workspace.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if !entry.file_type()?.is_dir() {
            found.extend(path.extension().is_some_and(|end| end == "rs").then_some(path));
        } else if entry.file_name() != "bin" {
            walk(workspace, &path, found)?;
        }
    }
    found.sort();
    Ok(())
}

/// Follows `mod` from file to file.
struct Reader<'a> {
    workspace: &'a Path,
    parsed: Vec<Parsed>,
    /// The file of each module; an inline module is in the file of its parent.
    modules: BTreeMap<ModulePath, usize>,
}

struct Parsed {
    path: PathBuf,
    module: ModulePath,
    is_test: bool,
    named: Vec<Named>,
}

/// A path as it is written, and the module in which it is.
struct Named {
    line: usize,
    names: Vec<String>,
    inside: ModulePath,
}

impl Reader<'_> {
    /// Reads a file; the modules that it declares are in `folder`.
    fn read(&mut self, path: &Path, folder: &Path, module: &[String], test: bool) -> Result<()> {
        let text = fs::read_to_string(self.workspace.join(path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let syntax = syn::parse_file(&text).with_context(|| format!("in {}", path.display()))?;
        let mut paths = Paths { inside: module.to_vec(), named: Vec::new() };
        if !test && !module.is_empty() {
            paths.visit_file(&syntax);
        }
        let place = self.parsed.len();
        self.parsed.push(Parsed {
            path: path.into(),
            module: module.to_vec(),
            is_test: test,
            named: paths.named,
        });
        self.declared(&syntax.items, place, folder, module, test)
    }

    fn declared(
        &mut self,
        items: &[Item],
        place: usize,
        folder: &Path,
        module: &[String],
        test: bool,
    ) -> Result<()> {
        self.modules.entry(module.to_vec()).or_insert(place);
        for item in items {
            let Item::Mod(declared) = item else { continue };
            let name = name(&declared.ident);
            let (below, test) = (folder.join(&name), test || is_for_tests(declared));
            let child = joined(module, &name);
            if let Some((_, items)) = &declared.content {
                self.declared(items, place, &below, &child, test)?;
                continue;
            }
            let (path, below) = match path_attribute(&declared.attrs) {
                Some(named) => {
                    let path = self.parsed[place].path.with_file_name(named);
                    // The modules that such a file declares are beside it.
                    let beside = path.parent().unwrap_or(folder).into();
                    (path, beside)
                }
                None => (self.place_of(folder, &name)?, below),
            };
            self.read(&path, &below, &child, test)?;
        }
        Ok(())
    }

    fn place_of(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let file = folder.join(name).with_extension("rs");
        let places = [folder.join(name).join("mod.rs"), file];
        let found = places.iter().find(|path| self.workspace.join(path).is_file());
        found.cloned().with_context(|| format!("no file for the module {name} of {folder:?}"))
    }
}

impl Parsed {
    fn resolved(self, modules: &BTreeMap<ModulePath, usize>) -> SourceFile {
        let own = modules.get(&self.module);
        let mut imports = Vec::new();
        for Named { line, names, inside } in self.named {
            let Some(target) = resolve(&names, &inside, modules) else { continue };
            let file = modules[&target];
            if Some(&file) != own {
                imports.push(Import { line, written: names.join("::"), file });
            }
        }
        SourceFile { path: self.path, module: self.module, imports, is_test: self.is_test }
    }
}

/// The module that a path leads into; none where it names something of another crate, or a name that
/// was imported before.
fn resolve(
    names: &[String],
    inside: &[String],
    modules: &BTreeMap<ModulePath, usize>,
) -> Option<ModulePath> {
    let mut names = names.iter().map(String::as_str).peekable();
    let mut target = match names.peek().copied()? {
        "crate" => Vec::new(),
        "self" | "super" => inside.to_vec(),
        // A child is named without a prefix.
        child => {
            let child = joined(inside, child);
            return modules.contains_key(&child).then(|| descend(child, names.skip(1), modules));
        }
    };
    while let Some(prefix) = names.next_if(|name| ["crate", "self", "super"].contains(name)) {
        if prefix == "super" {
            target.pop();
        }
    }
    Some(descend(target, names, modules))
}

fn descend<'a>(
    mut target: ModulePath,
    names: impl Iterator<Item = &'a str>,
    modules: &BTreeMap<ModulePath, usize>,
) -> ModulePath {
    for name in names {
        let child = joined(&target, name);
        if !modules.contains_key(&child) {
            break;
        }
        target = child;
    }
    target
}

/// Collects the paths of a file, in code, in types, in `use` and in the arguments of macros.
struct Paths {
    inside: ModulePath,
    named: Vec<Named>,
}

impl Paths {
    fn add(&mut self, names: Vec<String>, at: Span) {
        self.named.push(Named { line: at.start().line, names, inside: self.inside.clone() });
    }

    fn add_tree(&mut self, tree: &UseTree, mut before: Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(name(&path.ident));
                self.add_tree(&path.tree, before);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.add_tree(item, before.clone()));
            }
            UseTree::Name(last) => self.add(with(before, name(&last.ident)), last.ident.span()),
            UseTree::Rename(last) => self.add(with(before, name(&last.ident)), last.ident.span()),
            UseTree::Glob(glob) => self.add(with(before, "*".into()), glob.star_token.span),
        }
    }

    /// A macro's arguments need not be Rust, so their paths are found by their tokens.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut rest = tokens.as_slice();
        while let [first, after @ ..] = rest {
            rest = after;
            match first {
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Ident(first) => {
                    let mut names = vec![name(first)];
                    while let [TokenTree::Punct(one), TokenTree::Punct(two), next, after @ ..] =
                        rest
                        && (one.as_char(), two.as_char()) == (':', ':')
                        && let TokenTree::Ident(next) = next
                    {
                        names.push(name(next));
                        rest = after;
                    }
                    if names.len() > 1 {
                        self.add(names, first.span());
                    }
                }
                // `::name` is another crate, and `.name` a field.
                TokenTree::Punct(punct) if [':', '.'].contains(&punct.as_char()) => {
                    if let [TokenTree::Punct(_), TokenTree::Ident(_), after @ ..] = rest {
                        rest = after;
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if is_for_tests(item) {
            return;
        }
        self.inside.push(name(&item.ident));
        visit::visit_item_mod(self, item);
        self.inside.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_none() {
            self.add_tree(&item.tree, Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        // A path of one name is a variable, or was imported.
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            let names = path.segments.iter().map(|segment| name(&segment.ident)).collect();
            self.add(names, path.segments[0].ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.visit_path(&call.path);
        self.add_tokens(call.tokens.clone());
    }

    /// `pub(in crate::a)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// The name without the `r#` of a keyword.
fn name(ident: &Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map_or(name.clone(), Into::into)
}

fn with(mut names: Vec<String>, last: String) -> Vec<String> {
    names.push(last);
    names
}

fn joined(module: &[String], name: &str) -> ModulePath {
    with(module.to_vec(), name.into())
}

/// Whether it is under `#[cfg(test)]`.
fn is_for_tests(module: &ItemMod) -> bool {
    module.attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// The `FILE` of `#[path = "FILE"]`.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let Meta::NameValue(meta) = &attribute.meta else { return None };
        let Expr::Lit(value) = &meta.value else { return None };
        let Lit::Str(value) = &value.lit else { return None };
        meta.path.is_ident("path").then(|| value.value())
    })
}
