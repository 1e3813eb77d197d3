//! `rootward internal …`: what the program starts itself for; never typed by people, and not in `--help`.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs an internal command; none if `args` (without the program's name) is not one.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter();
    if args.next()? != "internal" {
        return None;
    }
    match args.next()?.to_str()? {
        "exec" => Some(rootward_cluster::exec_child(args)),
        "reap" => Some(rootward_cluster::reap(args)),
        _ => None,
    }
}
