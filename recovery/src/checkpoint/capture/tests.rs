use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use common::objects::Folder;
use common::txn::{Seat, TxnError};

use super::*;
use crate::restore::tests_support::restored;
use crate::scene::{Scene, put, with_objects};
use crate::verify;

#[test]
fn a_closed_gate_keeps_transactions_from_beginning_and_is_opened_for_those_that_take_long() {
    let scene = Scene::new();
    with_objects(&scene);
    let (mut one, mut other) = (scene.seat(3, 1), scene.seat(4, 1));
    let capture = Capture::new(&scene.region, one.owner());
    let busy = other.owner();
    let txn = other.begin().unwrap();
    let owners = capture.with_gate_closed(|| unreachable!("a transaction is under way")).unwrap_err();
    assert_eq!(owners, [busy]);
    drop(txn);
    let (_, pause) = capture
        .with_gate_closed(|| {
            assert_eq!(one.begin().err(), Some(TxnError::Busy), "for a second");
            Moment { taken_ns: 0, open: scene.journal().open_minute() }
        })
        .unwrap();
    assert!(pause >= lock::PATIENCE);
    assert!(other.begin().is_ok());
}

#[test]
fn what_is_taken_while_others_work_is_of_one_moment() {
    let scene = Scene::new();
    with_objects(&scene);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for slot in 3..6 {
            let (scene, over) = (&scene, &over);
            scope.spawn(move || move_about(&mut scene.seat(slot, 1), scene, over));
        }
        let owner = scene.seat(10, 1).owner();
        for round in 0..20 {
            let mut writer = super::super::format::Writer::new(Vec::new(), &head(&scene)).unwrap();
            let taken = Capture::new(&scene.region, owner).take(&mut writer).unwrap();
            let (bytes, _) = writer.finish(&taken.moment).unwrap();
            let region = restored(&bytes);
            assert_eq!(verify::check_with(&region, &[]), [], "round {round}");
            let folder = Folder::open(&region, "shop").unwrap();
            let stock = folder.open_map(&region, "stock").unwrap();
            let balance: i64 = (0..ACCOUNTS).filter_map(|account| balance(&region, stock, account)).sum();
            assert_eq!(balance, 0, "round {round}: what one gets another gives");
        }
        over.store(true, SeqCst);
    });
}

const ACCOUNTS: u64 = 100;

fn head(scene: &Scene) -> super::super::format::Head {
    super::super::format::Head { length: 1 << 20, epoch: 1, seed: scene.region.seed(), life: 1 }
}

fn balance(region: &Region, stock: common::objects::Map, account: u64) -> Option<i64> {
    let value = stock.get(region, format!("account {account}").as_bytes()).unwrap()?;
    Some(i64::from_le_bytes(value[..8].try_into().unwrap()))
}

/// Moves amounts between accounts, each time in a transaction, and lets entries come, grow and go besides.
fn move_about(seat: &mut Seat<'_>, scene: &Scene, over: &AtomicBool) {
    let (stock, large) = (scene.map("stock"), scene.map("large"));
    let mut random = u64::from(seat.owner().slot.0);
    let mut draw = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    while !over.load(SeqCst) {
        let (from, to, amount) = (draw(ACCOUNTS), draw(ACCOUNTS), draw(100) as i64);
        let moved = |seat: &mut Seat<'_>| -> Result<(), TxnError> {
            let mut txn = seat.begin()?;
            for (account, amount) in [(from, -amount), (to, amount)] {
                let key = format!("account {account}");
                let mut stock = txn.map(stock)?;
                let before = stock.get(key.as_bytes())?;
                let before = before.map_or(0, |value| i64::from_le_bytes(value[..8].try_into().unwrap()));
                stock.put(key.as_bytes(), &(before + amount).to_le_bytes())?;
            }
            txn.commit()
        };
        moved(seat).unwrap();
        let key = draw(8).to_le_bytes();
        match draw(3) {
            0 => drop(put(seat, large, &key, &vec![7; draw(9000) as usize])),
            _ => {
                let mut txn = seat.begin().unwrap();
                txn.map(large).unwrap().remove(&key).unwrap();
                txn.commit().unwrap();
            }
        }
    }
}
