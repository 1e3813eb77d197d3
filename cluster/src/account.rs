//! The user that PostgreSQL runs as: ourselves, or an unprivileged one if we are root, as which it refuses to run.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Uid, User, chown, geteuid};

/// An unprivileged user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// The account to switch to; none if we aren't root and stay who we are.
    pub(crate) fn to_switch_to() -> Option<Account> {
        if !geteuid().is_root() {
            return None;
        }
        let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten())?;
        Some(Account { name: user.name, uid: user.uid, gid: user.gid })
    }

    /// Gives one file or folder to the account.
    pub(crate) fn own(&self, path: &Path) -> std::io::Result<()> {
        Ok(chown(path, Some(self.uid), Some(self.gid))?)
    }

    /// The first folder on the way to `path` that the account can't pass; none if it reaches it.
    pub(crate) fn barrier<'path>(&self, path: &'path Path) -> Option<&'path Path> {
        let is_passable = |folder: &Path| {
            let Ok(metadata) = std::fs::metadata(folder) else { return true };
            let shift = match () {
                () if metadata.uid() == self.uid.as_raw() => 6,
                () if metadata.gid() == self.gid.as_raw() => 3,
                () => 0,
            };
            metadata.mode() >> shift & 1 == 1
        };
        path.ancestors().filter(|folder| !is_passable(folder)).last()
    }
}
