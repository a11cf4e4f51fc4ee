//! Splits Rust source into items and writes their tokens as text, for `types.rs`.

use proc_macro2::{Delimiter, Ident, Spacing, TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Attributes that change neither the layout of a type nor what its definition refers to. A
/// derive adds items and does not change the type.
const NEUTRAL: [&str; 10] = [
    "allow",
    "default",
    "deny",
    "deprecated",
    "derive",
    "doc",
    "expect",
    "must_use",
    "serde",
    "warn",
];

/// The names that tokens mention, and whether at least one mention can be a function call.
pub type References = BTreeMap<String, bool>;

pub fn merge(into: &mut References, from: References) {
    for (name, called) in from {
        *into.entry(name).or_default() |= called;
    }
}

/// The first item in a list of tokens.
pub struct Item<'a> {
    pub tokens: &'a [TokenTree],
    pub length: usize,
    /// The kind of the item: `struct`, `fn` and so on, `crate` for `extern crate`, and `!` for a
    /// macro call or an unknown item. `None` for attributes of the whole file and for single
    /// semicolons.
    pub keyword: Option<String>,
    /// The index of the keyword.
    pub at: usize,
    pub name: Option<String>,
}

impl<'a> Item<'a> {
    pub fn first(tokens: &'a [TokenTree]) -> Self {
        let mut item = Item {
            tokens,
            length: 1,
            keyword: None,
            at: 0,
            name: None,
        };
        if is_punct(&tokens[0], ';') {
            return item;
        }
        if is_punct(&tokens[0], '#') && tokens.get(1).is_some_and(|t| is_punct(t, '!')) {
            item.length = tokens.len().min(3);
            return item;
        }
        let mut at = 0;
        loop {
            match tokens.get(at) {
                Some(t) if is_punct(t, '#') => at += 2,
                Some(TokenTree::Ident(word)) => match word.to_string().as_str() {
                    "pub" | "unsafe" | "async" | "default" | "auto" | "safe" => at += 1,
                    "extern" => match tokens.get(at + 1) {
                        Some(TokenTree::Ident(_)) => {
                            at += 1;
                            item.keyword = Some("crate".into());
                            break;
                        }
                        _ => at += 1,
                    },
                    "const" if tokens.get(at + 1).is_some_and(starts_function) => at += 1,
                    word @ ("struct" | "enum" | "trait" | "type" | "fn" | "mod" | "use"
                    | "static" | "impl" | "const") => {
                        item.keyword = Some(word.into());
                        break;
                    }
                    "union" if matches!(tokens.get(at + 1), Some(TokenTree::Ident(_))) => {
                        item.keyword = Some("union".into());
                        break;
                    }
                    "macro_rules" => {
                        item.keyword = Some("macro_rules".into());
                        at += 1;
                        break;
                    }
                    _ => break,
                },
                // The parentheses of `pub(crate)`, and the string of `extern "C"` below.
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis => {
                    at += 1;
                }
                Some(TokenTree::Literal(_)) => at += 1,
                _ => break,
            }
        }
        // These attributes have no item: they belong to the function that was cut off.
        if at >= tokens.len() {
            item.length = tokens.len();
            return item;
        }
        let keyword = item.keyword.get_or_insert_with(|| "!".into()).clone();
        item.at = at;
        item.name = tokens[at + 1..].iter().find_map(|t| match t {
            TokenTree::Ident(word) if word != "mut" => Some(word.to_string()),
            _ => None,
        });
        if keyword == "crate"
            && let Some(position) = tokens[at..].iter().position(|t| is_punct(t, ';'))
            && let Some(TokenTree::Ident(word)) = tokens[at..at + position].last()
        {
            item.name = Some(word.to_string());
        }
        let by_semicolon = ["use", "type", "const", "static", "crate"].contains(&keyword.as_str());
        let mut depth = 0;
        item.length = tokens.len();
        for (i, token) in tokens.iter().enumerate().skip(at) {
            let arrow = || match &tokens[i - 1] {
                TokenTree::Punct(p) => "-=".contains(p.as_char()) && p.spacing() == Spacing::Joint,
                _ => false,
            };
            let ends = match token {
                TokenTree::Punct(p) => match p.as_char() {
                    '<' => {
                        depth += 1;
                        false
                    }
                    '>' if i > at && !arrow() && depth > 0 => {
                        depth -= 1;
                        false
                    }
                    ';' => true,
                    _ => false,
                },
                TokenTree::Group(group) => {
                    !by_semicolon && depth == 0 && group.delimiter() == Delimiter::Brace
                }
                _ => false,
            };
            if ends {
                item.length = i + 1;
                break;
            }
        }
        item.tokens = &tokens[..item.length];
        item
    }

    pub fn has(&self, word: &str) -> bool {
        self.tokens[..self.at]
            .iter()
            .any(|t| matches!(t, TokenTree::Ident(i) if i == word))
    }

    pub fn braces(&self) -> Option<TokenStream> {
        match self.tokens.last() {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                Some(group.stream())
            }
            _ => None,
        }
    }

    pub fn length_of_header(&self) -> usize {
        self.length - 1
    }

    pub fn render(&self, is_trait: bool) -> (String, References) {
        match self.braces().filter(|_| is_trait) {
            Some(content) => {
                let (mut text, mut references) =
                    render(&self.tokens[..self.length_of_header()], false);
                let content: Vec<TokenTree> = content.into_iter().collect();
                let (inner, more) = render(&content, true);
                text += &format!("{{ {inner}}} ");
                merge(&mut references, more);
                (text, references)
            }
            None => render(self.tokens, false),
        }
    }
}

fn starts_function(token: &TokenTree) -> bool {
    let words = ["fn", "unsafe", "extern", "async"];
    matches!(token, TokenTree::Ident(word) if words.iter().any(|w| word == w))
}

pub fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == character)
}

/// Writes tokens with one blank after each and collects the names that they mention.
pub fn render(tokens: &[TokenTree], without_bodies: bool) -> (String, References) {
    let mut writer = Writer {
        references: Some(References::new()),
        ..Writer::default()
    };
    writer.write(tokens, without_bodies);
    (writer.text, writer.references.unwrap_or_default())
}

/// Writes tokens with one blank after each.
pub fn text_of(tokens: &[TokenTree]) -> String {
    let mut writer = Writer::default();
    writer.write(tokens, false);
    writer.text
}

#[derive(Default)]
struct Writer {
    text: String,
    /// `None` if the names are not collected.
    references: Option<References>,
}

impl Writer {
    fn write(&mut self, tokens: &[TokenTree], without_bodies: bool) {
        let mut in_function = false;
        let mut at = 0;
        while at < tokens.len() {
            let next = tokens.get(at + 1);
            match &tokens[at] {
                TokenTree::Punct(p) => {
                    if p.as_char() == '#'
                        && let Some(TokenTree::Group(group)) = next
                        && let Some(TokenTree::Ident(word)) = group.stream().into_iter().next()
                        && NEUTRAL.iter().any(|neutral| word == neutral)
                    {
                        at += 2;
                        continue;
                    }
                    in_function &= p.as_char() != ';';
                    self.text.push(p.as_char());
                    self.text.push(' ');
                }
                TokenTree::Ident(word) => {
                    let before = at.checked_sub(1).map(|i| &tokens[i]);
                    self.word(word, before, &tokens[at + 1..]);
                    in_function |= word == "fn";
                }
                TokenTree::Literal(literal) => {
                    let _ = write!(self.text, "{literal} ");
                }
                TokenTree::Group(group)
                    if without_bodies && in_function && group.delimiter() == Delimiter::Brace =>
                {
                    self.text += "; ";
                    in_function = false;
                }
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        Delimiter::Parenthesis => ("( ", ") "),
                        Delimiter::Brace => ("{ ", "} "),
                        Delimiter::Bracket => ("[ ", "] "),
                        Delimiter::None => ("", ""),
                    };
                    self.text += open;
                    let mut inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    // rustfmt adds a trailing comma in braces, so it does not count. In
                    // parentheses it would make a tuple.
                    if group.delimiter() == Delimiter::Brace
                        && inner.last().is_some_and(|t| is_punct(t, ','))
                    {
                        inner.pop();
                    }
                    self.write(&inner, false);
                    self.text += close;
                }
            }
            at += 1;
        }
    }

    fn word(&mut self, word: &Ident, before: Option<&TokenTree>, after: &[TokenTree]) {
        if word == "pub" {
            return;
        }
        let start = self.text.len();
        let _ = write!(self.text, "{word} ");
        let Some(references) = &mut self.references else {
            return;
        };
        let lifetime = before.is_some_and(|t| is_punct(t, '\''));
        let declared =
            matches!(before, Some(TokenTree::Ident(i)) if i == "fn") || starts_with_colon(after);
        if !lifetime && !declared {
            let called = match after.first() {
                Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Parenthesis,
                Some(token) => is_punct(token, ':'),
                None => false,
            };
            let name = self.text[start..].trim_end();
            *references.entry(name.to_owned()).or_default() |= called;
        }
    }
}

/// Whether a type follows, as after the name of a field, and not the rest of a path.
fn starts_with_colon(tokens: &[TokenTree]) -> bool {
    match tokens {
        [TokenTree::Punct(first), second, ..] if first.as_char() == ':' => {
            first.spacing() == Spacing::Alone || !is_punct(second, ':')
        }
        _ => false,
    }
}
