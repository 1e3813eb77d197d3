//! What one stream has sent and not heard of yet.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rootward_proto::FaultResult;
use tokio::sync::oneshot;

/// Where one asker waits.
pub(crate) type Asker<A> = oneshot::Sender<FaultResult<A>>;

/// Fewer askers than this are never looked through for those who gave up.
const SWEPT_FROM: usize = 1024;

/// The askers of one stream by number. Written by the sending and the receiving half of the stream.
pub(crate) struct Flight<A>(Mutex<State<A>>);

struct State<A> {
    askers: HashMap<u64, Asker<A>>,
    /// From then on nothing may be sent: whoever waited has been told.
    is_over: bool,
    last: u64,
    sweep_at: usize,
}

impl<A> Default for Flight<A> {
    fn default() -> Flight<A> {
        Flight(Mutex::new(State { askers: HashMap::new(), is_over: false, last: 0, sweep_at: SWEPT_FROM }))
    }
}

impl<A> Flight<A> {
    /// Runs `send`, which gives each asker a number, unless the stream is over.
    pub(crate) fn sending<T>(&self, send: impl FnOnce(&mut dyn FnMut(Asker<A>) -> u64) -> T) -> Option<T> {
        let mut state = self.lock();
        let state = &mut *state;
        if state.is_over {
            return None;
        }
        if state.askers.len() >= state.sweep_at {
            // The other side owes an answer to each, but a broken one must not cost us memory for ever.
            state.askers.retain(|_, asker| !asker.is_closed());
            state.sweep_at = (state.askers.len() * 2).max(SWEPT_FROM);
        }
        let (askers, last) = (&mut state.askers, &mut state.last);
        Some(send(&mut |asker| {
            *last += 1;
            askers.insert(*last, asker);
            *last
        }))
    }

    /// Hands answers to those who asked; one that nobody waits for is dropped.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = (u64, FaultResult<A>)>) {
        let mut state = self.lock();
        for (number, answer) in answers {
            if let Some(asker) = state.askers.remove(&number) {
                let _ = asker.send(answer);
            }
        }
    }

    /// Ends it; returns those who have no answer.
    pub(crate) fn end(&self) -> impl Iterator<Item = Asker<A>> + use<A> {
        let mut state = self.lock();
        state.is_over = true;
        mem::take(&mut state.askers).into_values()
    }

    fn lock(&self) -> MutexGuard<'_, State<A>> {
        // A panic while it is held can't leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_after_the_end_and_everybody_without_an_answer_is_returned() {
        let flight = Flight::<u8>::default();
        let (first, mut answered) = oneshot::channel();
        let (second, _waits) = oneshot::channel();
        assert_eq!(flight.sending(|number| (number(first), number(second))), Some((1, 2)));
        flight.answer([(1, Ok(7)), (9, Ok(8))]);
        assert_eq!(answered.try_recv().expect("answered").expect("no fault"), 7);
        assert_eq!(flight.end().count(), 1);
        assert_eq!(flight.sending(|_| ()), None);
    }

    #[test]
    fn askers_who_gave_up_are_forgotten() {
        let flight = Flight::<u8>::default();
        for _ in 0..10 * SWEPT_FROM {
            flight.sending(|number| number(oneshot::channel().0));
        }
        assert!(flight.end().count() <= SWEPT_FROM + 1);
    }
}
