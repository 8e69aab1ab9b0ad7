//! docs/drops.md names every drop reason, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use dataplane::counters::DropReason;

#[test]
fn the_page_and_the_code_name_the_same_reasons() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/drops.md");
    let page = std::fs::read_to_string(&path).unwrap();
    // A row begins with its name: | `name` | ...
    let rows: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let named: BTreeSet<_> = rows.iter().copied().collect();
    assert_eq!(named.len(), rows.len(), "a reason has two rows");
    let known: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(named, known);
}
