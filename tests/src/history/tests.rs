//! Each anomaly, planted once in a history that is right but for it.

use super::{Anomaly, End, Event, Operation, Root, Value, check};

fn event(operation: Operation, began: u64, ended: u64) -> Event {
    Event { operation, began, ended, end: End::Done }
}

fn append(root: Root, value: Value, began: u64, ended: u64) -> Event {
    event(Operation::Append { roots: vec![root], value }, began, ended)
}

fn chain(roots: &[Root], value: Value, began: u64, ended: u64) -> Event {
    event(Operation::Append { roots: roots.to_vec(), value }, began, ended)
}

fn read(lists: &[(Root, &[Value])], began: u64, ended: u64) -> Event {
    event(Operation::Read(lists.iter().map(|(root, list)| (*root, list.to_vec())).collect()), began, ended)
}

/// Two lists, appended to by two clients and a chain, and read in between.
fn right() -> Vec<Event> {
    vec![
        append(1, 10, 0, 5),
        append(2, 20, 1, 4),
        read(&[(1, &[10]), (2, &[20])], 6, 9),
        chain(&[1, 2], 30, 7, 20),
        append(1, 11, 8, 15),
        // While the chain is under way its appends stand among others'.
        read(&[(1, &[10]), (2, &[20])], 8, 14),
        read(&[(1, &[10, 30, 11]), (2, &[20, 30])], 21, 25),
    ]
}

#[test]
fn a_history_that_can_have_happened_is_let_pass() {
    assert_eq!(check(&right()), []);
    let mut unknown = right();
    unknown.push(Event { end: End::Unknown, ..append(2, 21, 10, 11) });
    assert_eq!(check(&unknown), [], "never seen");
    unknown.push(read(&[(2, &[20, 30, 21])], 30, 31));
    assert_eq!(check(&unknown), [], "seen long after");
    let mut failed = right();
    failed.push(Event { end: End::Failed, ..append(2, 21, 10, 11) });
    assert_eq!(check(&failed), []);
}

#[test]
fn a_chain_lets_others_come_in_between() {
    // 40 stands behind the chain in one list and before it in the other; only reads see a chain as one.
    let history = [chain(&[1, 2], 30, 0, 20), append(1, 40, 5, 6), append(2, 41, 7, 8), read(&[(1, &[30, 40]), (2, &[41, 30])], 21, 22)];
    assert_eq!(check(&history), []);
}

#[test]
fn a_lost_append_is_found() {
    let mut history = right();
    history.push(append(2, 21, 21, 22));
    history.push(read(&[(2, &[20, 30])], 23, 24));
    assert_eq!(check(&history), [Anomaly::Lost { root: 2, value: 21 }]);
}

#[test]
fn a_doubled_append_is_found() {
    let mut history = right();
    history.push(read(&[(1, &[10, 30, 11, 30])], 30, 31));
    assert_eq!(check(&history), [Anomaly::Duplicated { root: 1, value: 30 }]);
}

#[test]
fn a_refused_append_that_is_seen_is_found() {
    let mut history = right();
    history.push(Event { end: End::Failed, ..append(2, 21, 21, 22) });
    history.push(read(&[(2, &[20, 30, 21])], 23, 24));
    assert_eq!(check(&history), [Anomaly::Aborted { root: 2, value: 21 }]);
}

#[test]
fn an_append_at_another_root_is_found() {
    let mut history = right();
    history.push(read(&[(2, &[20, 30, 11])], 30, 31));
    assert_eq!(check(&history), [Anomaly::Invented { root: 2, value: 11 }]);
}

#[test]
fn two_orders_of_one_list_are_found() {
    let mut history = right();
    history.push(read(&[(1, &[10, 11, 30])], 30, 31));
    assert_eq!(check(&history), [Anomaly::Orders { root: 1 }]);
}

#[test]
fn a_torn_chain_is_found() {
    let mut history = right();
    history.push(read(&[(1, &[10, 30]), (2, &[20])], 10, 18));
    assert_eq!(check(&history), [Anomaly::Torn { value: 30, read: 7 }]);
}

/// The circle, twice round: it may begin anywhere.
fn circle(history: &[Event]) -> String {
    match check(history).as_slice() {
        [Anomaly::Cycle(steps)] => [steps.join(" "), steps.join(" ")].join(" "),
        others => panic!("no circle: {others:?}"),
    }
}

#[test]
fn an_effect_without_its_cause_is_found() {
    // 50 was answered before 60 was sent, and the read sees 60 alone.
    let history = [append(1, 50, 0, 1), append(2, 60, 2, 3), read(&[(1, &[]), (2, &[60])], 1, 4), read(&[(1, &[50]), (2, &[60])], 5, 6)];
    let circle = circle(&history);
    assert!(circle.contains("append 50 to 1 <time append 60 to 2 <wr read 2 <rw append 50 to 1"), "{circle}");
}

#[test]
fn two_reads_that_disagree_are_found() {
    // Each sees the append that the other one doesn't: a long fork.
    let history = [append(1, 50, 0, 9), append(2, 60, 0, 9), read(&[(1, &[50]), (2, &[])], 0, 9), read(&[(1, &[]), (2, &[60])], 0, 9)];
    let circle = circle(&history);
    assert!(["<rw", "<wr"].iter().all(|why| circle.matches(why).count() == 4) && !circle.contains("<time"), "{circle}");
}

#[test]
fn a_read_of_the_past_is_found() {
    let history = [append(1, 50, 0, 1), read(&[(1, &[50])], 2, 3), read(&[(1, &[])], 4, 5)];
    assert!(circle(&history).contains("<rw append 50 to 1"), "it was there before");
}

#[test]
fn an_append_before_one_that_was_answered_is_found() {
    let history = [append(1, 50, 0, 1), append(1, 51, 2, 3), read(&[(1, &[51, 50])], 4, 5)];
    assert!(circle(&history).contains("append 51 to 1 <ww append 50 to 1"), "51 was sent when 50 was there");
}
