//! A crate's modules, from its source.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use syn::{Attribute, Item, UseTree, spanned::Spanned as _, visit::Visit};

/// The names of a module's way down from its crate's root, which is empty.
pub(crate) type ModulePath = Vec<String>;

/// One file of a crate.
pub(crate) struct Source {
    /// Relative to the workspace.
    pub(crate) file: String,
    pub(crate) ast: syn::File,
    /// Whether only tests are built from it.
    pub(crate) test: bool,
    /// Without what `#[cfg(test)]` takes, unless all is a test.
    pub(crate) lines: usize,
}

/// What a `use` brings in.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    /// As written, from `crate`, `self`, `super`, a name in scope or another crate's name.
    pub(crate) path: Vec<String>,
    /// The name in scope; `None` for a glob.
    pub(crate) name: Option<String>,
    /// Whether others may import it from here.
    pub(crate) exported: bool,
    pub(crate) line: usize,
}

/// A module: a file, or a block of one.
#[derive(Default)]
pub(crate) struct Module {
    /// Index of its file among the crate's sources.
    pub(crate) source: usize,
    pub(crate) items: BTreeSet<String>,
    pub(crate) imports: Vec<Import>,
}

/// A library or a program.
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) sources: Vec<Source>,
    pub(crate) modules: BTreeMap<ModulePath, Module>,
    /// The names of the crates that it may use.
    pub(crate) externs: Vec<String>,
    /// Tests, benches and examples, with their lines.
    pub(crate) test_files: Vec<(String, usize)>,
}

/// Reads a file by its path relative to the workspace.
pub(crate) type Load<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Crate {
    /// Reads the tree that begins with the file `root`.
    pub(crate) fn read(
        name: &str,
        root: &str,
        mut externs: Vec<String>,
        load: Load<'_>,
    ) -> anyhow::Result<Self> {
        externs.extend(["std", "core", "alloc"].map(str::to_owned));
        let (modules, sources) = (BTreeMap::new(), Vec::new());
        let name = name.to_owned();
        let mut tree = Self { name, sources, modules, externs, test_files: Vec::new() };
        let text = load(root).with_context(|| format!("cannot read {root}"))?;
        let folder = parent(root);
        tree.add_file(Vec::new(), root, &text, folder, false, load)?;
        Ok(tree)
    }

    /// `folder` is where the files of its child modules lie.
    fn add_file(
        &mut self,
        path: ModulePath,
        file: &str,
        text: &str,
        folder: &str,
        test: bool,
        load: Load<'_>,
    ) -> anyhow::Result<()> {
        let ast = syn::parse_file(text).with_context(|| format!("cannot parse {file}"))?;
        let all = text.lines().count();
        let lines = if test { all } else { all - test_lines(&ast) };
        let items = ast.items.clone();
        self.sources.push(Source { file: file.to_owned(), ast, test, lines });
        let at = Block { source: self.sources.len() - 1, folder, test };
        self.add_block(path, &items, &at, load)
    }

    fn add_block(
        &mut self,
        mut path: ModulePath,
        items: &[Item],
        at: &Block<'_>,
        load: Load<'_>,
    ) -> anyhow::Result<()> {
        // Two files may implement the same module for different features.
        while self.modules.contains_key(&path) {
            path.last_mut().context("two roots")?.push('\'');
        }
        self.modules.insert(path.clone(), Module { source: at.source, ..Module::default() });
        for item in items {
            let test = at.test || is_test(attributes(item));
            if let Item::Mod(child) = item {
                let mut below = path.clone();
                below.push(child.ident.to_string());
                self.add_module(below, child, &Block { test, ..*at }, load)?;
            } else if !test || at.test {
                let mut names = Names::default();
                names.visit_item(item);
                let module = self.modules.get_mut(&path).context("inserted above")?;
                module.items.extend(defined(item));
                module.imports.extend(names.imports);
            }
        }
        Ok(())
    }

    fn add_module(
        &mut self,
        path: ModulePath,
        child: &syn::ItemMod,
        at: &Block<'_>,
        load: Load<'_>,
    ) -> anyhow::Result<()> {
        let name = child.ident.to_string();
        let below = format!("{}{name}/", at.folder);
        if let Some((_, items)) = &child.content {
            // What a test module of a file defines is no room of the house.
            if at.test && !self.sources[at.source].test {
                return Ok(());
            }
            return self.add_block(path, items, &Block { folder: &below, ..*at }, load);
        }
        let given = path_attribute(&child.attrs)
            .map(|file| join(parent(&self.sources[at.source].file), &file));
        let beside = format!("{}{name}.rs", at.folder);
        let inside = format!("{below}mod.rs");
        let candidates = given.into_iter().chain([beside, inside]);
        for file in candidates {
            if let Some(text) = load(&file) {
                return self.add_file(path, &file, &text, &below, at.test, load);
            }
        }
        anyhow::bail!("{}: no file for mod {name}", self.sources[at.source].file)
    }
}

/// Where a run of items stands.
#[derive(Clone, Copy)]
struct Block<'a> {
    source: usize,
    folder: &'a str,
    test: bool,
}

/// The folder of a file, with its slash.
fn parent(file: &str) -> &str {
    file.rfind('/').map_or("", |at| &file[..=at])
}

fn join(folder: &str, file: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    let syn::Meta::NameValue(value) = &attribute.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &value.value else {
        return None;
    };
    Some(text.value())
}

/// Whether these attributes leave something to tests alone.
pub(crate) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Meta>().is_ok_and(|condition| needs_test(&condition))
    })
}

fn needs_test(condition: &syn::Meta) -> bool {
    let nested = |list: &syn::MetaList| {
        let parser = syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
        list.parse_args_with(parser).map(Vec::from_iter).unwrap_or_default()
    };
    match condition {
        // The fuzzers' doors are in the files of tests' kind: no program has them.
        syn::Meta::Path(path) => {
            path.is_ident("test") || path.is_ident("fuzzing") || path.is_ident("doctest")
        }
        syn::Meta::List(list) if list.path.is_ident("all") => nested(list).iter().any(needs_test),
        syn::Meta::List(list) if list.path.is_ident("any") => {
            let nested = nested(list);
            !nested.is_empty() && nested.iter().all(needs_test)
        }
        _ => false,
    }
}

/// An item's attributes.
pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name that an item defines, if it does.
fn defined(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// The lines of a file that belong to tests alone.
fn test_lines(file: &syn::File) -> usize {
    let tests = file.items.iter().filter(|item| is_test(attributes(item)));
    tests
        .map(|item| {
            let span = item.span();
            let from = attributes(item).iter().map(|one| one.span().start().line).min();
            span.end().line + 1 - from.unwrap_or(span.start().line)
        })
        .sum()
}

/// The imports of an item, also of the functions in it.
#[derive(Default)]
struct Names {
    imports: Vec<Import>,
}

impl<'a> Visit<'a> for Names {
    fn visit_item(&mut self, item: &'a Item) {
        if !is_test(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        let exported = !matches!(item.vis, syn::Visibility::Inherited);
        let mut path = Vec::new();
        if item.leading_colon.is_some() {
            path.push("::".to_owned());
        }
        flatten(&item.tree, path, exported, &mut self.imports);
    }
}

fn flatten(tree: &UseTree, mut path: Vec<String>, exported: bool, imports: &mut Vec<Import>) {
    let line = tree.span().start().line;
    match tree {
        UseTree::Path(step) => {
            path.push(step.ident.to_string());
            flatten(&step.tree, path, exported, imports);
        }
        UseTree::Name(last) => {
            // `use a::b::{self}` brings in `b`.
            if last.ident != "self" {
                path.push(last.ident.to_string());
            }
            let name = path.last().cloned();
            imports.push(Import { path, name, exported, line });
        }
        UseTree::Rename(last) => {
            if last.ident != "self" {
                path.push(last.ident.to_string());
            }
            let name = Some(last.rename.to_string());
            imports.push(Import { path, name, exported, line });
        }
        UseTree::Glob(_) => imports.push(Import { path, name: None, exported, line }),
        UseTree::Group(group) => {
            for one in &group.items {
                flatten(one, path.clone(), exported, imports);
            }
        }
    }
}
