//! Rows as they come from rvsd, printed page by page as a table or as JSON, so
//! that a listing of millions takes no more memory than one page.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::table::{Column, Table};
use crate::client::ClientError;
use crate::commands::Failure;

/// How a listing is to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// As JSON.
    pub(super) json: bool,
    /// The terminal's width; none for a file or pipe.
    pub(super) width: Option<usize>,
}

/// The width of the terminal that standard output is; none for a file or pipe.
#[must_use]
pub fn stdout_width() -> Option<usize> {
    let width = || ratatui::crossterm::terminal::size().ok().map(|(width, _)| width.into());
    io::stdout().is_terminal().then(width).flatten()
}

/// What is listed.
#[derive(Debug, Clone, Copy)]
pub(super) struct What {
    /// The name of the array in JSON.
    pub(super) name: &'static str,
    /// The columns of the table.
    pub(super) columns: &'static [Column],
    /// The text of an empty listing.
    pub(super) none: &'static str,
}

/// A listing that is being printed.
pub(super) struct Listing<'a> {
    what: What,
    json: bool,
    table: Table,
    out: &'a mut dyn Write,
    rows: usize,
}

impl<'a> Listing<'a> {
    pub(super) fn begin(what: What, form: Form, out: &'a mut dyn Write) -> io::Result<Self> {
        if form.json {
            write!(out, "{{\"{}\":[", what.name)?;
        }
        let table = Table::new(what.columns, form.width);
        Ok(Self { what, json: form.json, table, out, rows: 0 })
    }

    /// Prints some rows; `cells` makes those of the table.
    pub(super) fn page<T: Serialize>(
        &mut self,
        rows: &[T],
        cells: impl FnMut(&T) -> Vec<String>,
    ) -> io::Result<()> {
        let text = if self.json {
            let mut text = Vec::new();
            for (index, row) in rows.iter().enumerate() {
                text.extend_from_slice(if self.rows + index == 0 { b"\n" } else { b",\n" });
                serde_json::to_writer(&mut text, row)?;
            }
            text
        } else if rows.is_empty() {
            Vec::new()
        } else {
            self.table.page(&rows.iter().map(cells).collect::<Vec<_>>()).into_bytes()
        };
        self.rows += rows.len();
        self.out.write_all(&text)?;
        self.out.flush()
    }

    pub(super) fn end(self) -> io::Result<()> {
        if self.json {
            self.out.write_all(if self.rows == 0 { b"]}\n" } else { b"\n]}\n" })
        } else if self.rows == 0 {
            writeln!(self.out, "{}", self.what.none)
        } else {
            Ok(())
        }
    }
}

/// Gives `show` one page after the other, until there are no more or `limit`
/// rows. `read` takes where the page begins and how many rows are still wanted,
/// and says where the next one begins; it may leave out rows, and give too many.
pub(super) fn pages<T, C>(
    limit: Option<usize>,
    mut read: impl FnMut(Option<C>, usize) -> Result<(Vec<T>, Option<C>), ClientError>,
    mut show: impl FnMut(&[T]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut cursor, mut left) = (None, limit.unwrap_or(usize::MAX));
    loop {
        let (mut page, next) = read(cursor, left)?;
        page.truncate(left);
        left -= page.len();
        show(&page)?;
        cursor = next;
        if cursor.is_none() || left == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Kind, column};
    use super::*;

    const WHAT: What =
        What { name: "numbers", columns: &[column("NUMBER", Kind::Number)], none: "No number." };

    fn printed(form: Form, pages: &[&[u32]]) -> String {
        let mut out = Vec::new();
        let mut listing = Listing::begin(WHAT, form, &mut out).unwrap();
        for page in pages {
            listing.page(page, |number| vec![number.to_string()]).unwrap();
        }
        listing.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_one_document_with_a_line_for_each_row() {
        let form = Form { json: true, width: None };
        assert_eq!(printed(form, &[]), "{\"numbers\":[]}\n");
        let text = printed(form, &[&[1, 2], &[], &[3]]);
        assert_eq!(text, "{\"numbers\":[\n1,\n2,\n3\n]}\n");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["numbers"][2], 3);
    }

    #[test]
    fn tables_have_one_title() {
        let form = Form { json: false, width: None };
        assert_eq!(printed(form, &[]), "No number.\n");
        assert_eq!(printed(form, &[&[1, 2], &[], &[3]]), "NUMBER\n     1\n     2\n     3\n");
    }
}
