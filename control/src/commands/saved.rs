//! States as text: the commands that make them, a line each.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use dataplane::service::Hop;

use super::Failure;
use crate::api::{Request, Response, ServiceId, Settings, Timeouts};
use crate::client::{Client, ClientError};
use crate::ipvsadm::grammar::{self, Command};
use crate::ipvsadm::names::Ports;
use crate::ipvsadm::output;
use crate::registry::Registry;
use crate::settings;

/// Writes all to a file, which is replaced when all is written.
pub(super) fn save(
    client: &mut Client,
    file: Option<&Path>,
    stdout: &mut dyn Write,
) -> Result<(), Failure> {
    let requests = client.save()?;
    let lines = requests.iter().filter_map(output::command);
    let text: String = lines.map(|line| line + "\n").collect();
    let Some(file) = file else { return Ok(stdout.write_all(text.as_bytes())?) };
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    written.map_err(|error| Failure::Other(format!("{}: {error}", file.display())))
}

/// Reads what was saved, and checks it.
pub(super) fn read(client: &mut Client, file: Option<&Path>) -> Result<Vec<Request>, Failure> {
    let (name, text) = match file {
        Some(file) => (file.display().to_string(), fs::read_to_string(file)),
        None => ("standard input".to_owned(), stdin()),
    };
    let text = text.map_err(|error| Failure::Other(format!("{name}: {error}")))?;
    let settings = match client.call(&Request::Settings {})? {
        Response::Settings { settings, .. } => settings,
        _ => return Err(ClientError::BadReply("a response of the wrong kind".into()).into()),
    };
    let timeouts = client.timeouts()?;
    requests(&name, &text, timeouts, settings, &Ports::system()).map_err(Failure::Other)
}

fn stdin() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// The requests of all lines, which are carried out on an empty registry so that
/// the first that is wrong is found here, where lines have numbers.
fn requests(
    name: &str,
    text: &str,
    timeouts: Timeouts,
    settings: Settings,
    ports: &Ports,
) -> Result<Vec<Request>, String> {
    let mut copy = Registry::new(1, Vec::new(), timeouts).with_settings(settings);
    let mut requests = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let wrong = |why: String| format!("{name}:{number}: {line}: {why}; nothing was changed");
        let Some(request) = request(line, ports).map_err(wrong)? else { continue };
        if let Some(Err(error)) = copy.change(&request, &|_| Hop::NoRoute) {
            return Err(wrong(error.to_string()));
        }
        requests.push(request);
    }
    Ok(requests)
}

/// What a line asks for; nothing if it is empty.
fn request(line: &str, ports: &Ports) -> Result<Option<Request>, String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if matches!(words.first(), Some(&("ipvsadm" | "rvsadm"))) {
        words.remove(0);
    }
    let command = |words: &[&str]| {
        let words = words.iter().map(OsString::from);
        grammar::parse(words, "rvsadm", ports).map_err(|error| error.to_string())
    };
    Ok(Some(match words.as_slice() {
        [] => return Ok(None),
        ["set", name, value] => {
            let value = value.parse().map_err(|_| format!("{value} is not 0 to 255"))?;
            Request::SetSetting { name: settings::plain_name(name).to_owned(), value }
        }
        ["drain", server, service @ ..] => {
            let super::Server { address, port } = server.parse()?;
            let service = service_of(service, command)?;
            Request::Drain { server: address, port, service }
        }
        words => match command(words)? {
            Command::AddService(service) => Request::AddService { service },
            Command::AddServer(service, server) => Request::AddServer { service, server },
            Command::SetTimeouts(timeouts) => Request::SetTimeouts { timeouts },
            _ => return Err("only -A, -a, --set, set and drain can be restored".into()),
        },
    }))
}

/// The service that is named as in `-Z`.
fn service_of(
    words: &[&str],
    command: impl Fn(&[&str]) -> Result<Command, String>,
) -> Result<Option<ServiceId>, String> {
    if words.is_empty() {
        return Ok(None);
    }
    match command(&[&["-Z"], words].concat())? {
        Command::Zero(service) => Ok(service),
        _ => Err("a service is expected after the server".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };

    fn read(text: &str) -> Result<Vec<Request>, String> {
        requests("f", text, TIMEOUTS, Settings::default(), &Ports::parse("http 80/tcp\n"))
    }

    /// All that a state can have: every option of services and servers.
    const ALL: &str = "\
--set 901 121 301
set sloppy_tcp 1
-A -t 10.0.0.9:80 -s wlc --local-address 10.0.0.8,fd00::8 --client-address toa --mss 1400
-a -t 10.0.0.9:80 -r 10.0.1.1:8080 -b -w 3 -x 10 -y 5
-a -t 10.0.0.9:80 -r [fd00::1]:8080 -b -w 1
drain [fd00::1]:8080 -t 10.0.0.9:80
-A -u 10.0.0.9:53 -s rr -o
-A -t 10.0.0.9:0 -s sh -p 60 -M 255.255.255.0 -b sh-fallback,sh-port
-A -t 10.0.0.9:443 -s mh -b mh-port --take-up
-A --sctp-service 10.0.0.9:99 -s mh
-a --sctp-service 10.0.0.9:99 -r 10.0.1.1:99 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum
-A -f 7 -6 -s rr -p 360 -M 64
-a -f 7 -6 -r [fd00::2]:0 -g -w 65535
";

    #[test]
    fn what_is_saved_is_read_as_it_was() {
        let requests = read(ALL).unwrap();
        let lines = requests.iter().filter_map(output::command);
        assert_eq!(lines.map(|line| line + "\n").collect::<String>(), ALL);
    }

    /// As any ipvsadm writes it, with names.
    #[test]
    fn what_ipvsadm_saved_is_read() {
        let text =
            "-A -t 10.0.0.9:http -s rr\n\nipvsadm -a -t 10.0.0.9:http -r 10.0.1.1:http -g -w 1\n";
        let commands: Vec<_> = read(text).unwrap().iter().filter_map(output::command).collect();
        assert_eq!(
            commands,
            ["-A -t 10.0.0.9:80 -s rr", "-a -t 10.0.0.9:80 -r 10.0.1.1:80 -g -w 1"]
        );
    }

    #[test]
    fn errors_name_the_line() {
        for (text, expected) in [
            ("\n-A -t 10.0.0.9:80 -s none", "f:2: -A -t 10.0.0.9:80 -s none: Scheduler or"),
            ("-C", "f:1: -C: only -A, -a, --set, set and drain can be restored; nothing was"),
            ("set sloppy_tcp 2", "f:1: set sloppy_tcp 2: setting sloppy_tcp 2 is not 0 to 1;"),
            ("set sloppy_tcp x", "f:1: set sloppy_tcp x: x is not 0 to 255"),
            ("-A -t 10.0.0.9:80 -s rr -w 1", "f:1: -A -t 10.0.0.9:80 -s rr -w 1: "),
            ("-a -t 10.0.0.9:80 -r 10.0.0.1", "f:1: -a -t 10.0.0.9:80 -r 10.0.0.1: Service not"),
            ("drain 10.0.0.1", "f:1: drain 10.0.0.1: no service has the server 10.0.0.1;"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
