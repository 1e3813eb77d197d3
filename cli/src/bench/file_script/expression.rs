//! What stands behind `\set NAME`: whole numbers, variables, `+ - * / %`, `random` and `random_zipfian`, as pgbench computes them.

use std::collections::BTreeMap;

use rand::{Rng, RngExt as _};

/// The exponents that pgbench takes for `random_zipfian`.
const EXPONENTS: std::ops::RangeInclusive<f64> = 1.001..=1000.0;

/// One expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Number(i64),
    Variable(String),
    Negated(Box<Expression>),
    Two(Box<Expression>, char, Box<Expression>),
    Random(Box<Expression>, Box<Expression>),
    Zipfian(Box<Expression>, Box<Expression>, f64),
}

/// Values of variables.
pub(super) type Variables = BTreeMap<String, i64>;

impl Expression {
    /// Reads one.
    ///
    /// # Errors
    /// What is not understood, for people.
    pub(super) fn parse(text: &str) -> Result<Expression, String> {
        let mut parser = Parser { rest: text.trim_start() };
        let expression = parser.sum()?;
        if parser.rest.is_empty() { Ok(expression) } else { Err(format!("`{}` is not understood", parser.rest.trim_end())) }
    }

    /// Its value, drawn anew wherever it is random.
    ///
    /// # Errors
    /// Where pgbench ends the client, too.
    pub(super) fn value(&self, variables: &Variables, random: &mut impl Rng) -> Result<i64, String> {
        match self {
            Expression::Number(number) => Ok(*number),
            Expression::Variable(name) => variables.get(name).copied().ok_or_else(|| format!("`:{name}` is not set")),
            Expression::Negated(inner) => inner.value(variables, random)?.checked_neg().ok_or_else(too_large),
            Expression::Two(left, operator, right) => {
                let (left, right) = (left.value(variables, random)?, right.value(variables, random)?);
                match operator {
                    '+' => left.checked_add(right),
                    '-' => left.checked_sub(right),
                    '*' => left.checked_mul(right),
                    _ if right == 0 => return Err("division by zero".to_owned()),
                    '/' => left.checked_div(right),
                    _ => left.checked_rem(right),
                }
                .ok_or_else(too_large)
            }
            Expression::Random(low, high) => {
                let (low, high) = range(low, high, variables, random)?;
                Ok(random.random_range(low..=high))
            }
            Expression::Zipfian(low, high, exponent) => {
                let (low, high) = range(low, high, variables, random)?;
                let count = high.checked_sub(low).and_then(|count| count.checked_add(1)).ok_or_else(too_large)?;
                Ok(low - 1 + zipfian(count, *exponent, random))
            }
        }
    }
}

fn range(low: &Expression, high: &Expression, variables: &Variables, random: &mut impl Rng) -> Result<(i64, i64), String> {
    let (low, high) = (low.value(variables, random)?, high.value(variables, random)?);
    if low > high { Err(format!("nothing lies between {low} and {high}")) } else { Ok((low, high)) }
}

fn too_large() -> String {
    "a number is too large".to_owned()
}

/// A number from 1 to `count`, small ones far more often: rejection as in Devroye, Non-Uniform Random Variate Generation, chapter X.6,
/// which pgbench uses, too.
fn zipfian(count: i64, exponent: f64, random: &mut impl Rng) -> i64 {
    if count <= 1 {
        return 1;
    }
    let bound = 2.0_f64.powf(exponent - 1.0);
    loop {
        // Of (0, 1], so that the power is finite.
        let (first, second): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
        let drawn = first.powf(-1.0 / (exponent - 1.0)).floor();
        let ratio = (1.0 + 1.0 / drawn).powf(exponent - 1.0);
        if second * drawn * (ratio - 1.0) / (bound - 1.0) <= ratio / bound && drawn <= count as f64 {
            return drawn as i64;
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn sum(&mut self) -> Result<Expression, String> {
        self.chain(&['+', '-'], Parser::product)
    }

    fn product(&mut self) -> Result<Expression, String> {
        self.chain(&['*', '/', '%'], Parser::atom)
    }

    fn chain(&mut self, operators: &[char], part: fn(&mut Self) -> Result<Expression, String>) -> Result<Expression, String> {
        let mut left = part(self)?;
        while let Some(operator) = self.rest.chars().next().filter(|next| operators.contains(next)) {
            self.take(operator.len_utf8());
            left = Expression::Two(Box::new(left), operator, Box::new(part(self)?));
        }
        Ok(left)
    }

    fn atom(&mut self) -> Result<Expression, String> {
        match self.rest.chars().next() {
            Some('(') => {
                self.take(1);
                let inner = self.sum()?;
                self.expect(')')?;
                Ok(inner)
            }
            Some('-') => {
                self.take(1);
                Ok(Expression::Negated(Box::new(self.atom()?)))
            }
            Some(':') => {
                self.take(1);
                Ok(Expression::Variable(self.word()?.to_owned()))
            }
            Some(digit) if digit.is_ascii_digit() => {
                let number = self.number();
                number.parse().map(Expression::Number).map_err(|_| format!("`{number}` is no whole number"))
            }
            Some(letter) if letter.is_ascii_alphabetic() => self.function(),
            Some(_) => Err(format!("`{}` is not understood", self.rest.trim_end())),
            None => Err("an expression ends too early".to_owned()),
        }
    }

    fn function(&mut self) -> Result<Expression, String> {
        let name = self.word()?.to_ascii_lowercase();
        if !["random", "random_zipfian"].contains(&name.as_str()) {
            return Err(format!("`{name}` is no function that is understood"));
        }
        self.expect('(')?;
        let low = Box::new(self.sum()?);
        self.expect(',')?;
        let high = Box::new(self.sum()?);
        let made = if name == "random" {
            Expression::Random(low, high)
        } else {
            self.expect(',')?;
            let number = self.number();
            let exponent = number.parse().ok().filter(|exponent| EXPONENTS.contains(exponent));
            Expression::Zipfian(low, high, exponent.ok_or("the exponent of `random_zipfian` is a number between 1.001 and 1000")?)
        };
        self.expect(')')?;
        Ok(made)
    }

    fn number(&mut self) -> &'a str {
        self.take_while(|character| character.is_ascii_digit() || character == '.')
    }

    fn word(&mut self) -> Result<&'a str, String> {
        let word = self.take_while(|character| character.is_ascii_alphanumeric() || character == '_');
        if word.is_empty() { Err("a name is missing".to_owned()) } else { Ok(word) }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if !self.rest.starts_with(wanted) {
            return Err(format!("`{wanted}` is missing"));
        }
        self.take(wanted.len_utf8());
        Ok(())
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|character| !is_part(character)).unwrap_or(self.rest.len());
        self.take(end)
    }

    /// So many bytes, and what is blank behind them.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest.trim_start();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<i64, String> {
        let variables = [("scale".to_owned(), 10), ("x".to_owned(), -3)].into();
        Expression::parse(text)?.value(&variables, &mut rand::rng())
    }

    #[test]
    fn numbers_are_computed_as_pgbench_does() {
        for (text, wanted) in [
            ("5", 5),
            ("100000 * :scale", 1_000_000),
            ("1 + 2 * 3 - 4", 3),
            ("-(:x - 1) % 3", 1),
            ("-7 / 2", -3),
            ("random(4, 2 + 2)", 4),
            ("random_zipfian(7, 7, 1.5)", 7),
        ] {
            assert_eq!(value(text), Ok(wanted), "{text}");
        }
        for (text, said) in [
            ("", "ends too early"),
            ("1 +", "ends too early"),
            ("1 2", "`2` is not understood"),
            ("random(1", "`,` is missing"),
            ("random(2, 1)", "nothing lies between 2 and 1"),
            ("abs(1)", "`abs` is no function"),
            ("random_zipfian(1, 2, 1)", "between 1.001 and 1000"),
            (":y", "`:y` is not set"),
            ("1 / (:x + 3)", "division by zero"),
            ("9223372036854775807 + 1", "too large"),
            ("1.5", "no whole number"),
            ("'a'", "not understood"),
        ] {
            let wrong = value(text).expect_err(text);
            assert!(wrong.contains(said), "{text}: {wrong}");
        }
    }

    #[test]
    fn random_numbers_lie_in_their_range_and_zipfian_ones_are_mostly_small() {
        let drawn = |text: &str| -> Vec<i64> { (0..2_000).map(|_| value(text).expect("a number")).collect() };
        let uniform = drawn("random(1, 10)");
        assert!((1..=10).all(|number| uniform.contains(&number)) && uniform.iter().all(|number| (1..=10).contains(number)));
        let zipfian = drawn("random_zipfian(1, 10, 2)");
        assert!(zipfian.iter().all(|number| (1..=10).contains(number)));
        // 1 / (1 + 1/4 + … + 1/100) of all are 1.
        let ones = zipfian.iter().filter(|number| **number == 1).count();
        assert!((1_160..1_420).contains(&ones), "{ones} of 2000");
    }
}
