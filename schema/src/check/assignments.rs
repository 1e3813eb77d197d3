//! What the SET clauses of a statement do to their columns, as far as tokens tell: `col = col + …` adds, `col = col - …`
//! subtracts, `col = 'x'` sets to a constant. Whatever is not plainly one of these is something else; nothing is guessed.

use crate::facts::Facts;
use crate::sql::{self, Kind, Token};
use crate::value::Type;

/// One column that a SET clause fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub table: String,
    pub column: String,
    pub change: Change,
}

/// What happens to the column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It grows by a sum, if what is added is positive.
    Adds,
    /// It shrinks by a sum, if what is subtracted is positive.
    Subtracts {
        /// Whether the sum comes from rows alone, with no parameter in it.
        is_from_rows: bool,
    },
    /// It becomes a fixed value.
    Constant,
    Other,
}

/// The assignments of a statement to columns of known tables. Additions and subtractions are those of numeric columns.
pub(crate) fn assignments(facts: &Facts, text: &str) -> Vec<Assignment> {
    let mut found = parse(text);
    for assignment in &mut found {
        let table = facts.tables.iter().find(|table| table.name == assignment.table);
        let is_numeric = table.and_then(|table| table.column(&assignment.column)).is_some_and(|column| is_number(&column.r#type));
        if !is_numeric && assignment.change != Change::Constant {
            assignment.change = Change::Other;
        }
    }
    found
}

/// The tables that a statement inserts into.
pub(crate) fn inserts(text: &str) -> Vec<String> {
    let tokens = sql::code(text);
    let opens = |at: &usize| tokens[*at].is_word(text, "insert") && tokens.get(at + 1).is_some_and(|next| next.is_word(text, "into"));
    (0..tokens.len()).filter(opens).filter_map(|at| name(text, &tokens, at + 2).map(|(table, _)| table)).collect()
}

fn is_number(r#type: &Type) -> bool {
    matches!(r#type, Type::Smallint | Type::Integer | Type::Bigint | Type::Numeric | Type::Real | Type::Double)
}

/// A table that is updated, by the names that it goes by.
#[derive(Clone)]
struct Target {
    table: String,
    alias: Option<String>,
}

impl Target {
    fn is_named(&self, name: &str) -> bool {
        self.table == name || self.alias.as_deref() == Some(name)
    }
}

fn parse(text: &str) -> Vec<Assignment> {
    let tokens = sql::code(text);
    let mut found = Vec::new();
    // The target of the last INSERT INTO or MERGE INTO, which a bare UPDATE SET belongs to.
    let mut into = None;
    for (at, token) in tokens.iter().enumerate() {
        if token.is_word(text, "into") {
            into = target(text, &tokens, at + 1).map(|(target, _)| target);
        }
        if !token.is_word(text, "update") {
            continue;
        }
        let is_set = |at: usize| tokens.get(at).is_some_and(|token| token.is_word(text, "set"));
        let updated = if is_set(at + 1) {
            into.clone().map(|target| (target, at + 1))
        } else {
            // Without SET it is `for update` or the like.
            target(text, &tokens, at + 1).filter(|(_, behind)| is_set(*behind))
        };
        if let Some((target, set)) = updated {
            let changes = set_clause(text, &target, tokens.get(set + 1..).unwrap_or(&[]));
            found.extend(changes.into_iter().map(|(column, change)| Assignment { table: target.table.clone(), column, change }));
        }
    }
    found
}

/// `[only] [namespace .] table [*] [[as] alias]`, and the place behind it.
fn target(text: &str, tokens: &[Token], at: usize) -> Option<(Target, usize)> {
    const NO_ALIAS: &[&str] = &["set", "using", "values", "select", "default", "overriding", "with"];
    let is_word = |at: usize, word: &str| tokens.get(at).is_some_and(|token| token.is_word(text, word));
    let at = at + usize::from(is_word(at, "only"));
    let (table, at) = name(text, tokens, at)?;
    let at = at + usize::from(tokens.get(at).is_some_and(|token| token.text(text) == "*"));
    let at = at + usize::from(is_word(at, "as"));
    let alias = if NO_ALIAS.iter().any(|word| is_word(at, word)) { None } else { tokens.get(at).and_then(|token| token.identifier(text)) };
    let behind = at + usize::from(alias.is_some());
    Some((Target { table, alias }, behind))
}

/// `[namespace .] name`, and the place behind it.
fn name(text: &str, tokens: &[Token], at: usize) -> Option<(String, usize)> {
    let first = tokens.get(at)?.identifier(text)?;
    if tokens.get(at + 1).is_some_and(|dot| dot.text(text) == ".") {
        return Some((tokens.get(at + 2)?.identifier(text)?, at + 3));
    }
    Some((first, at + 1))
}

/// The assignments behind a SET, up to the clause that ends it.
fn set_clause(text: &str, target: &Target, tokens: &[Token]) -> Vec<(String, Change)> {
    const ENDS: &[&str] = &["where", "from", "returning", "when"];
    let mut pieces = vec![Vec::new()];
    for (depth, token) in with_depth(text, tokens) {
        let is_end = depth == 0 && (token.kind == Kind::Semicolon || ENDS.iter().any(|word| token.is_word(text, word)));
        if is_end || depth < 0 {
            break;
        }
        if depth == 0 && token.text(text) == "," {
            pieces.push(Vec::new());
        } else if let Some(piece) = pieces.last_mut() {
            piece.push(token);
        }
    }
    pieces.iter().filter_map(|piece| assignment(text, target, piece)).collect()
}

/// The tokens with how deep they stand in parentheses, brackets and CASE; an opening one stands inside what it opens, and a
/// closing one as well, unless it closes what was never opened.
fn with_depth<'a>(text: &'a str, tokens: &'a [Token]) -> impl Iterator<Item = (i32, Token)> + 'a {
    let mut depth = 0_i32;
    tokens.iter().map(move |token| {
        let word = token.text(text);
        if matches!(word, "(" | "[") || token.is_word(text, "case") {
            depth += 1;
            return (depth, *token);
        }
        let closes = matches!(word, ")" | "]") || token.is_word(text, "end");
        let shown = if closes && depth == 0 { -1 } else { depth };
        depth -= i32::from(closes);
        (shown, *token)
    })
}

/// `column = expression`; none for `(a, b) = …`.
fn assignment(text: &str, target: &Target, piece: &[Token]) -> Option<(String, Change)> {
    let (column, rest) = piece.split_first()?;
    let column = column.identifier(text)?;
    let (equals, expression) = rest.split_first()?;
    (equals.text(text) == "=").then(|| (column.clone(), change(text, &Own { target, column: &column }, expression)))
}

/// The column that is assigned to.
struct Own<'a> {
    target: &'a Target,
    column: &'a str,
}

/// What an expression makes of the column that it is assigned to.
fn change(text: &str, own: &Own<'_>, expression: &[Token]) -> Change {
    if is_constant(text, expression) {
        return Change::Constant;
    }
    let Some(terms) = terms(text, expression) else { return Change::Other };
    let (columns, others): (Vec<&Term>, Vec<&Term>) = terms.iter().partition(|term| own.is_it(text, &term.tokens));
    let ([column], false) = (columns.as_slice(), others.is_empty()) else { return Change::Other };
    if column.is_subtracted || others.iter().any(|term| own.is_in(text, &term.tokens)) {
        return Change::Other;
    }
    if others.iter().all(|term| !term.is_subtracted) {
        Change::Adds
    } else if others.iter().all(|term| term.is_subtracted) {
        // What ON CONFLICT calls `excluded` was given to the statement.
        let is_given = |token: &Token| matches!(token.kind, Kind::Position | Kind::Parameter) || token.is_word(text, "excluded");
        let has_parameter = |term: &&Term| term.tokens.iter().any(is_given);
        Change::Subtracts { is_from_rows: !others.iter().any(has_parameter) }
    } else {
        Change::Other
    }
}

impl Own<'_> {
    /// Whether the tokens are `col`, `alias.col`, either in `coalesce(…, constant)`, and perhaps with a cast behind it.
    fn is_it(&self, text: &str, tokens: &[Token]) -> bool {
        match without_cast(text, tokens) {
            [name] => name.identifier(text).as_deref() == Some(self.column),
            [qualifier, dot, name] => {
                let is_ours = qualifier.identifier(text).is_some_and(|qualifier| self.target.is_named(&qualifier));
                is_ours && dot.text(text) == "." && name.identifier(text).as_deref() == Some(self.column)
            }
            [call, open, inner @ .., close] if call.is_word(text, "coalesce") && open.text(text) == "(" && close.text(text) == ")" => {
                let Some(comma) = inner.iter().position(|token| token.text(text) == ",") else { return false };
                self.is_it(text, &inner[..comma]) && is_constant(text, &inner[comma + 1..])
            }
            _ => false,
        }
    }

    /// Whether the column stands somewhere in the tokens.
    fn is_in(&self, text: &str, tokens: &[Token]) -> bool {
        (0..tokens.len()).filter(|at| tokens[*at].identifier(text).as_deref() == Some(self.column)).any(|at| {
            let qualifier = at.checked_sub(2).filter(|_| tokens[at - 1].text(text) == ".").map(|at| tokens[at]);
            qualifier.is_none_or(|qualifier| qualifier.identifier(text).is_some_and(|qualifier| self.target.is_named(&qualifier)))
        })
    }
}

/// One term of a sum.
struct Term {
    is_subtracted: bool,
    tokens: Vec<Token>,
}

/// The terms of a sum; none if the expression is no plain sum, or a sign inside a term hides which way it goes.
fn terms(text: &str, expression: &[Token]) -> Option<Vec<Term>> {
    let mut terms = vec![Term { is_subtracted: false, tokens: Vec::new() }];
    let mut last: Option<Token> = None;
    for (depth, token) in with_depth(text, expression) {
        let is_sign = matches!(token.text(text), "+" | "-") && token.kind == Kind::Symbol;
        let is_between = last.is_some_and(|last| is_operand_end(text, last));
        if is_sign && !is_between && token.text(text) == "-" {
            return None;
        }
        if is_sign && is_between && depth == 0 {
            terms.push(Term { is_subtracted: token.text(text) == "-", tokens: Vec::new() });
        } else if depth == 0 && is_comparison(text, token) {
            return None;
        } else {
            terms.last_mut()?.tokens.push(token);
        }
        last = Some(token);
    }
    Some(terms)
}

/// Whether an operand may end with the token, so that a sign behind it is one between two terms.
fn is_operand_end(text: &str, token: Token) -> bool {
    const OPENING: &[&str] = &["case", "when", "then", "else", "and", "or", "not"];
    match token.kind {
        Kind::Word => !OPENING.iter().any(|word| token.is_word(text, word)),
        Kind::Symbol => matches!(token.text(text), ")" | "]"),
        _ => true,
    }
}

/// Whether the token makes something else of a sum: a comparison, a concatenation, a logical word.
fn is_comparison(text: &str, token: Token) -> bool {
    matches!(token.text(text), "=" | "<" | ">" | "|" | "&" | "!" | "~" | "#" | "?" | "@" | "^")
        || ["and", "or", "not", "is", "in", "like", "between", "at"].iter().any(|word| token.is_word(text, word))
}

fn without_cast<'a>(text: &str, tokens: &'a [Token]) -> &'a [Token] {
    tokens.iter().position(|token| token.text(text) == "::").map_or(tokens, |at| &tokens[..at])
}

/// A number, a text, `true`, `false` or NULL, perhaps with a cast behind it.
fn is_constant(text: &str, tokens: &[Token]) -> bool {
    let is_one = |token: &Token| {
        matches!(token.kind, Kind::Number | Kind::Text) || ["true", "false", "null"].iter().any(|word| token.is_word(text, word))
    };
    match without_cast(text, tokens) {
        [only] => is_one(only),
        [sign, only] => matches!(sign.text(text), "+" | "-") && only.kind == Kind::Number,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changes(text: &str) -> Vec<(String, String, Change)> {
        parse(text).into_iter().map(|assignment| (assignment.table, assignment.column, assignment.change)).collect()
    }

    fn only(set: &str) -> Change {
        let found = changes(&format!("update account as a set balance = {set} where account_id = $1 returning balance"));
        let [(table, column, change)] = found.as_slice() else { panic!("{set}: {found:?}") };
        assert_eq!((table.as_str(), column.as_str()), ("account", "balance"), "{set}");
        *change
    }

    const BY_PARAMETER: Change = Change::Subtracts { is_from_rows: false };
    const FROM_ROWS: Change = Change::Subtracts { is_from_rows: true };

    #[test]
    fn sums_with_the_column_itself_add_or_subtract() {
        for set in [
            "balance + $2",
            "BALANCE+$2",
            "\"balance\" + $2 + $3",
            "$2 + balance",
            "account.balance + $2::numeric",
            "coalesce(balance, 0) + $2",
            "balance::numeric + $2",
            "balance + case when $3 then $2 else 0 end",
            "balance + (select sum(x - y) from entry)",
            "balance + moved.balance",
            "balance + round($2 * 1.5 - 1, 2)",
        ] {
            assert_eq!(only(set), Change::Adds, "{set}");
        }
        for set in ["balance - $2", "balance -$2-$3", "a.balance - ($2 + $3)", "coalesce(balance, 0) - $2", "balance /* - */ - $2"] {
            assert_eq!(only(set), BY_PARAMETER, "{set}");
        }
        assert_eq!(only("balance - taken.amount"), FROM_ROWS);
        assert_eq!(only("balance - 1"), FROM_ROWS);
    }

    #[test]
    fn whatever_hides_its_direction_is_something_else() {
        for set in [
            "$2",
            "balance",
            "balance * 2",
            "balance * 2 + $2",
            "balance + $2 - $3",
            "$2 - balance",
            "- balance + $2",
            "balance + -$2",
            "balance - (-$2)",
            "balance + case when $3 then $2 else -$2 end",
            "balance + balance",
            "balance + (a.balance * 2)",
            "balance + $2 > 0",
            "balance || '+'",
            "other + $2",
            "greatest(balance + $2, 0)",
            "coalesce(balance, $2) + $3",
            "'balance + 1' || $2",
        ] {
            assert_eq!(only(set), Change::Other, "{set}");
        }
    }

    #[test]
    fn constants_are_told() {
        for set in ["0", "-1", "'released'", "true", "null", "'x'::text", "$$y$$"] {
            assert_eq!(only(set), Change::Constant, "{set}");
        }
    }

    #[test]
    fn each_set_clause_belongs_to_its_table() {
        let release = "with released as (update public.reservation r set state = 'released' where id = $1 returning quantity)
                       update only stock as s set reserved = s.reserved - released.quantity, touched = $2 from released";
        let wanted = [("reservation", "state", Change::Constant), ("stock", "reserved", FROM_ROWS), ("stock", "touched", Change::Other)];
        assert_eq!(changes(release), wanted.map(|(table, column, change)| (table.to_owned(), column.to_owned(), change)));
        let upsert = "insert into stock (id, n) values ($1, $2) on conflict (id) do update set n = stock.n + excluded.n";
        assert_eq!(changes(upsert), [("stock".to_owned(), "n".to_owned(), Change::Adds)]);
        let merge = "merge into stock using x on true when matched then update set n = n - $1 when not matched then do nothing";
        assert_eq!(changes(merge), [("stock".to_owned(), "n".to_owned(), BY_PARAMETER)]);
        assert_eq!(inserts("with a as (insert into b values (1)) INSERT INTO public.c select 'insert into d'"), ["b", "c"]);
    }

    #[test]
    fn what_is_no_set_clause_assigns_nothing() {
        for text in [
            "select 1 from stock for update",
            "select 1 from stock for no key update of stock nowait",
            "update stock set (a, b) = (a + 1, b - 1)",
            "update stock",
            "select 'update stock set a = a + 1'",
            "insert into stock values ($1)",
            "",
        ] {
            assert_eq!(changes(text), [], "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(update |set |insert into |stock|a|=|\\+|-|\\(|\\)|,|;|case |end |[a-z:$' 0-9])*") {
            parse(&text);
            inserts(&text);
        }
    }
}
