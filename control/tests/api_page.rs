//! docs/control-api.md shows the API as it is: every example parses, and
//! nothing is missing.

use std::collections::BTreeSet;
use std::path::Path;

use control::api::{ErrorCode, Reply, Request, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control-api.md");
    std::fs::read_to_string(path).unwrap()
}

/// The page's blocks of JSON.
fn examples() -> Vec<Value> {
    let page = page();
    let blocks = page.split("```json\n").skip(1);
    blocks.map(|block| serde_json::from_str(block.split("```").next().unwrap()).unwrap()).collect()
}

fn is_request(example: &Value) -> bool {
    example.get("op").is_some()
}

/// The names that a type knows, out of serde's message about one that it does
/// not.
fn names<T: DeserializeOwned>(unknown: Value) -> BTreeSet<String> {
    let Err(error) = serde_json::from_value::<T>(unknown) else { panic!("that is a name") };
    error.to_string().split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_example_is_the_api() {
    for example in examples() {
        let shown = example.to_string();
        if is_request(&example) {
            let request: Request = serde_json::from_value(example.clone()).expect(&shown);
            // Fields may be left out, but none may be there that means nothing.
            let complete = serde_json::to_value(request).unwrap();
            assert!(contains(&complete, &example), "{shown} is more than {complete}");
        } else {
            let reply: Reply = serde_json::from_value(example.clone()).expect(&shown);
            assert_eq!(serde_json::to_value(reply).unwrap(), example);
        }
    }
}

fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(name, value)| whole.get(name).is_some_and(|other| contains(other, value))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(w, p)| contains(w, p))
        }
        _ => whole == part,
    }
}

#[test]
fn every_request_and_response_has_an_example() {
    let examples = examples();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let requests: BTreeSet<_> = examples.iter().filter_map(|e| text(e.get("op"))).collect();
    assert_eq!(requests, names::<Request>(serde_json::json!({"op": "?"})));
    let responses: BTreeSet<_> =
        examples.iter().filter_map(|e| text(e.pointer("/Ok/re"))).collect();
    assert_eq!(responses, names::<Response>(serde_json::json!({"re": "?"})));
}

#[test]
fn every_error_code_has_a_row() {
    let page = page();
    let table = page.split("## Errors").nth(1).unwrap().split("## ").next().unwrap();
    let rows: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(rows, names::<ErrorCode>(Value::String("?".into())));
}
