use super::*;

fn found(text: &str) -> Option<String> {
    let modules = read::text_modules(text);
    let circle = circle(&dependencies(&modules))?;
    let names: Vec<_> = circle.iter().map(shown).collect();
    Some(names.join(" "))
}

#[test]
fn modules_that_use_each_other_are_a_circle() {
    let text = "mod a { use crate::b::B; } mod b { fn f() { super::a::f(); } }";
    assert_eq!(found(text).unwrap(), "a b a");
    let text = "mod a { use super::{c::C, b}; } mod b {} mod c { use crate::{b, a::{self, f}}; }";
    assert_eq!(found(text).unwrap(), "a c a");
}

#[test]
fn a_circle_through_a_third_module_is_one() {
    let text = "mod a { use crate::b::B; } mod b { use crate::c; } mod c { m!(crate::a::f()); }";
    assert_eq!(found(text).unwrap(), "a b c a");
}

#[test]
fn a_module_and_one_inside_it_can_be_a_circle() {
    let text = "mod a { mod inner { use super::A; } fn f() { inner::f(); } }";
    assert_eq!(found(text).unwrap(), "a a::inner a");
    let text = "mod a { use inner::I; mod inner { use super::A; } }";
    assert_eq!(found(text).unwrap(), "a a::inner a");
    assert_eq!(
        found("mod a { mod inner { use super::A; } } use a::A;"),
        None
    );
}

#[test]
fn a_name_that_is_handed_on_is_where_it_comes_from() {
    let text = "mod a; pub(crate) use b::B;";
    let text = text.replace("mod a;", "mod a { use crate::B; } mod b {}");
    assert_eq!(found(&text), None);
    let text =
        "mod a { pub use inner::I; mod inner { use crate::b::B; } } mod b { use crate::a::I; }";
    assert_eq!(found(text).unwrap(), "a::inner b a::inner");
}

#[test]
fn what_only_tests_name_does_not_count() {
    let text = "mod a { use crate::b; } mod b { #[cfg(test)] mod tests { use crate::a; } }";
    assert_eq!(found(text), None);
}

#[test]
fn other_crates_and_fields_are_no_modules() {
    let text = "mod a { use std::b::c; fn f() { x::a::g(); } } mod b { use crate::a; }";
    assert_eq!(found(text), None);
    assert_eq!(
        found("mod a { pub(crate) fn f() {} } fn g() { a::f(); }"),
        None
    );
}
