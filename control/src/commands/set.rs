//! Changing a setting, or what is logged.

use std::path::Path;

use super::Failure;
use crate::api::Request;
use crate::client::Client;
use crate::settings;

/// Change a setting, the kernel's net.ipv4.vs.NAME, or what is logged; `show
/// settings` lists them
#[derive(Debug, clap::Args)]
pub struct Set {
    /// Its name, with or without net.ipv4.vs., or "log"
    name: String,
    /// Its value; for "log" a filter such as dataplane=debug,info
    value: String,
}

impl Set {
    /// Asks rvsd to.
    ///
    /// # Errors
    /// For the operator; the exit code is 1.
    pub fn run(self, socket: &Path) -> Result<(), Failure> {
        let request = self.request()?;
        Ok(Client::connect(socket)?.change(&request)?)
    }

    fn request(self) -> Result<Request, Failure> {
        let Self { name, value } = self;
        if name == "log" {
            return Ok(Request::SetLog { filter: value });
        }
        let name = settings::plain_name(&name).to_owned();
        match value.parse() {
            Ok(value) => Ok(Request::SetSetting { name, value }),
            Err(_) => Err(Failure::Usage(format!(
                "the value of {name} is a number from 0 to 255, not {value:?}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str, value: &str) -> Result<Request, String> {
        let set = Set { name: name.into(), value: value.into() };
        set.request().map_err(|error| error.to_string())
    }

    #[test]
    fn settings_go_by_their_short_names() {
        let expected = Request::SetSetting { name: "sloppy_tcp".into(), value: 1 };
        assert_eq!(request("sloppy_tcp", "1"), Ok(expected.clone()));
        assert_eq!(request("net.ipv4.vs.sloppy_tcp", "1"), Ok(expected));
        assert_eq!(request("log", "debug"), Ok(Request::SetLog { filter: "debug".into() }));
        let error = request("sloppy_tcp", "256").unwrap_err();
        assert_eq!(error, "the value of sloppy_tcp is a number from 0 to 255, not \"256\"");
    }
}
