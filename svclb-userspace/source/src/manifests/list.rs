//! The items of a list, as `kubectl get -o yaml` and `-o json` write one: each becomes a document of its
//! own. So one that cannot be read costs only itself, one that changed is read alone, and all CPUs share
//! the others.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::document;

/// `apiVersion` and `kind` of an object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Type {
    pub(super) api_version: String,
    pub(super) kind: String,
}

impl Type {
    /// That of the items of a list of this type, which need not have one; `None` if a list of this type
    /// has items of all types.
    ///
    /// # Errors
    /// If this is no type of a list.
    pub(super) fn of_items(api_version: &str, kind: &str) -> Result<Option<Self>, ()> {
        let item = match (api_version, kind) {
            ("v1", "List") => return Ok(None),
            ("v1", "ServiceList" | "EndpointsList" | "NodeList")
            | ("discovery.k8s.io/v1", "EndpointSliceList") => kind.strip_suffix("List"),
            _ => None,
        };
        Ok(Some(Self {
            api_version: api_version.to_owned(),
            kind: item.ok_or(())?.to_owned(),
        }))
    }
}

/// The items of a list.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Items {
    /// The text of each, without what is around it.
    pub(super) texts: Vec<String>,
    /// The type of those that have none of their own.
    pub(super) of: Option<Arc<Type>>,
}

/// The items of a document; `None` if it is no list, or one in another notation, which is read whole.
pub(super) fn items(text: &str, json: bool) -> Option<Items> {
    if json || text.trim_start().starts_with('{') {
        items_of_json(text)
    } else {
        items_of_yaml(text)
    }
}

fn items_of_json(text: &str) -> Option<Items> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a> {
        #[serde(borrow)]
        api_version: Cow<'a, str>,
        #[serde(borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    let list: List<'_> = serde_json::from_str(text).ok()?;
    let of = Type::of_items(&list.api_version, &list.kind).ok()?;
    let texts = list.items.into_iter().map(|item| item.get().to_owned());
    Some(Items {
        texts: texts.collect(),
        of: of.map(Arc::new),
    })
}

/// The block notation alone: lines between `items:` and the next key that is as far to the left, an item
/// at each dash.
fn items_of_yaml(text: &str) -> Option<Items> {
    let mut head = String::new();
    let mut texts: Vec<String> = Vec::new();
    // How far to the right the dashes are, and what an item has.
    let (mut dash, mut content) = (None, 0);
    let mut is_in_items = false;
    let mut had_items = false;
    for line in text.lines() {
        let trimmed = line.trim_start_matches(' ');
        let is_blank = trimmed.trim().is_empty();
        let is_comment = trimmed.starts_with('#');
        let indent = line.len() - trimmed.len();
        let is_dash = trimmed == "-" || trimmed.starts_with("- ");
        if is_in_items && !is_blank && !is_comment {
            let dash = *dash.get_or_insert(indent);
            // A key beside `items`. A dash there, or less, ends an item.
            is_in_items = indent > dash || (indent == dash && is_dash);
            if is_in_items && indent == dash {
                let item = trimmed.strip_prefix("- ")?;
                let inner = item.trim_start_matches(' ');
                content = line.len() - inner.len();
                texts.push(format!("{inner}\n"));
                continue;
            }
        }
        if !is_in_items {
            if indent == 0 && is_items_key(line) {
                is_in_items = !std::mem::replace(&mut had_items, true);
                if !is_in_items {
                    return None;
                }
            } else {
                head.push_str(line);
                head.push('\n');
            }
            continue;
        }
        // An alias may stand for something in another item.
        if line.contains(": *") || line.contains("- *") {
            return None;
        }
        let Some(item) = texts.last_mut() else {
            continue;
        };
        match line.get(content..) {
            Some(rest) if indent >= content => item.push_str(rest),
            _ if is_blank || is_comment => {}
            // A scalar of several lines may be farther to the left than its key.
            _ => return None,
        }
        item.push('\n');
    }
    if texts.is_empty() {
        return None;
    }
    let [api_version, kind] = document::type_of_yaml(&head)?;
    let of = Type::of_items(&api_version, &kind).ok()?;
    Some(Items {
        texts,
        of: of.map(Arc::new),
    })
}

fn is_items_key(line: &str) -> bool {
    let rest = line.strip_prefix("items:").map(str::trim);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Option<Vec<String>> {
        items(text, false).map(|items| items.texts)
    }

    #[test]
    fn the_items_are_documents_of_their_own() {
        let expected = vec![
            "kind: A\nx:\n- 1\n- 2\n".to_owned(),
            "kind: B\nt: |\n  one\n\n  # two\n".to_owned(),
        ];
        // As kubectl writes it, and as people do.
        for (dash, behind) in [("", "- "), ("  ", "- "), ("  ", "-   ")] {
            let inner = " ".repeat(dash.len() + behind.len());
            let text = format!(
                "apiVersion: v1\nitems:\n# a comment\n{dash}{behind}kind: A\n{inner}x:\n{inner}- 1\n{inner}- 2\n\
                 {dash}{behind}kind: B\n{inner}t: |\n{inner}  one\n\n{inner}  # two\nkind: List\n\
                 metadata:\n  resourceVersion: \"\"\n"
            );
            assert_eq!(texts(&text).as_ref(), Some(&expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_or_written_otherwise_is_read_whole() {
        for text in [
            "apiVersion: v1\nkind: Service\n",
            "apiVersion: v1\nkind: ConfigMap\nitems:\n- a: b\n",
            "apiVersion: v1\nkind: List\nitems: []\n",
            "apiVersion: v1\nkind: List\nitems:\n",
            "apiVersion: v1\nkind: List\nitems: [{kind: A}]\n",
            "apiVersion: v1\nkind: List\nitems:\n-\n  kind: A\n",
            "apiVersion: v1\nkind: List\nitems:\n- a: &x 1\n  b: 2\n- a: 1\n  b: *x\n",
            "apiVersion: v1\nkind: List\nitems:\n- a: \"one\n two\"\n",
            "apiVersion: v1\nkind: List\nkind: List\nitems:\n- a: 1\n",
            "apiVersion: v1\nkind: List\nitems:\n- a: 1\nitems:\n- a: 1\n",
        ] {
            assert_eq!(texts(text), None, "{text}");
        }
    }

    #[test]
    fn the_items_of_a_list_of_one_kind_need_none_of_their_own() {
        let of = |text| items(text, false).and_then(|items| items.of);
        let yaml = "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {}\n";
        let json = r#"{"kind":"ServiceList","apiVersion":"v1","items":[{"metadata":{}}]}"#;
        for text in [yaml, json] {
            let of = of(text).unwrap();
            assert_eq!((&*of.api_version, &*of.kind), ("v1", "Service"));
        }
    }
}
