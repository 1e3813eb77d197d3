//! Whether a load has left behind what it must: the same money, and no transaction prepared and forgotten.

/// What is on all peers together at a moment when nothing is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Books {
    /// The total of what must stay the same, in the smallest unit.
    pub total: i128,
    /// Transactions that are prepared and neither committed nor rolled back.
    pub prepared: i64,
}

/// What is wrong with the books.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BooksError {
    /// Something appeared or vanished.
    #[error("the sum over all peers was {before} and is {after}")]
    Sum {
        /// The total before.
        before: i128,
        /// The total after.
        after: i128,
    },
    /// In doubt.
    #[error("{0} prepared transactions are left")]
    Prepared(i64),
}

impl Books {
    /// Compares with the books at the end.
    ///
    /// # Errors
    /// [`BooksError`] with the first thing that is wrong.
    pub fn check(&self, end: &Books) -> Result<(), BooksError> {
        if end.prepared != 0 {
            return Err(BooksError::Prepared(end.prepared));
        }
        if end.total != self.total {
            return Err(BooksError::Sum { before: self.total, after: end.total });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_right_only_if_nothing_changed_and_nothing_is_in_doubt() {
        let before = Books { total: 1_000, prepared: 0 };
        assert_eq!(before.check(&before), Ok(()));
        for after in [999, 1_001] {
            assert_eq!(before.check(&Books { total: after, prepared: 0 }), Err(BooksError::Sum { before: 1_000, after }));
        }
        assert_eq!(before.check(&Books { total: 1_000, prepared: 2 }), Err(BooksError::Prepared(2)));
    }
}
