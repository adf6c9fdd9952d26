//! Waiting at queues, in threads with slots of their own.

use std::time::{Duration, Instant};

use common::bell;
use common::objects::Queue;
use common::objects::queue::End;
use common::region::Region;
use common::txn::{Seat, TxnError};

use crate::{folder, region, seat};

fn new_queue(seat: &mut Seat<'_>, capacity: u64) -> Queue {
    let folder = folder(seat);
    let mut txn = seat.begin().unwrap();
    let queue = txn.create_queue(folder, "queue", capacity).unwrap();
    txn.commit().unwrap();
    queue
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn pop(seat: &mut Seat<'_>, queue: Queue, deadline: Instant) -> Result<Vec<u8>, TxnError> {
    let mut txn = seat.begin_with_item(queue, deadline)?;
    let item = txn.queue(queue)?.pop_front()?.expect("it was waited for");
    txn.commit()?;
    Ok(item)
}

fn push(seat: &mut Seat<'_>, queue: Queue, item: &[u8], deadline: Instant) -> Result<(), TxnError> {
    let mut txn = seat.begin_with_room(queue, deadline)?;
    assert!(txn.queue(queue)?.push_back(item)?);
    txn.commit()
}

/// Until somebody says that he is about to sleep.
fn wait_for_sleepers(region: &Region, queue: Queue) {
    let sleepers = &region.object(queue.handle().index).unwrap().body[4];
    while !bell::is_any_waited_for(sleepers.load(std::sync::atomic::Ordering::SeqCst)) {
        std::thread::yield_now();
    }
}

#[test]
#[cfg_attr(miri, ignore = "it sleeps as the kernel has it; shuttle has its interleavings")]
fn what_is_waited_for_comes_or_the_deadline() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let queue = new_queue(&mut seat, 1);
    let began = Instant::now();
    let deadline = began + Duration::from_millis(20);
    assert_eq!(pop(&mut seat, queue, deadline), Err(TxnError::TimedOut));
    assert!(began.elapsed() >= Duration::from_millis(20));
    assert!(seat.slot().holds_nothing());
    push(&mut seat, queue, b"one", deadline).unwrap();
    assert_eq!(push(&mut seat, queue, b"two", deadline), Err(TxnError::TimedOut));
    std::thread::scope(|scope| {
        let popper = scope.spawn(|| {
            let mut seat = crate::seat(&region, 2);
            [pop(&mut seat, queue, soon()), pop(&mut seat, queue, soon())]
        });
        push(&mut seat, queue, b"two", soon()).unwrap();
        assert_eq!(popper.join().unwrap(), [Ok(b"one".to_vec()), Ok(b"two".to_vec())]);
    });
}

#[test]
#[cfg_attr(miri, ignore = "it sleeps as the kernel has it; shuttle has its interleavings")]
fn many_producers_and_consumers_lose_nothing() {
    const EACH: u32 = 3000;
    let region = region(4 << 20);
    let mut maker = seat(&region, 1);
    for capacity in [0, 1, 7] {
        let queue = new_queue(&mut maker, capacity);
        let region = &region;
        let mut got: Vec<u32> = std::thread::scope(|scope| {
            let producers: Vec<_> = (0..3)
                .map(|number| {
                    scope.spawn(move || {
                        let mut seat = seat(region, 2 + number);
                        for item in number * EACH..(number + 1) * EACH {
                            push(&mut seat, queue, &item.to_le_bytes(), soon()).unwrap();
                        }
                        seat.leave();
                    })
                })
                .collect();
            let consumers: Vec<_> = (0..3)
                .map(|number| {
                    scope.spawn(move || {
                        let mut seat = seat(region, 10 + number);
                        let item = |_| pop(&mut seat, queue, soon()).unwrap();
                        let items: Vec<_> = (0..EACH).map(item).collect();
                        seat.leave();
                        items
                            .into_iter()
                            .map(|item| u32::from_le_bytes(item.try_into().unwrap()))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            producers.into_iter().for_each(|producer| producer.join().unwrap());
            consumers.into_iter().flat_map(|consumer| consumer.join().unwrap()).collect()
        });
        got.sort_unstable();
        assert!(got.into_iter().eq(0..3 * EACH));
        let folder = folder(&mut maker);
        let mut txn = maker.begin().unwrap();
        txn.delete(folder, "queue").unwrap();
        txn.commit().unwrap();
    }
}

#[test]
#[cfg_attr(miri, ignore = "it sleeps as the kernel has it; shuttle has its interleavings")]
fn whoever_waits_at_a_queue_that_is_deleted_is_told_at_once() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let queue = new_queue(&mut seat, 0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pop(&mut crate::seat(&region, 2), queue, soon()));
        wait_for_sleepers(&region, queue);
        let folder = folder(&mut seat);
        let mut txn = seat.begin().unwrap();
        txn.delete(folder, "queue").unwrap();
        txn.commit().unwrap();
        assert_eq!(waiter.join().unwrap(), Err(TxnError::NotFound));
    });
}

#[test]
#[cfg_attr(miri, ignore = "it sleeps as the kernel has it; shuttle has its interleavings")]
fn an_item_that_is_put_back_is_what_a_sleeper_gets() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let queue = new_queue(&mut seat, 0);
    push(&mut seat, queue, b"one", soon()).unwrap();
    let mut txn = seat.begin().unwrap();
    let (taken, _) = txn.queue(queue).unwrap().take_front().unwrap().unwrap();
    txn.commit().unwrap();
    assert_eq!(queue.peek(&region, End::Front), Ok(None));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pop(&mut crate::seat(&region, 2), queue, soon()));
        wait_for_sleepers(&region, queue);
        let mut txn = seat.begin().unwrap();
        txn.put_back(&taken).unwrap();
        txn.commit().unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(b"one".to_vec()));
    });
}
