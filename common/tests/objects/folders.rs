//! The tree of names against paths in a `BTreeMap`.

use std::collections::BTreeMap;

use common::limits::MAX_DEPTH;
use common::objects::tree::folder_of;
use common::objects::{Folder, Kind, ReadError};
use common::region::Region;
use common::txn::{Seat, TxnError};
use proptest::prelude::*;

use crate::{nothing_is_left, region, seat};

/// What stands at each path.
type Model = BTreeMap<String, Kind>;

#[derive(Clone, Debug)]
enum Action {
    Folder(String),
    Object(String, u8),
    Delete(String),
    DeleteFolder(String),
    Rename(String, String),
    RenameFolder(String, String),
}

fn path(longest: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..longest)
        .prop_map(|names| names.join("/"))
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => path(6).prop_map(Action::Folder),
        4 => (path(5), 0..4_u8).prop_map(|(path, kind)| Action::Object(path, kind)),
        1 => path(5).prop_map(Action::Delete),
        1 => path(5).prop_map(Action::DeleteFolder),
        2 => (path(5), path(5)).prop_map(|(from, to)| Action::Rename(from, to)),
        3 => (path(5), path(7)).prop_map(|(from, to)| Action::RenameFolder(from, to)),
    ]
}

fn parent_is_there(model: &Model, path: &str) -> bool {
    path.rsplit_once('/').is_none_or(|(parent, _)| model.get(parent) == Some(&Kind::Folder))
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|below| below.starts_with('/'))
}

fn depth(path: &str) -> usize {
    path.split('/').count()
}

/// Does it to the model, or says what must be wrong.
fn expect(model: &mut Model, action: &Action) -> Result<(), TxnError> {
    let found = |model: &Model, path: &str, folder: bool| {
        model.get(path).filter(|kind| (**kind == Kind::Folder) == folder).copied()
    };
    match action {
        Action::Folder(path) | Action::Object(path, _) if !parent_is_there(model, path) => {
            Err(TxnError::NotFound)
        }
        Action::Folder(path) | Action::Object(path, _) if model.contains_key(path) => Err(TxnError::Exists),
        Action::Folder(path) => {
            model.insert(path.clone(), Kind::Folder);
            Ok(())
        }
        Action::Object(path, kind) => {
            let kinds = [Kind::Map, Kind::Counter, Kind::Queue, Kind::Blob];
            model.insert(path.clone(), kinds[usize::from(*kind)]);
            Ok(())
        }
        Action::Delete(path) => {
            if found(model, path, false).is_some() {
                model.remove(path);
            }
            Ok(())
        }
        Action::DeleteFolder(path) if found(model, path, true).is_none() => Ok(()),
        Action::DeleteFolder(path) if model.keys().any(|other| is_below(other, path)) => {
            Err(TxnError::NotEmpty)
        }
        Action::DeleteFolder(path) => {
            model.remove(path);
            Ok(())
        }
        Action::Rename(from, to) => {
            let kind = found(model, from, false).ok_or(TxnError::NotFound)?;
            if model.contains_key(to) {
                return if from == to { Ok(()) } else { Err(TxnError::Exists) };
            }
            model.remove(from);
            model.insert(to.clone(), kind);
            Ok(())
        }
        Action::RenameFolder(from, to) => {
            if !parent_is_there(model, from) || !parent_is_there(model, to) {
                return Err(TxnError::NotFound);
            }
            if is_below(to, from) {
                return Err(TxnError::IntoItself);
            }
            let kind = *model.get(from).ok_or(TxnError::NotFound)?;
            let folders = model.iter().filter(|(path, kind)| is_below(path, from) && **kind == Kind::Folder);
            let height = folders.map(|(path, _)| depth(path) - depth(from)).max().unwrap_or(0);
            if kind == Kind::Folder && depth(to) + height > MAX_DEPTH {
                return Err(TxnError::TooDeep);
            }
            if kind != Kind::Folder {
                return Err(TxnError::NotFound);
            }
            if model.contains_key(to) {
                return if from == to { Ok(()) } else { Err(TxnError::Exists) };
            }
            let moved: Vec<_> =
                model.keys().filter(|path| *path == from || is_below(path, from)).cloned().collect();
            for path in moved {
                let kind = model.remove(&path).unwrap();
                model.insert(format!("{to}{}", &path[from.len()..]), kind);
            }
            Ok(())
        }
    }
}

/// `None` where the action cannot even be tried: there is no folder to try it in.
fn act(seat: &mut Seat<'_>, action: &Action) -> Option<Result<(), TxnError>> {
    let region = seat.region();
    let mut txn = seat.begin().unwrap();
    let done = match action {
        Action::Folder(path) => txn.create_folder(path).map(drop),
        Action::Object(path, kind) => {
            let (folder, name) = folder_of(region, path).ok()?;
            match kind {
                0 => txn.create_map(folder, name).map(drop),
                1 => txn.create_counter(folder, name).map(drop),
                2 => txn.create_queue(folder, name, 0).map(drop),
                _ => txn.create_blob(folder, name).map(drop),
            }
        }
        Action::Delete(path) => {
            let (folder, name) = folder_of(region, path).ok()?;
            txn.delete(folder, name).map(drop)
        }
        Action::DeleteFolder(path) => txn.delete_folder(path).map(drop),
        Action::Rename(from, to) => {
            let ((folder, name), (to, other)) = (folder_of(region, from).ok()?, folder_of(region, to).ok()?);
            txn.rename(folder, name, to, other)
        }
        Action::RenameFolder(from, to) => txn.rename_folder(from, to),
    };
    Some(done.and_then(|()| txn.commit()))
}

fn tree(region: &Region) -> Model {
    let mut model = Model::new();
    for (path, folder) in Folder::all(region).unwrap() {
        assert_eq!(Folder::open(region, &path), Ok(folder));
        for (name, entry) in folder.list(region).unwrap() {
            model.insert(format!("{path}/{name}"), entry.kind);
        }
        model.insert(path, Kind::Folder);
    }
    model
}

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn the_tree_is_what_paths_are(actions in proptest::collection::vec(action(), 1..crate::most(80))) {
        let region = region(2 << 20);
        let mut seat = seat(&region, 1);
        let mut model = Model::new();
        for action in actions {
            let mut changed = model.clone();
            let expected = expect(&mut changed, &action);
            if let Some(done) = act(&mut seat, &action) {
                prop_assert_eq!(&done, &expected, "{:?} in {:?}", action, model);
                if done.is_ok() {
                    model = changed;
                }
            }
            prop_assert_eq!(&tree(&region), &model, "after {:?}", action);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes an hour there")]
fn depth_and_names_are_bounded_and_what_a_transaction_has_made_counts() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let deepest = ["x"; MAX_DEPTH].join("/");
    let mut txn = seat.begin().unwrap();
    txn.open_or_create_folder(&deepest).unwrap();
    txn.commit().unwrap();
    for path in [format!("{deepest}/x"), format!("{}y", "x/".repeat(MAX_DEPTH))] {
        let mut txn = seat.begin().unwrap();
        assert_eq!(txn.open_or_create_folder(&path), Err(TxnError::TooDeep));
        assert_eq!(Folder::open(&region, &path), Err(ReadError::NotFound));
    }
    for path in ["", "/", "a/", "/a", "a//b", "a/\n"] {
        let mut txn = seat.begin().unwrap();
        assert_eq!(txn.create_folder(path), Err(TxnError::BadName), "{path:?}");
    }
    // Made and moved in one transaction: seen as the transaction itself sees it.
    let mut txn = seat.begin().unwrap();
    txn.open_or_create_folder("a/b/c/d").unwrap();
    txn.open_or_create_folder("k/l/m/n").unwrap();
    assert_eq!(txn.rename_folder("a", "k/l/m/n/a"), Ok(()));
    txn.commit().unwrap();
    assert!(Folder::open(&region, "k/l/m/n/a/b/c/d").is_ok());
    let mut txn = seat.begin().unwrap();
    txn.open_or_create_folder("a/b/c/d/e").unwrap();
    assert_eq!(txn.rename_folder("a", "k/l/m/n/o"), Err(TxnError::TooDeep));
    drop(txn);
    let mut txn = seat.begin().unwrap();
    assert_eq!(txn.rename_folder("k/l", "k/l/m/z"), Err(TxnError::IntoItself));
    drop(txn);
    for path in [deepest, "k/l/m/n/a/b/c/d".to_owned()] {
        let mut rest = path.as_str();
        loop {
            let mut txn = seat.begin().unwrap();
            assert_eq!(txn.delete_folder(rest), Ok(true), "{rest}");
            txn.commit().unwrap();
            let Some((parent, _)) = rest.rsplit_once('/') else { break };
            rest = parent;
        }
    }
    assert!(nothing_is_left(&region) && Folder::all(&region).unwrap().is_empty());
}

#[test]
fn handles_go_on_through_a_rename_and_find_nothing_after_a_deletion() {
    let region = region(1 << 20);
    let (mut seat, mut other) = (seat(&region, 1), seat(&region, 2));
    let mut txn = seat.begin().unwrap();
    let (from, to) = (txn.create_folder("from").unwrap(), txn.create_folder("to").unwrap());
    let queue = txn.create_queue(from, "queue", 0).unwrap();
    let blob = txn.create_blob(from, "blob").unwrap();
    txn.commit().unwrap();
    let mut user = other.begin().unwrap();
    user.queue(queue).unwrap().push_back(b"one").unwrap();
    let mut txn = seat.begin().unwrap();
    txn.rename(from, "queue", to, "moved").unwrap();
    txn.commit().unwrap();
    user.commit().unwrap();
    assert_eq!(to.open_queue(&region, "moved"), Ok(queue));
    assert_eq!(queue.len(&region), Ok(1));
    let mut txn = seat.begin().unwrap();
    txn.rename_folder("from", "to/from").unwrap();
    txn.commit().unwrap();
    assert_eq!(Folder::open(&region, "to/from").unwrap().open_blob(&region, "blob"), Ok(blob));
    let mut txn = seat.begin().unwrap();
    assert!(txn.delete(to, "moved").unwrap() && txn.delete(from, "blob").unwrap());
    assert!(!txn.delete(to, "from").unwrap(), "it is a folder");
    txn.commit().unwrap();
    assert_eq!((queue.len(&region), blob.len(&region)), (Err(ReadError::NotFound), Err(ReadError::NotFound)));
    let mut late = other.begin().unwrap();
    assert_eq!(late.blob(blob).map(drop), Err(TxnError::NotFound));
}
