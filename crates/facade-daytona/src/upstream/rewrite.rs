//! Answers of the control plane whose URLs lead past this server, changed so
//! that they lead to it.
//!
//! Only the fields that are known to be such URLs are touched, and only where
//! the protocol has them: labels and environments belong to users. Everything
//! else keeps its writing to the byte.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};

use crate::base_url::BaseUrl;

/// Takes the id of a sandbox and the URL of its toolbox.
pub(super) type Learn<'a> = &'a dyn Fn(&str, &str);

/// A JSON object whose values keep their writing.
pub(super) type Object = BTreeMap<String, Box<RawValue>>;

/// An object with another text in its field `url`; `None` when it has none.
pub(super) fn url(body: &[u8], url: &str) -> Option<Vec<u8>> {
    let mut object: Object = serde_json::from_slice(body).ok()?;
    set(&mut object, "url", url).then(|| written(&object))?
}

/// A sandbox, an array of them, or a page with them as `items`; `None` when
/// there is nothing to change.
pub(super) fn sandboxes(body: &[u8], base: &BaseUrl, learn: Learn<'_>) -> Option<Vec<u8>> {
    if let Ok(mut all) = serde_json::from_slice::<Vec<Box<RawValue>>>(body) {
        return changed(&mut all, base, learn).then(|| written(&all))?;
    }
    let mut object: Object = serde_json::from_slice(body).ok()?;
    let mut is_changed = sandbox(&mut object, base, learn);
    if let Some(items) = object.get_mut("items")
        && let Ok(mut all) = serde_json::from_str::<Vec<Box<RawValue>>>(items.get())
        && changed(&mut all, base, learn)
    {
        *items = to_raw_value(&all).ok()?;
        is_changed = true;
    }
    is_changed.then(|| written(&object))?
}

fn written(value: &impl serde::Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}

fn changed(all: &mut [Box<RawValue>], base: &BaseUrl, learn: Learn<'_>) -> bool {
    let mut is_changed = false;
    for one in all {
        if let Ok(mut object) = serde_json::from_str::<Object>(one.get())
            && sandbox(&mut object, base, learn)
            && let Ok(object) = to_raw_value(&object)
        {
            *one = object;
            is_changed = true;
        }
    }
    is_changed
}

/// The one URL that a sandbox has.
pub(super) fn sandbox(object: &mut Object, base: &BaseUrl, learn: Learn<'_>) -> bool {
    let text = |name: &str| {
        let value = object.get(name)?;
        serde_json::from_str::<String>(value.get()).ok()
    };
    if let (Some(id), Some(url)) = (text("id"), text("toolboxProxyUrl")) {
        learn(&id, &url);
    }
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
