//! Decimal numbers of any size, as PostgreSQL's numeric: compared and added up exactly.

use std::cmp::Ordering;

/// A number as PostgreSQL writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decimal {
    NegativeInfinity,
    Finite(Finite),
    Infinity,
    NotANumber,
}

/// Digits and where the point stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Finite {
    is_negative: bool,
    /// From the least on; no zeros at the greatest end.
    digits: Vec<u8>,
    /// How many of them stand behind the point.
    scale: usize,
}

/// PostgreSQL's own limit of digits, before and behind the point.
const MOST_DIGITS: usize = 131_072 + 16_383;

impl Decimal {
    /// None if it is no number.
    pub(crate) fn parse(text: &str) -> Option<Decimal> {
        match text {
            "NaN" => return Some(Decimal::NotANumber),
            "Infinity" => return Some(Decimal::Infinity),
            "-Infinity" => return Some(Decimal::NegativeInfinity),
            _ => {}
        }
        let (is_negative, unsigned) = text.strip_prefix('-').map_or((false, text), |unsigned| (true, unsigned));
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        if whole.is_empty() || unsigned.len() > MOST_DIGITS || !all().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits = all().rev().map(|byte| byte - b'0').collect();
        Some(Decimal::Finite(Finite { is_negative, digits, scale: fraction.len() }.trimmed()))
    }

    /// The sum of both, with as many digits behind the point as either has.
    pub(crate) fn plus(self, other: Decimal) -> Decimal {
        match (self, other) {
            (Decimal::Finite(left), Decimal::Finite(right)) => Decimal::Finite(left.plus(right)),
            (Decimal::NotANumber, _) | (_, Decimal::NotANumber) => Decimal::NotANumber,
            (Decimal::Infinity, Decimal::NegativeInfinity) | (Decimal::NegativeInfinity, Decimal::Infinity) => Decimal::NotANumber,
            (Decimal::Infinity, _) | (_, Decimal::Infinity) => Decimal::Infinity,
            (Decimal::NegativeInfinity, _) | (_, Decimal::NegativeInfinity) => Decimal::NegativeInfinity,
        }
    }

    /// As PostgreSQL writes it.
    pub(crate) fn text(&self) -> String {
        match self {
            Decimal::NegativeInfinity => "-Infinity".to_owned(),
            Decimal::Infinity => "Infinity".to_owned(),
            Decimal::NotANumber => "NaN".to_owned(),
            Decimal::Finite(finite) => finite.text(),
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        let rank = |decimal: &Decimal| match decimal {
            Decimal::NegativeInfinity => 0,
            Decimal::Finite(_) => 1,
            Decimal::Infinity => 2,
            Decimal::NotANumber => 3,
        };
        match (self, other) {
            (Decimal::Finite(left), Decimal::Finite(right)) => left.order(right),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Finite {
    fn trimmed(mut self) -> Finite {
        while self.digits.last() == Some(&0) {
            self.digits.pop();
        }
        self.is_negative &= !self.digits.is_empty();
        self
    }

    /// With more digits behind the point.
    fn scaled(mut self, scale: usize) -> Finite {
        if !self.digits.is_empty() {
            self.digits.splice(0..0, std::iter::repeat_n(0, scale - self.scale));
        }
        self.scale = scale;
        self
    }

    fn plus(self, other: Finite) -> Finite {
        let scale = self.scale.max(other.scale);
        let (left, right) = (self.scaled(scale), other.scaled(scale));
        if left.is_negative == right.is_negative {
            return Finite { is_negative: left.is_negative, digits: sum(&left.digits, &right.digits), scale }.trimmed();
        }
        let (greater, less) = if magnitude(&left.digits, &right.digits).is_lt() { (right, left) } else { (left, right) };
        Finite { is_negative: greater.is_negative, digits: difference(&greater.digits, &less.digits), scale }.trimmed()
    }

    fn order(&self, other: &Finite) -> Ordering {
        let scale = self.scale.max(other.scale);
        match (self.is_negative, other.is_negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (is_negative, _) => {
                let (left, right) = (self.clone().scaled(scale), other.clone().scaled(scale));
                let order = magnitude(&left.digits, &right.digits);
                if is_negative { order.reverse() } else { order }
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(self.digits.len() + 3);
        if self.is_negative {
            text.push('-');
        }
        for place in (0..self.digits.len().max(self.scale + 1)).rev() {
            text.push(char::from(b'0' + self.digits.get(place).copied().unwrap_or(0)));
            if place == self.scale && self.scale > 0 {
                text.push('.');
            }
        }
        text
    }
}

fn magnitude(left: &[u8], right: &[u8]) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.iter().rev().cmp(right.iter().rev()))
}

fn sum(left: &[u8], right: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let mut digits = Vec::with_capacity(left.len().max(right.len()) + 1);
    for place in 0..left.len().max(right.len()) {
        let digit = left.get(place).copied().unwrap_or(0) + right.get(place).copied().unwrap_or(0) + carry;
        digits.push(digit % 10);
        carry = digit / 10;
    }
    digits.push(carry);
    digits
}

/// Of a greater or equal number and a less one.
fn difference(greater: &[u8], less: &[u8]) -> Vec<u8> {
    let mut borrowed = 0;
    let mut digits = Vec::with_capacity(greater.len());
    for (place, digit) in greater.iter().enumerate() {
        let taken = less.get(place).copied().unwrap_or(0) + borrowed;
        borrowed = u8::from(*digit < taken);
        digits.push(digit + 10 * borrowed - taken);
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap_or_else(|| panic!("{text} is a number"))
    }

    #[test]
    fn sums_are_exact_and_keep_the_longest_fraction() {
        for (left, right, sum) in [
            ("0.10", "0.2", "0.30"),
            ("99999999999999999999999999999999999999.99", "0.01", "100000000000000000000000000000000000000.00"),
            ("-5", "5.00", "0.00"),
            ("-5.5", "5", "-0.5"),
            ("5", "-7.25", "-2.25"),
            ("0", "0", "0"),
            ("1000", "-1", "999"),
            ("Infinity", "1", "Infinity"),
            ("Infinity", "-Infinity", "NaN"),
            ("NaN", "-Infinity", "NaN"),
        ] {
            assert_eq!(decimal(left).plus(decimal(right)).text(), sum, "{left} + {right}");
            assert_eq!(decimal(right).plus(decimal(left)).text(), sum, "{right} + {left}");
        }
        for text in ["", "1e5", "+1", "1.2.3", "abc", ".5"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn equal_numbers_of_different_scales_are_equal() {
        assert_eq!(decimal("1.0").cmp(&decimal("1.000")), Ordering::Equal);
        assert_eq!(decimal("0.00").cmp(&decimal("-0")), Ordering::Equal);
        assert_eq!(decimal("0.5").cmp(&decimal("0.49")), Ordering::Greater);
    }
}
