//! The settings that the kernel has as `net.ipv4.vs.*`: names, defaults and
//! ranges in one place for the configuration, the API and `rvsadm`.

use crate::api::{Error, ErrorCode, Settings};

/// A setting's place in [`Settings`].
struct Field {
    name: &'static str,
    /// The largest value; the least is 0.
    most: u8,
    place: fn(&mut Settings) -> &mut u8,
}

const FIELDS: [Field; 8] = [
    Field { name: "expire_nodest_conn", most: 1, place: |s| &mut s.expire_nodest_conn },
    Field {
        name: "expire_quiescent_template",
        most: 1,
        place: |s| &mut s.expire_quiescent_template,
    },
    Field { name: "conn_reuse_mode", most: 2, place: |s| &mut s.conn_reuse_mode },
    Field { name: "sloppy_tcp", most: 1, place: |s| &mut s.sloppy_tcp },
    Field { name: "sloppy_sctp", most: 1, place: |s| &mut s.sloppy_sctp },
    Field { name: "nat_icmp_send", most: 1, place: |s| &mut s.nat_icmp_send },
    Field { name: "schedule_icmp", most: 1, place: |s| &mut s.schedule_icmp },
    Field { name: "pmtu_disc", most: 1, place: |s| &mut s.pmtu_disc },
];

/// The names, in the order of listings.
pub const NAMES: [&str; 8] = {
    let mut names = [""; 8];
    let mut i = 0;
    while i < 8 {
        names[i] = FIELDS[i].name;
        i += 1;
    }
    names
};

/// The kernel's defaults.
impl Default for Settings {
    fn default() -> Self {
        Self {
            expire_nodest_conn: 0,
            expire_quiescent_template: 0,
            conn_reuse_mode: 1,
            sloppy_tcp: 0,
            sloppy_sctp: 0,
            nat_icmp_send: 0,
            schedule_icmp: 0,
            pmtu_disc: 1,
        }
    }
}

/// The largest value of a setting; `None` for one that does not exist.
#[must_use]
pub fn most(name: &str) -> Option<u8> {
    FIELDS.iter().find(|field| field.name == name).map(|field| field.most)
}

impl Settings {
    /// Changes one.
    ///
    /// # Errors
    /// When there is no such setting, or the value is out of its range.
    pub fn set(&mut self, name: &str, value: u8) -> Result<(), Error> {
        let Some(field) = FIELDS.iter().find(|field| field.name == name) else {
            let known = NAMES.join(", ");
            let message = format!("there is no setting {name}; there are {known}");
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        };
        if value > field.most {
            let message = format!("setting {name} {value} is not 0 to {}", field.most);
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        *(field.place)(self) = value;
        Ok(())
    }

    /// All names with their values.
    pub fn rows(mut self) -> impl Iterator<Item = (&'static str, u8)> {
        FIELDS.iter().map(move |field| (field.name, *(field.place)(&mut self)))
    }
}

/// A setting's name out of a sysctl's, `net.ipv4.vs.NAME` or
/// `net/ipv4/vs/NAME`; other texts as they are.
#[must_use]
pub fn plain_name(text: &str) -> &str {
    text.strip_prefix("net.ipv4.vs.").or_else(|| text.strip_prefix("net/ipv4/vs/")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_kernels() {
        let rows: Vec<_> = Settings::default().rows().filter(|(_, value)| *value != 0).collect();
        assert_eq!(rows, [("conn_reuse_mode", 1), ("pmtu_disc", 1)]);
    }

    #[test]
    fn each_name_changes_its_own_field() {
        for name in NAMES {
            let mut settings = Settings::default();
            let value = u8::from(name != "pmtu_disc") * most(name).unwrap();
            settings.set(name, value).unwrap();
            let mut changed = serde_json::to_value(Settings::default()).unwrap();
            changed[name] = value.into();
            assert_eq!(serde_json::to_value(settings).unwrap(), changed, "{name}");
        }
    }

    #[test]
    fn refusals_say_what_there_is() {
        let mut settings = Settings::default();
        let refusal = |result: Result<(), Error>| result.unwrap_err().message;
        assert_eq!(
            refusal(settings.set("sloppy_udp", 1)),
            format!("there is no setting sloppy_udp; there are {}", NAMES.join(", "))
        );
        assert_eq!(refusal(settings.set("sloppy_tcp", 2)), "setting sloppy_tcp 2 is not 0 to 1");
        assert_eq!(settings, Settings::default());
        assert_eq!(plain_name("net.ipv4.vs.pmtu_disc"), "pmtu_disc");
        assert_eq!(plain_name("net/ipv4/vs/pmtu_disc"), "pmtu_disc");
        assert_eq!(plain_name("pmtu_disc"), "pmtu_disc");
    }
}
