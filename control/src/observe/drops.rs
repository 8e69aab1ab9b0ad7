//! What drop reasons mean and what is to be done, from their reference page: the
//! page that people read is what is printed.

/// The page.
const PAGE: &str = include_str!("../../../docs/drops.md");

/// What a reason means, and what to do, as the page says.
pub(crate) fn explained(reason: &str) -> Option<(String, String)> {
    let row = PAGE.lines().find_map(|line| {
        let rest = line.strip_prefix("| `")?.strip_prefix(reason)?;
        rest.strip_prefix("` | ")
    })?;
    let mut cells = row.trim_end().trim_end_matches('|').split(" | ");
    let meaning = cells.next()?;
    Some((plain(meaning), plain(cells.last()?)))
}

/// Markdown as text: links without their targets, no code marks.
fn plain(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell.trim();
    while let Some(middle) = rest.find("](") {
        let (before, after) = rest.split_at(middle);
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    text.replace(['`', '['], "").replace(']', "")
}

#[cfg(test)]
mod tests {
    use dataplane::counters::DropReason;

    use super::*;

    #[test]
    fn every_reason_has_a_meaning_and_a_remedy() {
        for reason in DropReason::ALL {
            let row = explained(reason.name());
            let (meaning, remedy) = row.unwrap_or_else(|| panic!("no row {}", reason.name()));
            for text in [meaning, remedy] {
                assert!(text.len() > 5 && !text.contains(['|', '`']), "{}: {text}", reason.name());
                assert!(!text.contains("]("), "{}: {text}", reason.name());
            }
        }
        assert_eq!(explained("no_such_reason"), None);
        assert_eq!(plain("a [b c](d.md#e) `f`."), "a b c f.");
    }
}
