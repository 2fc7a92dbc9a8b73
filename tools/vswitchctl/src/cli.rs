//! The command line.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use switch::mac::MacAddr;
use vswitchd::api::rows::Spoof;

use crate::failure::Failure;
use crate::nat::Entries;
use crate::output::print;

/// Tables and commands of the contract that are not built yet.
const LATER: [&str; 2] = ["vxlan", "cluster"];
const LATER_COMMANDS: [&str; 2] = ["capture", "top"];

/// Looks into a running vswitchd and changes it.
#[derive(Debug, Parser)]
#[command(name = "vswitchctl", version, arg_required_else_help = false)]
pub struct Cli {
    /// The daemon's control socket [default: /run/vswitch/control.sock as root, else
    /// $XDG_RUNTIME_DIR/vswitch/control.sock or /tmp/vswitch-UID/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// JSON instead of tables
    #[arg(short, long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a table
    #[command(subcommand, arg_required_else_help = false)]
    Show(Show),
    /// Change where MAC addresses are
    #[command(subcommand, arg_required_else_help = false)]
    Fdb(Fdb),
    /// Make, remove and fill networks
    #[command(subcommand, arg_required_else_help = false)]
    Network(Network),
    /// Let clients of the host reach a container
    Publish(Entries),
    /// Not any more
    Unpublish(Entries),
    /// What would become of a packet, and why; nothing changes
    Trace(Box<crate::trace::Trace>),
    /// Read the configuration file again and apply the difference
    Reload,
    /// Apply a configuration
    Apply {
        /// The configuration; - is standard input
        file: PathBuf,
    },
    /// Run a command in a container
    Exec {
        /// The container
        container: String,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "CMD")]
        argv: Vec<OsString>,
    },
}

/// A table.
#[derive(Debug, Subcommand)]
pub enum Show {
    /// Which MAC address is behind which port
    Fdb(Filter),
    /// Where packets go that came in by a network
    Routes(Filter),
    /// Who answers for which address
    Neighbors(Filter),
    /// Who listens to which multicast group
    Groups(Filter),
    /// Other hosts that networks are on
    Vxlan(VtepFilter),
    /// The hosts and networks of the cluster, and what of its store is not believed
    Cluster {
        /// Who is behind other hosts, too
        #[arg(long)]
        members: bool,
    },
    /// L4 ports of the host that lead to containers
    Nat(crate::nat::Filter),
    /// What goes through the uplink
    Connections(crate::nat::Filter),
    /// Interfaces of containers
    Ports(Filter),
    /// Networks
    Networks(Filter),
    /// Containers
    Containers(Filter),
    /// Why frames were not delivered
    Drops {
        /// Of whom; for each port apart
        #[command(flatten)]
        filter: Filter,
        /// For each port apart
        #[arg(long)]
        ports: bool,
        /// Reasons that never happened, too
        #[arg(long, conflicts_with_all = ["ports", "network", "container"])]
        all: bool,
    },
    /// Rates and totals of ports and workers
    Stats {
        /// Of whom
        #[command(flatten)]
        filter: Filter,
        /// Again and again
        #[arg(long)]
        watch: bool,
        /// Seconds from one to the next
        #[arg(long, default_value = "1", value_parser = interval, requires = "watch", value_name = "SECONDS")]
        interval: Duration,
    },
    /// The daemon itself
    Status,
    /// The running configuration, as JSON
    Config,
}

impl Show {
    /// The network and the container of which alone something is wanted.
    pub fn only(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Self::Fdb(filter)
            | Self::Routes(filter)
            | Self::Neighbors(filter)
            | Self::Groups(filter)
            | Self::Ports(filter)
            | Self::Networks(filter)
            | Self::Containers(filter)
            | Self::Drops { filter, .. }
            | Self::Stats { filter, .. } => (filter.network.as_deref(), filter.container.as_deref()),
            Self::Nat(filter) | Self::Connections(filter) => (None, filter.container.as_deref()),
            Self::Vxlan(filter) => (filter.network.as_deref(), None),
            Self::Cluster { .. } | Self::Status | Self::Config => (None, None),
        }
    }
}

/// Which rows of a table: the same words for all of them.
#[derive(Debug, Default, Args)]
pub struct Filter {
    /// Of this network only
    #[arg(long)]
    pub network: Option<String>,
    /// Of this container only, or of the networks it is on
    #[arg(long)]
    pub container: Option<String>,
}

/// Which rows of a table that has no containers.
#[derive(Debug, Default, Args)]
pub struct VtepFilter {
    /// Of this network only
    #[arg(long)]
    pub network: Option<String>,
}

impl Filter {
    /// Whether a row of this network and this container is wanted.
    pub fn wants(&self, network: &str, container: &str) -> bool {
        self.network.as_deref().is_none_or(|wanted| wanted == network)
            && self.container.as_deref().is_none_or(|wanted| wanted == container)
    }

    /// Whether anything is left out.
    pub const fn is_given(&self) -> bool {
        self.network.is_some() || self.container.is_some()
    }
}

/// A change of the FDB.
#[derive(Debug, Subcommand)]
pub enum Fdb {
    /// Add a static entry
    Add {
        /// The network
        network: String,
        /// The MAC address
        mac: MacAddr,
        /// The container it is in
        container: String,
        /// The interface [default: the container's only one in that network]
        interface: Option<String>,
        /// VLAN [default: untagged]
        #[arg(long, value_parser = vlan())]
        vlan: Option<u16>,
    },
    /// Remove an entry
    Del {
        /// The network
        network: String,
        /// The MAC address
        mac: MacAddr,
        /// VLAN [default: untagged]
        #[arg(long, value_parser = vlan())]
        vlan: Option<u16>,
    },
    /// Forget what was learned: entries that match all that is given
    Flush {
        /// Of this network
        #[arg(long)]
        network: Option<String>,
        /// Behind ports of this container
        #[arg(long)]
        container: Option<String>,
        /// Behind this interface of the container
        #[arg(long, requires = "container")]
        interface: Option<String>,
        /// Of this VLAN
        #[arg(long, value_parser = vlan())]
        vlan: Option<u16>,
    },
}

/// A change of networks.
#[derive(Debug, Subcommand)]
pub enum Network {
    /// Make a network
    Create(Create),
    /// Remove networks
    #[command(alias = "remove")]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// List networks
    #[command(alias = "list")]
    Ls {
        /// Names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show a network with what is in it
    Inspect {
        /// Its name
        name: String,
    },
    /// Give a container an interface in a network
    Connect(Connect),
    /// Take a container out of a network
    Disconnect {
        /// The network
        network: String,
        /// The container
        container: String,
        /// The interface [default: the only one it has in that network]
        #[arg(long)]
        interface: Option<String>,
    },
}

/// A network to be made.
#[derive(Debug, Args)]
pub struct Create {
    /// Its name
    pub name: String,
    /// IPv4 subnet
    #[arg(long, value_name = "PREFIX")]
    pub subnet: Option<IpNet>,
    /// IPv6 subnet
    #[arg(long, value_name = "PREFIX")]
    pub subnet6: Option<IpNet>,
    /// The VLAN its gateway is in
    #[arg(long, value_parser = vlan())]
    pub vlan: Option<u16>,
    /// What bridges say to each other (STP, LACP, LLDP) passes
    #[arg(long)]
    pub transparent: bool,
    /// Frames for multicast groups go to those who listen (IGMP and MLD snooping)
    #[arg(long)]
    pub snooping: bool,
    /// Its name on the underlay (VXLAN): it is on the other hosts of the file too
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_777_215))]
    pub vni: Option<u32>,
    /// MTU, bytes
    #[arg(long)]
    pub mtu: Option<u32>,
    /// Whether its containers may talk to each other
    #[arg(long, value_name = "true|false")]
    pub icc: Option<bool>,
    /// What leaves by an uplink of kind tap or nic has the uplink's address
    #[arg(long, value_name = "true|false")]
    pub nat: Option<bool>,
    /// The same of IPv6 [default: as --nat]
    #[arg(long, value_name = "true|false")]
    pub nat6: Option<bool>,
    /// No uplink, no other network
    #[arg(long)]
    pub internal: bool,
    /// Interfaces get their addresses by DHCP.
    #[arg(long)]
    pub dhcp: bool,
    /// Seconds after which a silent FDB entry is forgotten
    #[arg(long, value_name = "SECONDS")]
    pub ageing: Option<u64>,
    /// Most FDB entries
    #[arg(long, value_name = "ENTRIES")]
    pub fdb_limit: Option<u32>,
    /// What to do about others' source addresses: claimed, strict or off
    #[arg(long)]
    pub spoof: Option<Spoof>,
    /// Broadcast and unknown frames per second and port; 0: no limit
    #[arg(long, value_name = "FRAMES")]
    pub storm: Option<u64>,
}

/// An interface to be made.
#[derive(Debug, Args)]
pub struct Connect {
    /// The network
    pub network: String,
    /// The container
    pub container: String,
    /// Where its namespace is: a name in /run/netns, a path, pid:N, docker:NAME or podman:NAME
    #[arg(long)]
    pub netns: Option<String>,
    /// Make the namespace if it is not there
    #[arg(long)]
    pub create: bool,
    /// The interface's name [default: the next free ethN]
    #[arg(long)]
    pub interface: Option<String>,
    /// IPv4 address [default: the next free one]
    #[arg(long)]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address [default: the next free one]
    #[arg(long)]
    pub ip6: Option<Ipv6Addr>,
    /// MAC address [default: made from the address]
    #[arg(long)]
    pub mac: Option<MacAddr>,
    /// Another name of the container in the network; may be given several times
    #[arg(long = "alias", value_name = "NAME")]
    pub aliases: Vec<String>,
    /// The VLAN of its untagged frames [default: without --trunk it carries all VLANs, tagged]
    #[arg(long, value_parser = vlan())]
    pub vlan: Option<u16>,
    /// The VLANs that it carries tagged, with commas
    #[arg(long, value_name = "VLAN,...", value_delimiter = ',', value_parser = vlan())]
    pub trunk: Vec<u16>,
    /// Apart from other isolated interfaces of the network
    #[arg(long)]
    pub isolated: bool,
}

fn vlan() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=4094)
}

/// The text is no number of seconds to wait.
#[derive(Debug, thiserror::Error)]
#[error("seconds are 0.1 to 3600")]
struct IntervalError;

fn interval(text: &str) -> Result<Duration, IntervalError> {
    let seconds: f64 = text.parse().map_err(|_| IntervalError)?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err(IntervalError);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| IntervalError)
}

impl Cli {
    /// Reads the command line; `None` when help or the version was asked for, and is printed.
    ///
    /// # Errors
    /// [`Failure::Usage`] in one line.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, Failure> {
        match Self::try_parse_from(args) {
            Ok(cli) => Ok(Some(cli)),
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                print(&error.render().to_string())?;
                Ok(None)
            }
            Err(error) => Err(Failure::Usage(one_line(&error))),
        }
    }
}

/// clap's message without its paragraphs: the fault and the tips.
fn one_line(error: &clap::Error) -> String {
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) {
        if LATER.contains(&word.as_str()) {
            return format!("'show {word}' is not supported yet");
        }
        if LATER_COMMANDS.contains(&word.as_str()) {
            return format!("'{word}' is not supported yet");
        }
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let said = paragraphs.filter(|paragraph| {
        !(paragraph.is_empty()
            || paragraph.starts_with("Usage:")
            || paragraph.starts_with("For more information"))
    });
    let said: Vec<_> = said.collect();
    format!("{}; try --help", said.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, String> {
        let args = std::iter::once("vswitchctl").chain(line.split(' ').filter(|word| !word.is_empty()));
        match Cli::read(args.map(OsString::from)) {
            Ok(cli) => Ok(cli.unwrap()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_wrong_line_is_answered_in_one() {
        for (line, wanted) in [
            ("show connections --protocol quic", "expected one of: tcp, udp, icmp, icmp6, sctp, other"),
            ("top", "'top' is not supported yet"),
            ("publish a", "the following required arguments were not provided: <ENTRY>..."),
            ("publish a 80", "the host's l4 port stands before it: \"80:80\", or \"0:80\" for a free one"),
            ("", "'vswitchctl' requires a subcommand but one was not provided"),
            ("show", "'vswitchctl show' requires a subcommand but one was not provided"),
            ("show port", "unrecognized subcommand 'port'; tip: "),
            ("fdb add blue", "the following required arguments were not provided: <MAC> <CONTAINER>"),
            ("fdb del blue 02-42", "invalid value '02-42' for '<MAC>': a MAC address is six pairs"),
            ("fdb del blue 02:42:0a:01:00:0a --vlan 4095", "4095 is not in 1..=4094"),
            ("network create a --spoof maybe", "expected one of: claimed, strict, off"),
            ("show stats --interval 2", "--watch"),
            ("show stats --watch --interval NaN", "seconds are 0.1 to 3600"),
            ("exec a", "<CMD>..."),
            ("show fdb --jsn", "unexpected argument '--jsn' found; tip: a similar argument exists: '--json'"),
        ] {
            let said = read(line).unwrap_err();
            assert!(said.contains(wanted), "{line}: {said}");
            assert!(!said.contains('\n') && !said.contains("Usage:"), "{line}: {said}");
        }
    }

    #[test]
    fn options_after_the_command_are_the_commands() {
        for line in ["exec a -- ls --json -l", "exec a ls --json -l", "--socket /s exec a -- ls --json -l"] {
            let cli = read(line).unwrap();
            let Command::Exec { container, argv } = cli.command else { panic!("{line}") };
            assert_eq!((container.as_str(), argv.join(" ".as_ref())), ("a", "ls --json -l".into()), "{line}");
            assert!(!cli.json);
        }
        assert!(read("show fdb --json").unwrap().json);
        assert!(read("-j show fdb").unwrap().json);
    }
}
