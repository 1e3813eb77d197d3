//! Letting others go first.

use std::task::{Context, Poll};

/// Before a message is made, whatever else is ready to run has one turn: those who were answered by one message tend to ask again
/// at once, and then go out together. It costs a microsecond when nobody else is there, and no timer.
#[derive(Debug, Default)]
pub struct Turn {
    was_passed: bool,
}

impl Turn {
    /// Pending once, then ready once.
    pub fn poll_pass(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.was_passed = !self.was_passed;
        if self.was_passed {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn it_is_passed_once_for_each_message() {
        let (mut turn, mut context) = (Turn::default(), Context::from_waker(Waker::noop()));
        for _ in 0..2 {
            assert!(turn.poll_pass(&mut context).is_pending());
            assert!(turn.poll_pass(&mut context).is_ready());
        }
    }
}
