//! Logs to standard error: `env_logger`'s form in a terminal or file, journald's
//! when standard error is the journal, and a filter that can be changed while
//! the daemon runs.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use env_filter::Filter;
use log::kv::{Key, Source, Value, VisitSource};
use log::{Level, Log, Metadata, Record};

use crate::api::{Error, ErrorCode};

/// What is logged when nobody says anything else.
const DEFAULT: &str = "info";
/// Where the libraries of the daemon log: its own, and DPDK.
const MODULES: [&str; 4] = ["control", "dataplane", "dpdk", "rvsd"];
/// The longest filter that is taken, bytes.
const MAX_FILTER: usize = 4096;
/// The target of DPDK's and its drivers' messages. A driver may have one for
/// each packet.
const DPDK: &str = "dpdk";
/// Most lines of DPDK in a second.
const DPDK_LINES: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

/// The filter in force, and the text that it was made of.
struct InForce {
    text: String,
    filter: Filter,
}

static IN_FORCE: LazyLock<RwLock<InForce>> = LazyLock::new(|| {
    let filter = env_filter::Builder::new().parse(DEFAULT).build();
    RwLock::new(InForce { text: DEFAULT.to_owned(), filter })
});

/// Begins to log, as the environment's `RUST_LOG` says.
pub fn init() {
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let refused = wanted.and_then(|text| put_in_force(&text).err());
    let mut builder = env_logger::Builder::new();
    // What is logged is decided before it comes here.
    builder.filter_level(log::LevelFilter::Trace).format_key_values(write_fields);
    if stderr_is_the_journal() {
        builder.format(|buffer, record| buffer.write_all(journal_line(record).as_bytes()));
    }
    let logger = Logger { output: builder.build(), dpdk: Mutex::default() };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(in_force(|now| now.filter.filter()));
    }
    if let Some(refused) = refused {
        log::warn!("RUST_LOG: {refused}; logging \"{DEFAULT}\"");
    }
}

/// The filter in force.
#[must_use]
pub fn filter() -> String {
    in_force(|now| now.text.clone())
}

/// Changes the filter.
///
/// # Errors
/// When it is none, or names a module that does not exist.
pub fn set_filter(text: &str) -> Result<(), Error> {
    let refuse = |why: String| {
        let message = format!(
            "log filter {text:?}: {why}; give a level (off, error, warn, info, debug, trace), MODULE=LEVEL, or several with commas; modules are {} and parts of them such as control::kernel",
            MODULES.join(", ")
        );
        Err(Error::new(ErrorCode::InvalidArgument, message))
    };
    if text.len() > MAX_FILTER {
        return refuse(format!("has more than {MAX_FILTER} bytes"));
    }
    let modules = text.split('/').next().unwrap_or_default();
    let mut any = false;
    for directive in modules.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        any = true;
        let (module, level) = match directive.split_once('=') {
            Some((module, level)) => (Some(module.trim()), level),
            None => (None, directive),
        };
        if level.trim().parse::<log::LevelFilter>().is_err() {
            return refuse(format!("{:?} is no level", level.trim()));
        }
        let root = module.map(|module| module.split("::").next().unwrap_or_default());
        if root.is_some_and(|root| !MODULES.contains(&root)) {
            return refuse(format!("there is no module {:?}", module.unwrap_or_default()));
        }
    }
    if !any {
        return refuse("says no level".to_owned());
    }
    put_in_force(text).or_else(refuse)
}

fn put_in_force(text: &str) -> Result<(), String> {
    let mut builder = env_filter::Builder::new();
    let filter = builder.try_parse(text).map_err(|error| error.to_string())?.build();
    let most = filter.filter();
    let now = InForce { text: text.to_owned(), filter };
    *IN_FORCE.write().unwrap_or_else(PoisonError::into_inner) = now;
    log::set_max_level(most);
    Ok(())
}

fn in_force<T>(read: impl FnOnce(&InForce) -> T) -> T {
    read(&IN_FORCE.read().unwrap_or_else(PoisonError::into_inner))
}

/// Filters, and has `env_logger` write.
struct Logger {
    output: env_logger::Logger,
    dpdk: Mutex<Allowance>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        in_force(|now| now.filter.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        if !in_force(|now| now.filter.matches(record)) {
            return;
        }
        if record.target() == DPDK {
            match lock(&self.dpdk).take(Instant::now()) {
                Take::Refused => return,
                Take::Granted { left_out: 0 } => {}
                Take::Granted { left_out } => {
                    let mut note = Record::builder();
                    note.level(Level::Warn).target(DPDK);
                    // In one expression: before Rust 1.89, arguments end with theirs.
                    self.output.log(
                        &note.args(format_args!("{left_out} more messages were left out")).build(),
                    );
                }
            }
        }
        self.output.log(record);
    }

    fn flush(&self) {
        self.output.flush();
    }
}

/// So many lines a second, the others counted.
#[derive(Debug, Default)]
struct Allowance {
    /// When the second began.
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Take {
    /// A line may be written, after so many that were not.
    Granted {
        left_out: u64,
    },
    Refused,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> Take {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= SECOND) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == DPDK_LINES {
            self.left_out += 1;
            return Take::Refused;
        }
        self.lines += 1;
        Take::Granted { left_out: std::mem::take(&mut self.left_out) }
    }
}

/// A panic while holding the lock leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether standard error is the stream that systemd connected to the journal:
/// `JOURNAL_STREAM` has its device and inode (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// A line as journald takes it from a stream: the priority of syslog in front
/// (sd-daemon(3)), no time, which the journal has.
fn journal_line(record: &Record<'_>) -> String {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    // One line is one entry.
    let message = record.args().to_string().replace('\n', "\\n");
    let mut line = format!("<{priority}>{}: {message}", record.target());
    let _ = record.key_values().visit(&mut Fields(&mut line));
    line.push('\n');
    line
}

fn write_fields(buffer: &mut env_logger::fmt::Formatter, fields: &dyn Source) -> io::Result<()> {
    let mut text = String::new();
    let _ = fields.visit(&mut Fields(&mut text));
    buffer.write_all(text.as_bytes())
}

/// Writes ` key=value`, values in quotes where a program that splits at blanks
/// would take them for several.
struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let value = value.to_string();
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
        let plain = !value.is_empty() && value.chars().all(plain);
        // Writing to a string cannot fail.
        let _ = if plain {
            write!(self.0, " {key}={value}")
        } else {
            write!(self.0, " {key}={value:?}")
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_the_journal_have_priority_and_fields_and_no_time() {
        let fields = [("server", "10.0.0.1"), ("why", "no route"), ("empty", "")];
        let line = |level, args: std::fmt::Arguments<'_>| {
            let mut record = Record::builder();
            let record = record.level(level).target("control::daemon").key_values(&fields);
            journal_line(&record.args(args).build())
        };
        assert_eq!(
            line(Level::Warn, format_args!("one\ntwo")),
            "<4>control::daemon: one\\ntwo server=10.0.0.1 why=\"no route\" empty=\"\"\n"
        );
        for (level, start) in [(Level::Error, "<3>"), (Level::Info, "<6>"), (Level::Debug, "<7>")] {
            assert!(line(level, format_args!("x")).starts_with(start));
        }
    }

    #[test]
    fn what_exceeds_the_allowance_is_counted() {
        let mut allowance = Allowance::default();
        let start = Instant::now();
        for _ in 0..DPDK_LINES {
            assert_eq!(allowance.take(start), Take::Granted { left_out: 0 });
        }
        for _ in 0..7 {
            assert_eq!(allowance.take(start + SECOND / 2), Take::Refused);
        }
        assert_eq!(allowance.take(start + SECOND), Take::Granted { left_out: 7 });
        assert_eq!(allowance.take(start + SECOND), Take::Granted { left_out: 0 });
    }

    /// One test, as the filter is one for the process.
    #[test]
    fn the_filter_changes_or_says_why_not() {
        assert_eq!(filter(), "info");
        for good in ["debug", "dataplane=debug,info", "warn, control::kernel=TRACE", "info/server"]
        {
            set_filter(good).unwrap();
            assert_eq!(filter(), good);
        }
        let enabled = |target: &str, level| {
            let metadata = Metadata::builder().level(level).target(target).build();
            in_force(|now| now.filter.enabled(&metadata))
        };
        set_filter("dataplane=debug,warn").unwrap();
        assert!(enabled("dataplane::dpdk::worker", Level::Debug));
        assert!(!enabled("control::daemon", Level::Info));
        assert!(enabled("control::daemon", Level::Warn));
        for (bad, why) in [
            ("loud", "\"loud\" is no level"),
            ("control=loud", "\"loud\" is no level"),
            ("dataplan=debug", "there is no module \"dataplan\""),
            ("", "says no level"),
            ("info/(", "invalid regex"),
            ("info/a/b", "too many '/'s"),
        ] {
            let refusal = set_filter(bad).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::InvalidArgument);
            assert!(refusal.message.contains(why), "{bad}: {}", refusal.message);
            assert!(refusal.message.contains("modules are control, dataplane, dpdk, rvsd"));
        }
        assert!(set_filter(&"a".repeat(MAX_FILTER + 1)).is_err());
        assert_eq!(filter(), "dataplane=debug,warn");
        set_filter("info").unwrap();
    }
}
