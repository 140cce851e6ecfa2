//! How long files and functions are.

use syn::{
    spanned::Spanned as _,
    visit::{self, Visit},
};

use crate::{
    finding::Finding,
    tree::{self, Crate},
};

/// A file that is longer has more than one subject.
pub(crate) const FILE_LINES_MAX: usize = 600;
/// One screen, as a person reads it.
pub(crate) const FUNCTION_LINES_MAX: usize = 70;
/// Tests are read one at a time, so that their files may be longer.
pub(crate) const TEST_FILE_LINES_MAX: usize = 1_000;

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// Functions with a body, without those of tests.
#[derive(Default)]
struct Functions {
    found: Vec<Function>,
}

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.span().start().line;
        let lines = block.span().end().line + 1 - line;
        self.found.push(Function { name: signature.ident.to_string(), line, lines });
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item(&mut self, item: &'a syn::Item) {
        if !tree::is_test(tree::attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        if !tree::is_test(&item.attrs) {
            self.add(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

fn functions(file: &syn::File) -> Vec<Function> {
    let mut functions = Functions::default();
    functions.visit_file(file);
    functions.found
}

pub(crate) fn check(one: &Crate) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &one.sources {
        let max = if source.test { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX };
        if source.lines > max {
            let text = format!("{} lines, of {max} at most", source.lines);
            findings.push(Finding { rule: "file", place: source.file.clone(), text });
        }
        if source.test {
            continue;
        }
        for function in functions(&source.ast) {
            if function.lines > FUNCTION_LINES_MAX {
                let Function { name, line, lines } = function;
                let place = format!("{}:{name}", source.file);
                let text = format!("{lines} lines at line {line}, of {FUNCTION_LINES_MAX} at most");
                findings.push(Finding { rule: "function", place, text });
            }
        }
    }
    for (file, lines) in &one.test_files {
        if *lines > TEST_FILE_LINES_MAX {
            let text = format!("{lines} lines of tests, of {TEST_FILE_LINES_MAX} at most");
            findings.push(Finding { rule: "file", place: file.clone(), text });
        }
    }
    findings
}

/// A line a crate: files, lines and functions of production code.
pub(crate) fn summary(crates: &[Crate]) -> String {
    let mut text = String::new();
    for one in crates {
        let sources: Vec<_> = one.sources.iter().filter(|source| !source.test).collect();
        let Some(largest) = sources.iter().max_by_key(|source| source.lines) else { continue };
        let lines: usize = sources.iter().map(|source| source.lines).sum();
        let all: Vec<usize> = sources
            .iter()
            .flat_map(|source| functions(&source.ast))
            .map(|function| function.lines)
            .collect();
        let long = all.iter().filter(|lines| **lines > FUNCTION_LINES_MAX).count();
        text += &format!(
            "{:<26} {:>3} files {:>6} lines, largest {} {}; {long} of {} functions above {FUNCTION_LINES_MAX} lines ({:.1} %)\n",
            one.name,
            sources.len(),
            lines,
            largest.file,
            largest.lines,
            all.len(),
            100.0 * long as f64 / all.len().max(1) as f64,
        );
    }
    text
}
