//! `rootward error CODE`: what a code means and what to do.

use std::process::ExitCode;

use clap::Args;
use rootward_schema::{
    codes::{self, Code},
    nearest,
};
use serde_json::json;

use super::exit;
use crate::output::{self, Format};

/// Explain an error code.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rootward error RW2004")]
pub(crate) struct Error {
    /// The code, such as RW2004; its number alone will do.
    code: String,
}

/// Prints the catalogue's entry.
pub(crate) fn run(error: &Error, format: Format) -> ExitCode {
    match find(&error.code) {
        Some(code) if format.is_json() => output::print(&json_of(code).to_string()),
        Some(code) => output::print(&format!("{}: {}\n\n{}", code.code, code.title, code.explanation)),
        None => {
            output::print_error(&unknown(&error.code));
            return ExitCode::from(exit::NOT_FOUND);
        }
    }
    ExitCode::SUCCESS
}

fn find(text: &str) -> Option<&'static Code> {
    codes::find(text).or_else(|| codes::find(&format!("RW{text}")))
}

fn unknown(text: &str) -> String {
    let help = match nearest(&text.to_uppercase(), codes::all().map(|entry| entry.code)) {
        Some(near) => format!("did you mean {near}? docs/errors.md lists all of them"),
        None => "docs/errors.md lists all of them".to_owned(),
    };
    format!("there is no code `{text}`\n  help: {help}")
}

/// The entry for programs. The form is a promise: fields are added, never renamed.
fn json_of(code: &Code) -> serde_json::Value {
    json!({ "code": code.code, "title": code.title, "explanation": code.explanation })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fmt::Write as _,
        path::{Path, PathBuf},
    };

    use super::*;

    /// Set to anything to write docs/errors.md anew.
    const ACCEPT: &str = "ROOTWARD_ACCEPT";
    const CHAPTERS: [(&str, &str); 8] = [
        ("RW10", "Schema files"),
        ("RW11", "Settings and set-up"),
        ("RW2", "Routing and containment"),
        ("RW30", "Overload"),
        ("RW31", "Execution"),
        ("RW4", "Chains"),
        ("RW5", "The cluster"),
        ("RW9", "Our faults"),
    ];

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn page() -> String {
        let mut page = String::from(
            "# Errors\n\nEvery error has a code that never changes its meaning; `rootward error CODE` prints the same text. \
             A gRPC status carries\nthe code in its `ErrorInfo`, with help, retry class and what PostgreSQL said in its details.\n\n\
             Made from the catalogue in `schema/src/codes`; `ROOTWARD_ACCEPT=1 cargo test -p rootward` writes it anew.\n",
        );
        for (start, chapter) in CHAPTERS {
            let _ = write!(page, "\n# {chapter}\n");
            for entry in codes::all().filter(|entry| entry.code.starts_with(start)) {
                let title = entry.title.strip_suffix('.').unwrap_or(entry.title);
                let _ = write!(page, "\n## {}\n**{title}.** {}\n", entry.code, entry.explanation);
            }
        }
        page
    }

    #[test]
    fn the_page_of_errors_says_what_the_catalogue_says() {
        let file = repository().join("docs/errors.md");
        if std::env::var_os(ACCEPT).is_some() {
            std::fs::write(&file, page()).expect("written");
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(written == page(), "docs/errors.md is old: set {ACCEPT}=1 to write it anew");
        let sections = written.lines().filter(|line| line.starts_with("## ")).count();
        assert_eq!(sections, codes::all().count(), "each code is in one chapter");
    }

    #[test]
    fn every_code_in_the_sources_is_in_the_catalogue() {
        let mut used: BTreeMap<String, PathBuf> = BTreeMap::new();
        for folder in ["schema", "proto", "client", "router", "worker", "cluster", "cli"] {
            collect(&repository().join(folder).join("src"), &mut used);
        }
        assert!(used.len() > 60, "the sources were found");
        let missing: Vec<_> = used.iter().filter(|(code, _)| codes::find(code).is_none()).collect();
        assert!(missing.is_empty(), "not in the catalogue: {missing:?}");
    }

    fn collect(folder: &Path, used: &mut BTreeMap<String, PathBuf>) {
        for path in std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                collect(&path, used);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                used.extend(codes_in(&text).map(|code| (code, path.clone())));
            }
        }
    }

    /// `RW` and four digits, neither preceded nor followed by more of the kind.
    fn codes_in(text: &str) -> impl Iterator<Item = String> {
        text.split(|character: char| !character.is_ascii_alphanumeric())
            .filter(|word| word.len() == 6 && word.starts_with("RW") && word[2..].chars().all(|digit| digit.is_ascii_digit()))
            .map(str::to_owned)
    }

    #[test]
    fn codes_are_found_in_any_spelling_and_near_misses_are_told() {
        for text in ["RW2004", "rw2004", "2004"] {
            assert_eq!(find(text).map(|entry| entry.code), Some("RW2004"));
        }
        assert!(unknown("RW204").contains("did you mean RW2"));
        assert!(find("").is_none() && find("ö").is_none());
    }

    #[test]
    fn an_entry_for_programs_keeps_its_form() {
        let code = Code { code: "RW9001", title: "a title", explanation: "why" };
        assert_eq!(json_of(&code).to_string(), r#"{"code":"RW9001","explanation":"why","title":"a title"}"#);
    }
}
