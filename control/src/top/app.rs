//! What `top` shows, and what keys do to it. Knows no terminal.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::sample::{Between, Sample, Value, View};

/// The shortest time between two looks.
pub(super) const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) view: View,
    /// The column by which each view is sorted, and whether upwards.
    sort: [(usize, bool); View::ALL.len()],
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) interval: Duration,
    /// The first row on the screen.
    pub(super) scroll: usize,
    before: Option<Sample>,
    now: Option<Sample>,
    /// Why rvsd does not answer.
    pub(super) away: Option<String>,
}

impl App {
    pub(super) fn new(view: View, interval: Duration, filter: String) -> Self {
        // Services, servers, workers and ports in the order of rvsd, drops by
        // rate.
        let sort = [(1, false), (1, false), (0, true), (0, true), (1, false)];
        let interval = interval.clamp(SHORTEST, LONGEST);
        Self {
            view,
            sort,
            filter,
            typing: false,
            paused: false,
            help: false,
            interval,
            scroll: 0,
            before: None,
            now: None,
            away: None,
        }
    }

    /// Takes a look in, or that there was none.
    pub(super) fn take(&mut self, looked: Result<Sample, String>) {
        match looked {
            Ok(sample) => {
                // Rates across a restart of rvsd would be nonsense.
                self.before = if self.away.take().is_some() { None } else { self.now.take() };
                self.now = Some(sample);
            }
            Err(why) => self.away = Some(why),
        }
    }

    pub(super) fn sample(&self) -> Option<&Sample> {
        self.now.as_ref()
    }

    pub(super) fn between(&self) -> Option<Between<'_>> {
        Some(Between::new(self.before.as_ref(), self.now.as_ref()?))
    }

    /// The column that rows are sorted by, and whether upwards.
    pub(super) fn sorted(&self) -> (usize, bool) {
        self.sort[self.view as usize]
    }

    /// Sorts by a column of the view; numbers from the largest.
    pub(super) fn sort_by(&mut self, column: usize) {
        let column = column.min(self.view.titles().len() - 1);
        self.sort[self.view as usize] = (column, column == 0);
    }

    /// The rows of the view that the filter lets pass, sorted.
    pub(super) fn rows(&self) -> Vec<Vec<Value>> {
        let Some(between) = self.between() else { return Vec::new() };
        let mut rows = between.rows(self.view);
        let wanted = self.filter.to_lowercase();
        rows.retain(|row| {
            row.iter().any(
                |value| matches!(value, Value::Text(text) if text.to_lowercase().contains(&wanted)),
            )
        });
        let (column, upwards) = self.sorted();
        rows.sort_by(|a, b| {
            let order = a[column].compare(&b[column]);
            (if upwards { order } else { order.reverse() }).then_with(|| a[0].compare(&b[0]))
        });
        rows
    }

    /// Carries a key out. Whether to go on.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c')) {
            return false;
        }
        if self.typing {
            self.type_filter(key.code);
            return true;
        }
        if self.help {
            self.help = false;
            return key.code != KeyCode::Char('q');
        }
        let (column, upwards) = self.sorted();
        let last = self.view.titles().len() - 1;
        match key.code {
            KeyCode::Char('q') => return false,
            KeyCode::Char('h' | '?') => self.help = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/' | 'f') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('>') | KeyCode::Right => self.sort_by((column + 1).min(last)),
            KeyCode::Char('<') | KeyCode::Left => self.sort_by(column.saturating_sub(1)),
            KeyCode::Char('r') => self.sort[self.view as usize] = (column, !upwards),
            KeyCode::Char('+') => self.interval = (self.interval * 2).min(LONGEST),
            KeyCode::Char('-') => self.interval = (self.interval / 2).max(SHORTEST),
            KeyCode::Tab => self.turn_to(1),
            KeyCode::BackTab => self.turn_to(View::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='5') => {
                self.view = View::ALL[digit as usize - '1' as usize];
                self.scroll = 0;
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll += 10,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
        true
    }

    fn turn_to(&mut self, further: usize) {
        self.view = View::ALL[(self.view as usize + further) % View::ALL.len()];
        self.scroll = 0;
    }

    fn type_filter(&mut self, key: KeyCode) {
        self.scroll = 0;
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }
}
