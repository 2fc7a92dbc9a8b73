//! The keys of the contract, table by table: what each takes, and which are for later.

mod tables;

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Advice, Problem, clip, nearest};
use super::report::{At, Reporter};
use super::value::Number;
use super::vlan::Numbers;
pub(super) use tables::{
    CLUSTER, CONTAINER, DAEMON, INTERFACE, LIMITS, NETWORK, ROOT, ROUTE, STATIC, TIMEOUTS, UPLINK, VXLAN,
};

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

// Where a key that stands in the wrong table may have been meant to stand.
static TABLES: [&Schema; 11] = [
    &DAEMON, &LIMITS, &TIMEOUTS, &NETWORK, &CONTAINER, &INTERFACE, &UPLINK, &ROUTE, &VXLAN, &STATIC, &CLUSTER,
];

// The same for a word of another tool, from the innermost table; a route and a tunnel are written in words that mean
// something in each.
static BY_WORD: [&Schema; 11] = [
    &UPLINK, &INTERFACE, &CONTAINER, &NETWORK, &TIMEOUTS, &LIMITS, &DAEMON, &ROUTE, &STATIC, &VXLAN, &CLUSTER,
];

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

    // This table first: a word of another tool means what it is there to say here, not what another table has by that
    // name, nor a key that happens to be spelled like it (`vxlan` of a network is its `vni`, not its `vlan`).
    fn advice(&self, name: &str) -> Option<Advice> {
        let near = || nearest(name, self.keys.iter().map(|key| key.name)).and_then(|near| self.key(near));
        if let Some(key) = self.synonym(name).or_else(near) {
            return Some(key.advice(None));
        }
        self.within(name)
            .or_else(|| elsewhere(name, true))
            .or_else(|| by_word(name))
            .or_else(|| elsewhere(name, false))
    }

    // What is written beside an inner table is meant for it, whatever others have by that name.
    fn within(&self, name: &str) -> Option<Advice> {
        let inner = match self.title {
            title if title == CONTAINER.title => &INTERFACE,
            // But a tunnel of one VNI is what a network is here.
            title if title == VXLAN.title && name != "vni" => &STATIC,
            _ => return None,
        };
        if inner.key(name).is_some() {
            return Some(Advice::BelongsIn(inner.title));
        }
        inner.synonym(name).map(|key| key.advice(Some(inner.title)))
    }
}

fn elsewhere(name: &str, built: bool) -> Option<Advice> {
    let has = |table: &&&Schema| table.key(name).is_some_and(|key| key.is_built() == built);
    TABLES.iter().find(has).map(|table| Advice::BelongsIn(table.title))
}

fn by_word(name: &str) -> Option<Advice> {
    BY_WORD.iter().find_map(|table| table.synonym(name).map(|key| key.advice(Some(table.title))))
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
    fn a_word_of_another_tool_comes_before_a_near_spelling_and_that_before_another_table() {
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
        for word in ["vxlan", "vxlan_id", "VNID"] {
            assert_eq!(said(&NETWORK, word), "; did you mean `vni`?", "{word}");
        }
        assert_eq!(said(&NETWORK, "peers"), "; it belongs in [vxlan]");
        assert_eq!(said(&VXLAN, "vni"), "; it belongs in [[network]]");
        assert_eq!(said(&VXLAN, "mac"), "; it belongs in [[vxlan.static]]");
        assert_eq!(said(&VXLAN, "lladdr"), "; did you mean `mac` in [[vxlan.static]]?");
        assert_eq!(said(&CONTAINER, "zebra"), "");
    }
}
