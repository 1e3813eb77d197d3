//! Ordered rows of several peers as one ordered row after the other, with what each peer sent last in memory and no more.

use std::{cmp::Ordering, collections::VecDeque};

use rootward_proto::{Fault, v1::Row};

use super::{Order, compare::Comparable};

/// What came of the peers and was not passed on yet.
#[derive(Debug)]
pub(crate) struct Merge {
    order: Order,
    sources: Vec<Source>,
}

/// One peer's rows.
#[derive(Debug, Default)]
struct Source {
    waiting: VecDeque<(Vec<Option<Comparable>>, Row)>,
    is_over: bool,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// Pass this row on.
    Row(Row),
    /// Nothing can be said before this peer has sent more, or has come to its end.
    Wants(usize),
    Over,
}

impl Merge {
    /// Of so many peers.
    pub(crate) fn new(order: Order, peers: usize) -> Merge {
        Merge { order, sources: (0..peers).map(|_| Source::default()).collect() }
    }

    /// Rows that a peer sent, in its order.
    ///
    /// # Errors
    /// RW2023 if a value can't be compared.
    pub(crate) fn add(&mut self, peer: usize, rows: Vec<Row>) -> Result<(), Fault> {
        let Some(source) = self.sources.get_mut(peer) else { return Ok(()) };
        for row in rows {
            let keys = self.order.0.iter().map(|key| row.values.get(key.column).map_or(Ok(None), |value| key.comparison.read(value)));
            let keys = keys.collect::<Result<_, Fault>>()?;
            source.waiting.push_back((keys, row));
        }
        Ok(())
    }

    /// A peer has no more rows.
    pub(crate) fn end(&mut self, peer: usize) {
        if let Some(source) = self.sources.get_mut(peer) {
            source.is_over = true;
        }
    }

    /// The first row in order, if every peer's first row is known. Equal rows come in the order of the peers.
    pub(crate) fn next(&mut self) -> Next {
        let mut first: Option<usize> = None;
        // Peers are some dozens: looking at each is quicker than keeping them sorted.
        for (at, source) in self.sources.iter().enumerate() {
            let Some((keys, _)) = source.waiting.front() else {
                if source.is_over {
                    continue;
                }
                return Next::Wants(at);
            };
            let best = first.and_then(|best| self.sources[best].waiting.front());
            if best.is_none_or(|(best, _)| self.compare(keys, best).is_lt()) {
                first = Some(at);
            }
        }
        let row = first.and_then(|at| self.sources[at].waiting.pop_front());
        row.map_or(Next::Over, |(_, row)| Next::Row(row))
    }

    fn compare(&self, left: &[Option<Comparable>], right: &[Option<Comparable>]) -> Ordering {
        let of_key = |(key, (left, right)): (&super::OrderKey, (&Option<Comparable>, &Option<Comparable>))| match (left, right) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => {
                if key.nulls_first {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (Some(_), None) => {
                if key.nulls_first {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (Some(left), Some(right)) => {
                if key.is_descending {
                    right.order(left)
                } else {
                    left.order(right)
                }
            }
        };
        self.order.0.iter().zip(left.iter().zip(right)).map(of_key).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

#[cfg(test)]
mod tests {
    use rootward_proto::{
        to_wire,
        v1::{Column, Value, value::Kind},
    };
    use rootward_schema::{OutputColumn, SortKey, Type};

    use super::*;

    fn row(number: Option<i64>, text: &str) -> Row {
        let number = number.map(|number| number.to_string());
        Row { values: vec![to_wire(number.as_deref(), &Type::Bigint), to_wire(Some(text), &Type::Text)] }
    }

    fn order(is_descending: bool, nulls_first: bool) -> Order {
        let columns = [("n", "bigint"), ("t", "text")].map(|(name, r#type)| Column { name: name.to_owned(), r#type: r#type.to_owned() });
        let keys = [
            SortKey { column: OutputColumn::Named("n".to_owned()), is_descending, nulls_first, is_bytewise: false },
            SortKey { column: OutputColumn::At(1), is_descending: true, nulls_first: false, is_bytewise: true },
        ];
        Order::new(&keys, &columns).expect("columns with an order")
    }

    /// Everything that comes of three peers that send page by page when they are asked.
    fn merged(order: Order, mut pages: Vec<Vec<Vec<Row>>>) -> (Vec<String>, usize) {
        let mut merge = Merge::new(order, pages.len());
        let (mut shown, mut most) = (Vec::new(), 0);
        loop {
            match merge.next() {
                Next::Over => return (shown, most),
                Next::Wants(peer) if pages[peer].is_empty() => merge.end(peer),
                Next::Wants(peer) => merge.add(peer, pages[peer].remove(0)).expect("values"),
                Next::Row(row) => shown.push(row.values.iter().map(shown_value).collect::<Vec<_>>().join("")),
            }
            most = most.max(merge.sources.iter().map(|source| source.waiting.len()).sum());
        }
    }

    fn shown_value(value: &Value) -> String {
        match &value.kind {
            Some(Kind::Int64(number)) => number.to_string(),
            Some(Kind::Text(text)) => text.clone(),
            _ => "-".to_owned(),
        }
    }

    #[test]
    fn rows_come_in_order_page_by_page() {
        let pages = vec![
            vec![vec![row(Some(1), "b"), row(Some(1), "a")], vec![row(Some(9), "c")], vec![row(None, "x")]],
            vec![vec![], vec![row(Some(1), "c"), row(Some(2), "a")]],
            vec![],
        ];
        let (shown, most) = merged(order(false, false), pages);
        assert_eq!(shown, ["1c", "1b", "1a", "2a", "9c", "-x"]);
        assert!(most <= 4, "{most} rows waited at once");
    }

    #[test]
    fn nulls_and_directions_are_kept() {
        let pages = vec![vec![vec![row(None, "a"), row(Some(5), "a")]], vec![vec![row(None, "b"), row(Some(7), "a"), row(Some(3), "a")]]];
        assert_eq!(merged(order(true, true), pages).0, ["-b", "-a", "7a", "5a", "3a"]);
    }

    #[test]
    fn a_key_that_is_not_there_or_has_no_order_is_refused() {
        let column = |name: &str, r#type: &str| Column { name: name.to_owned(), r#type: r#type.to_owned() };
        let key = |column| SortKey { column, is_descending: false, nulls_first: false, is_bytewise: false };
        for (key, columns) in [
            (key(OutputColumn::At(1)), vec![column("a", "bigint")]),
            (key(OutputColumn::Named("b".to_owned())), vec![column("a", "bigint")]),
            (key(OutputColumn::Named("a".to_owned())), vec![column("a", "bigint"), column("a", "bigint")]),
            (key(OutputColumn::At(0)), vec![column("a", "text")]),
            (key(OutputColumn::At(0)), vec![column("a", "json")]),
        ] {
            let fault = Order::new(&[key], &columns).expect_err("refused");
            assert_eq!(fault.code(), "RW2023", "{columns:?}");
        }
    }
}
