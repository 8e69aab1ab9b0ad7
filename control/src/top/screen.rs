//! The screen of `top`.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table};

use super::app::App;
use super::sample::{Value, View};

const HELP: &str = "\
1 to 5, Tab       services, servers, workers, ports, drops
< > or arrows     sort by another column
r                 the other way round
/                 show only what contains a text; Esc: all
up, down, page    scroll
p or space        pause
+ -               more or less time between two looks
q                 quit

Numbers are per second where the title says /S. B/S are
bytes of IP packets, at ports of frames. BUSY is the share
of time in rounds that had packets, CYC/PKT the cycles of
such rounds by their packets, PKT/LOOP packets in a round,
TABLE 4 and 6 how full the tables of connections are.";

const KEYS: &str = "1-5 view  < > sort  r reverse  / filter  p pause  + - interval  h help  q quit";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let [head, summary, tabs, table, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(headline(app)), head);
    let line = match &app.away {
        Some(why) => {
            let why = why.lines().next().unwrap_or_default();
            let red = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
            Line::styled(format!("rvsd is away, trying again: {why}"), red)
        }
        None => Line::from(app.between().map(|between| between.summary()).unwrap_or_default()),
    };
    frame.render_widget(Paragraph::new(line), summary);
    frame.render_widget(Paragraph::new(tab_line(app)), tabs);
    draw_table(frame, app, table);
    frame.render_widget(Paragraph::new(foot_line(app)), foot);
    if app.help {
        draw_help(frame);
    }
}

fn headline(app: &App) -> Line<'static> {
    let mut spans = vec![Span::styled("rvsadm top", Style::new().add_modifier(Modifier::BOLD))];
    if let Some(sample) = app.sample() {
        let servers: usize = sample.services.iter().map(|service| service.servers.len()).sum();
        spans.push(Span::raw(format!(
            "  rvsd {}  {} services, {servers} servers, {} workers",
            sample.daemon,
            sample.services.len(),
            sample.workers.len()
        )));
    }
    spans.push(Span::raw(format!("  every {:?}", app.interval)));
    if app.paused {
        let style = Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD);
        spans.push(Span::styled("  PAUSED", style));
    }
    Line::from(spans)
}

fn tab_line(app: &App) -> Line<'static> {
    let mut spans = Vec::new();
    for (number, view) in (1..).zip(View::ALL) {
        let style = match view == app.view {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        spans.push(Span::styled(format!(" {number} {} ", view.name()), style));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

fn foot_line(app: &App) -> Line<'static> {
    if app.typing {
        return Line::from(format!("filter: {}_  (Enter: done, Esc: none)", app.filter));
    }
    if app.filter.is_empty() {
        return Line::styled(KEYS, Style::new().add_modifier(Modifier::DIM));
    }
    Line::from(format!("only {:?}  (Esc: all)  h help  q quit", app.filter))
}

fn draw_table(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    let rows = app.rows();
    let room = usize::from(area.height).saturating_sub(1);
    app.scroll = app.scroll.min(rows.len().saturating_sub(room));
    let shown: Vec<Vec<String>> = rows
        .iter()
        .skip(app.scroll)
        .take(room)
        .map(|row| row.iter().map(Value::short).collect())
        .collect();
    let titles = app.view.titles();
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(n, title)| {
            let cells = shown.iter().map(|row| row[n].chars().count());
            // Numbers come and go: room for them keeps columns where they are.
            cells.max().unwrap_or(0).max(title.len()).max(if n == 0 { 12 } else { 7 })
        })
        .collect();
    let (sorted, _) = app.sorted();
    let columns = fitting(&widths, sorted, area.width.into());
    let is_text =
        |column: usize| rows.first().is_some_and(|row| matches!(row[column], Value::Text(_)));
    let cell = |column: usize, text: &str| {
        let width = widths[column];
        if is_text(column) { format!("{text:<width$}") } else { format!("{text:>width$}") }
    };
    let title = |&column: &usize| {
        let style = match column == sorted {
            true => Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            false => Style::new().add_modifier(Modifier::BOLD),
        };
        Span::styled(cell(column, titles[column]), style)
    };
    let header = Row::new(columns.iter().map(title).collect::<Vec<_>>());
    let dim =
        if app.away.is_some() { Style::new().add_modifier(Modifier::DIM) } else { Style::new() };
    let body = shown
        .iter()
        .map(|row| Row::new(columns.iter().map(|&c| cell(c, &row[c])).collect::<Vec<_>>()));
    let constraints = columns.iter().map(|&column| Constraint::Length(widths[column] as u16));
    let table = Table::new(body, constraints).header(header).column_spacing(1).style(dim);
    frame.render_widget(table, area);
    if rows.is_empty() && app.sample().is_some() {
        let line = if app.filter.is_empty() { "There is nothing." } else { "Nothing matches." };
        let below = Rect { y: area.y + 1, height: area.height.saturating_sub(1).min(1), ..area };
        frame.render_widget(Paragraph::new(line), below);
    }
}

/// The columns that have room: the name, the one that is sorted by, and then as
/// many as fit.
fn fitting(widths: &[usize], sorted: usize, room: usize) -> Vec<usize> {
    let mut used = widths[0];
    let mut columns = vec![0];
    let others = (1..widths.len()).filter(|&column| column != sorted);
    for column in (sorted != 0).then_some(sorted).into_iter().chain(others) {
        if used + 1 + widths[column] <= room {
            used += 1 + widths[column];
            columns.push(column);
        }
    }
    columns.sort_unstable();
    columns
}

fn draw_help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (62.min(area.width), (HELP.lines().count() as u16 + 2).min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(" rvsadm top: keys ");
    frame.render_widget(Paragraph::new(HELP).block(block), place);
}
