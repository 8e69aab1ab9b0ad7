//! The settings in the form in which workers read them.

use dataplane::snapshot;

use crate::api::Settings;

/// What workers are told.
pub(super) fn for_workers(settings: Settings) -> snapshot::Settings {
    snapshot::Settings {
        expire_nodest_conn: settings.expire_nodest_conn != 0,
        expire_quiescent_template: settings.expire_quiescent_template != 0,
        conn_reuse_mode: settings.conn_reuse_mode,
        sloppy_tcp: settings.sloppy_tcp != 0,
        sloppy_sctp: settings.sloppy_sctp != 0,
        nat_icmp_send: settings.nat_icmp_send != 0,
        schedule_icmp: settings.schedule_icmp != 0,
        pmtu_disc: settings.pmtu_disc != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{NAMES, most};

    #[test]
    fn defaults_are_those_of_workers_that_were_told_nothing() {
        assert_eq!(for_workers(Settings::default()), snapshot::Settings::default());
    }

    #[test]
    fn every_setting_reaches_the_workers() {
        for name in NAMES {
            let mut settings = Settings::default();
            let value = u8::from(name != "pmtu_disc") * most(name).unwrap();
            settings.set(name, value).unwrap();
            let workers = format!("{:?}", for_workers(settings));
            let shown = match (name, value) {
                ("conn_reuse_mode", _) => "2",
                (_, 1) => "true",
                _ => "false",
            };
            assert!(workers.contains(&format!("{name}: {shown}")), "{workers}");
        }
    }
}
