//! Edits a cell's source for variables whose types are redefined. No line number changes.

use proc_macro2::{TokenStream, TokenTree};
use serde_json::Value;
use std::collections::BTreeMap;

const CHECK: &str = "evcxr_variable_store.check_variable::<";
const TAKE: &str = "evcxr_variable_store.take_variable::<";
const PUT: &str = "evcxr_variable_store.put_variable::<";

/// The line before the user's statements, and the line that follows it if the cell uses `?`.
const START: &str = "std::panic::AssertUnwindSafe(||{\n";
const QUESTION_MARK: &str = "let _ = (|| -> std::result::Result<(), EvcxrUserCodeError> {\n";

/// Returns the variables that a cell makes again without using their old values, and lets the cell
/// drop the old values instead of taking them from the store.
///
/// Users often edit and rerun a cell that contains a type and a variable of it. evcxr takes every
/// old value from the store, whether it is used or not. If evcxr were told that the old value is
/// lost, it would not store the new one.
pub fn drop_before_made_again(source: &mut String) -> Vec<String> {
    let checked: Vec<String> = lines_of(source, CHECK).map(|(name, _)| name).collect();
    let Some(start) = source.find(START).filter(|_| !checked.is_empty()) else {
        return Vec::new();
    };
    let statements = &source[start + START.len()..];
    let statements = statements.strip_prefix(QUESTION_MARK).unwrap_or(statements);
    let Some(end) = statements.find(PUT) else {
        return Vec::new();
    };
    let stored: Vec<String> = statements[end..]
        .lines()
        .map_while(|line| Some(variable(line, PUT)?.0))
        .collect();
    // In a cell without a new variable, the first variable is stored after the closure, so the
    // text up to it does not parse.
    let Ok(tokens) = statements[..end].parse::<TokenStream>() else {
        return Vec::new();
    };
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let names: Vec<String> = checked
        .into_iter()
        .filter(|name| stored.contains(name) && made_before_used(&tokens, name))
        .collect();
    if !names.is_empty() {
        let edited: Vec<String> = source
            .split('\n')
            .map(|line| match (variable(line, CHECK), variable(line, TAKE)) {
                (Some((name, _)), _) if names.contains(&name) => String::new(),
                (_, Some((name, _))) if names.contains(&name) => {
                    format!("evcxr_variable_store.forget_variable(stringify!({name}));")
                }
                _ => line.to_owned(),
            })
            .collect();
        *source = edited.join("\n");
    }
    names
}

/// Returns the variables whose types do not compile any more, with the types, if the cell has no
/// other errors. Examples are a struct that became generic, and a trait that can no longer be an
/// object. evcxr writes the types into every cell, so without this no cell with the new
/// definition would compile.
pub fn invalid(source: &str, errors: &str) -> BTreeMap<String, String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = BTreeMap::new();
    let mut others = Vec::new();
    for message in errors
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        if message["level"] != "error" {
            continue;
        }
        for span in message["spans"].as_array().into_iter().flatten() {
            if span["is_primary"] != true {
                continue;
            }
            let number = span["line_start"].as_u64().unwrap_or_default() as usize;
            let line = number
                .checked_sub(1)
                .and_then(|i| lines.get(i))
                .unwrap_or(&"");
            let of = |call| variable(line, call);
            if let Some((name, kind)) = of(CHECK) {
                found.insert(name, kind);
            } else {
                others.push(of(TAKE).or(of(PUT)).map(|(name, _)| name));
            }
        }
    }
    let known = |other: &Option<String>| other.as_ref().is_some_and(|n| found.contains_key(n));
    if others.iter().all(known) {
        found
    } else {
        BTreeMap::new()
    }
}

/// Returns a cell that does nothing, with the function that evcxr will call for this one.
pub fn empty(source: &str) -> String {
    const FUNCTION: &str = "pub extern \"C\" fn run_user_code_";
    let name: String = source
        .split_once(FUNCTION)
        .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect())
        .unwrap_or_default();
    format!("#[unsafe(no_mangle)] {FUNCTION}{name}(store: *mut u8) -> *mut u8 {{ store }}")
}

/// Returns the variables that a cell checks, takes or stores, with their types.
fn lines_of<'a>(source: &'a str, call: &'a str) -> impl Iterator<Item = (String, String)> + 'a {
    source.lines().filter_map(|line| variable(line, call))
}

/// Returns the variable that a line of a cell stores, takes or checks, with its type, if evcxr wrote
/// the line for that.
pub fn stored_variable(line: &str) -> Option<(String, String)> {
    [PUT, TAKE, CHECK]
        .iter()
        .find_map(|call| variable(line.trim(), call))
}

/// Returns the name and the type in a line that evcxr wrote: `… CALL TYPE>(stringify!(NAME) …`.
fn variable(line: &str, call: &str) -> Option<(String, String)> {
    let start = line.find(call)?;
    let written_by_evcxr = ["", "vars_ok &= "].contains(&&line[..start])
        || line.starts_with("let ") && line[..start].ends_with(" = ");
    let (kind, rest) = line[start + call.len()..].rsplit_once(">(stringify!(")?;
    let (name, _) = rest.split_once(')')?;
    written_by_evcxr.then(|| (name.to_owned(), kind.to_owned()))
}

/// Whether a variable is first mentioned in the pattern of a `let` whose right-hand side does not
/// mention it.
fn made_before_used(tokens: &[TokenTree], name: &str) -> bool {
    let is = |token: &TokenTree, text: &str| match token {
        TokenTree::Ident(word) => word == text,
        TokenTree::Punct(p) => text.len() == 1 && text.starts_with(p.as_char()),
        _ => false,
    };
    let mut at = 0;
    while at < tokens.len() {
        let condition = at > 0
            && ["if", "while", "&", "|"]
                .iter()
                .any(|w| is(&tokens[at - 1], w));
        if !is(&tokens[at], "let") || condition {
            if mentions(&tokens[at..at + 1], name) {
                return false;
            }
            at += 1;
            continue;
        }
        let end = |from: usize, text| {
            let found = tokens[from..].iter().position(|t| is(t, text));
            found.map_or(tokens.len(), |i| from + i)
        };
        let last = end(at, ";");
        let equals = end(at, "=").min(last);
        let (pattern, value) = (&tokens[at + 1..equals], &tokens[equals..last]);
        if mentions(value, name) || has_field(pattern, name) {
            return false;
        }
        if mentions(pattern, name) {
            return true;
        }
        at = last;
    }
    false
}

/// Whether a word is among the tokens or in a literal, as in `println!("{p}")`.
fn mentions(tokens: &[TokenTree], name: &str) -> bool {
    tokens.iter().any(|token| match token {
        TokenTree::Ident(word) => word == name,
        TokenTree::Group(group) => mentions(&group.stream().into_iter().collect::<Vec<_>>(), name),
        TokenTree::Literal(literal) => literal
            .to_string()
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == name),
        TokenTree::Punct(_) => false,
    })
}

/// Whether a pattern has `name: …` in braces, which does not create a variable of that name.
fn has_field(pattern: &[TokenTree], name: &str) -> bool {
    pattern.iter().any(|token| match token {
        TokenTree::Group(group) => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            let field = |pair: &[TokenTree]| {
                matches!(&pair[0], TokenTree::Ident(word) if word == name)
                    && matches!(&pair[1], TokenTree::Punct(p) if p.as_char() == ':')
            };
            inner.windows(2).any(field) || has_field(&inner, name)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::{drop_before_made_again, empty, invalid};

    /// A cell as evcxr writes it, with the variables `p` and `q` of earlier cells and a new `p`.
    fn cell(statements: &str) -> String {
        format!(
            "struct P;\n#[unsafe(no_mangle)]\npub extern \"C\" fn run_user_code_12(\n\
             {{let mut vars_ok = true;\n\
             vars_ok &= evcxr_variable_store.check_variable::<P>(stringify!(p));\n\
             vars_ok &= evcxr_variable_store.check_variable::<Vec<u8>>(stringify!(q));\n\
             if !vars_ok {{return evcxr_variable_store;}}}}\n\
             let mut p = evcxr_variable_store.take_variable::<P>(stringify!(p));\n\
             let q = evcxr_variable_store.take_variable::<Vec<u8>>(stringify!(q));\n\
             match std::panic::catch_unwind(\n  std::panic::AssertUnwindSafe(||{{\n\
             let _ = (|| -> std::result::Result<(), EvcxrUserCodeError> {{\n\
             {statements}\n\
             evcxr_variable_store.put_variable::<P>(stringify!(p), p);\n\
             Ok(())}})();\n}})) {{ \n  Ok(_) => {{}}\n  Err(_) => {{\n}}}}\n\
             evcxr_variable_store.put_variable::<Vec<u8>>(stringify!(q), q);\n\
             evcxr_variable_store\n}}\n"
        )
    }

    #[test]
    fn an_old_value_is_dropped_if_the_cell_does_not_use_it() {
        for statements in [
            "let p = P;",
            "let p: P = P; p.f();",
            "q.len(); let (a, mut p) = (1, P); println!(\"{p}\");",
            "for x in 0..3 { x; } let Some(p) = f() else { panic!() };",
        ] {
            let mut source = cell(statements);
            let lines = source.lines().count();
            assert_eq!(drop_before_made_again(&mut source), ["p"], "{statements}");
            assert_eq!(source.lines().count(), lines);
            assert!(!source.contains("check_variable::<P>"));
            assert!(!source.contains("take_variable::<P>"));
            assert!(source.contains("\nevcxr_variable_store.forget_variable(stringify!(p));\n"));
            assert!(source.contains("take_variable::<Vec<u8>>(stringify!(q))"));
        }
    }

    #[test]
    fn an_old_value_is_taken_if_the_cell_may_use_it() {
        for statements in [
            "let p = P { a: p.a };",
            "p.f(); let p = P;",
            "println!(\"{p}\"); let p = P;",
            "let x = { let p = &p; p.a }; let p = P;",
            "if let Some(p) = f() {} let p = P;",
            "let Q { p: x } = f(); let p = P;",
            "let a = 1, b = (; let p = P;",
        ] {
            let source = cell(statements);
            let mut edited = source.clone();
            assert!(
                drop_before_made_again(&mut edited).is_empty(),
                "{statements}"
            );
            assert_eq!(source, edited);
        }
    }

    fn error(line: usize) -> String {
        format!(
            "{{\"level\":\"error\",\"spans\":[{{\"is_primary\":true,\"line_start\":{line}}}]}}\n"
        )
    }

    #[test]
    fn types_that_do_not_compile_any_more_are_found() {
        let source = cell("let p = P;");
        let warning =
            "{\"level\":\"warning\",\"spans\":[{\"is_primary\":true,\"line_start\":1}]}\n";
        let found = invalid(&source, &format!("{}{warning}{}", error(6), error(9)));
        assert_eq!(
            Vec::from_iter(found),
            [("q".into(), "Vec<u8>".into())].map(|(a, b): (String, String)| (a, b))
        );
        // Errors in other lines are errors in the user's code.
        assert!(invalid(&source, &(error(6) + &error(14))).is_empty());
        assert!(invalid(&source, &error(9)).is_empty());
        assert!(invalid(&source, warning).is_empty());
        assert!(empty(&source).contains("extern \"C\" fn run_user_code_12("));
    }
}
