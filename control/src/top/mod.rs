//! `rvsadm top`: rates as they change, on a screen or as text.
//!
//! A thread of its own asks rvsd, so that the screen answers keys while rvsd
//! does not; `app` knows what is to be seen, `screen` draws it, `sample`
//! has the arithmetic.

mod app;
mod sample;
mod screen;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::client::{Client, ClientError};
use crate::commands::Failure;
use app::{App, SHORTEST};
use sample::{Sample, Value, View};

/// How long a key, a signal or a look may wait.
const NAP: Duration = Duration::from_millis(50);

/// Rates of services, servers, workers, ports and drops as they change
///
/// Keys: 1 to 5 or Tab for the view, < and > for the column to sort by, r for
/// the other way round, / for a filter, p to pause, + and - for the interval, h
/// for help, q to quit. While rvsd is away the last numbers stay, and it is
/// tried again.
#[derive(Debug, clap::Args)]
pub struct Top {
    /// Seconds between two looks, at least 0.1
    #[arg(short = 'd', long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// What to show first
    #[arg(long, value_enum, default_value = "services")]
    view: View,
    /// Sort by the column of this title, such as CONN/S
    #[arg(long, value_name = "TITLE")]
    sort: Option<String>,
    /// Show only what contains this text
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Print instead of using the screen: words without spaces, whole numbers
    #[arg(short, long)]
    batch: bool,
    /// End after so many looks; the first one has no rates and is not shown
    #[arg(short = 'n', long, value_name = "LOOKS", requires = "batch")]
    iterations: Option<u64>,
    /// The same as --batch --iterations 1
    #[arg(long, conflicts_with_all = ["batch", "iterations"])]
    once: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(interval) if interval >= SHORTEST => Ok(interval),
        _ => Err(format!("not {} seconds or more", SHORTEST.as_secs_f64())),
    }
}

impl Top {
    /// Runs until the operator or a signal ends it.
    ///
    /// # Errors
    /// For the operator; the exit code is 1.
    pub fn run(self, socket: &Path, stdout: &mut dyn Write) -> Result<(), Failure> {
        let mut app = App::new(self.view, self.interval, self.filter.clone());
        if let Some(title) = &self.sort {
            app.sort_by(column(self.view, title)?);
        }
        if self.once || self.batch {
            let looks = if self.once { Some(1) } else { self.iterations };
            let mut client = Client::connect(socket)?;
            return batch(&mut app, looks, stdout, || Sample::take(&mut client));
        }
        if !io::stdout().is_terminal() {
            let why = "top needs a terminal; --batch prints into a file or pipe";
            return Err(Failure::Usage(why.to_owned()));
        }
        interactive(&mut app, socket)
    }
}

fn column(view: View, title: &str) -> Result<usize, Failure> {
    let titles = view.titles();
    titles.iter().position(|known| known.eq_ignore_ascii_case(title)).ok_or_else(|| {
        let known = titles.join(", ");
        Failure::Usage(format!("{} have no column {title:?}; they have {known}", view.name()))
    })
}

/// Prints a block for each look: a line of titles, a line for each row, an empty
/// one.
fn batch(
    app: &mut App,
    looks: Option<u64>,
    out: &mut dyn Write,
    mut look: impl FnMut() -> Result<Sample, ClientError>,
) -> Result<(), Failure> {
    app.take(Ok(look()?));
    let mut shown = 0;
    while looks.is_none_or(|looks| shown < looks) {
        std::thread::sleep(app.interval);
        app.take(Ok(look()?));
        let mut text = app.view.titles().join("\t").replace(' ', "_") + "\n";
        for row in app.rows() {
            let cells: Vec<_> = row.iter().map(Value::plain).collect();
            text.push_str(&(cells.join("\t") + "\n"));
        }
        if shown > 0 {
            text.insert(0, '\n');
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        shown += 1;
    }
    Ok(())
}

/// Draws until a key or signal says to stop. `ratatui::init` has a panic restore
/// the terminal; signals are taken as events, so that they do, too.
fn interactive(app: &mut App, socket: &Path) -> Result<(), Failure> {
    let signals = signals()?;
    let looker = Looker::start(socket.to_owned());
    let mut terminal = ratatui::try_init()?;
    let ended = screen_loop(app, &looker, &signals, &mut terminal);
    ratatui::restore();
    Ok(ended?)
}

fn screen_loop(
    app: &mut App,
    looker: &Looker,
    signals: &SignalFd,
    terminal: &mut ratatui::DefaultTerminal,
) -> io::Result<()> {
    let (mut due, mut asked) = (Instant::now(), false);
    loop {
        if !asked && !app.paused && Instant::now() >= due {
            asked = looker.ask();
            due = Instant::now() + app.interval;
        }
        if let Some(looked) = looker.answer() {
            app.take(looked);
            asked = false;
        }
        terminal.draw(|frame| screen::draw(frame, app))?;
        if event::poll(NAP)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let interval = app.interval;
                    if !app.key(key) {
                        return Ok(());
                    }
                    if app.interval != interval {
                        due = due.min(Instant::now() + app.interval);
                    }
                }
                _ => {}
            }
        }
        if matches!(signals.read_signal(), Ok(Some(_))) {
            return Ok(());
        }
    }
}

/// The signals that end the program, as a descriptor. To be called before a
/// thread is started, which would take them as they come.
fn signals() -> Result<SignalFd, Failure> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        signals.add(signal);
    }
    let failed = |error: nix::errno::Errno| Failure::Other(format!("signals: {error}"));
    signals.thread_block().map_err(failed)?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(failed)
}

/// The thread that asks rvsd.
struct Looker {
    ask: Sender<()>,
    answers: Receiver<Result<Sample, String>>,
}

impl Looker {
    /// The thread ends with this, or with the program.
    fn start(socket: PathBuf) -> Self {
        let (ask, asked) = channel();
        let (answer, answers) = channel();
        std::thread::spawn(move || {
            let mut client = None;
            while asked.recv().is_ok() {
                if answer.send(look(&mut client, &socket)).is_err() {
                    return;
                }
            }
        });
        Self { ask, answers }
    }

    fn ask(&self) -> bool {
        self.ask.send(()).is_ok()
    }

    fn answer(&self) -> Option<Result<Sample, String>> {
        self.answers.try_recv().ok()
    }
}

/// Looks, over a new connection if the last one broke.
fn look(client: &mut Option<Client>, socket: &Path) -> Result<Sample, String> {
    let mut connected = match client.take() {
        Some(client) => client,
        None => Client::connect(socket).map_err(|error| error.to_string())?,
    };
    let sample = Sample::take(&mut connected).map_err(|error| error.to_string())?;
    *client = Some(connected);
    Ok(sample)
}
