//! From what language servers answer to what the SDKs read.

use serde::Serialize;
use serde_json::{Value, json};

/// Symbols of one answer.
const SYMBOLS_MAX: usize = 50_000;
/// How deep symbols are nested.
const DEPTH_MAX: usize = 64;

/// A symbol with its place.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Symbol {
    kind: u64,
    name: String,
    location: Location,
}

#[derive(Debug, PartialEq, Serialize)]
struct Location {
    uri: String,
    range: Range,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Position {
    line: u64,
    character: u64,
}

/// Symbols, flat: those in others come after them. `uri` is the document that
/// was asked about, for those that do not tell.
pub(super) fn symbols(answer: &Value, uri: &str) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    flatten(answer, uri, 0, &mut symbols);
    symbols
}

fn flatten(answer: &Value, uri: &str, depth: usize, symbols: &mut Vec<Symbol>) {
    let Some(found) = answer.as_array() else {
        return;
    };
    for symbol in found {
        if symbols.len() >= SYMBOLS_MAX {
            return;
        }
        let Some(name) = symbol["name"].as_str() else {
            continue;
        };
        let location = &symbol["location"];
        let own = location["range"].as_object().is_some();
        symbols.push(Symbol {
            kind: symbol["kind"].as_u64().unwrap_or_default(),
            name: name.to_owned(),
            location: Location {
                uri: location["uri"].as_str().unwrap_or(uri).to_owned(),
                range: range(if own {
                    &location["range"]
                } else {
                    &symbol["range"]
                }),
            },
        });
        if depth < DEPTH_MAX {
            flatten(&symbol["children"], uri, depth + 1, symbols);
        }
    }
}

fn range(range: &Value) -> Range {
    let position = |position: &Value| Position {
        line: position["line"].as_u64().unwrap_or_default(),
        character: position["character"].as_u64().unwrap_or_default(),
    };
    Range {
        start: position(&range["start"]),
        end: position(&range["end"]),
    }
}

/// Completions; servers answer with a list, or with a list of items in an object.
pub(super) fn completions(answer: &Value) -> Value {
    let items = match answer {
        Value::Array(items) => items.as_slice(),
        answer => answer["items"]
            .as_array()
            .map_or(&[] as &[Value], Vec::as_slice),
    };
    let items: Vec<Value> = items.iter().filter_map(completion).collect();
    json!({
        "isIncomplete": answer["isIncomplete"].as_bool().unwrap_or(false),
        "items": items,
    })
}

fn completion(item: &Value) -> Option<Value> {
    let mut kept = serde_json::Map::new();
    kept.insert("label".to_owned(), item["label"].as_str()?.into());
    for field in ["detail", "sortText", "filterText", "insertText"] {
        if let Some(text) = item[field].as_str() {
            kept.insert(field.to_owned(), text.into());
        }
    }
    if let (None, Some(text)) = (kept.get("insertText"), item["textEdit"]["newText"].as_str()) {
        kept.insert("insertText".to_owned(), text.into());
    }
    if let Some(kind) = item["kind"].as_u64() {
        kept.insert("kind".to_owned(), kind.into());
    }
    // The SDKs read an object only.
    match &item["documentation"] {
        Value::String(text) => {
            let markup = json!({ "kind": "plaintext", "value": text });
            kept.insert("documentation".to_owned(), markup);
        }
        markup @ Value::Object(_) => {
            kept.insert("documentation".to_owned(), markup.clone());
        }
        _ => {}
    }
    Some(Value::Object(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u64) -> Value {
        json!({ "start": { "line": line, "character": 0 }, "end": { "line": line, "character": 5 } })
    }

    #[test]
    fn both_forms_of_symbols_are_read() {
        let flat = json!([
            { "name": "f", "kind": 12, "location": { "uri": "file:///a", "range": at(3) } },
            { "name": "w", "kind": 5, "location": { "uri": "file:///b" } },
            { "kind": 1 },
        ]);
        let flat = symbols(&flat, "file:///asked");
        assert_eq!(flat.len(), 2);
        assert_eq!((flat[0].name.as_str(), flat[0].kind), ("f", 12));
        assert_eq!(flat[0].location.range.start.line, 3);
        assert_eq!(flat[1].location.uri, "file:///b");
        let nested = json!([{
            "name": "C", "kind": 5, "range": at(1), "selectionRange": at(1),
            "children": [{ "name": "m", "kind": 6, "range": at(2), "selectionRange": at(2) }],
        }]);
        let nested = symbols(&nested, "file:///asked");
        assert_eq!(
            nested.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["C", "m"]
        );
        assert_eq!(nested[1].location.uri, "file:///asked");
        assert_eq!(nested[1].location.range.end.character, 5);
        assert!(symbols(&Value::Null, "").is_empty());
    }

    #[test]
    fn completions_have_the_fields_that_sdks_read() {
        let answer = json!([
            { "label": "a", "kind": 3, "documentation": "text", "textEdit": { "newText": "a()" } },
            { "label": "b", "documentation": { "kind": "markdown", "value": "x" }, "data": 1 },
            { "nolabel": true },
        ]);
        assert_eq!(
            completions(&answer),
            json!({ "isIncomplete": false, "items": [
                { "label": "a", "kind": 3, "insertText": "a()",
                  "documentation": { "kind": "plaintext", "value": "text" } },
                { "label": "b", "documentation": { "kind": "markdown", "value": "x" } },
            ]})
        );
        let incomplete = json!({ "isIncomplete": true, "items": [] });
        assert_eq!(completions(&incomplete), incomplete);
        assert_eq!(
            completions(&Value::Null),
            json!({ "isIncomplete": false, "items": [] })
        );
    }
}
