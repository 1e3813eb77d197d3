//! What a child does before it becomes its program: drop privileges, tie itself to its parent, execute.
//!
//! `fork` with code of ours between it and `exec` needs `unsafe`, so each child is started as
//! `rootward internal exec --parent PID [--user NAME] [--death-signal QUIT] -- program args…` instead, does this as
//! an ordinary program, and is then replaced.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::unistd::{User, getppid, setgid, setuid};

/// The exit code of a child that couldn't become its program; the shell's for the same.
const COULD_NOT_EXECUTE: u8 = 126;

/// The signal that a child gets from the kernel when we die. Linux only; elsewhere the reaper sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathSignal {
    /// PostgreSQL's immediate shutdown: the postmaster takes its backends along.
    Quit,
    /// An orderly end.
    Term,
    /// An end that can't be refused.
    Kill,
}

/// A child that is still to become its program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exec {
    pub parent: u32,
    pub user: Option<String>,
    pub death_signal: DeathSignal,
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("bad arguments of `internal exec`")]
    Arguments,
    #[error("there is no user `{0}`")]
    NoUser(String),
    #[error("the parent process is gone")]
    Orphan,
    #[error("{0}")]
    System(#[from] nix::Error),
    #[error("`{0}`: {1}")]
    Program(PathBuf, std::io::Error),
}

/// Becomes the program that `args` (those after `internal exec`) name; returns only if that fails.
///
/// The reason goes to stderr, which is the child's log.
pub fn exec_child(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let error = match Exec::parse(args) {
        Some(exec) => match exec.run() {
            Ok(never) => match never {},
            Err(error) => error,
        },
        None => ExecError::Arguments,
    };
    eprintln!("rootward internal exec: {error}");
    ExitCode::from(COULD_NOT_EXECUTE)
}

impl DeathSignal {
    fn name(self) -> &'static str {
        match self {
            DeathSignal::Quit => "QUIT",
            DeathSignal::Term => "TERM",
            DeathSignal::Kill => "KILL",
        }
    }

    fn from_name(name: &str) -> Option<DeathSignal> {
        [DeathSignal::Quit, DeathSignal::Term, DeathSignal::Kill].into_iter().find(|signal| signal.name() == name)
    }

    pub(super) fn signal(self) -> nix::sys::signal::Signal {
        match self {
            DeathSignal::Quit => nix::sys::signal::Signal::SIGQUIT,
            DeathSignal::Term => nix::sys::signal::Signal::SIGTERM,
            DeathSignal::Kill => nix::sys::signal::Signal::SIGKILL,
        }
    }
}

impl Exec {
    /// The arguments after the program's name: `internal exec …`.
    pub(super) fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["internal".into(), "exec".into(), "--parent".into(), self.parent.to_string().into()];
        if let Some(user) = &self.user {
            args.extend(["--user".into(), user.into()]);
        }
        args.extend(["--death-signal".into(), self.death_signal.name().into(), "--".into(), self.program.clone().into()]);
        args.extend(self.args.iter().cloned());
        args
    }

    fn parse(args: impl IntoIterator<Item = OsString>) -> Option<Exec> {
        let mut args = args.into_iter();
        let (mut parent, mut user, mut death_signal) = (None, None, DeathSignal::Kill);
        loop {
            match args.next()?.to_str()? {
                "--parent" => parent = Some(args.next()?.to_str()?.parse().ok()?),
                "--user" => user = Some(args.next()?.into_string().ok()?),
                "--death-signal" => death_signal = DeathSignal::from_name(args.next()?.to_str()?)?,
                "--" => break,
                _ => return None,
            }
        }
        Some(Exec { parent: parent?, user, death_signal, program: args.next()?.into(), args: args.collect() })
    }

    fn run(self) -> Result<std::convert::Infallible, ExecError> {
        if let Some(name) = &self.user {
            drop_privileges(name)?;
        }
        // Only now: a change of credentials clears the signal.
        #[cfg(target_os = "linux")]
        nix::sys::prctl::set_pdeathsig(self.death_signal.signal())?;
        // The parent may have died before the signal was set; then nobody would ever send it.
        if getppid().as_raw().unsigned_abs() != self.parent {
            return Err(ExecError::Orphan);
        }
        let error = Command::new(&self.program).args(&self.args).exec();
        Err(ExecError::Program(self.program, error))
    }
}

fn drop_privileges(name: &str) -> Result<(), ExecError> {
    let user = User::from_name(name)?.ok_or_else(|| ExecError::NoUser(name.to_owned()))?;
    // Groups first: without root's rights they can't be changed any more.
    #[cfg(target_os = "linux")]
    nix::unistd::setgroups(&[user.gid])?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_survive_the_way() {
        let exec = Exec {
            parent: 42,
            user: Some("postgres".to_owned()),
            death_signal: DeathSignal::Quit,
            program: "/bin/x".into(),
            args: vec!["--".into(), "-c".into()],
        };
        let args = exec.to_args();
        assert_eq!(args[..2], ["internal", "exec"]);
        assert_eq!(Exec::parse(args.into_iter().skip(2)), Some(exec));
        assert_eq!(Exec::parse(["--parent".into(), "1".into()]), None);
        assert_eq!(Exec::parse(["--".into(), "/bin/x".into()]), None);
    }
}
