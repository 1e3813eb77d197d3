//! A tokenizer for PostgreSQL's SQL, just deep enough to tell code from strings, quotes and comments.
//!
//! It judges no grammar; the server does that. Its tokens cover the text without gaps, whatever the text is.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Space,
    LineComment,
    BlockComment,
    /// `'…'` or `E'…'`, and dollar quoted text.
    Text,
    /// `"…"`
    Quoted,
    Word,
    Number,
    /// `:name`
    Parameter,
    /// `$1`
    Position,
    Semicolon,
    /// One other character, or `::`, or `:=`.
    Symbol,
    /// A string, a quoted name or a comment that never ends; always the last token.
    Unterminated,
}

/// A stretch of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn text(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or("")
    }

    /// Whether the token carries neither code nor names.
    pub fn is_trivia(self) -> bool {
        matches!(self.kind, Kind::Space | Kind::LineComment | Kind::BlockComment)
    }

    /// The identifier that the token is, as PostgreSQL folds it; none for anything else.
    pub fn identifier(self, text: &str) -> Option<String> {
        match self.kind {
            Kind::Word => Some(self.text(text).to_ascii_lowercase()),
            Kind::Quoted => self.text(text).strip_prefix('"')?.strip_suffix('"').map(|name| name.replace("\"\"", "\"")),
            _ => None,
        }
    }

    /// Whether the token is this unquoted word, in any case.
    pub fn is_word(self, text: &str, word: &str) -> bool {
        self.kind == Kind::Word && self.text(text).eq_ignore_ascii_case(word)
    }
}

/// All tokens of a text; end to end they are the text.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (kind, end) = next(bytes, at);
        // Every branch of `next` moves on; the guard keeps a mistake there from hanging the check.
        let end = end.clamp(at + 1, bytes.len());
        found.push(Token { kind, start: at, end });
        at = end;
    }
    found
}

/// The tokens that carry code.
pub(crate) fn code(text: &str) -> Vec<Token> {
    tokens(text).into_iter().filter(|token| !token.is_trivia()).collect()
}

fn next(bytes: &[u8], at: usize) -> (Kind, usize) {
    let following = bytes.get(at + 1).copied().unwrap_or(0);
    match bytes[at] {
        byte if byte.is_ascii_whitespace() || byte == 0x0b => {
            (Kind::Space, run(bytes, at, |byte| byte.is_ascii_whitespace() || byte == 0x0b))
        }
        b'-' if following == b'-' => (Kind::LineComment, run(bytes, at, |byte| byte != b'\n')),
        b'/' if following == b'*' => block_comment(bytes, at),
        b'\'' => quoted(bytes, at, b'\'', Kind::Text),
        b'"' => quoted(bytes, at, b'"', Kind::Quoted),
        b'e' | b'E' if following == b'\'' => escape_string(bytes, at + 1),
        b'u' | b'U' if following == b'&' && bytes.get(at + 2) == Some(&b'\'') => quoted(bytes, at + 2, b'\'', Kind::Text),
        byte if is_word_start(byte) => (Kind::Word, run(bytes, at, is_word_part)),
        byte if byte.is_ascii_digit() => (Kind::Number, run(bytes, at, |byte| is_word_part(byte) || byte == b'.')),
        b'$' if following.is_ascii_digit() => (Kind::Position, run(bytes, at + 1, |byte| byte.is_ascii_digit())),
        b'$' => dollar(bytes, at),
        b':' if following == b':' || following == b'=' => (Kind::Symbol, at + 2),
        b':' if following.is_ascii_alphabetic() || following == b'_' => {
            (Kind::Parameter, run(bytes, at + 1, |byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        }
        b';' => (Kind::Semicolon, at + 1),
        _ => (Kind::Symbol, at + 1),
    }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_word_part(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// The first byte from `at` on that is not part of the run.
fn run(bytes: &[u8], at: usize, is_part: impl Fn(u8) -> bool) -> usize {
    bytes[at..].iter().position(|byte| !is_part(*byte)).map_or(bytes.len(), |length| at + length)
}

/// Block comments nest in PostgreSQL.
fn block_comment(bytes: &[u8], start: usize) -> (Kind, usize) {
    let (mut at, mut depth) = (start + 2, 1_usize);
    while at + 1 < bytes.len() {
        match (bytes[at], bytes[at + 1]) {
            (b'/', b'*') => (at, depth) = (at + 2, depth + 1),
            (b'*', b'/') if depth == 1 => return (Kind::BlockComment, at + 2),
            (b'*', b'/') => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    (Kind::Unterminated, bytes.len())
}

/// A doubled quote stands for itself.
fn quoted(bytes: &[u8], start: usize, quote: u8, kind: Kind) -> (Kind, usize) {
    let mut at = start + 1;
    while at < bytes.len() {
        if bytes[at] != quote {
            at += 1;
        } else if bytes.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return (kind, at + 1);
        }
    }
    (Kind::Unterminated, bytes.len())
}

fn escape_string(bytes: &[u8], start: usize) -> (Kind, usize) {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return (Kind::Text, at + 1),
            _ => at += 1,
        }
    }
    (Kind::Unterminated, bytes.len())
}

fn dollar(bytes: &[u8], start: usize) -> (Kind, usize) {
    let tag_end = run(bytes, start + 1, |byte| is_word_part(byte) && byte != b'$');
    if bytes.get(tag_end) != Some(&b'$') {
        return (Kind::Symbol, start + 1);
    }
    let tag = &bytes[start..=tag_end];
    let body = tag_end + 1;
    match bytes[body..].windows(tag.len()).position(|window| window == tag) {
        Some(length) => (Kind::Text, body + length + tag.len()),
        None => (Kind::Unterminated, bytes.len()),
    }
}

/// Splits tokens at the semicolons that end a statement, psql's way: not inside parentheses and not inside the
/// `BEGIN ATOMIC … END` of an SQL function. The semicolon belongs to the statement that it ends.
pub(crate) fn split(text: &str, tokens: &[Token]) -> Vec<Vec<Token>> {
    let mut statements = vec![Vec::new()];
    let (mut parentheses, mut blocks) = (0_usize, 0_usize);
    let mut last_word = "";
    for token in tokens {
        match token.kind {
            Kind::Symbol if token.text(text) == "(" => parentheses += 1,
            Kind::Symbol if token.text(text) == ")" => parentheses = parentheses.saturating_sub(1),
            Kind::Word => {
                let word = token.text(text);
                let opens = word.eq_ignore_ascii_case("atomic") && last_word.eq_ignore_ascii_case("begin")
                    || blocks > 0 && word.eq_ignore_ascii_case("case");
                if opens {
                    blocks += 1;
                } else if word.eq_ignore_ascii_case("end") {
                    blocks = blocks.saturating_sub(1);
                }
                last_word = word;
            }
            _ => {}
        }
        if let Some(statement) = statements.last_mut() {
            statement.push(*token);
        }
        if token.kind == Kind::Semicolon && parentheses == 0 && blocks == 0 {
            statements.push(Vec::new());
        }
    }
    statements.retain(|statement| statement.iter().any(|token| !token.is_trivia()));
    statements
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, &str)> {
        code(text).into_iter().map(|token| (token.kind, token.text(text))).collect()
    }

    #[test]
    fn placeholders_are_told_from_casts_strings_and_comments() {
        let text = "select :a::text, ':b', $$:c$$, $x$ :d $$ $x$, E'\\':e', \":f\" -- :g\n /* :h /* */ :i */ , x[1:n], y := $1";
        let parameters: Vec<&str> = kinds(text).into_iter().filter(|(kind, _)| *kind == Kind::Parameter).map(|(_, text)| text).collect();
        assert_eq!(parameters, [":a", ":n"]);
        assert!(kinds(text).contains(&(Kind::Position, "$1")));
    }

    #[test]
    fn what_never_ends_is_one_last_token() {
        for text in ["'abc", "\"abc", "/* /* */", "$a$ $b$", "E'\\'", "u&'"] {
            assert_eq!(kinds(text), [(Kind::Unterminated, text)]);
        }
    }

    #[test]
    fn semicolons_inside_bodies_do_not_split() {
        let text = "create function f() returns int begin atomic; select case when true then 1 end; end; create rule r as on insert to t do (select 1; select 2); select 3";
        assert_eq!(split(text, &tokens(text)).len(), 3);
        assert_eq!(split(" -- nothing\n", &tokens(" -- nothing\n")).len(), 0);
    }

    proptest! {
        #[test]
        fn tokens_cover_any_text_without_gaps(text in "\\PC*") {
            let joined: String = tokens(&text).into_iter().map(|token| token.text(&text).to_owned()).collect();
            prop_assert_eq!(joined, text);
        }

        #[test]
        fn tokens_cover_sql_like_text_without_gaps(text in "([a-z:$'\"/*();\\\\E -]|\\$\\$|\\n|ä)*") {
            let joined: String = tokens(&text).into_iter().map(|token| token.text(&text).to_owned()).collect();
            prop_assert_eq!(joined, text);
        }
    }
}
