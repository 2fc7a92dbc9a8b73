//! The words of the rows: the same in JSON, in tables and on the command line.

use serde::{Deserialize, Serialize};

/// A closed set of lower-case words: the same in JSON, in tables and on the command line.
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $vdoc:literal])+ $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[doc = $vdoc])+ #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every word, in the order of declaration.
            pub const WORDS: &'static [&'static str] = &[$($word,)+];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $word,)+ })
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord(Self::WORDS)),
                }
            }
        }
    };
}

/// The text is none of the words that are possible here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of: {}", .0.join(", "))]
pub struct UnknownWord(pub &'static [&'static str]);

words! {
    /// How an FDB entry came to be.
    FdbType {
        /// Learned from a source address; ages.
        Dynamic = "dynamic",
        /// Set by configuration or `fdb add`; stays.
        Static = "static",
    }
}

words! {
    /// What is behind a port, as far as groups are concerned.
    GroupType {
        /// Somebody who listens.
        Member = "member",
        /// A multicast router, which gets every group.
        Router = "router",
        /// Who asks.
        Querier = "querier",
    }
}

words! {
    /// What a route is.
    RouteType {
        /// A subnet that is right there.
        Connected = "connected",
        /// From the configuration.
        Static = "static",
        /// A gateway's own address.
        Local = "local",
        /// To a network that may only be answered (`routes_to` the other way round).
        Answer = "answer",
        /// To a network that is not reached from here, and not looked for outside either.
        Unreachable = "unreachable",
    }
}

words! {
    /// State of a neighbour (RFC 4861 section 7.3.2).
    NeighborState {
        /// Confirmed a short while ago.
        Reachable = "reachable",
        /// In use, and asked about.
        Stale = "stale",
        /// Not confirmed for so long that it is not used.
        Failed = "failed",
    }
}

words! {
    /// State of a port, or of a container's namespace.
    PortState {
        /// Attached, and its link is up.
        Up = "up",
        /// Attached, and its link was set down in the container.
        Down = "down",
        /// The namespace is not there yet; attached when it appears.
        Waiting = "waiting",
        /// The host said no; the reason stands beside it.
        Failed = "failed",
    }
}

words! {
    /// Who made an object: `reload` touches those of the file only.
    Origin {
        /// The configuration file.
        File = "file",
        /// The control socket.
        Api = "api",
    }
}

words! {
    /// What a network does about source addresses that belong to others.
    Spoof {
        /// Nobody uses a MAC or address owned by another port or a gateway.
        Claimed = "claimed",
        /// Only one's own MAC and addresses.
        Strict = "strict",
        /// Anything.
        Off = "off",
    }
}

words! {
    /// What becomes of frames larger than the MTU on a port.
    Gso {
        /// TCP and UDP super-frames pass in both directions.
        Full = "full",
        /// TCP super-frames pass in both directions; the kernel has no UDP segmentation offload.
        Tso = "tso",
        /// The kernel refuses to take them: they are segmented here.
        Software = "software",
        /// None arrive.
        Off = "off",
    }
}

words! {
    /// State of a container's `command`.
    CommandState {
        /// A process of it runs.
        Running = "running",
        /// It ended; the next start is due after a pause.
        Restarting = "restarting",
        /// It does not run: its namespace is not there, or it was ended.
        Stopped = "stopped",
    }
}

words! {
    /// The engine that reads and writes the devices.
    IoEngine {
        /// `epoll`, `read`, `writev`.
        Epoll = "epoll",
        /// `io_uring`.
        Uring = "uring",
    }
}
