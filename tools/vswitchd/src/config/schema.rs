//! The keys of the contract, table by table: what each takes, and which are for later.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Advice, Problem, clip, nearest};
use super::report::{At, Reporter};
use super::value::Number;
use super::vlan::Numbers;

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Flag,
    Texts,
    /// A text, or an array of them.
    TextOrTexts,
    Numbers,
    /// An array of texts, or the text `"all"`.
    TextsOrAll,
    TextOrNumber,
    Table,
    Tables,
    /// In the contract, not in this release: refused whatever it holds.
    NotYet,
}

/// What stands for every network in `routes_to`.
pub(super) const ALL: &str = "all";

/// One key of a table.
#[derive(Debug)]
pub(super) struct Key {
    name: &'static str,
    kind: Kind,
    /// What to write, in backquotes; for [`Kind::NotYet`] what a message calls it.
    example: &'static str,
}

/// One table of the file.
#[derive(Debug)]
pub(super) struct Schema {
    title: &'static str,
    keys: &'static [Key],
    /// What other tools call its keys: `(their word, our key)`, in lower case and without `_`.
    synonyms: &'static [(&'static str, &'static str)],
}

const fn key(name: &'static str, kind: Kind, example: &'static str) -> Key {
    Key { name, kind, example }
}

pub(super) static ROOT: Schema = Schema {
    title: "the file",
    keys: &[
        key("daemon", Kind::Table, "`[daemon]`"),
        key("network", Kind::Tables, "`[[network]]`"),
        key("container", Kind::Tables, "`[[container]]`"),
        key("route", Kind::Tables, "`[[route]]`"),
        key("uplink", Kind::Table, "`[uplink]`"),
        key("vxlan", Kind::NotYet, "`[vxlan]`"),
        key("cluster", Kind::NotYet, "`[cluster]`"),
        key("limits", Kind::Table, "`[limits]`"),
        key("timeouts", Kind::Table, "`[timeouts]`"),
    ],
    synonyms: &[
        ("bridge", "network"),
        ("switch", "network"),
        ("service", "container"),
        ("services", "container"),
        ("namespace", "container"),
        ("vswitchd", "daemon"),
        ("staticroute", "route"),
        ("staticroutes", "route"),
    ],
};

pub(super) static DAEMON: Schema = Schema {
    title: "[daemon]",
    keys: &[
        key("control", Kind::Text, "`control = \"/run/vswitch/control.sock\"`"),
        key("state", Kind::Text, "`state = \"/var/lib/vswitch\"`"),
        key("workers", Kind::TextOrNumber, "`workers = \"auto\"`"),
        key("io", Kind::Text, "`io = \"auto\"`"),
        key("metrics", Kind::NotYet, "`metrics`"),
    ],
    synonyms: &[
        ("socket", "control"),
        ("controlsocket", "control"),
        ("statedir", "state"),
        ("datadir", "state"),
        ("dataroot", "state"),
        ("threads", "workers"),
        ("cpus", "workers"),
        ("prometheus", "metrics"),
    ],
};

pub(super) static NETWORK: Schema = Schema {
    title: "[[network]]",
    keys: &[
        key("name", Kind::Text, "`name = \"blue\"`"),
        key("subnet", Kind::Text, "`subnet = \"10.1.0.0/24\"`"),
        key("subnet6", Kind::Text, "`subnet6 = \"fd00:1::/64\"`"),
        key("gateway", Kind::Text, "`gateway = \"10.1.0.1\"`"),
        key("gateway6", Kind::Text, "`gateway6 = \"fd00:1::1\"`"),
        key("gateway_mac", Kind::Text, "`gateway_mac = \"02:42:0a:01:00:01\"`"),
        key("host_address", Kind::Text, "`host_address = \"10.1.0.254\"`"),
        key("mtu", Kind::Number, "`mtu = 1500`"),
        key("nat", Kind::Flag, "`nat = true`"),
        key("nat6", Kind::Flag, "`nat6 = true`"),
        key("icc", Kind::Flag, "`icc = true`"),
        key("internal", Kind::Flag, "`internal = true`"),
        key("routes_to", Kind::TextsOrAll, "`routes_to = [\"red\"]`"),
        key("dhcp", Kind::Flag, "`dhcp = true`"),
        key("ageing", Kind::Number, "`ageing = 300`"),
        key("fdb_limit", Kind::Number, "`fdb_limit = 8192`"),
        key("spoof", Kind::Text, "`spoof = \"claimed\"`"),
        key("storm", Kind::Number, "`storm = 10000`"),
        key("vlan", Kind::Number, "`vlan = 10`"),
        key("transparent", Kind::Flag, "`transparent = true`"),
        key("snooping", Kind::Flag, "`snooping = true`"),
        key("vni", Kind::NotYet, "`vni`"),
    ],
    synonyms: &[
        ("cidr", "subnet"),
        ("prefix", "subnet"),
        ("address", "subnet"),
        ("iprange", "subnet"),
        ("ipv6subnet", "subnet6"),
        ("subnetv6", "subnet6"),
        ("cidr6", "subnet6"),
        ("cidrv6", "subnet6"),
        ("prefix6", "subnet6"),
        ("fixedcidrv6", "subnet6"),
        ("gw", "gateway"),
        ("router", "gateway"),
        ("gw6", "gateway6"),
        ("gatewayv6", "gateway6"),
        ("ipv6gateway", "gateway6"),
        ("router6", "gateway6"),
        ("defaultgateway", "gateway"),
        ("routermac", "gateway_mac"),
        ("gwmac", "gateway_mac"),
        ("routes", "routes_to"),
        ("reaches", "routes_to"),
        ("masquerade", "nat"),
        ("masquerade6", "nat6"),
        ("nat66", "nat6"),
        ("ageingtime", "ageing"),
        ("agingtime", "ageing"),
        ("vlanid", "vlan"),
        ("vid", "vlan"),
        ("tag", "vlan"),
        ("forwardbpdu", "transparent"),
        ("mcastsnooping", "snooping"),
        ("mcastsnoopingenable", "snooping"),
        ("multicastsnooping", "snooping"),
        ("igmpsnooping", "snooping"),
        ("mldsnooping", "snooping"),
    ],
};

pub(super) static CONTAINER: Schema = Schema {
    title: "[[container]]",
    keys: &[
        key("name", Kind::Text, "`name = \"web\"`"),
        key("netns", Kind::Text, "`netns = \"pid:4242\"`"),
        key("create", Kind::Flag, "`create = true`"),
        key("command", Kind::Texts, "`command = [\"python3\", \"-m\", \"http.server\", \"80\"]`"),
        key("interface", Kind::Tables, "`[[container.interface]]`"),
        key("egress", Kind::Texts, "`egress = [\"allow 10.0.0.0/8 tcp/443\", \"deny all\"]`"),
    ],
    synonyms: &[
        ("cmd", "command"),
        ("entrypoint", "command"),
        ("exec", "command"),
        ("run", "command"),
        ("containername", "name"),
        ("namespace", "netns"),
        ("networkmode", "netns"),
        ("pid", "netns"),
        ("networks", "interface"),
        ("nic", "interface"),
    ],
};

pub(super) static INTERFACE: Schema = Schema {
    title: "[[container.interface]]",
    keys: &[
        key("network", Kind::Text, "`network = \"blue\"`"),
        key("name", Kind::Text, "`name = \"eth0\"`"),
        key("ip", Kind::Text, "`ip = \"10.1.0.10\"`"),
        key("ip6", Kind::Text, "`ip6 = \"fd00:1::10\"`"),
        key("mac", Kind::Text, "`mac = \"02:42:0a:01:00:0a\"`"),
        key("aliases", Kind::Texts, "`aliases = [\"www\"]`"),
        key("publish", Kind::Texts, "`publish = [\"8080:80\"]`"),
        key("vlan", Kind::Number, "`vlan = 10`"),
        key("trunk", Kind::Numbers, "`trunk = [10, 20]`"),
        key("isolated", Kind::Flag, "`isolated = true`"),
    ],
    synonyms: &[
        ("address", "ip"),
        ("addr", "ip"),
        ("ipaddress", "ip"),
        ("ipv4", "ip"),
        ("ipv4address", "ip"),
        ("ipv6", "ip6"),
        ("ipv6address", "ip6"),
        ("address6", "ip6"),
        ("addr6", "ip6"),
        ("inet6", "ip6"),
        ("hwaddr", "mac"),
        ("hwaddress", "mac"),
        ("macaddr", "mac"),
        ("macaddress", "mac"),
        ("lladdr", "mac"),
        ("ether", "mac"),
        ("bridge", "network"),
        ("net", "network"),
        ("switch", "network"),
        ("ifname", "name"),
        ("interfacename", "name"),
        ("device", "name"),
        ("vlanid", "vlan"),
        ("vid", "vlan"),
        ("tag", "vlan"),
        ("access", "vlan"),
        ("native", "vlan"),
        ("nativevlan", "vlan"),
        ("pvid", "vlan"),
        ("trunks", "trunk"),
        ("tagged", "trunk"),
        ("protected", "isolated"),
        ("ports", "publish"),
        ("alias", "aliases"),
        ("networkaliases", "aliases"),
        ("port", "publish"),
    ],
};

pub(super) static UPLINK: Schema = Schema {
    title: "[uplink]",
    keys: &[
        key("kind", Kind::Text, "`kind = \"sockets\"`"),
        key("host_loopback", Kind::Flag, "`host_loopback = true`"),
        key("netns", Kind::Text, "`netns = \"out\"`"),
        key("name", Kind::Text, "`name = \"vsw0\"`"),
        key("address", Kind::TextOrTexts, "`address = \"198.18.0.10/24\"`"),
        key("address6", Kind::TextOrTexts, "`address6 = \"fd00:9::10/64\"`"),
        key("host", Kind::Text, "`host = \"198.18.0.1/24\"`"),
        key("host6", Kind::Text, "`host6 = \"fd00:9::1/64\"`"),
        key("gateway", Kind::Text, "`gateway = \"198.18.0.1\"`"),
        key("gateway6", Kind::Text, "`gateway6 = \"fd00:9::1\"`"),
        key("device", Kind::Text, "`device = \"eth1\"`"),
        key("vlan", Kind::Number, "`vlan = 30`"),
        key("mac", Kind::Text, "`mac = \"02:42:c6:12:00:0a\"`"),
        key("mtu", Kind::Number, "`mtu = 1500`"),
        key("filtering", Kind::Text, "`filtering = \"address\"`"),
        key("parity", Kind::Flag, "`parity = true`"),
    ],
    synonyms: &[
        ("type", "kind"),
        ("mode", "kind"),
        ("interface", "device"),
        ("nic", "device"),
        ("ip", "address"),
        ("ip6", "address6"),
        ("gw", "gateway"),
        ("gw6", "gateway6"),
        ("router", "gateway"),
        ("namespace", "netns"),
        ("ifname", "name"),
        ("vlanid", "vlan"),
        ("hwaddr", "mac"),
    ],
};

pub(super) static LIMITS: Schema = Schema {
    title: "[limits]",
    keys: &[
        key("connections", Kind::Number, "`connections = 262144`"),
        key("connections_per_container", Kind::Number, "`connections_per_container = 20000`"),
        key("mappings", Kind::Number, "`mappings = 60000`"),
        key("mappings_per_container", Kind::Number, "`mappings_per_container = 32768`"),
        key("fragments", Kind::Number, "`fragments = 1024`"),
        key("icmp_errors", Kind::Number, "`icmp_errors = 1000`"),
        key("icmp_errors_per_container", Kind::Number, "`icmp_errors_per_container = 100`"),
    ],
    synonyms: &[("conntrackmax", "connections"), ("flows", "connections")],
};

pub(super) static TIMEOUTS: Schema = Schema {
    title: "[timeouts]",
    keys: &[
        key("udp", Kind::Number, "`udp = 300`"),
        key("tcp_established", Kind::Number, "`tcp_established = 7440`"),
        key("tcp_transitory", Kind::Number, "`tcp_transitory = 240`"),
        key("icmp", Kind::Number, "`icmp = 60`"),
        key("others", Kind::Number, "`others = 300`"),
    ],
    synonyms: &[("tcp", "tcp_established"), ("generic", "others"), ("icmpv6", "icmp")],
};

pub(super) static ROUTE: Schema = Schema {
    title: "[[route]]",
    keys: &[
        key("network", Kind::Text, "`network = \"blue\"`"),
        key("destination", Kind::Text, "`destination = \"10.8.0.0/16\"`"),
        key("via", Kind::TextOrTexts, "`via = \"10.1.0.20\"`"),
        key("mtu", Kind::Number, "`mtu = 1400`"),
    ],
    synonyms: &[
        ("dst", "destination"),
        ("dest", "destination"),
        ("to", "destination"),
        ("target", "destination"),
        ("prefix", "destination"),
        ("cidr", "destination"),
        ("subnet", "destination"),
        ("gateway", "via"),
        ("gw", "via"),
        ("nexthop", "via"),
        ("router", "via"),
        ("bridge", "network"),
        ("net", "network"),
    ],
};

// Where a key that stands in the wrong table may have been meant to stand.
static TABLES: [&Schema; 8] =
    [&DAEMON, &LIMITS, &TIMEOUTS, &NETWORK, &CONTAINER, &INTERFACE, &UPLINK, &ROUTE];

impl Schema {
    fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The key that other tools call by this word.
    fn synonym(&self, word: &str) -> Option<&'static Key> {
        let plain = word.to_ascii_lowercase().replace(['-', '_'], "");
        let found = self.synonyms.iter().find(|(theirs, _)| *theirs == plain);
        found.and_then(|(_, ours)| self.key(ours))
    }

    fn unknown(&self, name: &str) -> Problem {
        let built = self.keys.iter().filter(|key| key.is_built());
        let known = built.map(|key| key.name).collect();
        Problem::UnknownKey { section: self.title, key: clip(name), advice: self.advice(name), known }
    }

    // This table first: a word of another tool means what it is there to say here, not what another table has by that name.
    fn advice(&self, name: &str) -> Option<Advice> {
        let near = nearest(name, self.keys.iter().map(|key| key.name)).and_then(|near| self.key(near));
        if let Some(key) = near.or_else(|| self.synonym(name)) {
            return Some(key.advice(None));
        }
        // What is written beside an interface is meant for it, whatever other tables have by that name.
        let inner = INTERFACE.synonym(name).filter(|_| self.title == CONTAINER.title);
        if let Some(key) = inner {
            return Some(key.advice(Some(INTERFACE.title)));
        }
        let elsewhere = |built: bool| {
            let has = |table: &&&Schema| table.key(name).is_some_and(|key| key.is_built() == built);
            TABLES.iter().find(has).map(|table| Advice::BelongsIn(table.title))
        };
        // The other way round, from the innermost table; a route is written in words that mean something in each.
        let other_word = || {
            let inner = TABLES.iter().copied().rev().skip(1);
            let mut tables = inner.chain([&ROUTE]);
            tables.find_map(|table| table.synonym(name).map(|key| key.advice(Some(table.title))))
        };
        elsewhere(true).or_else(other_word).or_else(|| elsewhere(false))
    }
}

/// A table of the file whose keys are known and hold what they should; others have been reported.
#[derive(Debug)]
pub(super) struct Section<'t> {
    schema: &'static Schema,
    table: &'t DeTable<'t>,
    /// Its header.
    pub span: Range<usize>,
}

impl<'t> Section<'t> {
    /// Checks every key of the table.
    pub fn open(
        schema: &'static Schema,
        table: &'t DeTable<'t>,
        span: Range<usize>,
        reporter: &mut Reporter<'_>,
    ) -> Self {
        for (name, value) in table {
            match schema.key(name.get_ref()) {
                None => reporter.add(&name.span(), || schema.unknown(name.get_ref())),
                Some(key) if key.kind == Kind::NotYet => {
                    reporter.add(&name.span(), || Problem::not_supported(key.example, "; remove it"));
                }
                Some(key) => key.check(value, reporter),
            }
        }
        Self { schema, table, span }
    }

    fn get(&self, name: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
    }

    /// Whether the key is there, be it right or wrong.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Reports a key that must be there and is not.
    pub fn require(&self, name: &'static str, reporter: &mut Reporter<'_>) {
        if !self.has(name) {
            let example = self.schema.key(name).map_or("it", |key| key.example);
            let missing = Problem::Missing { section: self.schema.title, key: name, example };
            reporter.add(&self.span, || missing);
        }
    }

    pub fn text(&self, name: &str) -> Option<At<&'t str>> {
        let value = self.get(name)?;
        Some(At { value: value.get_ref().as_str()?, span: value.span() })
    }

    pub fn number(&self, name: &str) -> Option<At<Number>> {
        let value = self.get(name)?;
        Some(At { value: number_of(value.get_ref())?, span: value.span() })
    }

    pub fn flag(&self, name: &str) -> Option<At<bool>> {
        let value = self.get(name)?;
        Some(At { value: value.get_ref().as_bool()?, span: value.span() })
    }

    pub fn texts(&self, name: &str) -> Option<At<Vec<String>>> {
        let value = self.get(name)?;
        let texts = value.get_ref().as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
        Some(At { value: texts.collect::<Option<_>>()?, span: value.span() })
    }

    /// The numbers of an array with their places.
    pub fn numbers(&self, name: &str) -> Option<Numbers> {
        let value = self.get(name)?;
        let items = value.get_ref().as_array()?.iter();
        let numbers = items.map(|item| Some(At { value: number_of(item.get_ref())?, span: item.span() }));
        Some((numbers.collect::<Option<_>>()?, value.span()))
    }

    /// Where the value of a key is.
    pub fn place(&self, name: &str) -> Option<Range<usize>> {
        self.get(name).map(Spanned::span)
    }

    /// One text, or the texts of an array, with their places.
    pub fn some_texts(&self, name: &str) -> Vec<At<&'t str>> {
        self.text(name).map_or_else(|| self.texts_at(name), |one| vec![one])
    }

    /// The texts of an array with their places.
    pub fn texts_at(&self, name: &str) -> Vec<At<&'t str>> {
        let items = self.get(name).and_then(|value| value.get_ref().as_array());
        let items = items.map(|items| items.iter()).into_iter().flatten();
        items.filter_map(|item| Some(At { value: item.get_ref().as_str()?, span: item.span() })).collect()
    }

    /// Where an empty array is.
    pub fn place_of_array(&self, name: &str) -> Option<Range<usize>> {
        self.get(name).filter(|value| value.get_ref().is_array()).map(Spanned::span)
    }

    /// The texts of an array with their places, or `None` within for the text `"all"`.
    pub fn texts_or_all(&self, name: &str) -> Option<At<Option<Vec<At<String>>>>> {
        let value = self.get(name)?;
        let span = value.span();
        let Some(items) = value.get_ref().as_array() else {
            return value.get_ref().as_str().filter(|text| *text == ALL).map(|_| At { value: None, span });
        };
        let texts = items
            .iter()
            .map(|item| Some(At { value: item.get_ref().as_str()?.to_owned(), span: item.span() }));
        Some(At { value: Some(texts.collect::<Option<_>>()?), span })
    }

    /// The tables under a key: one for `[key]`, any number for `[[key]]`.
    pub fn sections(
        &self,
        name: &str,
        schema: &'static Schema,
        reporter: &mut Reporter<'_>,
    ) -> Vec<Section<'t>> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let items = match value.get_ref() {
            DeValue::Table(_) => std::slice::from_ref(value),
            DeValue::Array(items) => items,
            _ => &[],
        };
        let tables = items.iter().filter_map(|item| Some((item.get_ref().as_table()?, item.span())));
        tables.map(|(table, span)| Section::open(schema, table, span, reporter)).collect()
    }
}

impl Key {
    fn is_built(&self) -> bool {
        self.kind != Kind::NotYet
    }

    fn advice(&self, section: Option<&'static str>) -> Advice {
        Advice::Key { name: self.name, section, built: self.is_built() }
    }

    fn check(&self, value: &Spanned<DeValue<'_>>, reporter: &mut Reporter<'_>) {
        let (expected, wrong) = match (self.kind, value.get_ref()) {
            (Kind::Text, found) => ("text", (!found.is_str()).then_some(value)),
            (Kind::Number, found) => ("a whole number", (!found.is_integer()).then_some(value)),
            (Kind::Flag, found) => ("true or false", (!found.is_bool()).then_some(value)),
            (Kind::TextOrNumber, found) => {
                ("text or a number", (!found.is_str() && !found.is_integer()).then_some(value))
            }
            (Kind::Table, found) => ("a table", (!found.is_table()).then_some(value)),
            (Kind::TextsOrAll, DeValue::String(text)) if *text == ALL => return,
            (Kind::TextsOrAll, DeValue::Array(items)) => {
                ("an array of texts or \"all\"", items.iter().find(|item| !item.get_ref().is_str()))
            }
            (Kind::TextsOrAll, _) => ("an array of texts or \"all\"", Some(value)),
            (Kind::TextOrTexts, DeValue::String(_)) => return,
            (Kind::TextOrTexts, DeValue::Array(items)) => {
                ("text or an array of texts", items.iter().find(|item| !item.get_ref().is_str()))
            }
            (Kind::TextOrTexts, _) => ("text or an array of texts", Some(value)),
            (Kind::Texts, DeValue::Array(items)) => {
                ("an array of texts", items.iter().find(|item| !item.get_ref().is_str()))
            }
            (Kind::Numbers, DeValue::Array(items)) => {
                ("an array of numbers", items.iter().find(|item| !item.get_ref().is_integer()))
            }
            (Kind::Numbers, _) => ("an array of numbers", Some(value)),
            (Kind::Tables, DeValue::Array(items)) => {
                ("an array of tables", items.iter().find(|item| !item.get_ref().is_table()))
            }
            (Kind::Texts, _) => ("an array of texts", Some(value)),
            (Kind::Tables, _) => ("an array of tables", Some(value)),
            (Kind::NotYet, _) => return,
        };
        if let Some(wrong) = wrong {
            let found = described(wrong.get_ref());
            let example = self.example_for(wrong.get_ref());
            let inside = wrong.span() != value.span();
            let problem = Problem::WrongType { key: self.name, inside, found, expected, example };
            reporter.add(&wrong.span(), || problem);
        }
    }

    // Whoever writes a command as one text is shown that command as an array.
    fn example_for(&self, found: &DeValue<'_>) -> Cow<'static, str> {
        let words = match (self.kind, found) {
            (Kind::Texts | Kind::TextsOrAll, DeValue::String(text)) => text,
            _ => return self.example.into(),
        };
        if self.kind == Kind::TextsOrAll && !name_like(words) {
            return self.example.into();
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || " _-./:=,@+".contains(c);
        if words.trim().is_empty() || words.len() > 60 || !words.chars().all(plain) {
            return format!("`{} = [\"sh\", \"-c\", \"...\"]`", self.name).into();
        }
        if self.name == "egress" {
            // Its blanks are within a rule.
            return format!("`egress = [\"{words}\"]`").into();
        }
        let split = |c: char| c.is_whitespace() || (self.kind == Kind::TextsOrAll && c == ',');
        let words = words.split(split).filter(|word| !word.is_empty());
        let words: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
        format!("`{} = [{}]`", self.name, words.join(", ")).into()
    }
}

fn number_of(value: &DeValue<'_>) -> Option<Number> {
    let integer = value.as_integer()?;
    Some(Number {
        text: clip(&integer.to_string()),
        value: i64::from_str_radix(integer.as_str(), integer.radix()).ok(),
    })
}

// Plain enough to be shown as what a network may be called.
fn name_like(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.- ,".contains(c);
    !text.trim().is_empty() && text.len() <= 60 && text.chars().all(plain)
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(float) if float.as_str().contains("nan") => "not a number",
        DeValue::Float(float) if float.as_str().contains("inf") => "infinite",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synonyms_lead_to_keys_of_their_table() {
        for table in TABLES.iter().chain([&&ROOT]) {
            for (theirs, ours) in table.synonyms {
                let at = format!("`{theirs}` in {}", table.title);
                assert!(
                    theirs.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
                    "{at}"
                );
                assert!(table.key(theirs).is_none(), "{at} is a key");
                assert!(
                    matches!(table.advice(theirs), Some(Advice::Key { name, section: None, .. }) if name == *ours),
                    "{at}"
                );
            }
        }
    }

    #[test]
    fn a_near_spelling_comes_before_a_synonym_and_that_before_another_table() {
        let said =
            |table: &Schema, word| table.advice(word).map(|advice| advice.to_string()).unwrap_or_default();
        assert_eq!(said(&INTERFACE, "netwrk"), "; did you mean `network`?");
        for word in ["address", "Address", "addr", "ipv4", "ipv4_address", "IPv4-Address", "ipAddress"] {
            assert_eq!(said(&INTERFACE, word), "; did you mean `ip`?", "{word}");
        }
        assert_eq!(said(&INTERFACE, "ports"), "; did you mean `publish`?");
        assert_eq!(said(&INTERFACE, "mtu"), "; it belongs in [[network]]");
        assert_eq!(said(&CONTAINER, "address"), "; did you mean `ip` in [[container.interface]]?");
        assert_eq!(said(&CONTAINER, "mac"), "; it belongs in [[container.interface]]");
        assert_eq!(said(&NETWORK, "host_loopback"), "; it belongs in [uplink]");
        assert_eq!(said(&CONTAINER, "zebra"), "");
    }
}
