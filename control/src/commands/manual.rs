//! rvsd.toml(5), made of docs/configuration.md, which a test holds to the parser.

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, LinkType, Options, Parser, Tag, TagEnd};

const PAGE: &str = include_str!("../../../docs/configuration.md");

/// The manual page.
#[must_use]
pub(super) fn rvsd_toml() -> String {
    let mut page = Roff::new();
    page.control("TH", ["RVSD.TOML", "5", "\"\"", "RVS"])
        .control("SH", ["NAME"])
        .text([roman("rvsd.toml - configuration of rvsd")])
        .control("SH", ["SYNOPSIS"])
        .text([italic("/etc/rvs/rvsd.toml")]);
    let mut writer = Writer { page, line: Vec::new(), link: None, table: None };
    for event in Parser::new_ext(PAGE, Options::ENABLE_TABLES) {
        writer.event(event);
    }
    let mut page = writer.page;
    page.control("SH", ["FILES"])
        .text([roman(
            "/usr/share/doc/rvs/docs has the pages that are named here, /usr/share/doc/rvs/examples the files of configs.",
        )])
        .control("SH", ["SEE ALSO"])
        .text([bold("rvsd"), roman("(8), "), bold("rvsadm"), roman("(8)")]);
    page.render()
}

/// What of Markdown stands in that page, as macros of man(7).
struct Writer {
    page: Roff,
    /// The paragraph, heading, item or cell that is being read.
    line: Vec<Inline>,
    /// Where the link that is being read leads, and where in the line it began.
    link: Option<(String, usize)>,
    table: Option<Table>,
}

/// A row is a paragraph under its first cell.
#[derive(Default)]
struct Table {
    header: Vec<String>,
    cells: Vec<Vec<Inline>>,
}

impl Writer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.begin(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.line.push(roman(&*text)),
            Event::Code(text) => self.line.push(bold(&*text)),
            Event::SoftBreak | Event::HardBreak => self.line.push(roman("\n")),
            _ => {}
        }
    }

    fn begin(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph => {
                self.page.control("PP", []);
            }
            Tag::Item => {
                self.page.control("IP", ["\\(bu", "2"]);
            }
            Tag::CodeBlock(CodeBlockKind::Fenced(_) | CodeBlockKind::Indented) => {
                self.page.control("PP", []).control("RS", ["4"]).control("nf", []);
            }
            Tag::Link { link_type: LinkType::Inline, dest_url, .. } => {
                self.link = Some((dest_url.into_string(), self.line.len()));
            }
            Tag::Table(_) => self.table = Some(Table::default()),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::Paragraph | TagEnd::Item => self.flush(),
            TagEnd::CodeBlock => {
                self.flush();
                self.page.control("fi", []).control("RE", []);
            }
            TagEnd::Emphasis => self.restyle(italic),
            TagEnd::Strong => self.restyle(bold),
            TagEnd::Link => self.target(),
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.line);
                self.table.get_or_insert_default().cells.push(cell);
            }
            TagEnd::TableHead => {
                let table = self.table.get_or_insert_default();
                table.header = table.cells.drain(..).map(|cell| text_of(&cell)).collect();
            }
            TagEnd::TableRow => self.row(),
            TagEnd::Table => self.table = None,
            _ => {}
        }
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.page.text(line);
        }
    }

    fn heading(&mut self, level: HeadingLevel) {
        let line = text_of(&std::mem::take(&mut self.line));
        match level {
            HeadingLevel::H1 => self.page.control("SH", ["DESCRIPTION"]),
            HeadingLevel::H2 => self.page.control("SH", [line.as_str()]),
            _ => self.page.control("SS", [line.as_str()]),
        };
    }

    /// The last piece of text in another font.
    fn restyle(&mut self, font: fn(String) -> Inline) {
        if let Some(Inline::Roman(text)) = self.line.last_mut() {
            let text = std::mem::take(text);
            self.line.pop();
            self.line.push(font(text));
        }
    }

    /// Names the page or address that a link leads to, unless its text does.
    fn target(&mut self) {
        let Some((target, begin)) = self.link.take() else { return };
        let target = target.split_once('#').map_or(target.as_str(), |(page, _)| page);
        let target = target.trim_start_matches("../");
        let text = text_of(&self.line[begin..]);
        if !target.ends_with(text.as_str()) && !target.is_empty() {
            self.line.push(roman(format!(" ({target})")));
        }
    }

    fn row(&mut self) {
        let Some(table) = &mut self.table else { return };
        let mut cells = table.cells.drain(..);
        self.page.control("TP", []).text(cells.next().unwrap_or_default());
        for (cell, name) in cells.zip(table.header.iter().skip(1)) {
            // The sentences need no name.
            if name == "meaning" {
                self.page.text(cell);
            } else {
                let mut line = vec![italic(name.as_str()), roman(": ")];
                line.extend(cell);
                self.page.control("br", []).text(line);
            }
        }
    }
}

fn text_of(line: &[Inline]) -> String {
    line.iter()
        .map(|inline| match inline {
            Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text.as_str(),
            Inline::LineBreak => "\n",
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_paragraph_with_meaning_range_default_and_example() {
        let page = rvsd_toml();
        let row = "\
.TP
\\fBeal.memory_mb\\fR
DPDK\\*(Aqs memory.
.br
\\fIunit, range\\fR: MiB, 64 to 1048576
.br
\\fIdefault\\fR: \\fB512\\fR
.br
\\fIexample\\fR: \\fB2048\\fR
";
        assert!(page.contains(row), "{page}");
        assert!(page.contains(".SH [[port]]\n"), "{page}");
    }

    #[test]
    fn every_key_of_the_page_is_there_and_no_markdown_is_left() {
        let page = rvsd_toml();
        let rows = PAGE.lines().filter(|line| line.starts_with("| `")).count();
        assert!(rows > 80, "{rows} rows");
        assert_eq!(page.matches(".TP\n").count(), rows);
        for left in ["](", "```", "|---", "**"] {
            assert!(!page.contains(left), "{left} in the manual page");
        }
    }

    #[test]
    fn links_name_the_page_that_they_lead_to() {
        let page = rvsd_toml();
        assert!(page.contains("told to (reload.md)"), "{page}");
        assert!(!page.contains("nat.toml (configs/nat.toml)"), "{page}");
    }
}
