use std::collections::BTreeMap;

use super::*;

fn cell(context: &str) -> Cell {
    Cell {
        code: String::new(),
        context: context.to_owned(),
        timeout_ms: None,
        merge_output: false,
        env: BTreeMap::new(),
        ..Cell::default()
    }
}

#[test]
fn names_and_variables_are_checked() {
    assert!(validate(&cell("default")).is_ok());
    assert!(validate(&cell("a.B-c_9")).is_ok());
    for name in [
        "",
        "a b",
        "é",
        "a\n",
        &"x".repeat(CONTEXT_NAME_BYTES_MAX + 1),
    ] {
        assert!(validate(&cell(name)).is_err(), "{name:?}");
    }
    for (name, value) in [("", "v"), ("a=b", "v"), ("a\0", "v"), ("a", "v\0")] {
        let mut cell = cell("default");
        cell.env.insert(name.to_owned(), value.to_owned());
        assert!(validate(&cell).is_err(), "{name:?} {value:?}");
    }
    let mut long = cell("default");
    long.code = "x".repeat(CODE_BYTES_MAX + 1);
    assert!(validate(&long).is_err());
}

#[test]
fn contexts_that_hold_nothing_make_room_for_others() {
    let slots = Slots::default();
    let held: Vec<_> = (0..CONTEXTS_MAX)
        .map(|n| slots.get_or_add(&n.to_string(), Path::new("/")).unwrap())
        .collect();
    assert!(Arc::ptr_eq(
        &held[3],
        &slots.get_or_add("3", Path::new("/")).unwrap()
    ));
    let refused = slots.get_or_add("one more", Path::new("/")).unwrap_err();
    assert_eq!(refused.kind, FailureKind::LimitReached);
    drop(held);
    let ids: Vec<_> = ["a", "b", "c"]
        .map(|name| slots.get_or_add(name, Path::new("/")).unwrap().id)
        .into();
    assert!(ids.is_sorted() && ids[0] != ids[1] && ids[1] != ids[2]);
}
