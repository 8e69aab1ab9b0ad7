//! Connections: as many as there are, page by page.

use std::cmp::Ordering;
use std::io::Write;

use super::listing::{Form, Listing, What, pages};
use super::select::{Method, Protocol};
use super::table::{Column, Kind, column};
use crate::api::{Connection, ConnectionFilter, MAX_ROWS, Side};
use crate::client::Client;
use crate::commands::Failure;

/// Rows that `--sort` keeps unless `--limit` says how many: it has to look at
/// all, but holds no more than these.
const SORTED: usize = 1000;

/// Connections and who has them
///
/// They come in no order, as the workers find them. One that opens or ends
/// meanwhile may be missing; one that is there all the time is listed, twice if
/// its table grew meanwhile.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Connections {
    /// Only of this client: an address, network or port
    #[arg(long, value_name = "ADDRESS")]
    client: Option<Side>,
    /// Only to this virtual address: 10.0.0.1, 10.0.0.0/8, 10.0.0.1:80, :80
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<Side>,
    /// Only to this real server
    #[arg(long, value_name = "ADDRESS")]
    server: Option<Side>,
    /// Only of this protocol
    #[arg(long, value_enum)]
    proto: Option<Protocol>,
    /// Only in one of these states, such as ESTABLISHED,TIME_WAIT
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<String>,
    /// Only with this forwarding method
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Only of this worker
    #[arg(long, value_name = "NUMBER")]
    worker: Option<u32>,
    /// Persistence templates instead of connections
    #[arg(long)]
    templates: bool,
    /// Only tell how many there are
    #[arg(long, conflicts_with_all = ["sort", "limit"])]
    count: bool,
    /// In this order: the first 1000, or as --limit says
    #[arg(long, value_enum, value_name = "KEY")]
    sort: Option<Key>,
    /// So many at most
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// What connections are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Key {
    Client,
    Vip,
    Server,
    State,
    /// Those that are over first
    Expires,
    Worker,
}

impl Key {
    fn compare(self, a: &Connection, b: &Connection) -> Ordering {
        match self {
            Self::Client => a.client.cmp(&b.client),
            Self::Vip => a.virtual_address.cmp(&b.virtual_address),
            Self::Server => a.server.cmp(&b.server),
            Self::State => a.state.cmp(&b.state),
            Self::Expires => a.expires_ms.cmp(&b.expires_ms),
            Self::Worker => a.worker.cmp(&b.worker),
        }
    }
}

const COLUMNS: &[Column] = &[
    column("PROTO", Kind::Word),
    column("STATE", Kind::Word),
    column("EXPIRE", Kind::Number),
    column("CLIENT", Kind::Long),
    column("VIRTUAL", Kind::Long),
    column("SERVER", Kind::Long),
    column("METHOD", Kind::Extra),
    column("WORKER", Kind::Extra),
];

fn cells(connection: &Connection) -> Vec<String> {
    let seconds = connection.expires_ms / 1000;
    vec![
        Protocol::from(connection.protocol).name().to_owned(),
        connection.state.clone(),
        format!("{}:{:02}", seconds / 60, seconds % 60),
        connection.client.to_string(),
        connection.virtual_address.to_string(),
        connection.server.to_string(),
        connection.method.map_or("-", crate::api::MethodName::name).to_owned(),
        if connection.template { "-".to_owned() } else { connection.worker.to_string() },
    ]
}

impl Connections {
    fn filter(&self) -> ConnectionFilter {
        ConnectionFilter {
            protocol: self.proto.map(Protocol::api),
            client: self.client,
            virtual_address: self.vip,
            server: self.server,
            states: self.state.iter().map(|state| state.to_uppercase()).collect(),
            method: self.method.map(Method::api),
            worker: self.worker,
            templates: Some(self.templates),
        }
    }

    pub(super) fn show(
        &self,
        client: &mut Client,
        form: Form,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let filter = self.filter();
        if self.count {
            let count = client.count_connections(&filter)?;
            let text = if form.json { format!("{{\"count\":{count}}}") } else { count.to_string() };
            return Ok(writeln!(out, "{text}")?);
        }
        let what =
            What { name: "connections", columns: COLUMNS, none: "There are no connections." };
        let limit = self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let mut listing = Listing::begin(what, form, out)?;
        let read = |cursor, left: usize| {
            client.connections_page(cursor, left.min(MAX_ROWS), Some(&filter))
        };
        match self.sort {
            None => pages(limit, read, |page| Ok(listing.page(page, cells)?))?,
            Some(key) => {
                let mut first = First { key, limit: limit.unwrap_or(SORTED), rows: Vec::new() };
                pages(None, read, |page| {
                    first.add(page);
                    Ok(())
                })?;
                listing.page(&first.finish(), cells)?;
            }
        }
        Ok(listing.end()?)
    }
}

/// The first rows in an order, out of any number.
struct First {
    key: Key,
    limit: usize,
    /// Up to twice as many as are wanted, and a page.
    rows: Vec<Connection>,
}

impl First {
    fn add(&mut self, page: &[Connection]) {
        self.rows.extend_from_slice(page);
        if self.rows.len() >= self.limit.saturating_mul(2) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.rows.len() > self.limit {
            let key = self.key;
            self.rows.select_nth_unstable_by(self.limit, |a, b| key.compare(a, b));
            self.rows.truncate(self.limit);
        }
    }

    fn finish(mut self) -> Vec<Connection> {
        self.cut();
        self.rows.sort_by(|a, b| self.key.compare(a, b));
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ConnectionCursor, MethodName, Request, Response};
    use crate::test_server::{TestServer, hello};

    fn connection(client: &str, vip: &str, server: &str) -> Connection {
        Connection {
            protocol: crate::api::Protocol::Tcp,
            state: "ESTABLISHED".into(),
            expires_ms: 899_999,
            client: client.parse().unwrap(),
            virtual_address: vip.parse().unwrap(),
            server: server.parse().unwrap(),
            worker: 3,
            method: Some(MethodName::Fullnat),
            template: false,
        }
    }

    fn rows() -> Vec<Connection> {
        vec![
            connection("192.168.100.112:40002", "192.168.1.100:80", "192.168.1.31:8080"),
            connection(
                "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535",
                "[2001:db8:8765:4321:9abc:def0:1234:5678]:443",
                "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535",
            ),
        ]
    }

    fn page(connections: Vec<Connection>, next: bool) -> crate::api::Reply {
        let next = next.then_some(ConnectionCursor { worker: 0, ipv6: false, group: 9 });
        Ok(Response::Connections { connections, next, count: None })
    }

    fn shown(
        args: &Connections,
        form: Form,
        replies: Vec<crate::api::Reply>,
    ) -> (String, Vec<Request>) {
        let mut all = vec![hello()];
        all.extend(replies);
        let server = TestServer::start(all);
        let mut client = Client::connect(server.path()).unwrap();
        let mut out = Vec::new();
        args.show(&mut client, form, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), server.requests())
    }

    fn form(width: Option<usize>) -> Form {
        Form { json: false, width }
    }

    #[test]
    fn long_addresses_are_whole_at_80_columns() {
        let (text, _) = shown(&Connections::default(), form(Some(80)), vec![page(rows(), false)]);
        let expected = "\
CLIENT
    VIRTUAL
    SERVER
    PROTO  STATE        EXPIRE  METHOD   WORKER
192.168.100.112:40002
    virtual 192.168.1.100:80
    server  192.168.1.31:8080
    TCP    ESTABLISHED   14:59  fullnat  3
[2001:db8:1234:5678:9abc:def0:1234:5678]:65535
    virtual [2001:db8:8765:4321:9abc:def0:1234:5678]:443
    server  [fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535
    TCP    ESTABLISHED   14:59  fullnat  3
";
        assert_eq!(text, expected);
    }

    #[test]
    fn ipv4_has_a_line_or_two_at_80_columns() {
        let short = connection("192.168.1.12:4002", "192.168.1.100:80", "192.168.1.31:80");
        let (text, _) =
            shown(&Connections::default(), form(Some(80)), vec![page(vec![short], false)]);
        let expected = "\
PROTO  STATE        EXPIRE  CLIENT             VIRTUAL           SERVER
TCP    ESTABLISHED   14:59  192.168.1.12:4002  192.168.1.100:80  192.168.1.31:80
";
        assert_eq!(text, expected);
        let mut long = rows();
        long.truncate(1);
        let (text, _) = shown(&Connections::default(), form(Some(80)), vec![page(long, false)]);
        let expected = "\
CLIENT                 VIRTUAL           SERVER
    PROTO  STATE        EXPIRE  METHOD   WORKER
192.168.100.112:40002  192.168.1.100:80  192.168.1.31:8080
    TCP    ESTABLISHED   14:59  fullnat  3
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_wide_terminal_and_a_pipe_have_one_line_each() {
        let expected = "\
PROTO  STATE        EXPIRE  CLIENT                                          VIRTUAL                                       SERVER                                           METHOD   WORKER
TCP    ESTABLISHED   14:59  192.168.100.112:40002                           192.168.1.100:80                              192.168.1.31:8080                                fullnat  3
TCP    ESTABLISHED   14:59  [2001:db8:1234:5678:9abc:def0:1234:5678]:65535  [2001:db8:8765:4321:9abc:def0:1234:5678]:443  [fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535  fullnat  3
";
        for width in [Some(200), None] {
            let (text, _) = shown(&Connections::default(), form(width), vec![page(rows(), false)]);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn json_has_the_fields_of_the_api() {
        let form = Form { json: true, width: None };
        let (text, _) =
            shown(&Connections::default(), form, vec![page(rows(), true), page(rows(), false)]);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let listed: Vec<Connection> = serde_json::from_value(value["connections"].clone()).unwrap();
        assert_eq!(listed, [rows(), rows()].concat());
        assert_eq!(value["connections"][0]["method"], "fullnat");
        assert_eq!(text.lines().count(), 6);
    }

    #[test]
    fn a_limit_ends_the_listing() {
        let args = Connections { limit: Some(3), ..Connections::default() };
        let (text, requests) =
            shown(&args, form(None), vec![page(rows(), true), page(rows(), true)]);
        assert_eq!(text.lines().count(), 1 + 3);
        let Request::ListConnections { limit, cursor, .. } = &requests[2] else { panic!("a page") };
        assert_eq!((*limit, cursor.map(|cursor| cursor.group)), (1, Some(9)));
    }

    #[test]
    fn the_first_in_an_order_are_found_among_all() {
        let of = |port: u16| connection(&format!("10.0.0.1:{port}"), "10.0.0.9:80", "10.0.1.1:80");
        let mut first = First { key: Key::Client, limit: 3, rows: Vec::new() };
        for start in [900, 5, 700, 300] {
            first.add(&[of(start + 1), of(start)]);
            assert!(first.rows.len() <= 6);
        }
        let ports: Vec<_> = first.finish().iter().map(|row| row.client.port()).collect();
        assert_eq!(ports, [5, 6, 300]);
    }

    #[test]
    fn a_count_is_asked_for_as_such() {
        let args =
            Connections { count: true, state: vec!["syn_recv".into()], ..Connections::default() };
        let counted = |count, next: bool| {
            let next = next.then_some(ConnectionCursor { worker: 1, ipv6: false, group: 0 });
            Ok(Response::Connections { connections: Vec::new(), next, count: Some(count) })
        };
        let replies = || vec![counted(40, true), counted(2, false)];
        let (text, requests) = shown(&args, form(None), replies());
        assert_eq!(text, "42\n");
        let Request::ListConnections { filter: Some(filter), count: true, .. } = &requests[1]
        else {
            panic!("a count")
        };
        assert_eq!(
            (filter.states.as_slice(), filter.templates),
            (&["SYN_RECV".to_owned()][..], Some(false))
        );
        let (text, _) = shown(&args, Form { json: true, width: None }, replies());
        assert_eq!(text, "{\"count\":42}\n");
    }
}
