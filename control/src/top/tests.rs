//! Rates, keys and screens.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::app::App;
use super::sample::{Between, Sample, Value, View};
use super::screen;
use crate::api::{
    Drop, KernelPathCounters, Method, PortCounters, Protocol, ServerSpec, ServerStatus, ServiceId,
    ServiceSpec, ServiceStatus, Stats, WorkerCounters,
};

const LONG: &str = "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535";

fn worker(times: u64) -> WorkerCounters {
    WorkerCounters {
        core: 1,
        rx: 1_000 * times,
        taken_over: 0,
        injected: 0,
        generated: 0,
        tx: 900 * times,
        punted: 0,
        handed_off: 0,
        held: 0,
        drops: vec![
            Drop { reason: "no_server".into(), count: 100 * times },
            Drop { reason: "too_big".into(), count: 0 },
        ],
        connections: 7,
        expired: 0,
        recycled: 0,
        stateless: 0,
        taken_up: 0,
        entries: [500, 0],
        busy_cycles: 500_000 * times,
        busy_rounds: 250 * times,
    }
}

fn service(address: &str, times: u64) -> ServiceStatus {
    let address = address.parse().unwrap();
    let id = ServiceId::Address { protocol: Protocol::Tcp, address };
    let stats = Stats {
        connections: 10 * times,
        in_packets: 1_234_567 * times,
        in_bytes: 60 * times,
        ..Stats::default()
    };
    let server = ServerStatus {
        spec: ServerSpec {
            address: "10.0.0.1:80".parse().unwrap(),
            method: Method::Dr,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        },
        active: 5,
        inactive: 2,
        persistent: 0,
        stats,
        health: None,
    };
    ServiceStatus { spec: ServiceSpec::new(id, "wlc"), stats, servers: vec![server] }
}

fn port(times: u64) -> PortCounters {
    PortCounters {
        name: "lan".into(),
        device: "net_tap0".into(),
        mac: "00:50:00:00:04:00".into(),
        link_up: true,
        link_known: true,
        queues: 1,
        max_queues: 16,
        rx_packets: 4 * times,
        rx_bytes: 400 * times,
        rx_missed: 2 * times,
        rx_errors: 0,
        tx_packets: 3 * times,
        tx_bytes: 300 * times,
        tx_errors: 0,
        mbufs_in_use: 1,
        mbufs: 4,
        bond: None,
        vlans: Vec::new(),
    }
}

/// What rvsd says `times` seconds after its start.
fn sample(start: Instant, times: u64) -> Sample {
    Sample {
        at: start + Duration::from_secs(times),
        daemon: "0.1.0".into(),
        services: vec![service("192.168.1.100:80", times), service(LONG, 2 * times)],
        workers: vec![worker(times)],
        ports: vec![port(times)],
        kernel_path: KernelPathCounters { to_kernel: 8 * times, ..KernelPathCounters::default() },
        tsc_hz: 1_000_000,
        table_places: 1_000,
    }
}

fn app(view: View) -> App {
    let start = Instant::now();
    let mut app = App::new(view, Duration::from_secs(1), String::new());
    app.take(Ok(sample(start, 1)));
    app.take(Ok(sample(start, 3)));
    app
}

fn shown(app: &mut App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let lines = buffer.content().chunks(width.into());
    lines
        .map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>())
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn press(app: &mut App, keys: &[KeyCode]) -> bool {
    keys.iter().all(|&code| app.key(KeyEvent::new(code, KeyModifiers::NONE)))
}

#[test]
fn rates_are_differences_by_the_time_between() {
    let app = app(View::Workers);
    let row = &app.rows()[0];
    assert_eq!(row[0], Value::Text("0 on core 1".into()));
    // Half a million of a million cycles a second.
    assert_eq!(row[1], Value::Share(0.5));
    assert_eq!(row[2], Value::Number(500.0));
    assert_eq!(row[3], Value::Number(4.0));
    assert_eq!(&row[4..8], [1_000.0, 900.0, 100.0, 7.0].map(Value::Number));
    assert_eq!(row[8], Value::Share(0.5));
    let between = app.between().unwrap();
    assert_eq!(between.rows(View::Drops).len(), 1, "what never occurred is left out");
    let drops = [Value::Text("no_server".into()), Value::Number(100.0), Value::Number(300.0)];
    assert_eq!(between.rows(View::Drops)[0], drops);
    assert_eq!(
        between.summary(),
        "in 1.00k/s  out 900/s  drops 100/s  connections 7 (+30/s)  busiest 50.0 %"
    );
}

#[test]
fn there_are_no_rates_without_a_look_before() {
    let now = sample(Instant::now(), 5);
    let between = Between::new(None, &now);
    for view in View::ALL {
        let titles = view.titles();
        for row in between.rows(view) {
            assert_eq!(row.len(), titles.len(), "{view:?}");
            for (title, value) in titles.iter().zip(&row) {
                assert!(
                    !title.ends_with("/S") || *value == Value::Number(0.0),
                    "{title} {value:?}"
                );
            }
        }
    }
}

#[test]
fn a_restart_of_rvsd_makes_no_nonsense() {
    let start = Instant::now();
    let (before, mut now) = (sample(start, 9), sample(start, 1));
    now.at = before.at + Duration::from_secs(1);
    let rows = Between::new(Some(&before), &now).rows(View::Workers);
    assert_eq!(rows[0][4], Value::Number(1_000.0));
    let mut app = App::new(View::Workers, Duration::from_secs(1), String::new());
    app.take(Ok(before));
    app.take(Err("rvsd closed the connection".into()));
    app.take(Ok(now));
    assert_eq!(app.rows()[0][4], Value::Number(0.0));
}

#[test]
fn numbers_have_three_digits_and_a_letter() {
    for (number, expected) in [
        (0.0, "0"),
        (0.5, "0.50"),
        (7.0, "7"),
        (999.0, "999"),
        (999.6, "1.00k"),
        (1_234_567.0, "1.23M"),
        (98_765.0, "98.8k"),
        (999_499.0, "999k"),
        (2.5e10, "25.0G"),
        (1e15, "1000T"),
    ] {
        assert_eq!(Value::Number(number).short(), expected, "{number}");
    }
    assert_eq!(Value::Number(1_234_567.4).plain(), "1234567");
    assert_eq!(Value::Share(0.1234).short(), "12.3 %");
    assert_eq!(Value::Text("FWM 7".into()).plain(), "FWM_7");
}

#[test]
fn services_at_80x24() {
    let lines = shown(&mut app(View::Services), 80, 24);
    assert_eq!(lines.len(), 24);
    let expected = [
        "rvsadm top  rvsd 0.1.0  2 services, 2 servers, 1 workers  every 1s",
        "in 1.00k/s  out 900/s  drops 100/s  connections 7 (+30/s)  busiest 50.0 %",
        " 1 services   2 servers   3 workers   4 ports   5 drops",
        "SERVICE                                              CONN/S IN PKT/S OUT PKT/S",
        "TCP [fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535      20    2.47M         0",
        "TCP 192.168.1.100:80                                     10    1.23M         0",
        "",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(line, expected);
    }
    assert!(lines[23].starts_with("1-5 view"), "{}", lines[23]);
    assert!(lines[23].ends_with("q quit"), "{}", lines[23]);
}

#[test]
fn services_at_200x50_have_all_columns() {
    let lines = shown(&mut app(View::Services), 200, 50);
    assert_eq!(lines.len(), 50);
    for title in View::Services.titles() {
        assert!(lines[3].contains(title), "{title}: {}", lines[3]);
    }
    assert_eq!(lines[4].split_whitespace().last(), Some("wlc"));
}

#[test]
fn every_view_has_its_rows_at_both_sizes() {
    for (width, height) in [(80, 24), (200, 50)] {
        for (view, expected) in [
            (View::Services, "TCP 192.168.1.100:80"),
            (View::Servers, "10.0.0.1:80"),
            (View::Workers, "0 on core 1"),
            (View::Ports, "kernel path"),
            (View::Drops, "no_server"),
        ] {
            let lines = shown(&mut app(view), width, height);
            assert!(lines.iter().any(|line| line.contains(expected)), "{lines:#?}");
            let titles: Vec<_> = lines[3].split("  ").collect();
            assert!(titles[0].starts_with(view.titles()[0]), "{lines:#?}");
        }
    }
}

#[test]
fn a_tiny_terminal_is_survived() {
    for (width, height) in [(1, 1), (10, 3), (20, 5), (79, 6)] {
        let mut app = app(View::Servers);
        app.help = true;
        assert_eq!(shown(&mut app, width, height).len(), usize::from(height));
    }
}

#[test]
fn keys_change_view_order_and_filter() {
    let mut app = app(View::Services);
    let first = |app: &App| app.rows()[0][0].short();
    assert!(first(&app).contains("fd00"), "the most connections a second");
    press(&mut app, &[KeyCode::Char('r')]);
    assert!(first(&app).contains("192.168"));
    press(&mut app, &[KeyCode::Left]);
    assert_eq!(app.sorted(), (0, true));
    press(&mut app, &[KeyCode::Char('<'), KeyCode::Char('>'), KeyCode::Char('>')]);
    assert_eq!(app.sorted(), (2, false));
    press(&mut app, &[KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Backspace]);
    press(&mut app, &[KeyCode::Char('F'), KeyCode::Char('D'), KeyCode::Enter]);
    assert_eq!(app.rows().len(), 1);
    assert!(shown(&mut app, 80, 24)[23].starts_with("only \"FD\""));
    press(&mut app, &[KeyCode::Esc]);
    assert_eq!(app.rows().len(), 2);
    press(&mut app, &[KeyCode::Char('4')]);
    assert_eq!(app.view, View::Ports);
    press(&mut app, &[KeyCode::Tab, KeyCode::Tab]);
    assert_eq!(app.view, View::Services);
    press(&mut app, &[KeyCode::BackTab]);
    assert_eq!(app.view, View::Drops);
    press(&mut app, &[KeyCode::Char('+'), KeyCode::Char(' ')]);
    assert_eq!((app.interval, app.paused), (Duration::from_secs(2), true));
    assert!(shown(&mut app, 80, 24)[0].ends_with("every 2s  PAUSED"));
    assert!(!press(&mut app, &[KeyCode::Char('q')]));
    let mut app = self::app(View::Drops);
    assert!(!app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn the_interval_stays_between_its_ends() {
    let mut app = app(View::Services);
    press(&mut app, &[KeyCode::Char('-'); 9]);
    assert_eq!(app.interval, Duration::from_millis(100));
    press(&mut app, &[KeyCode::Char('+'); 20]);
    assert_eq!(app.interval, Duration::from_secs(60));
}

#[test]
fn help_is_over_the_rest_until_a_key() {
    let mut app = app(View::Services);
    press(&mut app, &[KeyCode::Char('?')]);
    let lines = shown(&mut app, 80, 24);
    assert!(lines.iter().any(|line| line.contains("rvsadm top: keys")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("quit")), "{lines:#?}");
    press(&mut app, &[KeyCode::Enter]);
    assert!(!app.help);
}

#[test]
fn scrolling_ends_with_the_last_row() {
    let mut app = app(View::Services);
    press(&mut app, &[KeyCode::PageDown, KeyCode::Down]);
    // Room for one of the two rows.
    let lines = shown(&mut app, 80, 6);
    assert!(lines[4].contains("192.168.1.100"), "{lines:#?}");
    assert_eq!(app.scroll, 1);
    press(&mut app, &[KeyCode::Home]);
    assert!(shown(&mut app, 80, 6)[4].contains("fd00"));
}

#[test]
fn rvsd_away_is_said_and_the_last_numbers_stay() {
    let mut app = app(View::Services);
    app.take(Err("Can't reach rvsd: there is no socket /s.\nStart rvsd".into()));
    let lines = shown(&mut app, 80, 24);
    assert_eq!(lines[1], "rvsd is away, trying again: Can't reach rvsd: there is no socket /s.");
    assert!(lines[4].contains("fd00"), "{lines:#?}");
    app.take(Ok(sample(Instant::now(), 1)));
    assert!(shown(&mut app, 80, 24)[1].starts_with("in 0/s"));
}

#[test]
fn batches_are_for_programs() {
    let start = Instant::now();
    let mut app = App::new(View::Drops, Duration::from_millis(100), String::new());
    let (mut out, mut looks) = (Vec::new(), 0);
    super::batch(&mut app, Some(2), &mut out, || {
        looks += 1;
        Ok(sample(start, looks))
    })
    .unwrap();
    let expected = "REASON\tDROPS/S\tTOTAL\nno_server\t100\t200\n\n\
                    REASON\tDROPS/S\tTOTAL\nno_server\t100\t300\n";
    assert_eq!((String::from_utf8(out).unwrap().as_str(), looks), (expected, 3));
}

#[test]
fn columns_go_by_their_titles() {
    assert_eq!(super::column(View::Workers, "cyc/pkt").unwrap(), 2);
    let error = super::column(View::Drops, "BUSY").unwrap_err().to_string();
    assert_eq!(error, "drops have no column \"BUSY\"; they have REASON, DROPS/S, TOTAL");
}

#[test]
fn intervals_are_seconds() {
    assert_eq!(super::seconds("0.5"), Ok(Duration::from_millis(500)));
    for wrong in ["0", "0.05", "-1", "x", "nan", "inf"] {
        assert!(super::seconds(wrong).is_err(), "{wrong}");
    }
}

/// A sum of nothing is -0 in floating point.
#[test]
fn a_service_without_servers_has_none() {
    let start = Instant::now();
    let mut now = sample(start, 2);
    now.services.iter_mut().for_each(|service| service.servers.clear());
    for row in Between::new(Some(&sample(start, 1)), &now).rows(View::Services) {
        assert_eq!([4, 5].map(|column: usize| row[column].short()), ["0", "0"]);
    }
    now.services.clear();
    let mut app = App::new(View::Services, Duration::from_secs(1), String::new());
    app.take(Ok(now));
    let lines = shown(&mut app, 80, 24);
    assert!(lines[1].contains("(+0/s)"), "{lines:#?}");
    assert!(lines[3].starts_with("SERVICE "), "{lines:#?}");
    assert_eq!(lines[4], "There is nothing.");
}
