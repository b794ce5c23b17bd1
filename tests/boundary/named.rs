//! Tests that a document names: in the last column of its tables, as `file::test`, `file` for all of a file's, or `test` for
//! one of the root's.

use std::collections::BTreeMap;

/// Names of the tests in a source file.
pub fn tests(code: &str) -> Result<Vec<String>, syn::Error> {
    let functions = syn::parse_file(code)?.items.into_iter().filter_map(|item| match item {
        syn::Item::Fn(function) => Some(function),
        _ => None,
    });
    let is_test =
        |attribute: &syn::Attribute| attribute.path().segments.last().is_some_and(|last| last.ident == "test");
    Ok(functions.filter(|f| f.attrs.iter().any(is_test)).map(|f| f.sig.ident.to_string()).collect())
}

/// Names in the last column of the document's tables.
pub fn named(document: &str) -> Vec<&str> {
    let rows = document.lines().filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'));
    let cells = rows.filter(|row| !row.contains("---")).filter_map(|row| row.rsplit('|').next());
    // The first row is the head.
    cells.skip(1).flat_map(|cell| cell.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// Names that are no test's. `root` has the tests of the root, `files` those of each file.
pub fn unknown<'a>(names: &[&'a str], root: &[String], files: &BTreeMap<String, Vec<String>>) -> Vec<&'a str> {
    let is_known = |name: &&&str| match name.split_once("::") {
        Some((file, test)) => files.get(file).is_some_and(|tests| tests.iter().any(|known| known == test)),
        None => root.iter().any(|known| known == **name) || files.get(**name).is_some_and(|tests| !tests.is_empty()),
    };
    names.iter().filter(|name| !is_known(name)).copied().collect()
}
