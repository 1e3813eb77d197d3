//! What a benchmark says in the end, for people and for programs.

use serde_json::{Value as Json, json};

use super::{
    figures::Figures,
    machine::Machine,
    page::{self, Chart},
};

/// A finished run whose checks held.
#[derive(Debug)]
pub(crate) struct Report {
    pub title: String,
    pub machine: Machine,
    /// What was set, for each side that was measured.
    pub settings: Vec<(&'static str, String)>,
    pub figures: Figures,
    /// For people: the figures in a table.
    pub table: String,
    /// What was checked after the load, in words.
    pub checks: Vec<String>,
    /// For the page.
    pub charts: Vec<Chart>,
    /// What comes last for people, where something must.
    pub closing: Option<String>,
}

impl Report {
    pub(crate) fn to_json(&self) -> Json {
        let settings: serde_json::Map<String, Json> = self.settings.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        json!({ "machine": self.machine.to_json(), "settings": settings, "figures": self.figures.to_json(), "checks": self.checks })
    }

    /// One self-contained page.
    pub(crate) fn to_html(&self) -> String {
        page::page(self)
    }

    pub(crate) fn to_text(&self) -> String {
        let machine = &self.machine;
        let mut lines = vec![
            format!("rootward {} {}   PostgreSQL {}", env!("CARGO_PKG_VERSION"), self.title, machine.postgres_version),
            format!(
                "  machine    {} x {}, {} MB, Linux {}; a page to the disk in {} us",
                machine.cpu_count, machine.cpu_model, machine.memory_mb, machine.kernel, machine.fdatasync_us
            ),
        ];
        lines.extend(self.settings.iter().map(|(name, text)| format!("  {name:<9}  {text}")));
        if !machine.is_release_build {
            lines.push("  note       this is a debug build: Rootward's side is slowed down, the figures mean nothing".to_owned());
        }
        lines.push(String::new());
        lines.push(self.table.clone());
        lines.push(String::new());
        lines.extend(self.checks.iter().cloned());
        lines.extend(self.closing.iter().cloned());
        lines.join("\n")
    }
}
