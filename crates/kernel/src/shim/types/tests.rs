//! Tests with definitions before and after a change, and the message about a variable whose type
//! mentions them.

use super::{store, table};

fn reason(old: &str, new: &str, type_name: &str) -> Option<String> {
    store::reason(&store::parse(old), &store::parse(new), type_name)
}

/// Returns the message about a variable that was stored with the first items, in a cell with the
/// second.
fn between(before: &str, after: &str, type_name: &str) -> Option<String> {
    reason(&table(before, &[], &[]), &table(after, &[], &[]), type_name)
}

#[track_caller]
fn kept(before: &str, after: &str, type_name: &str) {
    assert_eq!(between(before, after, type_name), None);
    assert_eq!(between(after, before, type_name), None);
}

#[track_caller]
fn dropped(before: &str, after: &str, type_name: &str, why: &str) {
    assert_eq!(between(before, after, type_name).as_deref(), Some(why));
    assert!(between(after, before, type_name).is_some());
}

const P_WAS: &str = "its type `P` was redefined since";

#[test]
fn a_changed_definition_drops_the_types_that_mention_it() {
    let (a, b) = ("struct P { a: u64 }", "struct P { a: f64 }");
    dropped(a, b, "ctx::P", P_WAS);
    for (type_name, short) in [
        ("alloc::vec::Vec<ctx::P>", "Vec<P>"),
        (
            "std::collections::hash::map::HashMap<u8, ctx::m::P>",
            "HashMap<u8, P>",
        ),
        ("fn(&'_ ctx::P) -> u8", "fn(&P) -> u8"),
        ("[ctx::P; 3]", "[P; 3]"),
        (
            "alloc::boxed::Box<dyn core::ops::function::Fn(ctx::P)>",
            "Box<dyn Fn(P)>",
        ),
    ] {
        let why = format!("its type `{short}` depends on `P`, which was redefined since");
        dropped(a, b, type_name, &why);
    }
    kept(a, b, "alloc::vec::Vec<f64>");
    kept(a, b, "candle_core::tensor::Tensor");
    let (a, b) = (format!("{a} struct R(u8);"), format!("{b} struct R(u8);"));
    kept(&a, &b, "ctx::R");
}

#[test]
fn each_kind_of_type_counts() {
    dropped("enum P { A }", "enum P { A, B(u8) }", "ctx::P", P_WAS);
    dropped("union P { a: u8 }", "union P { b: u64 }", "ctx::P", P_WAS);
    dropped("struct P(u8);", "struct P(u8, u8);", "ctx::P", P_WAS);
    dropped(
        "struct P<T>(T);",
        "struct P<T>(Vec<T>);",
        "ctx::P<u8>",
        "its type `P<u8>` depends on `P`, which was redefined since",
    );
    dropped(
        "struct P(u8);",
        "#[repr(align(64))] struct P(u8);",
        "ctx::P",
        P_WAS,
    );
    dropped("struct P(u8);", "", "ctx::P", P_WAS);
    let why = "its type `Box<dyn T>` depends on `T`, which was redefined since";
    let object = "alloc::boxed::Box<dyn ctx::T>";
    dropped(
        "trait T { fn f(&self); }",
        "trait T { fn g(&self); fn f(&self); }",
        object,
        why,
    );
    dropped("trait T {}", "trait T: Send {}", object, why);
}

#[test]
fn what_a_definition_refers_to_counts() {
    let q = "struct Q { p: Vec<m::P> } mod m { pub struct P(";
    dropped(
        &format!("{q}u64); }}"),
        &format!("{q}f64); }}"),
        "ctx::Q",
        "its type `Q` depends on `P`, which was redefined since",
    );
    for (before, after, name) in [
        ("type A = u64;", "type A = f64;", "A"),
        ("use std::rc::Rc as A;", "use std::sync::Arc as A;", "A"),
        (
            "use std::{rc::{self, Rc as A}};",
            "use std::{rc::{self, Weak as A}};",
            "A",
        ),
        (
            "macro_rules! A { () => { u64 } }",
            "macro_rules! A { () => { f64 } }",
            "A",
        ),
        ("const A: usize = 3;", "const A: usize = 4;", "A"),
        (
            "const fn A() -> usize { 3 }",
            "const fn A() -> usize { 4 }",
            "A",
        ),
        (
            "struct B; impl B { const A: u8 = 1; }",
            "struct B; impl B { const A: u8 = 2; }",
            "A",
        ),
        (
            "impl T for u8 { type A = u8; }",
            "impl T for u8 { type A = u16; }",
            "A",
        ),
    ] {
        let q = "struct Q { a: A!(), b: [u8; A()] }";
        let why = format!("its type `Q` depends on `{name}`, which was redefined since");
        dropped(
            &format!("{q}{before}"),
            &format!("{q}{after}"),
            "ctx::Q",
            &why,
        );
    }
    // A type also depends on the value of a constant and on the signature of a method.
    let q = "struct Q([u8; N]); const N: usize = f(1); const fn f(n: usize) -> usize ";
    let why = "its type `Q` depends on `f`, which was redefined since";
    dropped(
        &format!("{q}{{ n }}"),
        &format!("{q}{{ n + 1 }}"),
        "ctx::Q",
        why,
    );
    let t = "trait T { fn f(&self, p: &P); } struct P";
    let why = "its type `Arc<dyn T>` depends on `P`, which was redefined since";
    dropped(
        &format!("{t};"),
        &format!("{t}(u8);"),
        "alloc::sync::Arc<dyn ctx::T>",
        why,
    );
}

#[test]
fn associated_types_count_where_their_impl_mentions_the_type() {
    let code = "struct It; impl Iterator for It { type Item = ";
    let why = "its type `Peekable<It>` depends on `It`, which was redefined since";
    dropped(
        &format!("{code}u8; }}"),
        &format!("{code}u64; }}"),
        "core::iter::adapters::peekable::Peekable<ctx::It>",
        why,
    );
    let code =
        "struct W<A: T> { a: A::Out } trait T { type Out; } struct P; impl T for P { type Out = ";
    let why = "its type `W<P>` depends on `W`, which was redefined since";
    let why_now = between(
        &format!("{code}u8; }}"),
        &format!("{code}u64; }}"),
        "ctx::W<ctx::P>",
    );
    assert_ne!(
        why_now.as_deref(),
        Some(why),
        "the definition of W is the same"
    );
    assert!(why_now.unwrap().starts_with("its type `W<P>` depends on"));
}

#[test]
fn what_changes_no_layout_does_not_count() {
    let p = "struct P { a: u64, b: Q } struct Q;";
    for after in [
        "/// Documentation.\n#[derive(Clone, Debug)]\n\
         pub struct P { /* a */ pub a : u64,\n b: Q, } struct Q;",
        "struct Q; struct P { a: u64, b: Q }",
        "struct P { a: u64, b: Q } struct Q; \
         impl P { fn a(&self) -> u64 { self.a } pub const fn new() -> P { todo!() } }",
        "struct P { a: u64, b: Q } struct Q; impl Clone for P { fn clone(&self) -> P { todo!() } }",
        "struct P { a: u64, b: Q } struct Q; fn a() {} fn b() -> P { todo!() } const C: u8 = 1;",
        "struct P { a: u64, b: Q } struct Q; use std::fmt::Debug; use std::io::*; struct R;",
        "struct P { a: u64, b: Q } struct Q; struct P2(P); enum E { P, Q }",
    ] {
        kept(p, after, "ctx::P");
    }
    // The body of a trait's method may change, and so may a function with the name of a field.
    let t = |body| format!("trait T {{ fn f(&self) -> u8 {{ {body} }} }}");
    kept(&t("1"), &t("2"), "alloc::boxed::Box<dyn ctx::T>");
    let s = |body| format!("struct S {{ loss: f64 }} fn loss() {{ {body} }}");
    kept(&s(""), &s("1;"), "ctx::S");
    // evcxr may write its items in another order, and some of them twice.
    kept(
        "use std::io::*; struct P;",
        "struct P; use std::io::*; use std::io::*;",
        "ctx::P",
    );
}

#[test]
fn a_destructor_belongs_to_the_value() {
    let p = "struct P; impl Drop for P { fn drop(&mut self) { ";
    dropped(
        &format!("{p}}} }}"),
        &format!("{p}f() }} }}"),
        "ctx::P",
        P_WAS,
    );
    dropped("struct P;", &format!("{p}}} }}"), "ctx::P", P_WAS);
}

#[test]
fn what_is_not_known_counts_as_changed() {
    let may = |short| {
        Some(format!(
            "its type `{short}` may depend on a definition that changed since"
        ))
    };
    // A type that a macro defines, and a type within a function.
    let m = |t| format!("mod m {{ make!(P, {t}); }} struct Q;");
    assert_eq!(between(&m("u8"), &m("u64"), "ctx::m::P"), may("P"));
    assert_eq!(between(&m("u8"), &m("u64"), "ctx::Q"), may("Q"));
    assert_eq!(between(&m("u8"), &m("u8"), "ctx::Q"), None);
    let f = |t| format!("fn f() {{ struct Local({t}); }}");
    assert_eq!(between(&f("u8"), &f("u64"), "ctx::f::Local"), may("Local"));
    assert_eq!(between(&f("u8"), &f("u8"), "ctx::f::Local"), None);
    // Types that can be downcast.
    let any = "alloc::boxed::Box<dyn core::any::Any>";
    assert!(between("struct P(u8);", "struct P(i8);", any).is_some());
    assert_eq!(
        between("struct P(u8);", "struct P(u8); struct Q; fn f() {}", any),
        None
    );
    let s = "trait S: Any {} struct P";
    let object = "alloc::boxed::Box<dyn ctx::S>";
    assert!(between(&format!("{s};"), &format!("{s}(u8);"), object).is_some());
    // A glob import of the user may shadow a name.
    let (before, after) = ("struct P(u8); mod m {}", "struct P(u8); mod m {} use m::*;");
    assert_eq!(between(before, after, "ctx::P"), may("P"));
    // Source that does not parse.
    assert!(between("struct P;", "struct P; }", "ctx::P").is_some());
}

#[test]
fn a_crate_that_was_built_again_counts() {
    let build = |stamp: &str| [("mine".to_owned(), stamp.to_owned())];
    let source = "struct P(Foo); use mine::Foo; struct Q;";
    let (old, new) = (
        table(source, &build("1"), &[]),
        table(source, &build("2"), &[]),
    );
    let why = |type_name| reason(&old, &new, type_name);
    let depends =
        |short| format!("its type `{short}` depends on `mine`, which was redefined since");
    assert_eq!(why("ctx::P"), Some(depends("P")));
    assert_eq!(why("alloc::vec::Vec<mine::Foo>"), Some(depends("Vec<Foo>")));
    assert_eq!(why("ctx::Q"), None);
    assert_eq!(why("yours::Foo"), None);
    // A newly added library does not change earlier types.
    assert_eq!(
        reason(
            &table("struct Q;", &[], &[]),
            &table("struct Q;", &build("1"), &[]),
            "ctx::Q"
        ),
        None
    );
}

#[test]
fn the_statements_of_a_cell_do_not_count() {
    let cell = |statements| {
        format!(
            "#![allow(unused_imports)]\nstruct P;\n#[unsafe(no_mangle)]\n\
             pub extern \"C\" fn run_user_code_3(\nx: *mut u8) -> *mut u8 {{ {statements}"
        )
    };
    assert_eq!(
        table(&cell("struct P(u8); }"), &[], &[]),
        table(&cell("unbalanced ("), &[], &[])
    );
}
