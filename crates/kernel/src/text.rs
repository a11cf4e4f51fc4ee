//! What is known about the text of a cell without compiling it: positions, whether it is complete,
//! whether its last expression has a value.

use proc_macro2::{LexError, TokenStream, TokenTree};
use syn::parse::Parser;
use syn::{Block, Expr, Stmt};

/// Returns the byte at which the character with this number starts. Jupyter counts characters
/// (Unicode code points).
pub fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices()
        .nth(character)
        .map_or(text.len(), |(byte, _)| byte)
}

/// Returns the number of characters before a byte.
pub fn character_of(text: &str, byte: usize) -> usize {
    text.char_indices().take_while(|(i, _)| *i < byte).count()
}

/// Returns the byte at which the name at `byte` ends, and the opening parenthesis after it if
/// there is one: evcxr finds methods only with it. `None` if there is no name.
pub fn end_of_name(text: &str, byte: usize) -> Option<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let after: usize = text[byte..]
        .chars()
        .take_while(|c| part(*c))
        .map(char::len_utf8)
        .sum();
    let before = text[..byte].chars().next_back().is_some_and(part);
    if after == 0 && !before {
        return None;
    }
    let end = byte + after;
    let opens = text[end..].starts_with('(');
    Some(end + usize::from(opens))
}

/// Whether a line is a command of evcxr.
fn is_command(line: &str) -> bool {
    let line = line.trim_start();
    let command = line
        .strip_prefix(':')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    command || line.starts_with('!')
}

/// Returns the text without the lines that are commands of evcxr.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !is_command(line)).collect();
    lines.join("\n")
}

/// What `is_complete_request` asks.
#[derive(Debug, PartialEq)]
pub enum Complete {
    Complete,
    Incomplete,
    Invalid,
}

/// Whether a cell can be run, needs further lines, or is no Rust whatever follows.
pub fn complete(text: &str) -> Complete {
    let code = code(text);
    if code.parse::<TokenStream>().is_err() {
        // A text that closes what it did not open, or that has a token which is none, stays invalid
        // with every bracket, quote or comment closed.
        let closed = ["\"", "\"#", "*/", "'"]
            .iter()
            .map(|end| format!("{code}{end}"))
            .chain([code.clone()])
            .any(|text| parses_closed(&text));
        return match closed {
            true => Complete::Incomplete,
            false => Complete::Invalid,
        };
    }
    match statements(&code) {
        Ok(_) => Complete::Complete,
        Err(error) if error.to_string().contains("unexpected end of input") => Complete::Incomplete,
        // A statement without its semicolon is fine at the end of a cell.
        Err(_) if statements(&format!("{code};")).is_ok() => Complete::Complete,
        Err(error) if error.to_string().starts_with("expected") && at_end(&code, &error) => {
            Complete::Incomplete
        }
        Err(_) => Complete::Invalid,
    }
}

fn at_end(code: &str, error: &syn::Error) -> bool {
    let end = error.span().end();
    let lines: Vec<&str> = code.trim_end().lines().collect();
    lines.last().is_some_and(|last| {
        end.line > lines.len() || (end.line == lines.len() && end.column > last.chars().count())
    })
}

/// Whether a text is a sequence of tokens once its open brackets are closed.
fn parses_closed(text: &str) -> bool {
    let mut text = text.to_owned();
    for _ in 0..32 {
        match text.parse::<TokenStream>() {
            Ok(_) => return true,
            Err(_) => match open_bracket(&text) {
                Some(close) => text.push(close),
                None => return false,
            },
        }
    }
    false
}

/// Returns what closes the innermost bracket that is open at the end.
fn open_bracket(text: &str) -> Option<char> {
    [')', ']', '}']
        .into_iter()
        .find(|close| {
            // With the right one, the rest of the text is accepted up to a later point.
            let with = format!("{text}{close}");
            let reached = |text: &str| match text.parse::<TokenStream>() {
                Ok(_) => usize::MAX,
                Err(error) => offset(text, &error),
            };
            let (before, after) = (reached(text), reached(&with));
            after > before || after == usize::MAX
        })
        .or_else(|| {
            // Several are open: the last one in the text counts.
            let mut open = Vec::new();
            for c in text.chars() {
                match c {
                    '(' => open.push(')'),
                    '[' => open.push(']'),
                    '{' => open.push('}'),
                    ')' | ']' | '}' => {
                        if open.pop() != Some(c) {
                            return None;
                        }
                    }
                    _ => {}
                }
            }
            open.pop()
        })
}

fn offset(text: &str, error: &LexError) -> usize {
    let start = error.span().start();
    text.lines()
        .take(start.line.saturating_sub(1))
        .map(|l| l.len() + 1)
        .sum::<usize>()
        + start.column
}

fn statements(code: &str) -> syn::Result<Vec<Stmt>> {
    // Inner attributes may stand at the beginning of a cell.
    let parser = |input: syn::parse::ParseStream| {
        input.call(syn::Attribute::parse_inner)?;
        input.call(Block::parse_within)
    };
    parser.parse_str(code)
}

/// Whether the cell ends with an expression whose value is shown.
pub fn has_result(text: &str) -> bool {
    let code = code(text);
    match statements(&code) {
        Ok(statements) => match statements.last() {
            Some(Stmt::Expr(expression, None)) => !matches!(
                expression,
                Expr::ForLoop(_) | Expr::While(_) | Expr::Loop(_) | Expr::Assign(_)
            ),
            Some(Stmt::Macro(call)) => call.semi_token.is_none(),
            _ => false,
        },
        // What syn cannot parse, evcxr may.
        Err(_) => code
            .parse::<TokenStream>()
            .ok()
            .and_then(|tokens| tokens.into_iter().last())
            .is_some_and(|last| !matches!(last, TokenTree::Punct(p) if p.as_char() == ';')),
    }
}

#[cfg(test)]
mod tests {
    use super::{Complete, byte_of, character_of, complete, end_of_name, has_result};

    #[test]
    fn positions_are_counted_in_characters() {
        let text = "// z̄ 🐕\nimages.fl";
        let end = text.chars().count();
        assert_eq!(byte_of(text, end), text.len());
        assert_eq!(byte_of(text, end + 5), text.len());
        let dot = text.find('.').unwrap();
        assert_eq!(character_of(text, dot), end - 3);
        for character in 0..end {
            assert_eq!(character_of(text, byte_of(text, character)), character);
        }
    }

    #[test]
    fn a_name_ends_behind_the_cursor() {
        assert_eq!(end_of_name("kept.len()", 1), Some(4));
        assert_eq!(end_of_name("kept.len()", 4), Some(4));
        assert_eq!(end_of_name("kept.len()", 6), Some(9));
        assert_eq!(end_of_name("a + b", 2), None);
        assert_eq!(end_of_name("z̄", 0), Some(1));
        assert_eq!(end_of_name("", 0), None);
    }

    #[test]
    fn cells_are_complete_incomplete_or_invalid() {
        for text in [
            "",
            "1 + 1",
            "let x = 1;",
            "let x = 1; x",
            "fn f() -> u8 { 1 }",
            ":dep serde = \"1\"\nuse std::fmt;",
            "!ls",
            "for i in 0..3 { println!(\"{i}\"); }",
            "// z̄",
            "#![allow(unused)]\nlet x = 1;",
            "x.f()?",
            "println!(\"a\")",
        ] {
            assert_eq!(complete(text), Complete::Complete, "{text}");
        }
        for text in [
            "let x =",
            "fn f() {",
            "let x = [1,",
            "if true {\n    1",
            "let x = \"abc",
            "/* a comment",
            "f(g(1), [2, {",
            "impl",
            "x.",
        ] {
            assert_eq!(complete(text), Complete::Incomplete, "{text}");
        }
        for text in ["1 + 1)", "let 3x = 1;", "fn f() { ]", "let x = = 1;"] {
            assert_eq!(complete(text), Complete::Invalid, "{text}");
        }
    }

    #[test]
    fn a_result_is_the_value_of_the_last_expression() {
        for text in [
            "1",
            "let x = 1; x",
            "f(\n1)\n",
            "x.f()?",
            "vec![1]",
            ":vars\n3",
            "{ 3 }",
        ] {
            assert!(has_result(text), "{text}");
        }
        for text in [
            "",
            "1;",
            "let x = 1;",
            "fn f() {}",
            "for i in 0..3 {}",
            "println!();",
            "x = 3",
        ] {
            assert!(!has_result(text), "{text}");
        }
    }
}
