//! Rust source without its comments and literals, and the functions in it. Enough of a lexer for
//! the rules, not a parser: braces and words are what they look at.

/// A function body and where it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// The line with `fn`, counted from 1.
    pub(super) line: usize,
    /// From `fn` to the closing brace, both counted.
    pub(super) lines: usize,
}

/// `source` with comments, strings and character literals replaced by spaces, line by line, so
/// that lines stay where they are.
pub(super) fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let after_identifier = at > 0 && is_identifier(chars[at - 1]);
        let end = literal_or_comment_end(&chars[at..], after_identifier).map(|len| at + len);
        let Some(end) = end else {
            out.push(chars[at]);
            at += 1;
            continue;
        };
        let end = end.min(chars.len());
        out.extend(chars[at..end].iter().map(|&c| if c == '\n' { c } else { ' ' }));
        at = end;
    }
    out
}

/// How many characters of `rest` are one comment or literal that starts right there.
fn literal_or_comment_end(rest: &[char], after_identifier: bool) -> Option<usize> {
    match *rest {
        ['/', '/', ..] => Some(rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())),
        ['/', '*', ..] => Some(block_comment_len(rest)),
        ['"', ..] => Some(1 + quoted_len(&rest[1..], '"')),
        ['\'', '\\', ..] => Some(1 + quoted_len(&rest[1..], '\'')),
        // A lifetime has no closing quote two characters on.
        ['\'', _, '\'', ..] => Some(3),
        ['b' | 'c', 'r', '"' | '#', ..] if !after_identifier => raw_string_len(&rest[1..], 1),
        ['r', '"' | '#', ..] if !after_identifier => raw_string_len(rest, 0),
        _ => None,
    }
}

fn block_comment_len(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Up to and including the closing quote.
fn quoted_len(rest: &[char], quote: char) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `rest` starts with `r`; `None` for a raw identifier such as `r#type`.
fn raw_string_len(rest: &[char], prefix: usize) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let body = 2 + hashes;
    let closes = |at: usize| {
        rest[at] == '"' && rest[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes
    };
    let end = (body..rest.len()).find(|&at| closes(at)).map(|at| at + 1 + hashes);
    Some(prefix + end.unwrap_or(rest.len()))
}

/// Every function with a body, in the order of their first lines.
pub(super) fn functions(blanked: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    for at in super::word_positions(blanked, "fn") {
        let rest = &blanked[at + 2..];
        let name: String = rest.trim_start().chars().take_while(|&c| is_identifier(c)).collect();
        // `fn(u8)` is a type.
        if name.is_empty() {
            continue;
        }
        if let Some(len) = body_end(rest) {
            let lines = rest[..len].matches('\n').count() + 1;
            functions.push(Function { name, line: super::line_of(blanked, at), lines });
        }
    }
    functions
}

/// Bytes up to the brace that closes the body; `None` for a declaration that ends with `;`.
fn body_end(rest: &str) -> Option<usize> {
    let mut brackets = 0_i32;
    let mut braces = 0_i32;
    for (at, c) in rest.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            // `[u8; 4]` has its semicolon inside brackets.
            ';' if brackets == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_go_and_code_and_lines_stay() {
        for (source, expected) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            ("x(\"{\\\"}\") y", "x(      ) y"),
            ("'{' '\\'' &'a str", "         &'a str"),
            ("r#\"{\"}\"# r#type br\"{\"", "         r#type      "),
            ("\"one\ntwo\" z", "    \n     z"),
            ("var\"s\"", "var   "),
        ] {
            assert_eq!(blank(source), expected, "{source}");
        }
    }

    #[test]
    fn an_unclosed_literal_ends_with_the_file() {
        assert_eq!(blank("a \"b"), "a   ");
        assert_eq!(blank("a r#\"b"), "a     ");
        assert_eq!(blank("a \"b\\"), "a    ");
    }

    #[test]
    fn a_function_is_measured_from_its_name_to_its_closing_brace() {
        let source = "fn one() -> [u8; 4] {\n    if x {\n    }\n}\n\
                      trait T { fn two(&self); }\n\
                      type F = fn(u8) -> u8;\n\
                      fn three() {}\n";
        let found: Vec<_> =
            functions(source).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(found, [("one".into(), 1, 4), ("three".into(), 7, 1)]);
    }
}
