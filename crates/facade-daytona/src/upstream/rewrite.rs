//! Answers of the control plane whose URLs lead past this server, changed so
//! that they lead to it.
//!
//! Only the fields that are known to be such URLs are touched, and only where
//! the protocol has them: labels and environments belong to users. Everything
//! else keeps its writing to the byte.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};

use crate::base_url::BaseUrl;

/// A JSON object whose values keep their writing.
type Object = BTreeMap<String, Box<RawValue>>;

/// A sandbox, an array of them, or a page with them as `items`; `None` when
/// there is nothing to change.
pub(super) fn sandboxes(body: &[u8], base: &BaseUrl) -> Option<Vec<u8>> {
    if let Ok(mut all) = serde_json::from_slice::<Vec<Box<RawValue>>>(body) {
        return changed(&mut all, base).then(|| written(&all))?;
    }
    let mut object: Object = serde_json::from_slice(body).ok()?;
    let mut is_changed = sandbox(&mut object, base);
    if let Some(items) = object.get_mut("items")
        && let Ok(mut all) = serde_json::from_str::<Vec<Box<RawValue>>>(items.get())
        && changed(&mut all, base)
    {
        *items = to_raw_value(&all).ok()?;
        is_changed = true;
    }
    is_changed.then(|| written(&object))?
}

fn written(value: &impl serde::Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}

fn changed(all: &mut [Box<RawValue>], base: &BaseUrl) -> bool {
    let mut is_changed = false;
    for one in all {
        if let Ok(mut object) = serde_json::from_str::<Object>(one.get())
            && sandbox(&mut object, base)
            && let Ok(object) = to_raw_value(&object)
        {
            *one = object;
            is_changed = true;
        }
    }
    is_changed
}

/// The one URL that a sandbox has.
fn sandbox(object: &mut Object, base: &BaseUrl) -> bool {
    set(object, "toolboxProxyUrl", &base.toolbox())
}

/// Sets a field that is there and is a text.
fn set(object: &mut Object, name: &str, value: &str) -> bool {
    let Some(field) = object.get_mut(name).filter(|field| is_text(field)) else {
        return false;
    };
    to_raw_value(value).is_ok_and(|value| {
        *field = value;
        true
    })
}

fn is_text(value: &RawValue) -> bool {
    value.get().starts_with('"')
}
