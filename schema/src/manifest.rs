//! `rootward.toml`: what it says, with the place of every word.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::chain_source::{self, ChainSource};
use crate::codes;
use crate::finding::{Finding, Located, Place, Span};
use crate::names;
use crate::nearest::did_you_mean;
use crate::source::MANIFEST_FILE;
use crate::stage::{self, StageSource};
use crate::table_source::{self, TableSource};

/// Many more than peers, so that peers can be added; few enough that a map of them is small.
const DEFAULT_PARTITIONS: u32 = 1024;
const MAX_PARTITIONS: i64 = 65_536;

/// The settings of a schema.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The schema's name.
    pub name: String,
    /// The schema's version.
    pub version: u32,
    /// How many partitions there are.
    pub partitions: u32,
    /// The regions that keys may be placed by, in order.
    pub regions: Vec<Located<String>>,
    /// `[root.X]` in order.
    pub roots: Vec<RootSource>,
    /// The reference tables in order.
    pub reference: Vec<Located<String>>,
    /// `[chain.X]` in order.
    pub chains: Vec<ChainSource>,
    /// `[invariant.X]` in order.
    pub invariants: Vec<InvariantSource>,
    /// `[table.X]` in order.
    pub tables: Vec<TableSource>,
    /// `[stage.X]` in order.
    pub stages: Vec<StageSource>,
}

impl Default for Manifest {
    fn default() -> Manifest {
        Manifest {
            name: String::new(),
            version: 1,
            partitions: DEFAULT_PARTITIONS,
            regions: Vec::new(),
            roots: Vec::new(),
            reference: Vec::new(),
            chains: Vec::new(),
            invariants: Vec::new(),
            tables: Vec::new(),
            stages: Vec::new(),
        }
    }
}

/// `[root.X]`
#[derive(Debug, Clone)]
pub struct RootSource {
    /// The root entity's name.
    pub name: Located<String>,
    /// The root table.
    pub table: Located<String>,
    /// Whether what takes effect at its roots is written into a journal.
    pub has_journal: bool,
    /// `place_by`
    pub place_by: Option<Located<String>>,
}

/// `[invariant.X]`
#[derive(Debug, Clone)]
pub struct InvariantSource {
    /// The invariant's name.
    pub name: Located<String>,
    /// `sum`
    pub sum: Option<Located<String>>,
    /// `equals`
    pub equals: Option<Located<String>>,
    /// `none`
    pub none: Option<Located<String>>,
}

impl InvariantSource {
    /// The queries that are given, with their settings' names.
    pub fn queries(&self) -> impl Iterator<Item = (&'static str, &Located<String>)> {
        [("sum", &self.sum), ("equals", &self.equals), ("none", &self.none)]
            .into_iter()
            .filter_map(|(key, query)| Some((key, query.as_ref()?)))
    }
}

/// One `key = value`.
pub(crate) struct Entry<'a> {
    pub key: Located<String>,
    pub value: &'a Spanned<DeValue<'a>>,
}

impl Entry<'_> {
    pub fn place(&self) -> Place {
        place_of(self.value.span())
    }
}

/// Reads `rootward.toml`; what is wrong becomes findings.
pub(crate) fn parse(text: &str, findings: &mut Vec<Finding>) -> Manifest {
    let mut manifest = Manifest::default();
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        findings.extend(errors.iter().map(|error| {
            let place = place_of(error.span().unwrap_or(0..0));
            Finding::error(codes::TOML, &place, format!("`{MANIFEST_FILE}` is no TOML: {}", error.message().trim()))
                .help("see https://toml.io; strings need quotes, inline tables stand on one line")
        }));
        return manifest;
    }
    let mut has_name = false;
    for entry in entries(document.get_ref()) {
        match entry.key.value.as_str() {
            "name" => {
                has_name = true;
                if let Some(name) = string(&entry, findings) {
                    names::check("schema", &name.value, &name.place, findings);
                    manifest.name = name.value;
                }
            }
            "version" => {
                if let Some(version) = integer(&entry, 1..=i64::from(u32::MAX), findings) {
                    manifest.version = u32::try_from(version).unwrap_or(1);
                }
            }
            "partitions" => partitions(&entry, &mut manifest, findings),
            "regions" => manifest.regions = strings(&entry, findings),
            "root" => {
                manifest.roots =
                    named_tables(&entry, "root entity", findings).iter().filter_map(|root| root_source(root, findings)).collect()
            }
            "reference" => manifest.reference = reference(&entry, findings),
            "chain" => {
                let chains = named_tables(&entry, "chain", findings);
                manifest.chains = chains.iter().filter_map(|chain| chain_source::parse(chain, findings)).collect();
            }
            "invariant" => {
                let invariants = named_tables(&entry, "invariant", findings);
                manifest.invariants = invariants.iter().filter_map(|invariant| invariant_source(invariant, findings)).collect();
            }
            "table" => {
                let tables = named_tables(&entry, "table", findings);
                manifest.tables = tables.iter().map(|table| table_source::parse(table, findings)).collect();
            }
            "stage" => {
                let stages = named_tables(&entry, "stage", findings);
                manifest.stages = stages.iter().filter_map(|entry| stage::parse(entry, findings)).collect();
            }
            _ => {
                let known = ["name", "version", "partitions", "regions", "root", "reference", "chain", "invariant", "table", "stage"];
                unknown(&entry.key, &known, "", findings);
            }
        }
    }
    if !has_name {
        findings.push(
            Finding::error(codes::SETTING, &place_of(0..0), "setting `name` is missing").help("give the schema a name: `name = \"bank\"`"),
        );
    }
    if manifest.roots.is_empty() && !findings.iter().any(|finding| finding.file == MANIFEST_FILE) {
        let finding = Finding::error(codes::SETTING, &place_of(0..0), "no root entity is declared");
        findings.push(finding.help("declare one: `[root.account]` with `table = \"account\"`"));
    }
    manifest
}

fn partitions(entry: &Entry<'_>, manifest: &mut Manifest, findings: &mut Vec<Finding>) {
    let Some(count) = integer(entry, i64::MIN..=i64::MAX, findings) else { return };
    match u32::try_from(count) {
        Ok(partitions) if partitions.is_power_of_two() && count <= MAX_PARTITIONS => manifest.partitions = partitions,
        _ => {
            let help = if (2..MAX_PARTITIONS).contains(&count) {
                let above = u64::try_from(count).unwrap_or(1).next_power_of_two();
                format!("the nearest ones are {} and {above}; it cannot be changed later", above / 2)
            } else {
                format!("{DEFAULT_PARTITIONS} is a good number; it cannot be changed later")
            };
            findings.push(
                Finding::error(
                    codes::PARTITIONS,
                    &entry.place(),
                    format!("`partitions = {count}` is no power of two from 1 to {MAX_PARTITIONS}"),
                )
                .help(help),
            );
        }
    }
}

fn root_source(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<RootSource> {
    let (mut table, mut has_journal, mut place_by) = (None, false, None);
    for setting in sub_entries(entry, findings) {
        match setting.key.value.as_str() {
            "table" => table = string(&setting, findings),
            "journal" => has_journal = boolean(&setting, findings).unwrap_or(false),
            "place_by" => place_by = string(&setting, findings),
            _ => unknown(&setting.key, &["table", "journal", "place_by"], &format!("root.{}", entry.key.value), findings),
        }
    }
    if table.is_none() {
        missing(entry, "table", "name the root table: `table = \"account\"`", findings);
    }
    Some(RootSource { name: entry.key.clone(), table: table?, has_journal, place_by })
}

fn reference(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Vec<Located<String>> {
    let mut tables: Vec<Located<String>> = Vec::new();
    for setting in sub_entries(entry, findings) {
        match setting.key.value.as_str() {
            "tables" => {
                for table in strings(&setting, findings) {
                    if tables.iter().any(|known| known.value == table.value) {
                        let message = format!("reference table `{}` is listed twice", table.value);
                        findings.push(Finding::error(codes::DUPLICATE, &table.place, message).help("remove one"));
                    } else {
                        tables.push(table);
                    }
                }
            }
            _ => unknown(&setting.key, &["tables"], "reference", findings),
        }
    }
    tables
}

fn invariant_source(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<InvariantSource> {
    let mut invariant = InvariantSource { name: entry.key.clone(), sum: None, equals: None, none: None };
    for setting in sub_entries(entry, findings) {
        match setting.key.value.as_str() {
            "sum" => invariant.sum = string(&setting, findings),
            "equals" => invariant.equals = string(&setting, findings),
            "none" => invariant.none = string(&setting, findings),
            _ => unknown(&setting.key, &["sum", "equals", "none"], &format!("invariant.{}", entry.key.value), findings),
        }
    }
    let is_whole = matches!((&invariant.sum, &invariant.equals, &invariant.none), (Some(_), _, None) | (None, None, Some(_)));
    if !is_whole {
        findings.push(
            Finding::error(codes::INVARIANT, &entry.key.place, format!("invariant `{}` says no one thing", entry.key.value))
                .help("give either `sum`, perhaps with `equals`, or `none`"),
        );
    }
    is_whole.then_some(invariant)
}

/// The place of a TOML span.
pub(crate) fn place_of(range: std::ops::Range<usize>) -> Place {
    Place { file: MANIFEST_FILE.to_owned(), span: Span::between(range.start, range.end) }
}

/// The entries of a table in the order in which they were written.
pub(crate) fn entries<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let mut found: Vec<Entry<'a>> = table
        .iter()
        .map(|(key, value)| Entry { key: Located { value: key.get_ref().to_string(), place: place_of(key.span()) }, value })
        .collect();
    found.sort_by_key(|entry| entry.key.place.span.offset);
    found
}

/// The entries of a setting that must be a table; a finding and nothing if it isn't.
pub(crate) fn sub_entries<'a>(entry: &Entry<'a>, findings: &mut Vec<Finding>) -> Vec<Entry<'a>> {
    match entry.value.get_ref() {
        DeValue::Table(table) => entries(table),
        other => {
            wrong_type(&entry.key.value, &entry.place(), "a table", other, findings);
            Vec::new()
        }
    }
}

/// The tables of `[kind.NAME]`, names checked.
fn named_tables<'a>(entry: &Entry<'a>, what: &str, findings: &mut Vec<Finding>) -> Vec<Entry<'a>> {
    let tables = sub_entries(entry, findings);
    for table in &tables {
        names::check(what, &table.key.value, &table.key.place, findings);
    }
    tables
}

/// The text of a setting.
pub(crate) fn string(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<Located<String>> {
    match entry.value.get_ref() {
        DeValue::String(text) => Some(Located { value: text.to_string(), place: entry.place() }),
        other => {
            wrong_type(&entry.key.value, &entry.place(), "a string", other, findings);
            None
        }
    }
}

/// The texts of a list.
pub(crate) fn strings(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Vec<Located<String>> {
    let DeValue::Array(array) = entry.value.get_ref() else {
        wrong_type(&entry.key.value, &entry.place(), "a list of strings", entry.value.get_ref(), findings);
        return Vec::new();
    };
    let mut found = Vec::new();
    for value in array.iter() {
        match value.get_ref() {
            DeValue::String(text) => found.push(Located { value: text.to_string(), place: place_of(value.span()) }),
            other => wrong_type(&entry.key.value, &place_of(value.span()), "a list of strings", other, findings),
        }
    }
    found
}

/// The truth value of a setting.
pub(crate) fn boolean(entry: &Entry<'_>, findings: &mut Vec<Finding>) -> Option<bool> {
    let value = entry.value.get_ref().as_bool();
    if value.is_none() {
        wrong_type(&entry.key.value, &entry.place(), "true or false", entry.value.get_ref(), findings);
    }
    value
}

/// A whole number within `range`.
pub(crate) fn integer(entry: &Entry<'_>, range: std::ops::RangeInclusive<i64>, findings: &mut Vec<Finding>) -> Option<i64> {
    let Some(integer) = entry.value.get_ref().as_integer() else {
        wrong_type(&entry.key.value, &entry.place(), "a whole number", entry.value.get_ref(), findings);
        return None;
    };
    let value = i64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|value| range.contains(value));
    if value.is_none() {
        let message = format!("`{} = {integer}` is out of range", entry.key.value);
        findings.push(Finding::error(codes::SETTING, &entry.place(), message).help(format!(
            "it must be {} to {}",
            range.start(),
            range.end()
        )));
    }
    value
}

/// A number within `range`, with or without a fraction.
pub(crate) fn number(entry: &Entry<'_>, range: std::ops::RangeInclusive<f64>, findings: &mut Vec<Finding>) -> Option<f64> {
    let written = match entry.value.get_ref() {
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
        DeValue::Float(float) => float.as_str(),
        other => {
            wrong_type(&entry.key.value, &entry.place(), "a number", other, findings);
            return None;
        }
    };
    let value = written.parse::<f64>().ok().filter(|value| range.contains(value));
    if value.is_none() {
        let message = format!("`{} = {written}` is out of range", entry.key.value);
        let help = format!("it must be {} to {}", range.start(), range.end());
        findings.push(Finding::error(codes::SETTING, &entry.place(), message).help(help));
    }
    value
}

pub(crate) fn wrong_type(key: &str, place: &Place, wanted: &str, found: &DeValue<'_>, findings: &mut Vec<Finding>) {
    let message = format!("setting `{key}` must be {wanted}");
    findings.push(Finding::error(codes::SETTING, place, message).label(format!("this is of type {}", found.type_str())));
}

pub(crate) fn missing(entry: &Entry<'_>, key: &str, help: &str, findings: &mut Vec<Finding>) {
    let message = format!("setting `{key}` of `{}` is missing", entry.key.value);
    findings.push(Finding::error(codes::SETTING, &entry.key.place, message).help(help));
}

/// The finding for a setting that nobody knows.
pub(crate) fn unknown(key: &Located<String>, known: &[&str], section: &str, findings: &mut Vec<Finding>) {
    let message = if section.is_empty() {
        format!("setting `{}` is unknown", key.value)
    } else {
        format!("setting `{}` of `{section}` is unknown", key.value)
    };
    let help = did_you_mean(&key.value, known.iter().copied(), "remove it");
    findings.push(Finding::error(codes::UNKNOWN_SETTING, &key.place, message).help(help));
}
