//! What a source file names, and which modules it declares.

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, UseTree};

/// A module that is declared without a body.
#[derive(Debug)]
pub struct Module {
    pub name: String,
    /// Under `#[cfg(test)]`.
    pub test: bool,
}

/// One file.
#[derive(Debug, Default)]
pub struct Scan {
    /// Paths in imports (flattened), types, expressions and macros, outside of test code.
    pub paths: Vec<String>,
    /// Modules whose bodies are other files.
    pub modules: Vec<Module>,
}

/// Reads a file.
pub fn scan(code: &str) -> Result<Scan, syn::Error> {
    let file = syn::parse_file(code)?;
    let mut scan = Scan::default();
    scan.visit_file(&file);
    Ok(scan)
}

/// Whether an item is there for tests only: `#[cfg(test)]` or `#[cfg(all(.., test, ..))]`.
fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let mut test = false;
        // A condition that is not understood is taken for code.
        let _ = attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("test") {
                test = true;
            } else if meta.path.is_ident("all") {
                meta.parse_nested_meta(|inner| {
                    test |= inner.path.is_ident("test");
                    Ok(())
                })?;
            }
            Ok(())
        });
        test
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

impl Scan {
    fn add(&mut self, path: String) {
        self.paths.push(path);
    }

    fn flatten(&mut self, above: &str, tree: &UseTree) {
        let below = |name: &str| if above.is_empty() { name.to_owned() } else { format!("{above}::{name}") };
        match tree {
            UseTree::Path(path) => self.flatten(&below(&path.ident.to_string()), &path.tree),
            UseTree::Name(name) if name.ident == "self" => self.add(above.to_owned()),
            UseTree::Name(name) => self.add(below(&name.ident.to_string())),
            UseTree::Rename(rename) if rename.ident == "self" => self.add(above.to_owned()),
            UseTree::Rename(rename) => self.add(below(&rename.ident.to_string())),
            UseTree::Glob(_) => self.add(below("*")),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.flatten(above, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Scan {
    fn visit_item(&mut self, item: &'ast Item) {
        if !for_tests(attributes(item)) {
            visit::visit_item(self, item);
        } else if let Item::Mod(module @ ItemMod { content: None, .. }) = item {
            self.modules.push(Module { name: module.ident.to_string(), test: true });
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.content.is_none() {
            self.modules.push(Module { name: module.ident.to_string(), test: false });
        }
        visit::visit_item_mod(self, module);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.flatten("", &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(segments.join("::"));
        visit::visit_path(self, path);
    }

    /// The tokens of a macro are not parsed, but paths can be told among them.
    fn visit_macro(&mut self, call: &'ast Macro) {
        let text =
            without_strings(&call.tokens.to_string().replace("'\"'", "")).replace(" :: ", "::").replace(":: ", "::");
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        for word in words.map(|word| word.trim_matches(':')).filter(|word| word.contains("::")) {
            self.add(word.to_owned());
        }
        visit::visit_macro(self, call);
    }
}

/// The text without what is between double quotes.
fn without_strings(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '"' if !escaped => inside = !inside,
            _ if !inside => out.push(c),
            _ => {}
        }
        escaped = inside && c == '\\' && !escaped;
    }
    out
}
