//! Turns the sections of the file into the types of [`super`], and checks what
//! concerns several of them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dataplane::snapshot::LocalPorts;

use super::read::{Item, Result, Source, Table, quoted};
use super::{
    Bond, BondMode, Bus, Cidr, Config, Control, Device, Director, Eal, HugePages, Interface,
    MAX_CORES, MAX_INTERFACES, MAX_MEMBERS, MAX_PORTS, Poll, Port, Punt, Vip, Vlan, address, cores,
    interfaces, marks, services,
};
use crate::api::{Settings, Timeouts};
use crate::metrics::MetricsConfig;
use crate::settings;

pub(super) const SECTIONS: [&str; 12] = [
    "director", "control", "metrics", "eal", "punt", "timeouts", "settings", "port", "vip",
    "fullnat", "fwmark", "service",
];
pub(super) const DIRECTOR: [&str; 6] =
    ["cores", "poll", "connections", "templates", "run_dir", "state_dir"];
pub(super) const CONTROL: [&str; 3] = ["socket", "group", "anyone_may_look"];
pub(super) const METRICS: [&str; 2] = ["listen", "max_rows"];
pub(super) const EAL: [&str; 5] = ["huge_pages", "memory_mb", "file_prefix", "mbufs", "extra_args"];
pub(super) const PUNT: [&str; 4] = ["neighbour", "routing", "tcp", "other"];
pub(super) const TIMEOUTS: [&str; 3] = ["tcp", "tcp_fin", "udp"];
pub(super) const PORT: [&str; 8] =
    ["name", "device", "bond", "mtu", "rx_descriptors", "tx_descriptors", "addresses", "vlan"];
pub(super) const BOND: [&str; 2] = ["members", "mode"];
pub(super) const VLAN: [&str; 4] = ["name", "id", "mtu", "addresses"];
pub(super) const VIP: [&str; 1] = ["addresses"];
pub(super) const FULLNAT: [&str; 1] = ["ports"];

const MIN_MTU: u16 = 576;
const MAX_MTU: u16 = 9_600;
/// The least MTU that IPv6 works with (RFC 8200, section 5).
const MIN_MTU_IP6: u16 = 1_280;
/// `sun_path` of unix(7) has 108 bytes with the NUL.
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn config(source: Source<'_>, online: &BTreeSet<u32>) -> Result<Config> {
    let document = source.parse()?;
    let root = Table::root(source, &document, &SECTIONS)?;
    let director = director(&root.section("director", &DIRECTOR)?, online)?;
    let control = control(&root.section("control", &CONTROL)?, &director.run_dir)?;
    let metrics = metrics(&root.section("metrics", &METRICS)?)?;
    let eal_section = root.section("eal", &EAL)?;
    let eal = eal(&eal_section)?;
    let punt = punt(&root.section("punt", &PUNT)?)?;
    let timeouts = timeouts(&root.section("timeouts", &TIMEOUTS)?)?;
    let settings = read_settings(&root.section("settings", &settings::NAMES)?)?;
    let mut seen = Seen::default();
    let ports = ports(&root, &mut seen)?;
    for port in &ports {
        enough_mbufs(&eal_section, &eal, port, director.cores.len())?;
    }
    let interfaces = interfaces(&ports);
    let vip = vip(&root.section("vip", &VIP)?, &mut seen.owned, &interfaces)?;
    let local_ports = local_ports(&root.section("fullnat", &FULLNAT)?)?;
    let rules = marks::rules(&root, &interfaces)?;
    let services = services::services(&root, &seen.owned, &vip)?;
    Ok(Config {
        director,
        control,
        metrics,
        eal,
        punt,
        timeouts,
        settings,
        ports,
        vip,
        local_ports,
        rules,
        services,
    })
}

/// Things of which there may be one each, with the offset of the first.
pub(super) struct Unique<T>(HashMap<T, usize>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq> Unique<T> {
    /// Refuses `value`, which is called `what`, when it was there before.
    pub(super) fn insert(
        &mut self,
        item: &Item<'_>,
        value: T,
        what: impl Display,
        give: &str,
    ) -> Result<()> {
        match self.0.entry(value) {
            Entry::Occupied(first) => Err(item.repeats(what, *first.get(), give)),
            Entry::Vacant(place) => {
                place.insert(item.offset());
                Ok(())
            }
        }
    }

    pub(super) fn contains(&self, value: &T) -> bool {
        self.0.contains_key(value)
    }
}

/// What no two ports can share.
#[derive(Default)]
struct Seen {
    names: Unique<String>,
    devices: Unique<String>,
    /// Addresses of all taps, and of `lo` in the end.
    owned: Unique<IpAddr>,
}

fn director(table: &Table<'_>, online: &BTreeSet<u32>) -> Result<Director> {
    let polls = [("busy", Poll::Busy), ("adaptive", Poll::Adaptive)];
    let poll = table.item("poll").map_or(Ok(Poll::Busy), |item| item.choice(&polls))?;
    let cores = worker_cores(table, online, poll)?;
    let connections = table.integer("connections", 1_000_000, 1_024..=200_000_000)?;
    let templates = table.integer("templates", 1_000_000, 1_024..=200_000_000)?;
    let run_dir = match table.item("run_dir") {
        Some(item) => item.parsed("an absolute path such as \"/run/rvs\"", absolute_path)?,
        None => PathBuf::from("/run/rvs"),
    };
    let state_dir = table.item("state_dir");
    let state_dir = state_dir
        .map(|item| item.parsed("an absolute path such as \"/var/lib/rvs\"", absolute_path))
        .transpose()?;
    Ok(Director { cores, poll, connections, templates, run_dir, state_dir })
}

fn worker_cores(table: &Table<'_>, online: &BTreeSet<u32>, poll: Poll) -> Result<Vec<u32>> {
    let give = "the cores of the workers such as [1]";
    table.required("cores", give)?;
    let items = table.items("cores", give)?;
    if items.is_empty() {
        return Err(table.error("cores", format!("is empty; give {give}")));
    }
    if items.len() > MAX_CORES {
        return Err(
            table.error("cores", format!("has {} cores; give at most {MAX_CORES}", items.len()))
        );
    }
    let mut seen = Unique::default();
    let mut cores = Vec::with_capacity(items.len());
    for item in &items {
        // The size of the kernel's cpu_set_t.
        let core: u32 = item.integer(0..=1023)?;
        if !online.contains(&core) {
            let online = cores::show(online);
            return Err(item.error(format!(
                "core {core} is not online here; give one of this machine's: {online}"
            )));
        }
        // Workers that poll without pause starve each other on one core; those
        // that sleep when idle may share one, to try out several on a laptop.
        if poll == Poll::Busy {
            let give = "give each core once, or poll = \"adaptive\"";
            seen.insert(item, core, format!("core {core}"), give)?;
        }
        cores.push(core);
    }
    Ok(cores)
}

/// Nobody listens by default: whoever reaches the port sees all services.
fn metrics(table: &Table<'_>) -> Result<Option<MetricsConfig>> {
    let max_rows = table.integer("max_rows", 20_000, 0..=1_000_000)?;
    let give = "an address and a port such as \"127.0.0.1:9105\"";
    let listen = match table.item("listen") {
        Some(item) => item.parsed(give, |text| {
            let address = text.parse::<SocketAddr>();
            let address = address.map_err(|_| "is not an address with a port".to_owned())?;
            if address.port() == 0 {
                return Err("has port 0".to_owned());
            }
            Ok(address)
        })?,
        None if table.item("max_rows").is_some() => {
            return Err(table.error("listen", format!("missing; give {give}")));
        }
        None => return Ok(None),
    };
    Ok(Some(MetricsConfig { listen, max_rows }))
}

fn control(table: &Table<'_>, run_dir: &Path) -> Result<Control> {
    let give = "an absolute path of at most 107 bytes such as \"/run/rvs/rvsd.sock\"";
    let socket = match table.item("socket") {
        Some(item) => item.parsed(give, |text| {
            let path = absolute_path(text)?;
            if text.len() > MAX_SOCKET_PATH {
                return Err(format!("is too long with its {} bytes", text.len()));
            }
            Ok(path)
        })?,
        None => run_dir.join("rvsd.sock"),
    };
    if socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
        let message = format!("missing, and run_dir is too long to hold it; give {give}");
        return Err(table.error("socket", message));
    }
    let group = table
        .item("group")
        .map(|item| item.parsed("the name of a group such as \"rvs\"", |t| plain_name(t, 32)))
        .transpose()?;
    let anyone_may_look = table.boolean("anyone_may_look", false)?;
    Ok(Control { socket, group, anyone_may_look })
}

fn eal(table: &Table<'_>) -> Result<Eal> {
    let default = Eal::default();
    let choices =
        [("auto", HugePages::Auto), ("never", HugePages::Never), ("require", HugePages::Require)];
    let huge_pages =
        table.item("huge_pages").map_or(Ok(default.huge_pages), |item| item.choice(&choices))?;
    let memory_mb = table.integer("memory_mb", default.memory_mb, 64..=1_048_576)?;
    let file_prefix = match table.item("file_prefix") {
        Some(item) => item.parsed("a name such as \"rvs\"", |text| plain_name(text, 32))?,
        None => default.file_prefix,
    };
    let mbufs = table.integer("mbufs", default.mbufs, 1_024..=4_194_304)?;
    let extra_args = table
        .items("extra_args", "EAL arguments such as [\"--log-level=8\"]")?
        .iter()
        .map(|item| item.parsed("an EAL argument such as \"--log-level=8\"", eal_argument))
        .collect::<Result<_>>()?;
    Ok(Eal { huge_pages, memory_mb, file_prefix, mbufs, extra_args })
}

/// Each queue keeps as many mbufs as it has descriptors; a pool without a rest
/// would receive nothing more.
fn enough_mbufs(table: &Table<'_>, eal: &Eal, port: &Port, workers: usize) -> Result<()> {
    let per_worker = u64::from(port.rx_descriptors) + u64::from(port.tx_descriptors);
    let held = per_worker * workers as u64;
    if u64::from(eal.mbufs) > held {
        return Ok(());
    }
    let (rx, tx) = (port.rx_descriptors, port.tx_descriptors);
    let message = format!(
        "{} are too few for port {}, whose queues hold {held} ({rx} + {tx} descriptors on each of \
         {workers} cores); give {} or more, or fewer descriptors",
        eal.mbufs,
        port.name,
        // Room for bursts, rings and the caches of the pool.
        held + held / 4,
    );
    Err(table.error("mbufs", message))
}

fn punt(table: &Table<'_>) -> Result<Punt> {
    let default = Punt::default();
    let range = 1..=10_000_000;
    Ok(Punt {
        neighbour: table.integer("neighbour", default.neighbour, range.clone())?,
        routing: table.integer("routing", default.routing, range.clone())?,
        tcp: table.integer("tcp", default.tcp, range.clone())?,
        other: table.integer("other", default.other, range)?,
    })
}

fn timeouts(table: &Table<'_>) -> Result<Timeouts> {
    // At most 31 days, as ipvsadm --set takes; its 0, keep the value, has no
    // meaning here.
    let range = 1..=31 * 86_400;
    Ok(Timeouts {
        tcp: table.integer("tcp", 900, range.clone())?,
        tcp_fin: table.integer("tcp_fin", 120, range.clone())?,
        udp: table.integer("udp", 300, range)?,
    })
}

fn read_settings(table: &Table<'_>) -> Result<Settings> {
    let mut settings = Settings::default();
    for name in settings::NAMES {
        let Some(item) = table.item(name) else { continue };
        let most = settings::most(name).unwrap_or(1);
        let value = match item.as_bool() {
            Some(yes) if most == 1 => u8::from(yes),
            _ => item.integer(0..=most)?,
        };
        settings.set(name, value).map_err(|error| item.error(error))?;
    }
    Ok(settings)
}

/// Fewer would be used up at once: each worker has its share of them.
const FEWEST_LOCAL_PORTS: u16 = 1_024;

fn local_ports(table: &Table<'_>) -> Result<(u16, u16)> {
    let Some(item) = table.item("ports") else {
        let LocalPorts(first, last) = LocalPorts::default();
        return Ok((first, last));
    };
    let give = format!("a range of at least {FEWEST_LOCAL_PORTS} ports such as \"1024-32767\"");
    item.parsed(&give, |text| {
        let (first, last) = address::ports(text)?;
        if first == 0 {
            return Err("begins with port 0".to_owned());
        }
        if last - first < FEWEST_LOCAL_PORTS - 1 {
            return Err(format!("has {} ports", last - first + 1));
        }
        Ok((first, last))
    })
}

fn ports(root: &Table<'_>, seen: &mut Seen) -> Result<Vec<Port>> {
    let tables = root.sections("port", &PORT)?;
    if tables.is_empty() {
        return Err(root.missing("port", "a section [[port]] with a name and a device"));
    }
    if tables.len() > MAX_PORTS {
        let message = format!("has {} ports; give at most {MAX_PORTS}", tables.len());
        return Err(root.error("port", message));
    }
    let ports = tables.iter().enumerate().map(|(index, table)| port(table, index, seen));
    let ports: Vec<_> = ports.collect::<Result<_>>()?;
    let members = ports.iter().filter_map(|port| port.bond.as_ref()).map(|bond| bond.members.len());
    let devices = ports.len() + members.sum::<usize>();
    if devices > MAX_PORTS {
        let message = format!(
            "has {devices} ports and members of bonds; give at most {MAX_PORTS} of both together"
        );
        return Err(root.error("port", message));
    }
    let count = ports.len() + ports.iter().map(|port| port.vlans.len()).sum::<usize>();
    if count > MAX_INTERFACES {
        let message =
            format!("has {count} ports and VLANs; give at most {MAX_INTERFACES} of both together");
        return Err(root.error("port", message));
    }
    Ok(ports)
}

fn port(table: &Table<'_>, index: usize, seen: &mut Seen) -> Result<Port> {
    let name = port_name(table, seen)?;
    let (device, bond) = match (table.item("bond"), table.item("device")) {
        (None, _) => (port_device(table, seen)?, None),
        (Some(_), Some(device)) => {
            return Err(device.error("is given beside port.bond; give one of them"));
        }
        (Some(_), None) => {
            let name = format!("net_bonding{index}");
            let bond = bond(&table.section("bond", &BOND)?, seen)?;
            (Device { bus: Bus::Vdev, name, arguments: None }, Some(bond))
        }
    };
    let mtu = table.integer("mtu", 1_500, MIN_MTU..=MAX_MTU)?;
    let rx_descriptors = table.integer("rx_descriptors", 1_024, 64..=32_768)?;
    let tx_descriptors = table.integer("tx_descriptors", 1_024, 64..=32_768)?;
    let addresses = port_addresses(table, mtu, MAX_MTU, &mut seen.owned)?;
    let mut ids = Unique::default();
    let vlans = table.sections("vlan", &VLAN)?;
    let vlans = vlans.iter().map(|table| vlan(table, (&name, mtu), &mut ids, seen));
    let vlans = vlans.collect::<Result<_>>()?;
    Ok(Port { name, device, bond, mtu, rx_descriptors, tx_descriptors, addresses, vlans })
}

/// A VLAN on the port of this name and MTU.
fn vlan(
    table: &Table<'_>,
    (port, port_mtu): (&str, u16),
    ids: &mut Unique<u16>,
    seen: &mut Seen,
) -> Result<Vlan> {
    let item = table.required("id", "the VLAN's id, an integer from 1 to 4094")?;
    // 0 means no VLAN, 4095 is reserved (IEEE 802.1Q).
    let id = item.integer(1..=4_094)?;
    ids.insert(&item, id, format_args!("VLAN {id}"), "give each VLAN of a port once")?;
    let name = if table.item("name").is_some() {
        port_name(table, seen)?
    } else {
        let name = format!("{port}.{id}");
        if let Err(why) = address::interface_name(&name) {
            let message = format!("missing, and {} {why}; give {GIVE_NAME}", quoted(&name));
            return Err(table.error("name", message));
        }
        seen.names.insert(&item, name.clone(), quoted(&name), "give the VLAN another name")?;
        name
    };
    let mtu = table.integer("mtu", port_mtu, MIN_MTU..=port_mtu)?;
    let addresses = port_addresses(table, mtu, port_mtu, &mut seen.owned)?;
    Ok(Vlan { name, id, mtu, addresses })
}

const GIVE_NAME: &str = "a name of 1 to 15 letters, digits, \"-\", \"_\" or \".\" such as \"lan\"";

fn port_name(table: &Table<'_>, seen: &mut Seen) -> Result<String> {
    let item = table.required("name", GIVE_NAME)?;
    let name = item.parsed(GIVE_NAME, address::interface_name)?;
    seen.names.insert(&item, name.clone(), quoted(&name), "give each port its own name")?;
    Ok(name)
}

const GIVE_DEVICE: &str =
    "a PCI address such as \"0000:01:00.0\" or a DPDK vdev such as \"net_tap0,iface=wire0\"";

fn port_device(table: &Table<'_>, seen: &mut Seen) -> Result<Device> {
    device(&table.required("device", GIVE_DEVICE)?, seen)
}

fn device(item: &Item<'_>, seen: &mut Seen) -> Result<Device> {
    let device = item.parsed(GIVE_DEVICE, address::device)?;
    let name = &device.name;
    seen.devices.insert(item, name.clone(), quoted(name), "give each port its own device")?;
    Ok(device)
}

fn bond(table: &Table<'_>, seen: &mut Seen) -> Result<Bond> {
    let give = format!("2 to {MAX_MEMBERS} devices such as [\"0000:01:00.0\", \"0000:02:00.0\"]");
    table.required("members", &give)?;
    let items = table.items("members", &give)?;
    if !(2..=MAX_MEMBERS).contains(&items.len()) {
        let message = format!("has {} devices; give {give}", items.len());
        return Err(table.error("members", message));
    }
    let members = items.iter().map(|item| device(item, seen)).collect::<Result<_>>()?;
    let modes = [BondMode::ActiveBackup, BondMode::BalanceXor, BondMode::Lacp];
    let modes = modes.map(|mode| (mode.name(), mode));
    let give = modes.map(|(name, _)| format!("\"{name}\"")).join(" or ");
    let mode = table.required("mode", &give)?.choice(&modes)?;
    Ok(Bond { mode, members })
}

/// The addresses of a port or VLAN with this MTU, which could be larger.
fn port_addresses(
    table: &Table<'_>,
    mtu: u16,
    max_mtu: u16,
    owned: &mut Unique<IpAddr>,
) -> Result<Vec<Cidr>> {
    let give = "a host's address with its prefix length such as \"192.168.1.21/24\" or \
                \"fd00:1::21/64\"";
    let items = table.items("addresses", "addresses such as [\"192.168.1.21/24\"]")?;
    let mut of_port = Unique::default();
    let mut addresses = Vec::with_capacity(items.len());
    for item in &items {
        let cidr = item.parsed(give, address::cidr)?;
        let ip = cidr.address;
        of_port.insert(item, ip, ip, "give each address once")?;
        if !address::is_link_local(ip) {
            owned.insert(item, ip, ip, "give an address to one port only")?;
        }
        addresses.push(cidr);
    }
    if mtu < MIN_MTU_IP6 && addresses.iter().any(|cidr| cidr.address.is_ipv6()) {
        let message = format!(
            "{mtu} is too small for the port's IPv6 address; give an integer from {MIN_MTU_IP6} to {max_mtu}"
        );
        return Err(table.error("mtu", message));
    }
    Ok(addresses)
}

fn vip(table: &Table<'_>, owned: &mut Unique<IpAddr>, taps: &[Interface<'_>]) -> Result<Vip> {
    let give = "an address without prefix length that others can reach such as \
                \"192.168.1.100\" or \"fd00:1::100\"";
    let items = table.items("addresses", "addresses such as [\"192.168.1.100\"]")?;
    let mut addresses = Vec::with_capacity(items.len());
    for item in &items {
        let address = item.parsed(give, address::address)?;
        owned.insert(item, address, address, "give each address once")?;
        // It goes on every tap, see the rule for the ports' own.
        if let Some(tap) = taps.iter().find(|tap| address.is_ipv6() && tap.mtu < MIN_MTU_IP6) {
            let Interface { name, mtu, .. } = tap;
            return Err(item.error(format!(
                "an IPv6 address needs an MTU of {MIN_MTU_IP6}, and port {name} has {mtu}; give every port at least {MIN_MTU_IP6}"
            )));
        }
        addresses.push(address);
    }
    Ok(Vip { addresses })
}

fn absolute_path(text: &str) -> std::result::Result<PathBuf, String> {
    if text.chars().any(char::is_control) {
        return Err("has control characters".to_owned());
    }
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err("is not an absolute path".to_owned());
    }
    Ok(path)
}

/// A name that is also one component of a path.
fn plain_name(text: &str, longest: usize) -> std::result::Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if text.is_empty() || text.len() > longest {
        return Err(format!("has {} bytes instead of 1 to {longest}", text.len()));
    }
    if !text.bytes().all(plain) || text.starts_with(['.', '-']) {
        return Err("has characters other than letters, digits, \"-\", \"_\" and \".\"".to_owned());
    }
    Ok(text.to_owned())
}

fn eal_argument(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("has control characters".to_owned());
    }
    Ok(text.to_owned())
}
