//! Services with where they come from, and what was changed beside the file.

use std::collections::HashMap;

use super::{row, service_name};
use crate::api::{Method, Origin, ServerStatus, ServiceOrigin, ServiceStatus};
use crate::client::{Client, ClientError};

/// Services and servers with their origins.
pub(super) fn services(client: &mut Client, json: bool) -> Result<String, ClientError> {
    let services = client.services(None)?.services;
    // Services may come and go between the two listings.
    let origins: HashMap<_, _> =
        client.origins()?.into_iter().map(|origin| (origin.service, origin)).collect();
    if json {
        return as_json(&services, &origins)
            .map_err(|error| ClientError::BadReply(error.to_string()));
    }
    let mut text = String::new();
    for service in &services {
        let origin = origins.get(&service.spec.id);
        let name = format!("{} {}", service_name(&service.spec.id), service.spec.scheduler);
        row(&mut text, format_args!("{:<8} {name}\n", shown(origin.map(|origin| origin.origin))));
        for server in &service.servers {
            let shown = shown(server_origin(origin, server));
            let address = server.spec.address.to_string();
            let (method, weight) = (method(&server.spec.method), server.spec.weight);
            let connections = u64::from(server.active) + u64::from(server.inactive);
            row(
                &mut text,
                format_args!(
                    "{shown:<8}   -> {address}  {method}, weight {weight}, {connections} connections\n"
                ),
            );
        }
    }
    if text.is_empty() {
        text.push_str("There are no services.\n");
    }
    Ok(text)
}

fn shown(origin: Option<Origin>) -> String {
    origin.map_or_else(|| "-".to_owned(), |origin| origin.to_string())
}

fn server_origin(service: Option<&ServiceOrigin>, server: &ServerStatus) -> Option<Origin> {
    let own = |origin: &&crate::api::ServerOrigin| origin.server == server.spec.address;
    service?.servers.iter().find(own).map(|origin| origin.origin)
}

fn method(method: &Method) -> &'static str {
    match method {
        Method::Dr => "dr",
        Method::Nat => "nat",
        Method::Tun(_) => "tun",
        Method::Fullnat => "fullnat",
    }
}

/// The rows of the API's listing with an `origin` each.
fn as_json(
    services: &[ServiceStatus],
    origins: &HashMap<crate::api::ServiceId, ServiceOrigin>,
) -> serde_json::Result<String> {
    let mut rows = Vec::new();
    for service in services {
        let origin = origins.get(&service.spec.id);
        let mut value = serde_json::to_value(service)?;
        value["origin"] = serde_json::to_value(origin.map(|origin| origin.origin))?;
        for (index, server) in service.servers.iter().enumerate() {
            value["servers"][index]["origin"] =
                serde_json::to_value(server_origin(origin, server))?;
        }
        rows.push(value);
    }
    Ok(serde_json::to_string_pretty(&serde_json::json!({ "services": rows }))? + "\n")
}

/// What is in force of the configuration file and what is not.
pub(super) fn configuration(file: Option<&str>, changes: &[String], restart: &[String]) -> String {
    let mut text = match file {
        Some(file) => format!("file {file}\n"),
        None => "rvsd has no configuration file\n".to_owned(),
    };
    if changes.is_empty() {
        text.push_str("nothing was changed at run time\n");
    } else {
        text.push_str("changed at run time:\n");
        changes.iter().for_each(|line| row(&mut text, format_args!("  {line}\n")));
    }
    if !restart.is_empty() {
        row(&mut text, format_args!("needs a restart of rvsd: {}\n", restart.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Protocol, Response, ServerOrigin, ServerSpec, ServiceId, ServiceSpec, Stats};
    use crate::test_server::{TestServer, hello};

    fn replies() -> Vec<crate::api::Reply> {
        let id = ServiceId::Address {
            protocol: Protocol::Tcp,
            address: "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535".parse().unwrap(),
        };
        let server = |address: &str| ServerStatus {
            spec: ServerSpec {
                address: address.parse().unwrap(),
                method: Method::Fullnat,
                weight: 65_535,
                upper_threshold: 0,
                lower_threshold: 0,
            },
            active: 2,
            inactive: 3,
            persistent: 0,
            stats: Stats::default(),
            health: None,
        };
        let addresses = ["[fd00:1234:5678:9abc:def0:1234:5678:9ab2]:65535", "10.0.0.1:80"];
        let status = ServiceStatus {
            spec: ServiceSpec::new(id, "lblcr"),
            stats: Stats::default(),
            servers: addresses.map(server).to_vec(),
        };
        // The second has come since the origins were listed.
        let servers =
            vec![ServerOrigin { server: addresses[0].parse().unwrap(), origin: Origin::Runtime }];
        let origin = ServiceOrigin { service: id, origin: Origin::Changed, servers };
        vec![
            hello(),
            Ok(Response::Services { services: vec![status], next: None, table_size: 1 }),
            Ok(Response::Origins { services: vec![origin], next: None }),
        ]
    }

    #[test]
    fn services_and_servers_say_where_they_come_from() {
        let server = TestServer::start(replies());
        let mut client = Client::connect(server.path()).unwrap();
        let text = services(&mut client, false).unwrap();
        let expected = "\
changed  TCP [fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535 lblcr
runtime    -> [fd00:1234:5678:9abc:def0:1234:5678:9ab2]:65535  fullnat, weight 65535, 5 connections
-          -> 10.0.0.1:80  fullnat, weight 65535, 5 connections
";
        assert_eq!(text, expected);
        let server = TestServer::start(replies());
        let mut client = Client::connect(server.path()).unwrap();
        let json: serde_json::Value =
            serde_json::from_str(&services(&mut client, true).unwrap()).unwrap();
        assert_eq!(json["services"][0]["origin"], "changed");
        assert_eq!(json["services"][0]["scheduler"], "lblcr");
        assert_eq!(json["services"][0]["servers"][0]["origin"], "runtime");
        assert_eq!(json["services"][0]["servers"][1]["origin"], serde_json::Value::Null);
    }

    #[test]
    fn the_configuration_lists_what_is_not_as_the_file_says() {
        let text = configuration(Some("/f"), &["-C".into()], &["eal.mbufs".into()]);
        let expected = "file /f\nchanged at run time:\n  -C\nneeds a restart of rvsd: eal.mbufs\n";
        assert_eq!(text, expected);
        let text = configuration(None, &[], &[]);
        assert_eq!(text, "rvsd has no configuration file\nnothing was changed at run time\n");
    }
}
