//! What the modules of a crate name, read from its files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path as File;

use anyhow::{Context as _, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Attribute, Item, Visibility};

/// The names from the crate's root to a module; none for the root itself.
pub(super) type Path = Vec<String>;

/// A module of a crate.
#[derive(Default)]
pub(super) struct Module {
    /// The paths that it names, from the crate's root.
    pub(super) paths: BTreeSet<Path>,
    /// The names that it hands on from modules below itself, and where each is from.
    pub(super) handed_on: BTreeMap<String, Path>,
}

/// The modules of the crate that begins with this file, by their paths.
pub(super) fn crate_modules(root: &File) -> Result<BTreeMap<Path, Module>> {
    let mut modules = BTreeMap::new();
    let dir = root.parent().unwrap_or(File::new(""));
    read_file(root, dir, Vec::new(), &mut modules)?;
    Ok(modules)
}

/// The modules of a text, as if it were a crate of one file. For tests.
#[cfg(test)]
pub(super) fn text_modules(text: &str) -> BTreeMap<Path, Module> {
    let mut modules = BTreeMap::new();
    let items = syn::parse_file(text).unwrap().items;
    read_items(&items, File::new("missing"), Vec::new(), &mut modules).unwrap();
    modules
}

/// `below` is the directory of the module's own modules.
fn read_file(
    file: &File,
    below: &File,
    path: Path,
    modules: &mut BTreeMap<Path, Module>,
) -> Result<()> {
    let text =
        fs::read_to_string(file).with_context(|| format!("{} can't be read", file.display()))?;
    let parsed = syn::parse_file(&text).with_context(|| format!("{}", file.display()))?;
    read_items(&parsed.items, below, path, modules)
}

fn read_items(
    items: &[Item],
    below: &File,
    path: Path,
    modules: &mut BTreeMap<Path, Module>,
) -> Result<()> {
    let is_child = |item: &&Item| matches!(item, Item::Mod(child) if !is_test(&child.attrs));
    let children: Vec<String> = items
        .iter()
        .filter(is_child)
        .filter_map(|item| match item {
            Item::Mod(child) => Some(child.ident.to_string()),
            _ => None,
        })
        .collect();
    let mut module = Module::default();
    for item in items {
        match item {
            Item::Mod(child) if is_test(&child.attrs) => {}
            Item::Mod(child) => {
                let name = child.ident.to_string();
                let child_path = [path.as_slice(), std::slice::from_ref(&name)].concat();
                let child_below = below.join(&name);
                if let Some((_, items)) = &child.content {
                    read_items(items, &child_below, child_path, modules)?;
                } else {
                    let beside = below.join(format!("{name}.rs"));
                    let file = if beside.is_file() {
                        beside
                    } else {
                        child_below.join("mod.rs")
                    };
                    read_file(&file, &child_below, child_path, modules)?;
                }
            }
            item if is_test_item(item) => {}
            Item::Use(import) => {
                let mut named = BTreeSet::new();
                let mut names = Names::new(&path, &children, &mut named);
                names.read(import.tree.to_token_stream());
                let hands_on = !matches!(import.vis, Visibility::Inherited);
                for named in named {
                    match named.last() {
                        Some(name) if hands_on && is_below(&named, &path) => {
                            module.handed_on.insert(name.clone(), named);
                        }
                        _ => drop(module.paths.insert(named)),
                    }
                }
            }
            item => {
                Names::new(&path, &children, &mut module.paths).read(item.to_token_stream());
            }
        }
    }
    modules.insert(path, module);
    Ok(())
}

fn is_below(named: &[String], path: &[String]) -> bool {
    named.len() > path.len() && named.starts_with(path)
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .meta
                .to_token_stream()
                .to_string()
                .replace(' ', "")
                == "cfg(test)"
    })
}

fn is_test_item(item: &Item) -> bool {
    match item {
        Item::Fn(item) => is_test(&item.attrs),
        Item::Impl(item) => is_test(&item.attrs),
        Item::Use(item) => is_test(&item.attrs),
        Item::Struct(item) => is_test(&item.attrs),
        Item::Const(item) => is_test(&item.attrs),
        _ => false,
    }
}

/// Finds the paths in tokens, so that those inside macros count as well.
struct Names<'a> {
    module: &'a [String],
    children: &'a [String],
    found: &'a mut BTreeSet<Path>,
}

impl<'a> Names<'a> {
    fn new(module: &'a [String], children: &'a [String], found: &'a mut BTreeSet<Path>) -> Self {
        Self {
            module,
            children,
            found,
        }
    }

    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        let mut inside_path = false;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(name) if !inside_path => {
                    let name = name.to_string();
                    if is_separator(&tokens, at + 1)
                        && let Some(start) = self.start(&name)
                    {
                        at = self.follow(start, &tokens, at + 1);
                        continue;
                    }
                }
                TokenTree::Group(group) => self.read(group.stream()),
                _ => {}
            }
            inside_path = is_separator(&tokens, at.saturating_sub(1));
            at += 1;
        }
    }

    /// Where a path that begins with this name starts; nothing if that is outside of the crate.
    fn start(&self, name: &str) -> Option<Path> {
        let below = |name: &str| [self.module, &[name.to_owned()]].concat();
        match name {
            "crate" => Some(Vec::new()),
            "self" => Some(self.module.to_vec()),
            "super" => Some(self.module.split_last()?.1.to_vec()),
            child if self.children.iter().any(|name| name == child) => Some(below(child)),
            _ => None,
        }
    }

    /// Takes a path from the `::` at `at` on; returns where it ends.
    fn follow(&mut self, mut path: Path, tokens: &[TokenTree], mut at: usize) -> usize {
        while is_separator(tokens, at) {
            at += 2;
            match tokens.get(at) {
                Some(TokenTree::Ident(name)) if name == "super" => drop(path.pop()),
                Some(TokenTree::Ident(name)) if name == "self" => {}
                Some(TokenTree::Ident(name)) => path.push(name.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.branch(&path, group.stream());
                    return at + 1;
                }
                // `path::<T>` and `path::*`.
                _ => break,
            }
            at += 1;
        }
        self.found.insert(path);
        at
    }

    /// Takes each branch of `path::{a, b::c}`.
    fn branch(&mut self, path: &Path, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for branch in
            tokens.split(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == ','))
        {
            let Some(TokenTree::Ident(name)) = branch.first() else {
                // `*`
                self.found.insert(path.clone());
                continue;
            };
            let mut longer = path.clone();
            if name != "self" {
                longer.push(name.to_string());
            }
            self.follow(longer, branch, 1);
        }
    }
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(at) && colon(at + 1)
}
