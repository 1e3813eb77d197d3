//! A disk with little room, in memory, of a size that can be changed.

use std::path::{Path, PathBuf};

use super::mount::{run, text};

/// A file system in memory. Dropping it unmounts it.
pub(crate) struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Of so many kilobytes; none, with the reason printed, where the machine gives us none.
    pub(crate) fn new(kilobytes: u64) -> Option<SmallDisk> {
        let made = SmallDisk::make(kilobytes);
        made.map_err(|why| eprintln!("SKIPPED: no file system can be mounted here: {why}")).ok()
    }

    fn make(kilobytes: u64) -> Result<SmallDisk, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("we are not root".to_owned());
        }
        let folder = tempfile::Builder::new().prefix("rw-disk-").tempdir().map_err(|error| error.to_string())?;
        let disk = SmallDisk { folder };
        run("chmod", &["711", &text(disk.folder.path())])?;
        std::fs::create_dir(disk.path()).map_err(|error| error.to_string())?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "rootward-test", &text(&disk.path())])?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// A folder on it that belongs to whom a file belongs to.
    pub(crate) fn folder_of_owner(&self, of: &Path) -> PathBuf {
        let folder = self.path().join("space");
        std::fs::create_dir(&folder).expect("a folder");
        run("chown", &[&format!("--reference={}", of.display()), &text(&folder)]).expect("given away");
        folder
    }

    /// From now on it has so many kilobytes.
    pub(crate) fn resize(&self, kilobytes: u64) {
        run("mount", &["-o", &format!("remount,size={kilobytes}k"), &text(&self.path())]).expect("another size");
    }

    /// From now on there is no room left.
    pub(crate) fn fill(&self) {
        let mut filler = std::fs::File::create(self.path().join("filler")).expect("a file");
        let block = vec![0_u8; 4096];
        while std::io::Write::write_all(&mut filler, &block).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still uses it keeps it until they end.
        let _ = run("umount", &["-l", &text(&self.path())]);
    }
}
