//! What is known about the text of a cell without compiling it: positions, whether it is complete,
//! whether its last expression has a value.

use proc_macro2::{TokenStream, TokenTree};
use std::borrow::Cow;
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

/// Returns where the name ends that a question at `byte` is about, as [`end_of_name`]: the name there, or
/// the function whose arguments are written there.
pub fn name_at(text: &str, byte: usize) -> Option<usize> {
    if let Some(end) = end_of_name(text, byte) {
        return Some(end);
    }
    let mut depth = 0;
    for (i, c) in text[..byte].char_indices().rev() {
        match c {
            ')' | ']' | '}' => depth += 1,
            '[' | '{' => depth -= 1,
            '(' if depth == 0 => return end_of_name(text, i).filter(|end| *end == i + 1),
            '(' => depth -= 1,
            '\n' | ';' if depth == 0 => return None,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

/// Returns a cell such that evcxr keeps the documentation of its first item: it leaves out comments
/// before the first statement. No line number changes.
pub fn with_documentation(text: &str) -> Cow<'_, str> {
    let first = text.trim_start();
    let documented = ["///", "/**"].iter().any(|start| first.starts_with(start));
    // Something must follow that can have documentation.
    let item = first
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("//"))
        .is_some_and(|line| !is_command(line));
    match documented && item {
        true => format!("();{text}").into(),
        false => text.into(),
    }
}

/// Whether a line is a command of evcxr.
fn is_command(line: &str) -> bool {
    let command = line
        .trim_start()
        .strip_prefix(':')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    command || line.starts_with('!')
}

/// Returns the number of bytes before the first line that is neither blank, a comment nor a command:
/// evcxr looks for commands only there.
fn before_code(text: &str) -> usize {
    let mut before = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let comment = trimmed.starts_with("//") && !trimmed.starts_with("///");
        if !(trimmed.is_empty() || comment || is_command(line)) {
            break;
        }
        before += line.len();
    }
    before
}

/// Returns the text without the lines that are commands of evcxr.
fn code(text: &str) -> String {
    let (head, tail) = text.split_at(before_code(text));
    let kept: String = head
        .split_inclusive('\n')
        .filter(|line| !is_command(line))
        .collect();
    kept + tail
}

/// Whether a command of the cell sets how evcxr shows values.
pub fn sets_format(text: &str) -> bool {
    let head = &text[..before_code(text)];
    head.lines().any(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some(":fmt" | ":types"))
    })
}

/// Returns the text with blanks instead of the commands of evcxr, but for `:dep` and the one in which
/// `byte` is: a question about code must not carry them out. Every byte stays in its place.
pub fn without_commands(text: &str, byte: usize) -> String {
    let (head, tail) = text.split_at(before_code(text));
    let mut done = String::with_capacity(text.len());
    for line in head.split_inclusive('\n') {
        let here = (done.len()..=done.len() + line.trim_end().len()).contains(&byte);
        if !is_command(line) || line.trim_start().starts_with(":dep ") || here {
            done += line;
        } else {
            done.extend(line.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
        }
    }
    done + tail
}

/// What `is_complete_request` asks.
#[derive(Debug, PartialEq)]
pub enum Readiness {
    Ready,
    Incomplete,
    Invalid,
}

/// Whether a cell can be run, needs further lines, or is no Rust whatever follows.
pub fn complete(text: &str) -> Readiness {
    let code = code(text);
    match brackets(&code) {
        Brackets::Wrong => return Readiness::Invalid,
        Brackets::Open => return Readiness::Incomplete,
        Brackets::Closed => {}
    }
    match statements(&code) {
        Ok(_) => Readiness::Ready,
        Err(error) if error.to_string().contains("unexpected end of input") => {
            Readiness::Incomplete
        }
        // A statement without its semicolon is fine at the end of a cell.
        Err(_) if statements(&format!("{code};")).is_ok() => Readiness::Ready,
        Err(error) if at_end(&code, &error) => Readiness::Incomplete,
        Err(_) => Readiness::Invalid,
    }
}

fn at_end(code: &str, error: &syn::Error) -> bool {
    let end = error.span().end();
    let lines: Vec<&str> = code.trim_end().lines().collect();
    lines.last().is_some_and(|last| {
        end.line > lines.len() || (end.line == lines.len() && end.column > last.chars().count())
    })
}

#[derive(Debug, PartialEq)]
enum Brackets {
    Closed,
    /// A bracket, a string or a comment is open at the end.
    Open,
    /// A bracket closes what was not opened.
    Wrong,
}

/// Looks at brackets, strings and comments only.
fn brackets(code: &str) -> Brackets {
    let chars: Vec<char> = code.chars().collect();
    let mut open = Vec::new();
    let mut at = 0;
    let starts = |at: usize, text: &str| {
        text.chars()
            .enumerate()
            .all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let find = |from: usize, text: &str| (from..chars.len()).find(|i| starts(*i, text));
    while at < chars.len() {
        let word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        match chars[at] {
            '/' if starts(at, "//") => match find(at, "\n") {
                Some(end) => at = end,
                None => break,
            },
            '/' if starts(at, "/*") => {
                let mut depth = 0;
                loop {
                    if starts(at, "/*") {
                        depth += 1;
                        at += 1;
                    } else if starts(at, "*/") {
                        depth -= 1;
                        at += 1;
                    }
                    if depth == 0 {
                        break;
                    }
                    at += 1;
                    if at >= chars.len() {
                        return Brackets::Open;
                    }
                }
            }
            'r' if !word || (at > 0 && matches!(chars[at - 1], 'b' | 'c')) => {
                let signs = chars[at + 1..].iter().take_while(|c| **c == '#').count();
                if chars.get(at + 1 + signs) == Some(&'"') {
                    let end = format!("\"{}", "#".repeat(signs));
                    match find(at + signs + 2, &end) {
                        Some(found) => at = found + signs,
                        None => return Brackets::Open,
                    }
                }
            }
            '"' => {
                at += 1;
                while chars.get(at).is_some_and(|c| *c != '"') {
                    at += 1 + usize::from(chars[at] == '\\');
                }
                if at >= chars.len() {
                    return Brackets::Open;
                }
            }
            // A character, or the name of a lifetime or a loop.
            '\'' => {
                if chars.get(at + 1) == Some(&'\\') {
                    at = find(at + 3, "'").unwrap_or(chars.len());
                } else if chars.get(at + 2) == Some(&'\'') {
                    at += 2;
                }
            }
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            close @ (')' | ']' | '}') if open.pop() != Some(close) => return Brackets::Wrong,
            _ => {}
        }
        at += 1;
    }
    match open.is_empty() {
        true => Brackets::Closed,
        false => Brackets::Open,
    }
}

/// Returns an error for a `let` without a pattern, which evcxr would leave out without a word.
pub fn no_pattern(text: &str) -> Option<String> {
    let tokens: TokenStream = code(text).parse().ok()?;
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_let = matches!(&token, TokenTree::Ident(word) if word == "let");
        match tokens.peek() {
            Some(TokenTree::Punct(p)) if is_let && matches!(p.as_char(), '=' | ';' | ':') => {
                let found = p.as_char();
                return Some(format!("expected a pattern after `let`, found `{found}`"));
            }
            None if is_let => return Some("expected a pattern after `let`, found the end".into()),
            _ => {}
        }
    }
    None
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
    use super::{
        Readiness, byte_of, character_of, code, complete, end_of_name, has_result, name_at,
        no_pattern, with_documentation, without_commands,
    };

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
        // Within the parentheses it is the function's.
        assert_eq!(name_at("f(1, g(2), ", 11), Some(2));
        assert_eq!(name_at("a.push(", 7), Some(7));
        assert_eq!(name_at("f(1); ", 6), None);
        assert_eq!(name_at("(1, ", 4), None);
        assert_eq!(name_at("f([1, ", 6), None);
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
            "let c = '\"'; let s = r#\"(\"#; let l = '\\''; // (",
            "'a: loop { break 'a; }",
            "let bytes = br\"[\";",
        ] {
            assert_eq!(complete(text), Readiness::Ready, "{text}");
        }
        for text in [
            "let x =",
            "fn f() {",
            "let x = [1,",
            "if true {\n    1",
            "let x = \"abc",
            "let x = r#\"abc\"",
            "/* a /* nested */ comment",
            "f(g(1), [2, {",
            "impl",
            "x.",
        ] {
            assert_eq!(complete(text), Readiness::Incomplete, "{text}");
        }
        for text in ["1 + 1)", "fn 3() {}", "fn f() { ]", "let x = = 1;"] {
            assert_eq!(complete(text), Readiness::Invalid, "{text}");
        }
    }

    #[test]
    fn commands_stand_before_the_code() {
        let text = "// head\n:dep a = \"1\"\n\n!ls z̄\n:vars\nlet x = y ||\n!z;\n:vars";
        assert_eq!(code(text), "// head\n\nlet x = y ||\n!z;\n:vars");
        let blank = without_commands(text, text.len());
        assert_eq!(blank.len(), text.len());
        assert!(blank.starts_with("// head\n:dep a = \"1\"\n\n      "));
        assert!(blank.ends_with("\n     \nlet x = y ||\n!z;\n:vars"));
        // The one that is being written.
        assert_eq!(without_commands(":he", 3), ":he");
        assert_eq!(without_commands(":restart\nx.", 11), "        \nx.");
    }

    #[test]
    fn documentation_of_the_first_item_is_kept() {
        assert_eq!(
            with_documentation("/// a\nfn f() {}"),
            "();/// a\nfn f() {}"
        );
        for text in ["// a\nfn f() {}", "/// a", "/// a\n:dep b", "fn f() {}"] {
            assert_eq!(with_documentation(text), text);
        }
    }

    #[test]
    fn a_let_needs_a_pattern() {
        for text in ["let = 3;", "let", "1; let : u8 = 3", "let ;"] {
            assert!(no_pattern(text).is_some(), "{text}");
        }
        for text in [
            "let x = 3;",
            "if let Some(x) = y {}",
            "// let = 3",
            "\"let = 3\"",
        ] {
            assert_eq!(no_pattern(text), None, "{text}");
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
