//! Queues against `VecDeque`, with items in flight.

use std::collections::VecDeque;

use common::heap::Usage;
use common::limits::{MAX_IN_FLIGHT, MAX_ITEM};
use common::objects::queue::End;
use common::objects::{Queue, ReadError, Taken};
use common::region::Region;
use common::txn::{Seat, TxnError};
use proptest::prelude::*;

use crate::{folder, nothing_is_left, region, seat};

fn new_queue(seat: &mut Seat<'_>, capacity: u64) -> Queue {
    let folder = folder(seat);
    let mut txn = seat.begin().unwrap();
    let queue = txn.create_queue(folder, "queue", capacity).unwrap();
    txn.commit().unwrap();
    queue
}

fn push(seat: &mut Seat<'_>, queue: Queue, item: &[u8]) -> Result<bool, TxnError> {
    let mut txn = seat.begin()?;
    let pushed = txn.queue(queue)?.push_back(item)?;
    txn.commit()?;
    Ok(pushed)
}

fn take(seat: &mut Seat<'_>, queue: Queue) -> Option<(Taken, Vec<u8>)> {
    let mut txn = seat.begin().unwrap();
    let taken = txn.queue(queue).unwrap().take_front().unwrap();
    txn.commit().unwrap();
    taken
}

#[derive(Clone, Debug)]
enum Action {
    Push(End, usize),
    Pop(End),
    Take(End),
    Finish(usize),
    PutBack(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let end = || prop_oneof![Just(End::Front), Just(End::Back)];
    let length = prop_oneof![0_usize..70, 200_usize..300, 1000_usize..9000];
    prop_oneof![
        4 => (end(), length).prop_map(|(end, length)| Action::Push(end, length)),
        2 => end().prop_map(Action::Pop),
        2 => end().prop_map(Action::Take),
        1 => any::<usize>().prop_map(Action::Finish),
        1 => any::<usize>().prop_map(Action::PutBack),
    ]
}

/// What a queue and its consumer should have.
#[derive(Clone, Default)]
struct Model {
    items: VecDeque<Vec<u8>>,
    in_flight: Vec<(Taken, Vec<u8>)>,
}

const CAPACITY: usize = 12;

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn a_queue_is_what_a_deque_is(
        transactions in proptest::collection::vec((proptest::collection::vec(action(), 1..10), any::<bool>()), 1..crate::most(60))
    ) {
        let region = region(8 << 20);
        let mut seat = seat(&region, 1);
        let queue = new_queue(&mut seat, CAPACITY as u64);
        let mut model = Model::default();
        for (number, (actions, commits)) in transactions.into_iter().enumerate() {
            let mut changed = model.clone();
            let mut txn = seat.begin().unwrap();
            for action in actions {
                match action {
                    Action::Push(end, length) => {
                        let item = vec![number as u8; length];
                        let has_room = changed.items.len() < CAPACITY;
                        prop_assert_eq!(txn.queue(queue).unwrap().push(end, &item), Ok(has_room));
                        match end {
                            _ if !has_room => {}
                            End::Front => changed.items.push_front(item),
                            End::Back => changed.items.push_back(item),
                        }
                    }
                    Action::Pop(end) => {
                        let expected = match end {
                            End::Front => changed.items.pop_front(),
                            End::Back => changed.items.pop_back(),
                        };
                        prop_assert_eq!(txn.queue(queue).unwrap().pop(end), Ok(expected));
                    }
                    Action::Take(_) if changed.in_flight.len() == MAX_IN_FLIGHT => {}
                    Action::Take(end) => {
                        let mut locked = txn.queue(queue).unwrap();
                        let (taken, expected) = match end {
                            End::Front => (locked.take_front(), changed.items.pop_front()),
                            End::Back => (locked.take_back(), changed.items.pop_back()),
                        };
                        let taken = taken.unwrap();
                        prop_assert_eq!(taken.as_ref().map(|(_, item)| item), expected.as_ref());
                        changed.in_flight.extend(taken);
                    }
                    Action::Finish(which) | Action::PutBack(which) => {
                        if changed.in_flight.is_empty() {
                            continue;
                        }
                        let which = which % changed.in_flight.len();
                        let (taken, item) = changed.in_flight.remove(which);
                        if matches!(action, Action::Finish(_)) {
                            txn.finish(&taken).unwrap();
                            continue;
                        }
                        txn.put_back(&taken).unwrap();
                        match taken.end {
                            End::Front => changed.items.push_front(item),
                            End::Back => changed.items.push_back(item),
                        }
                    }
                }
                prop_assert_eq!(txn.queue(queue).unwrap().len(), changed.items.len() as u64);
            }
            if commits {
                txn.commit().unwrap();
                model = changed;
            } else {
                drop(txn);
            }
            prop_assert_eq!(queue.len(&region).unwrap(), model.items.len() as u64);
            prop_assert_eq!(VecDeque::from(queue.items(&region).unwrap()), model.items.clone());
            prop_assert_eq!(queue.peek(&region, End::Front).unwrap(), model.items.front().cloned());
            prop_assert_eq!(queue.peek(&region, End::Back).unwrap(), model.items.back().cloned());
        }
        // Everything goes back in the order in which it was, and then out from both ends.
        seat.put_all_back(std::time::Duration::ZERO).unwrap();
        model.in_flight.sort_by_key(|(taken, _)| std::cmp::Reverse(taken.serial));
        for (taken, item) in model.in_flight {
            match taken.end {
                End::Front => model.items.push_front(item),
                End::Back => model.items.push_back(item),
            }
        }
        prop_assert_eq!(VecDeque::from(queue.items(&region).unwrap()), model.items.clone());
        prop_assert!(seat.slot().holds_nothing());
    }
}

#[test]
fn an_item_that_was_finished_or_put_back_is_not_in_flight_any_more() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let queue = new_queue(&mut seat, 0);
    push(&mut seat, queue, b"one").unwrap();
    let (taken, item) = take(&mut seat, queue).unwrap();
    assert_eq!((item, queue.len(&region)), (b"one".to_vec(), Ok(0)));
    let finish = |seat: &mut Seat<'_>, taken: &Taken| {
        let mut txn = seat.begin()?;
        txn.finish(taken)?;
        txn.commit()
    };
    let mut txn = seat.begin().unwrap();
    txn.finish(&taken).unwrap();
    drop(txn);
    assert_eq!(finish(&mut seat, &taken), Ok(()), "the one before was rolled back");
    assert_eq!(finish(&mut seat, &taken), Err(TxnError::NotFound));
    // Another one in its place is another one.
    push(&mut seat, queue, b"two").unwrap();
    let (other, _) = take(&mut seat, queue).unwrap();
    assert_eq!(finish(&mut seat, &taken), Err(TxnError::NotFound));
    let mut stranger = crate::seat(&region, 2);
    assert_eq!(finish(&mut stranger, &other), Err(TxnError::NotFound), "it is not its own");
    assert_eq!(finish(&mut seat, &other), Ok(()));
}

#[test]
fn bounds_are_errors_and_roll_back() {
    let region = region(4 << 20);
    let mut seat = seat(&region, 1);
    let queue = new_queue(&mut seat, 20);
    assert_eq!(push(&mut seat, queue, &vec![1; MAX_ITEM + 1]), Err(TxnError::TooLong));
    assert_eq!(push(&mut seat, queue, &vec![1; MAX_ITEM]), Ok(true));
    assert_eq!(queue.peek(&region, End::Back).unwrap().unwrap().len(), MAX_ITEM);
    assert_eq!(queue.capacity(&region), Ok(Some(20)));
    for number in 1..20 {
        assert_eq!(push(&mut seat, queue, &[number]), Ok(true));
    }
    assert_eq!(push(&mut seat, queue, b"one too many"), Ok(false));
    for _ in 0..MAX_IN_FLIGHT {
        take(&mut seat, queue).unwrap();
    }
    let mut txn = seat.begin().unwrap();
    assert_eq!(txn.queue(queue).unwrap().take_front(), Err(TxnError::TooManyInFlight));
    drop(txn);
    // Others fill it up, and what goes back has its place nevertheless.
    while push(&mut seat, queue, b"other") == Ok(true) {}
    assert_eq!(queue.len(&region), Ok(20));
    assert_eq!(seat.put_all_back(std::time::Duration::ZERO), Ok(MAX_IN_FLIGHT as u32));
    assert_eq!(queue.len(&region), Ok(20 + MAX_IN_FLIGHT as u64));
    let items = queue.items(&region).unwrap();
    assert_eq!(items[0].len(), MAX_ITEM);
    assert!(items[1..12].iter().map(|item| item[0]).eq(1..12));
}

#[test]
fn a_queue_that_is_locked_keeps_nothing_from_going_back_to_others() {
    let region = region(1 << 20);
    let (mut seat, mut holder) = (seat(&region, 1), seat(&region, 2));
    let folder = folder(&mut seat);
    let mut txn = seat.begin().unwrap();
    let [first, locked, last] =
        ["first", "locked", "last"].map(|name| txn.create_queue(folder, name, 0).unwrap());
    txn.commit().unwrap();
    for (queue, item) in
        [(first, b"a"), (locked, b"b"), (locked, b"c"), (last, b"d"), (locked, b"e"), (last, b"f")]
    {
        push(&mut seat, queue, item).unwrap();
    }
    for queue in [last, locked, first, locked, last] {
        take(&mut seat, queue).unwrap();
    }
    let mut txn = holder.begin().unwrap();
    txn.queue(locked).unwrap().pop_front().unwrap();
    let items = |queue: Queue| queue.items(&region).unwrap().concat();
    for _ in 0..2 {
        assert_eq!(seat.put_all_back(std::time::Duration::from_millis(1)), Err(TxnError::Busy));
        assert_eq!((items(first), items(last)), (b"a".to_vec(), b"df".to_vec()));
        assert!(!seat.slot().holds_nothing());
    }
    drop(txn);
    assert_eq!(seat.put_all_back(std::time::Duration::ZERO), Ok(2));
    assert_eq!(items(locked), b"bce", "in the order in which they were");
    assert!(seat.slot().holds_nothing());
}

#[test]
fn a_queue_that_is_deleted_is_freed_whole_and_its_items_in_flight_by_their_owners() {
    let region = region(8 << 20);
    let mut seat = seat(&region, 1);
    let queue = new_queue(&mut seat, 0);
    for number in 0..5000_u64 {
        push(&mut seat, queue, &[number as u8; 64]).unwrap();
    }
    let used = Usage::of(&region).used;
    let (taken, _) = take(&mut seat, queue).unwrap();
    let folder = folder(&mut seat);
    let mut txn = seat.begin().unwrap();
    assert!(txn.delete(folder, "queue").unwrap());
    txn.commit().unwrap();
    assert!(nothing_is_left(&region));
    assert_eq!(queue.len(&region), Err(ReadError::NotFound));
    assert_eq!(push(&mut seat, queue, b"late"), Err(TxnError::NotFound));
    let mut txn = seat.begin().unwrap();
    assert_eq!(txn.put_back(&taken), Err(TxnError::NotFound));
    drop(txn);
    assert_eq!(seat.put_all_back(std::time::Duration::ZERO), Ok(1));
    assert!(seat.slot().holds_nothing());
    let queue = new_queue(&mut seat, 0);
    for number in 0..5000_u64 {
        push(&mut seat, queue, &[number as u8; 64]).unwrap();
    }
    assert!(Usage::of(&region).used <= used + used / 10, "what it held is used again");
}

#[test]
fn a_full_heap_refuses_an_item_and_changes_nothing() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let queue = new_queue(&mut seat, 0);
    let mut count = 0;
    while push(&mut seat, queue, &[7; 500]).is_ok() {
        count += 1;
    }
    assert_eq!(push(&mut seat, queue, &[7; 500]), Err(TxnError::Full));
    assert_eq!(queue.len(&region), Ok(count));
    let mut txn = seat.begin().unwrap();
    assert!(txn.queue(queue).unwrap().pop_back().unwrap().is_some());
    txn.commit().unwrap();
    assert_eq!(push(&mut seat, queue, &[8; 500]), Ok(true));
}

/// The producer's slot keeps other things of the same size, and two queues take turns, so that what is free is not where it
/// was looked for last.
#[test]
#[cfg_attr(miri, ignore = "takes an hour there")]
fn queues_that_are_filled_and_emptied_take_little_more_of_the_heap() {
    for consumer_is_another in [false, true] {
        let region = region(16 << 20);
        let (mut producer, mut consumer) = (seat(&region, 1), seat(&region, 2));
        let folder = folder(&mut producer);
        let mut txn = producer.begin().unwrap();
        let queues = ["one", "other"].map(|name| txn.create_queue(folder, name, 0).unwrap());
        let kept = txn.create_queue(folder, "kept", 0).unwrap();
        txn.commit().unwrap();
        for queue in [queues[0], kept, queues[1]] {
            (0..2000).for_each(|_| assert_eq!(push(&mut producer, queue, &[7; 64]), Ok(true)));
        }
        let filled = Usage::of(&region).used;
        for turn in 0..120_000 {
            let queue = queues[turn / 3000 % 2];
            let popper = if consumer_is_another { &mut consumer } else { &mut producer };
            let mut txn = popper.begin().unwrap();
            assert!(txn.queue(queue).unwrap().pop_front().unwrap().is_some());
            txn.commit().unwrap();
            assert_eq!(push(&mut producer, queue, &[7; 64]), Ok(true));
        }
        let used = Usage::of(&region).used;
        assert!(used <= filled * 2, "{used} bytes of the heap, and {filled} before");
        assert!(filled < Usage::of(&region).bytes / 4, "long before anything would be given back");
    }
}

#[test]
fn a_queue_whose_words_were_scribbled_over_is_damaged_and_nothing_goes_on_for_ever() {
    use std::sync::atomic::Ordering::SeqCst;
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let queue = new_queue(&mut seat, 0);
    for number in 0..10 {
        push(&mut seat, queue, &[number; 64]).unwrap();
    }
    let body = &region.object(queue.handle().index).unwrap().body;
    let good: Vec<u64> = body.iter().map(|word| word.load(SeqCst)).collect();
    for which in 0..3 {
        for bad in [u64::MAX, 1 << 63, 1 << 40, 8, 12, 0] {
            body[which].store(bad, SeqCst);
            let _ = (queue.items(&region), queue.peek(&region, End::Front), queue.peek(&region, End::Back));
            let _ = push(&mut seat, queue, b"another");
            let mut txn = seat.begin().unwrap();
            let _ = txn.queue(queue).and_then(|mut queue| queue.pop_front());
            drop(txn);
            assert!(seat.slot().holds_nothing());
            body.iter().zip(&good).for_each(|(word, good)| word.store(*good, SeqCst));
        }
    }
    body[0].store(u64::MAX, SeqCst);
    assert_eq!(queue.items(&region), Err(ReadError::Damaged));
    let _: &Region = &region;
}
