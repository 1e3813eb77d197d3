//! Finding PostgreSQL's server programs.
//!
//! Distributions put them in different places and mostly not in `PATH`. A directory counts only if `initdb`,
//! `postgres` and `pg_ctl` all stand in it: a lone `initdb` is often a wrapper of a version manager.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{AccessFlags, access};

/// The oldest major version that has all that containment needs (`GRANT SET ON PARAMETER`, row filters).
const OLDEST_MAJOR: u32 = 15;

/// The environment variable that names the directory of the programs.
const DIRECTORY_VARIABLE: &str = "ROOTWARD_PG_BIN";

/// Where distributions put the programs: a directory to look into, the prefix of an entry, the rest of the path.
const PLACES: &[(&str, &str, &str)] = &[
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// PostgreSQL's server programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The directory of `initdb`, `postgres` and `pg_ctl`.
    pub directory: PathBuf,
    /// Their version.
    pub version: Version,
}

/// A version of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 15 of 15.18.
    pub major: u32,
    /// 18 of 15.18; 0 for a development or beta version.
    pub minor: u32,
}

/// No usable server programs; `RW5001`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PostgreSQL's server programs (`initdb`, `postgres`, `pg_ctl`), version {OLDEST_MAJOR} or newer, were not found{}", self.found())]
pub struct NotFound {
    /// Directories that were looked at and refused, with the reason.
    pub refused: Vec<String>,
}

impl NotFound {
    /// The error's stable code.
    pub const CODE: &str = "RW5001";

    /// What to do next.
    pub fn help(&self) -> &'static str {
        "install them: `apt install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora), \
         `brew install postgresql@17` (macOS); or set ROOTWARD_PG_BIN to their directory"
    }

    fn found(&self) -> String {
        if self.refused.is_empty() { String::new() } else { format!(": {}", self.refused.join(", ")) }
    }
}

impl Binaries {
    /// Finds the programs: `ROOTWARD_PG_BIN`, then `PATH`, then `pg_config --bindir`, then the usual places, newest first.
    ///
    /// Runs `postgres --version`, so it blocks for some milliseconds.
    ///
    /// # Errors
    /// [`NotFound`] if there are none, or if `ROOTWARD_PG_BIN` is set and doesn't hold them.
    pub fn find() -> Result<Binaries, NotFound> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        match std::env::var_os(DIRECTORY_VARIABLE) {
            Some(directory) => choose([PathBuf::from(directory)], true),
            None => choose(std::env::split_paths(&path).chain(from_pg_config()).chain(usual_places()), false),
        }
    }

    /// The path of one of the programs. A directory of links may have only some of them: the others lie beside what `postgres` leads to.
    pub fn program(&self, name: &str) -> PathBuf {
        let program = self.directory.join(name);
        if program.exists() {
            return program;
        }
        let beside = self.directory.join("postgres").canonicalize().ok().and_then(|postgres| Some(postgres.parent()?.join(name)));
        beside.filter(|path| path.exists()).unwrap_or(program)
    }
}

impl Version {
    /// The version in what `postgres --version` prints.
    fn parse(text: &str) -> Option<Version> {
        let number = text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
        let mut parts = number.split('.');
        let major = parts.next()?;
        // `17beta1` and `18devel` have no minor version.
        let major = major.find(|digit: char| !digit.is_ascii_digit()).map_or(major, |end| &major[..end]);
        let minor = parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0);
        Some(Version { major: major.parse().ok()?, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The first directory that holds all programs in a version that is new enough.
fn choose(directories: impl IntoIterator<Item = PathBuf>, says_why: bool) -> Result<Binaries, NotFound> {
    let mut refused = Vec::new();
    for directory in directories {
        match judge(&directory) {
            Ok(version) => return Ok(Binaries { directory, version }),
            Err(Refusal::Incomplete) if !says_why => {}
            Err(why) => refused.push(format!("`{}` {why}", directory.display())),
        }
    }
    Err(NotFound { refused })
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("doesn't hold all three")]
    Incomplete,
    #[error("holds version {0}")]
    TooOld(Version),
    #[error("doesn't tell its version: {0}")]
    Unknown(String),
}

fn judge(directory: &Path) -> Result<Version, Refusal> {
    // A relative entry of PATH would mean another directory as soon as a child changes its own.
    let is_program = |name: &str| {
        let program = directory.join(name);
        program.is_file() && access(&program, AccessFlags::X_OK).is_ok()
    };
    if !directory.is_absolute() || !["initdb", "postgres", "pg_ctl"].into_iter().all(is_program) {
        return Err(Refusal::Incomplete);
    }
    let output = Command::new(directory.join("postgres")).arg("--version").output().map_err(|error| Refusal::Unknown(error.to_string()))?;
    let version = Version::parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| Refusal::Unknown(output.status.to_string()))?;
    if version.major < OLDEST_MAJOR { Err(Refusal::TooOld(version)) } else { Ok(version) }
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let directory = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(directory.trim()))
}

fn usual_places() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = PLACES
        .iter()
        .flat_map(|(parent, prefix, rest)| {
            let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
            entries.filter_map(move |entry| Some((major_of(&entry.file_name(), prefix)?, entry.path().join(rest))))
        })
        .collect();
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    found.into_iter().map(|(_, directory)| directory).collect()
}

/// The major version in a directory's name such as `17` or `postgresql@17`.
fn major_of(name: &OsString, prefix: &str) -> Option<u32> {
    name.to_str()?.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with scripts that answer as the programs do.
    ///
    /// A child writes them: were one open for writing here while another test starts a process, that process would hold it open
    /// for a moment too, and Linux refuses to run a file that is open for writing.
    fn programs(names: &[&str], version: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in names {
            let path = directory.path().join(name);
            let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'");
            let write = r#"printf '%s\n' "$2" > "$1" && chmod 755 "$1""#;
            let written = Command::new("sh").args(["-c", write, "sh"]).arg(&path).arg(script).status().expect("sh runs");
            assert!(written.success(), "{written}");
        }
        directory
    }

    #[test]
    fn versions_are_read_from_what_postgres_prints() {
        let version = |text| Version::parse(text).map(|version| version.to_string());
        assert_eq!(version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)").as_deref(), Some("15.18"));
        assert_eq!(version("postgres (PostgreSQL) 17beta1").as_deref(), Some("17.0"));
        assert_eq!(version("postgres (PostgreSQL) 18devel").as_deref(), Some("18.0"));
        assert_eq!(version("no version"), None);
    }

    #[test]
    fn a_lone_initdb_is_passed_over() {
        let lone = programs(&["initdb"], "17.2");
        let whole = programs(&["initdb", "postgres", "pg_ctl"], "16.4");
        let found = choose([lone.path().to_owned(), whole.path().to_owned()], false).expect("the whole one");
        assert_eq!(found, Binaries { directory: whole.path().to_owned(), version: Version { major: 16, minor: 4 } });
    }

    #[test]
    fn an_old_version_is_refused_by_name() {
        let old = programs(&["initdb", "postgres", "pg_ctl"], "14.9");
        let error = choose([old.path().to_owned()], false).expect_err("14 is too old");
        assert!(error.to_string().ends_with(&format!("were not found: `{}` holds version 14.9", old.path().display())), "{error}");
    }

    #[test]
    fn the_error_says_what_to_install() {
        let error = choose([PathBuf::from("/nonexistent")], true).expect_err("nothing is there");
        assert!(error.to_string().contains("`/nonexistent` doesn't hold all three"), "{error}");
        for command in ["apt install postgresql", "dnf install postgresql-server", "brew install postgresql@17"] {
            assert!(error.help().contains(command));
        }
    }
}
