//! The kernel's neighbours and routes, as rvsd follows them.

use std::io::Write;

use super::listing::{Form, Listing, What, pages};
use super::table::{Column, Kind, column};
use crate::api::{Neighbour, Request, Response, Route, Side};
use crate::client::{Client, ClientError};
use crate::commands::Failure;

/// The kernel's neighbours on ports, and which of them rvsd keeps resolved
#[derive(Debug, Default, clap::Args)]
pub(super) struct Neighbours {
    /// Only on this port
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Only in this state, such as reachable or failed
    #[arg(long)]
    state: Option<String>,
    /// So many at most
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
}

/// The kernel's routes of the tables main and local, which packets follow
#[derive(Debug, Default, clap::Args)]
pub(super) struct Routes {
    /// Only through this port or link
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Only networks within this one
    #[arg(long, value_name = "NETWORK")]
    within: Option<Side>,
    /// So many at most
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
}

const NEIGHBOURS: &[Column] = &[
    column("PORT", Kind::Word),
    column("ADDRESS", Kind::Long),
    column("MAC", Kind::Word),
    column("STATE", Kind::Word),
    column("USED", Kind::Word),
];

const ROUTES: &[Column] = &[
    column("NETWORK", Kind::Long),
    column("VIA", Kind::Long),
    column("KIND", Kind::Word),
    column("METRIC", Kind::Number),
    column("MTU", Kind::Number),
];

impl Neighbours {
    pub(super) fn show(
        &self,
        client: &mut Client,
        form: Form,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let what =
            What { name: "neighbours", columns: NEIGHBOURS, none: "There are no neighbours." };
        let mut listing = Listing::begin(what, form, out)?;
        let read = |cursor, _| match client.call(&Request::Neighbours { cursor })? {
            Response::Neighbours { mut neighbours, next } => {
                neighbours.retain(|neighbour| self.wants(neighbour));
                Ok((neighbours, next))
            }
            _ => Err(wrong()),
        };
        pages(self.limit, read, |page| Ok(listing.page(page, of_neighbour)?))?;
        Ok(listing.end()?)
    }

    fn wants(&self, neighbour: &Neighbour) -> bool {
        let in_state = |state: &String| state.eq_ignore_ascii_case(&neighbour.state);
        self.port.as_ref().is_none_or(|port| *port == neighbour.port)
            && self.state.as_ref().is_none_or(in_state)
    }
}

fn of_neighbour(neighbour: &Neighbour) -> Vec<String> {
    let used = match (neighbour.usable, neighbour.kept) {
        (true, true) => "yes, kept",
        (true, false) => "yes",
        (false, true) => "NO, wanted",
        (false, false) => "no",
    };
    vec![
        neighbour.port.clone(),
        neighbour.address.to_string(),
        neighbour.mac.clone().unwrap_or_else(|| "-".to_owned()),
        neighbour.state.clone(),
        used.to_owned(),
    ]
}

impl Routes {
    pub(super) fn show(
        &self,
        client: &mut Client,
        form: Form,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let what = What { name: "routes", columns: ROUTES, none: "There are no routes." };
        let mut listing = Listing::begin(what, form, out)?;
        let read = |cursor, _| match client.call(&Request::Routes { cursor })? {
            Response::Routes { mut routes, next } => {
                routes.retain(|route| self.wants(route));
                Ok((routes, next))
            }
            _ => Err(wrong()),
        };
        pages(self.limit, read, |page| Ok(listing.page(page, of_route)?))?;
        Ok(listing.end()?)
    }

    fn wants(&self, route: &Route) -> bool {
        let inside = |side: Side| {
            let longer = side.network.is_none_or(|(_, len)| route.prefix >= len);
            longer && side.has_ip(route.destination)
        };
        let through = |port: &String| route.hops.iter().any(|hop| hop.link == *port);
        self.within.is_none_or(inside) && self.port.as_ref().is_none_or(through)
    }
}

/// A route with several next hops names them all, in one cell.
fn of_route(route: &Route) -> Vec<String> {
    let hops: Vec<_> = route
        .hops
        .iter()
        .map(|hop| {
            let gateway = hop.gateway.map(|gateway| format!(" {gateway}")).unwrap_or_default();
            format!("{}{gateway}", hop.link)
        })
        .collect();
    let dash = |number: u32| if number == 0 { "-".to_owned() } else { number.to_string() };
    vec![
        format!("{}/{}", route.destination, route.prefix),
        if hops.is_empty() { "-".to_owned() } else { hops.join(", ") },
        route.kind.clone(),
        route.metric.to_string(),
        dash(route.mtu),
    ]
}

fn wrong() -> ClientError {
    ClientError::BadReply("a response of the wrong kind".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{NeighbourCursor, RouteCursor, RouteHop};
    use crate::test_server::{TestServer, hello};

    fn neighbour(port: &str, address: &str, mac: Option<&str>, kept: bool) -> Neighbour {
        Neighbour {
            port: port.into(),
            address: address.parse().unwrap(),
            mac: mac.map(str::to_owned),
            state: if mac.is_some() { "reachable" } else { "failed" }.into(),
            usable: mac.is_some(),
            kept,
        }
    }

    fn replies(form: Form, args: &Neighbours) -> String {
        let mac = Some("00:50:00:00:01:00");
        let cursor = NeighbourCursor { port: 0, address: "192.168.1.77".parse().unwrap() };
        let first = vec![
            neighbour("lan", "192.168.1.31", mac, true),
            neighbour("lan", "192.168.1.77", None, true),
        ];
        let second = vec![neighbour("wan", "2001:db8:1234:5678:9abc:def0:1234:5678", mac, false)];
        let server = TestServer::start(vec![
            hello(),
            Ok(Response::Neighbours { neighbours: first, next: Some(cursor) }),
            Ok(Response::Neighbours { neighbours: second, next: None }),
        ]);
        let mut client = Client::connect(server.path()).unwrap();
        let mut out = Vec::new();
        args.show(&mut client, form, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn neighbours_say_whether_they_are_used() {
        let form = Form { json: false, width: None };
        let expected = "\
PORT  ADDRESS       MAC                STATE      USED
lan   192.168.1.31  00:50:00:00:01:00  reachable  yes, kept
lan   192.168.1.77  -                  failed     NO, wanted
wan   2001:db8:1234:5678:9abc:def0:1234:5678  00:50:00:00:01:00  reachable  yes
";
        assert_eq!(replies(form, &Neighbours::default()), expected);
        let only = Neighbours { port: Some("lan".into()), limit: Some(1), ..Neighbours::default() };
        assert_eq!(replies(form, &only).lines().count(), 2);
        let failed = Neighbours { state: Some("FAILED".into()), ..Neighbours::default() };
        assert_eq!(replies(form, &failed).lines().count(), 2);
        let json = replies(Form { json: true, width: None }, &Neighbours::default());
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["neighbours"][1]["mac"], serde_json::Value::Null);
        for line in replies(Form { json: false, width: Some(80) }, &Neighbours::default()).lines() {
            assert!(line.len() <= 80, "{line}");
        }
    }

    fn route(destination: &str, prefix: u8, gateway: Option<&str>) -> Route {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        Route {
            destination: destination.parse().unwrap(),
            prefix,
            kind: "unicast".into(),
            metric: 1024,
            mtu: 0,
            hops: vec![RouteHop { link: "lan".into(), gateway, port: true }],
        }
    }

    fn routes(args: &Routes, width: Option<usize>) -> String {
        let cursor = RouteCursor { destination: "10.0.0.0".parse().unwrap(), prefix: 8 };
        let first = vec![route("0.0.0.0", 0, Some("192.168.1.1")), route("10.0.0.0", 8, None)];
        let second = vec![route(
            "2001:db8:1234:5678:9abc:def0:1234:5678",
            128,
            Some("fe80:1234:5678:9abc:def0:1234:5678:9abc"),
        )];
        let server = TestServer::start(vec![
            hello(),
            Ok(Response::Routes { routes: first, next: Some(cursor) }),
            Ok(Response::Routes { routes: second, next: None }),
        ]);
        let mut client = Client::connect(server.path()).unwrap();
        let mut out = Vec::new();
        args.show(&mut client, Form { json: false, width }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn routes_have_their_next_hops() {
        let expected = "\
NETWORK     VIA              KIND     METRIC  MTU
0.0.0.0/0   lan 192.168.1.1  unicast    1024    -
10.0.0.0/8  lan              unicast    1024    -
NETWORK
    VIA
    KIND     METRIC  MTU
2001:db8:1234:5678:9abc:def0:1234:5678/128
    via lan fe80:1234:5678:9abc:def0:1234:5678:9abc
    unicast    1024    -
";
        assert_eq!(routes(&Routes::default(), Some(80)), expected);
        let inside = Routes { within: "10.0.0.0/8".parse().ok(), ..Routes::default() };
        assert_eq!(routes(&inside, None).lines().count(), 2);
        let other = Routes { port: Some("wan".into()), ..Routes::default() };
        assert_eq!(routes(&other, None), "There are no routes.\n");
    }
}
