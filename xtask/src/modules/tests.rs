//! Each rule of the order of modules, on small crates that break it.

use std::fs;

use super::{check, rules, source::Sources};

/// What is told of a crate of these files; its root has the first of them.
fn told(order: &[&str], files: &[(&str, &str)]) -> Vec<String> {
    let workspace = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = workspace.path().join("src").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let root = format!("src/{}", files[0].0);
    rules::broken(&Sources::read(workspace.path(), &root).unwrap(), order)
}

const ROOT: (&str, &str) = ("lib.rs", "mod above; mod below; pub use above::Above;");

/// What is told of a module `below` that has this text and stands below `above`.
fn told_of(below: &str) -> Vec<String> {
    told(&["above", "below"], &[ROOT, ("above.rs", "pub struct Above;"), ("below.rs", below)])
}

fn upwards(place: &str) -> Vec<String> {
    vec![format!(
        "src/below.rs:{place}: `above` stands above `below`, so `below` must not import it"
    )]
}

#[test]
fn a_module_may_import_what_stands_below_it() {
    let above = "use crate::below::{self, Below}; fn f(_: crate::below::Below) { below::g() }";
    let files = [ROOT, ("above.rs", above), ("below.rs", "pub struct Below; pub fn g() {}")];
    assert_eq!(told(&["above", "below"], &files), Vec::<String>::new());
}

#[test]
fn an_import_that_runs_upwards_is_found_in_every_form() {
    for (text, place) in [
        ("\nuse crate::above::Above;", "2: `crate::above::Above`"),
        ("pub use crate::above::Above as Other;", "1: `crate::above::Above`"),
        ("use crate::{\n    below,\n    above::{Above},\n};", "3: `crate::above::Above`"),
        ("use crate::above::*;", "1: `crate::above::*`"),
        ("use super::above;", "1: `super::above`"),
        ("use self::super::above::Above;", "1: `self::super::above::Above`"),
        ("struct A(Option<crate::above::Above>);", "1: `crate::above::Above`"),
        ("fn f() {\n    let _ = super::above::Above;\n}", "2: `super::above::Above`"),
        ("fn f() { use crate::above::Above; }", "1: `crate::above::Above`"),
        ("fn f() { println!(\"{}\",\n  g(crate::above::Above)); }", "2: `crate::above::Above`"),
        ("macro_rules! m { () => { $crate::above::Above } }", "1: `crate::above::Above`"),
        ("mod inner { use super::super::above::Above; }", "1: `super::super::above::Above`"),
        ("#[cfg(feature = \"f\")]\nuse crate::above::Above;", "2: `crate::above::Above`"),
        ("#[cfg(test)]\nuse crate::above::Above;", "2: `crate::above::Above`"),
    ] {
        assert_eq!(told_of(text), upwards(place), "{text}");
    }
}

#[test]
fn what_only_looks_like_an_import_is_none() {
    for text in [
        "//! See [`crate::above::Above`].",
        "pub(in crate::above) struct A;",
        "use ::above::Above;",
        "fn f(above: B) { println!(\"crate::above {}\", above.above::<u8>()); }",
        "fn f() { g!(::crate::above, a.above::b) }",
        "use above::Above;",
    ] {
        assert_eq!(told_of(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn tests_may_import_everything() {
    assert_eq!(
        told_of("#[cfg(test)] mod tests { use crate::above::Above; }"),
        Vec::<String>::new()
    );
    let files = [
        ROOT,
        ("above.rs", "pub struct Above;"),
        ("below/mod.rs", "#[cfg(test)] mod tests;"),
        ("below/tests.rs", "use crate::{above::Above, Above as Other}; mod more;"),
        ("below/tests/more.rs", "use crate::above::Above;"),
    ];
    assert_eq!(told(&["above", "below"], &files), Vec::<String>::new());
}

#[test]
fn two_modules_that_import_each_other_are_found() {
    let files = [
        ROOT,
        ("above.rs", "use crate::below::Below; pub struct Above;"),
        ("below.rs", "use crate::above::Above; pub struct Below;"),
    ];
    let circle = "these files import each other in a circle:\n    \
                  src/above.rs:1: `crate::below::Below`\n    \
                  src/below.rs:1: `crate::above::Above`";
    let mut expected = upwards("1: `crate::above::Above`");
    expected.push(circle.into());
    assert_eq!(told(&["above", "below"], &files), expected);
}

#[test]
fn files_of_one_module_that_import_each_other_are_found() {
    let files = [
        ("lib.rs", "mod one;"),
        ("one/mod.rs", "mod a; mod b; mod c; use a::A; fn f() { b::f() }"),
        ("one/a.rs", "use super::b::B; pub struct A;"),
        ("one/b.rs", "pub struct B; pub fn f() { super::c::g() }"),
        ("one/c.rs", "pub fn g() { println!(\"{}\", crate::one::a::A) }"),
    ];
    let expected = "these files import each other in a circle:\n    \
                    src/one/a.rs:1: `super::b::B`\n    \
                    src/one/b.rs:1: `super::c::g`\n    \
                    src/one/c.rs:1: `crate::one::a::A`";
    assert_eq!(told(&["one"], &files), [expected]);
}

#[test]
fn a_file_that_imports_the_file_which_declares_it_is_found() {
    let files = [
        ("lib.rs", "mod one;"),
        ("one.rs", "mod child; pub use self::child::Child; pub struct Parent;"),
        ("one/child.rs", "use super::*; pub struct Child;"),
    ];
    let expected = "these files import each other in a circle:\n    \
                    src/one.rs:1: `self::child::Child`\n    src/one/child.rs:1: `super::*`";
    assert_eq!(told(&["one"], &files), [expected]);
}

#[test]
fn an_import_of_the_root_is_found() {
    for import in ["crate::Above", "crate::*", "super::Above"] {
        let place = format!("src/below.rs:1: `{import}`");
        let rule = "a file must not import the crate's root; name the module instead";
        assert_eq!(told_of(&format!("use {import};")), [format!("{place}: {rule}")]);
    }
}

#[test]
fn a_module_without_a_row_and_a_row_without_a_module_are_found() {
    let files = [ROOT, ("above/mod.rs", ""), ("below.rs", "")];
    let expected = [
        "src/below.rs: the module `below` has no row in the table",
        "the row `other` of the table names no module",
    ];
    assert_eq!(told(&["above", "other"], &files), expected);
}

#[test]
fn a_file_that_no_module_declares_is_found() {
    let files = [
        ROOT,
        ("above.rs", "#[path = \"elsewhere.rs\"] mod named;"),
        ("elsewhere.rs", ""),
        ("below.rs", "mod inner { mod deep; }"),
        ("below/inner/deep.rs", ""),
        ("below/forgotten.rs", ""),
        ("bin/other/main.rs", "mod of_another_crate;"),
    ];
    let expected = ["src/below/forgotten.rs: no `mod` declares this file"];
    assert_eq!(told(&["above", "below"], &files), expected);
}

#[test]
fn this_workspace_keeps_its_own_order() {
    check().unwrap();
}
