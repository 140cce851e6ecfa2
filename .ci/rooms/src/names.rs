//! What the paths of a crate's code name.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    spanned::Spanned as _,
    visit::{self, Visit},
};

use crate::tree::{self, Crate, Import, ModulePath};

/// A chain of re-exports is not longer; a circle among them ends here.
const DEPTH_MAX: usize = 16;

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// A module of this crate itself.
    Module(ModulePath),
    /// Something that a module of this crate defines.
    Item(ModulePath, String),
    /// A path of another crate.
    Extern(Vec<String>),
}

/// A file names what another one defines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrow {
    pub(crate) from: String,
    pub(crate) line: usize,
    pub(crate) to: String,
    /// The path as it is written.
    pub(crate) name: String,
}

/// A name that production code uses, in full: `crate::a::B`, `tokio::time::sleep`, or `async`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Use {
    pub(crate) module: ModulePath,
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) name: String,
    /// Whether all below `name` is imported.
    pub(crate) glob: bool,
}

/// All arrows between files of production code.
pub(crate) fn arrows(one: &Crate) -> BTreeSet<Arrow> {
    let mut arrows = BTreeSet::new();
    for (scope, written) in written(one) {
        let Some(target) = resolve(one, &scope, &written.path, 0) else { continue };
        let module = match target {
            Target::Item(module, _) => module,
            // A glob depends on the module; to import a module alone is to name nothing of it yet.
            Target::Module(module) if written.glob => module,
            _ => continue,
        };
        if written.exported && module.starts_with(&scope) {
            continue;
        }
        let from = &one.sources[one.modules[&scope].source];
        let to = &one.sources[one.modules[&module].source];
        if from.file != to.file && !to.test {
            let (from, to) = (from.file.clone(), to.file.clone());
            arrows.insert(Arrow { from, line: written.line, to, name: written.path.join("::") });
        }
    }
    arrows
}

/// All names that production code uses.
pub(crate) fn uses(one: &Crate) -> BTreeSet<Use> {
    let mut uses = BTreeSet::new();
    for (scope, written) in written(one) {
        let name = if written.path == ["async"] {
            "async".to_owned()
        } else {
            match resolve(one, &scope, &written.path, 0) {
                Some(Target::Extern(path)) => path.join("::"),
                Some(Target::Item(module, item)) => ["crate".to_owned()]
                    .into_iter()
                    .chain(module)
                    .chain([item])
                    .collect::<Vec<_>>()
                    .join("::"),
                _ => continue,
            }
        };
        let file = one.sources[one.modules[&scope].source].file.clone();
        uses.insert(Use { module: scope, file, line: written.line, name, glob: written.glob });
    }
    uses
}

/// A path as the code writes it.
struct Written {
    path: Vec<String>,
    line: usize,
    exported: bool,
    glob: bool,
}

/// Every path of production code, with the module that it stands in.
fn written(one: &Crate) -> Vec<(ModulePath, Written)> {
    let mut all = Vec::new();
    for (path, module) in &one.modules {
        let source = &one.sources[module.source];
        if source.test {
            continue;
        }
        for Import { path: target, name, exported, line } in &module.imports {
            let written = Written {
                path: target.clone(),
                line: *line,
                exported: *exported,
                glob: name.is_none(),
            };
            all.push((path.clone(), written));
        }
        // A file is walked once, by the module that is the file.
        let is_file = path.is_empty()
            || one
                .modules
                .get(&path[..path.len() - 1])
                .is_none_or(|above| above.source != module.source);
        if is_file {
            let mut paths = Paths { scope: path.clone(), all: Vec::new() };
            paths.visit_file(&source.ast);
            all.extend(paths.all);
        }
    }
    all
}

struct Paths {
    scope: ModulePath,
    all: Vec<(ModulePath, Written)>,
}

impl Paths {
    fn add(&mut self, path: Vec<String>, line: usize) {
        let written = Written { path, line, exported: false, glob: false };
        self.all.push((self.scope.clone(), written));
    }

    /// Paths of two names and more among tokens that are no syntax yet.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.end_tokens(&mut path, line);
                        line = name.span().start().line;
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end_tokens(&mut path, line);
                    colons = 0;
                    self.add_tokens(group.stream());
                }
                _ => {
                    self.end_tokens(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.end_tokens(&mut path, line);
    }

    fn end_tokens(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if path.len() > 1 || path == ["async"] {
            self.add(path, line);
        }
    }
}

impl<'a> Visit<'a> for Paths {
    fn visit_item(&mut self, item: &'a syn::Item) {
        if !tree::is_test(tree::attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if item.content.is_some() {
            self.scope.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.scope.pop();
        }
    }

    // The imports of a module are known already.
    fn visit_item_use(&mut self, _: &'a syn::ItemUse) {}

    fn visit_visibility(&mut self, _: &'a syn::Visibility) {}

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        if !tree::is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_signature(&mut self, signature: &'a syn::Signature) {
        if let Some(word) = &signature.asyncness {
            self.add(vec!["async".into()], word.span().start().line);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, block: &'a syn::ExprAsync) {
        self.add(vec!["async".into()], block.async_token.span().start().line);
        visit::visit_expr_async(self, block);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let mut names: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if path.leading_colon.is_some() {
            names.insert(0, "::".into());
        }
        self.add(names, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_attribute(&mut self, attribute: &'a syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.add_tokens(list.tokens.clone());
        }
    }

    fn visit_macro(&mut self, call: &'a syn::Macro) {
        self.visit_path(&call.path);
        self.add_tokens(call.tokens.clone());
    }
}

/// What `path`, written in the module `scope`, leads to.
fn resolve(one: &Crate, scope: &[String], path: &[String], depth: usize) -> Option<Target> {
    let (first, rest) = path.split_first()?;
    if depth > DEPTH_MAX {
        return None;
    }
    match first.as_str() {
        "::" => Some(Target::Extern(rest.to_vec())),
        "crate" => descend(one, &[], rest, depth),
        "self" => descend(one, scope, rest, depth),
        "super" => {
            let above = &scope[..scope.len().checked_sub(1)?];
            if rest.first().is_some_and(|next| next == "super") {
                resolve(one, above, rest, depth)
            } else {
                descend(one, above, rest, depth)
            }
        }
        _ => find(one, scope, path, depth)
            .or_else(|| one.externs.contains(first).then(|| Target::Extern(path.to_vec()))),
    }
}

/// What `path` leads to from the module `scope` down.
fn descend(one: &Crate, scope: &[String], path: &[String], depth: usize) -> Option<Target> {
    if path.is_empty() {
        return Some(Target::Module(scope.to_vec()));
    }
    // A name that is not found comes from a macro; it is the module's all the same.
    find(one, scope, path, depth).or_else(|| Some(Target::Item(scope.to_vec(), path[0].clone())))
}

/// The same, if the module knows the first name.
fn find(one: &Crate, scope: &[String], path: &[String], depth: usize) -> Option<Target> {
    let (first, rest) = path.split_first()?;
    let module = one.modules.get(scope)?;
    let below = [scope, std::slice::from_ref(first)].concat();
    if one.modules.contains_key(&below) {
        return descend(one, &below, rest, depth);
    }
    if module.items.contains(first) {
        return Some(Target::Item(scope.to_vec(), first.clone()));
    }
    let named = module.imports.iter().filter(|import| import.name.as_ref() == Some(first));
    for import in named {
        // `use serde::serde` in the module that brings in nothing else of that name.
        if import.path == [first.clone()] {
            continue;
        }
        match resolve(one, scope, &import.path, depth + 1) {
            Some(Target::Module(module)) => return descend(one, &module, rest, depth + 1),
            Some(Target::Extern(path)) => return Some(Target::Extern([&path, rest].concat())),
            item @ Some(Target::Item(..)) => return item,
            None => {}
        }
    }
    let globs = module.imports.iter().filter(|import| import.name.is_none());
    for import in globs {
        if let Some(Target::Module(module)) = resolve(one, scope, &import.path, depth + 1)
            && module != scope
            && let found @ Some(_) = find(one, &module, path, depth + 1)
        {
            return found;
        }
    }
    None
}
