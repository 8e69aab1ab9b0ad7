//! Tables that fit the terminal: one line a row where it is wide enough, else
//! several, but no address is ever cut or broken.

use std::fmt::Write;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An address or name, which may have a line of its own.
    Long,
    /// A word.
    Word,
    /// A number, set to the right.
    Number,
    /// A word that is left out where that lets a row keep to one line.
    Extra,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    /// Its title.
    pub(super) title: &'static str,
    /// What it holds.
    pub(super) kind: Kind,
}

/// Columns by title and kind.
pub(super) const fn column(title: &'static str, kind: Kind) -> Column {
    Column { title, kind }
}

/// How rows are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// All on one line.
    Line,
    /// All but the extras on one line.
    Short,
    /// What is long on one line, the rest on the next.
    TwoLines,
    /// A line for each long one, and one for the rest.
    Tall,
}

/// A table that is printed page by page. Columns only get wider.
#[derive(Debug)]
pub(super) struct Table {
    columns: &'static [Column],
    /// Width of the terminal; none for a file or pipe, which gets all on one
    /// line.
    width: Option<usize>,
    widths: Vec<usize>,
    /// The layout of the last page, which has its title.
    layout: Option<Layout>,
}

const GAP: usize = 2;
const INDENT: usize = 4;

impl Table {
    pub(super) fn new(columns: &'static [Column], width: Option<usize>) -> Self {
        let widths = columns.iter().map(|column| column.title.len()).collect();
        Self { columns, width, widths, layout: None }
    }

    /// The text of some rows, with the title before the first ones and, on a
    /// terminal, wherever the columns changed.
    pub(super) fn page(&mut self, rows: &[Vec<String>]) -> String {
        let before = self.widths.clone();
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let layout = self.fitting();
        let moved = self.width.is_some() && self.widths != before;
        let mut text = String::new();
        if self.layout != Some(layout) || moved {
            let titles: Vec<_> = self.columns.iter().map(|c| c.title.to_owned()).collect();
            self.row(&mut text, layout, &titles, true);
        }
        self.layout = Some(layout);
        rows.iter().for_each(|row| self.row(&mut text, layout, row, false));
        text
    }

    fn fitting(&self) -> Layout {
        let Some(terminal) = self.width else { return Layout::Line };
        let line = |kinds: &[Kind]| {
            let of = self.columns.iter().zip(&self.widths);
            let widths: Vec<_> =
                of.filter(|(c, _)| kinds.contains(&c.kind)).map(|(_, w)| w).collect();
            widths.iter().copied().sum::<usize>() + GAP * widths.len().saturating_sub(1)
        };
        let (long, word, number, extra) = (Kind::Long, Kind::Word, Kind::Number, Kind::Extra);
        if line(&[long, word, number, extra]) <= terminal {
            Layout::Line
        } else if line(&[long, word, number]) <= terminal {
            Layout::Short
        } else if line(&[long]) <= terminal && INDENT + line(&[word, number, extra]) <= terminal {
            Layout::TwoLines
        } else {
            Layout::Tall
        }
    }

    fn row(&self, text: &mut String, layout: Layout, cells: &[String], title: bool) {
        let is_long = |column: &Column| column.kind == Kind::Long;
        match layout {
            Layout::Line => self.line(text, 0, cells, |_| true),
            Layout::Short => self.line(text, 0, cells, |column| column.kind != Kind::Extra),
            Layout::TwoLines => {
                self.line(text, 0, cells, is_long);
                self.line(text, INDENT, cells, |column| !is_long(column));
            }
            Layout::Tall => {
                let mut long = self.columns.iter().zip(cells).filter(|(c, _)| is_long(c));
                if let Some((_, first)) = long.next() {
                    row(text, format_args!("{first}\n"));
                }
                let rest: Vec<_> = long.collect();
                let label = rest.iter().map(|(c, _)| c.title.len()).max().unwrap_or(0);
                for (column, cell) in rest {
                    let name = column.title.to_lowercase();
                    match title {
                        true => row(text, format_args!("{:INDENT$}{cell}\n", "")),
                        false => row(text, format_args!("{:INDENT$}{name:<label$} {cell}\n", "")),
                    }
                }
                self.line(text, INDENT, cells, |column| !is_long(column));
            }
        }
    }

    /// One line with some of the columns.
    fn line(
        &self,
        text: &mut String,
        indent: usize,
        cells: &[String],
        with: impl Fn(&Column) -> bool,
    ) {
        let mut line = " ".repeat(indent);
        let mut first = true;
        for ((column, &width), cell) in self.columns.iter().zip(&self.widths).zip(cells) {
            if !with(column) {
                continue;
            }
            if !first {
                line.push_str("  ");
            }
            first = false;
            match column.kind {
                Kind::Number => row(&mut line, format_args!("{cell:>width$}")),
                Kind::Long | Kind::Word | Kind::Extra => {
                    row(&mut line, format_args!("{cell:<width$}"));
                }
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// Appends to a string, which cannot fail.
pub(super) fn row(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        column("CLIENT", Kind::Long),
        column("SERVER", Kind::Long),
        column("STATE", Kind::Word),
        column("BYTES", Kind::Number),
        column("METHOD", Kind::Extra),
    ];

    fn cells(row: [&str; 5]) -> Vec<String> {
        row.map(str::to_owned).to_vec()
    }

    fn set(width: Option<usize>) -> String {
        let rows = [
            cells(["10.0.0.1:1", "10.0.0.2:80", "UDP", "5", "dr"]),
            cells(["a", "b", "c", "123456", "fullnat"]),
        ];
        Table::new(COLUMNS, width).page(&rows)
    }

    #[test]
    fn a_wide_terminal_and_a_pipe_have_a_line_for_each_row() {
        let expected = "\
CLIENT      SERVER       STATE   BYTES  METHOD
10.0.0.1:1  10.0.0.2:80  UDP         5  dr
a           b            c      123456  fullnat
";
        assert_eq!(set(None), expected);
        assert_eq!(set(Some(47)), expected);
    }

    #[test]
    fn extras_go_first() {
        let expected = "\
CLIENT      SERVER       STATE   BYTES
10.0.0.1:1  10.0.0.2:80  UDP         5
a           b            c      123456
";
        assert_eq!(set(Some(46)), expected);
        assert_eq!(set(Some(38)), expected);
    }

    #[test]
    fn then_rows_take_two_lines() {
        let expected = "\
CLIENT      SERVER
    STATE   BYTES  METHOD
10.0.0.1:1  10.0.0.2:80
    UDP         5  dr
a           b
    c      123456  fullnat
";
        assert_eq!(set(Some(37)), expected);
    }

    #[test]
    fn then_each_address_has_a_line() {
        let expected = "\
CLIENT
    SERVER
    STATE   BYTES  METHOD
10.0.0.1:1
    server 10.0.0.2:80
    UDP         5  dr
a
    server b
    c      123456  fullnat
";
        assert_eq!(set(Some(22)), expected);
        assert_eq!(set(Some(1)), expected);
    }

    #[test]
    fn later_pages_have_a_title_where_columns_moved() {
        let row = |client: &str| [cells([client, "b", "c", "1", "dr"])];
        let mut table = Table::new(COLUMNS, Some(80));
        assert_eq!(table.page(&row("10.0.0.1:1")).lines().count(), 2);
        assert_eq!(table.page(&row("10.0.0.1:2")).lines().count(), 1);
        assert_eq!(table.page(&row("10.0.0.1:345")).lines().count(), 2);
        assert_eq!(table.page(&[]), "");
        let mut piped = Table::new(COLUMNS, None);
        assert_eq!(piped.page(&row("10.0.0.1:1")).lines().count(), 2);
        assert_eq!(piped.page(&row("10.0.0.1:345")).lines().count(), 1);
    }
}
