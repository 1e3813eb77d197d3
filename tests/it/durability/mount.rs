//! A small file system of a test's own, in a file behind a loop device, whose power can be cut.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tests::until;

/// A mounted file system. Dropping it unmounts it and removes the file.
pub(crate) struct Mount {
    folder: tempfile::TempDir,
}

/// `_IOR('X', 125, __u32)`: ends all I/O of the file system at once. What the kernel has not sent to the device is gone.
const SHUTDOWN: &str = "0x8004587d";
/// Without writing its journal first.
const NO_LOG_FLUSH: &str = "2";

impl Mount {
    /// A fresh one of so many megabytes; none, with the reason printed, where the machine gives us none.
    pub(crate) fn new(megabytes: u64) -> Option<Mount> {
        let made = Mount::make(megabytes);
        made.map_err(|why| eprintln!("SKIPPED: there are no mounts of loop devices here: {why}")).ok()
    }

    fn make(megabytes: u64) -> Result<Mount, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("we are not root".to_owned());
        }
        let folder = tempfile::Builder::new().prefix("rw-mount-").tempdir().map_err(|error| error.to_string())?;
        let mount = Mount { folder };
        // An unprivileged PostgreSQL must reach its own folders inside.
        run("chmod", &["711", &text(mount.folder.path())])?;
        std::fs::create_dir(mount.path()).map_err(|error| error.to_string())?;
        let image = mount.image();
        let file = std::fs::File::create(&image).and_then(|file| file.set_len(megabytes << 20));
        file.map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&image)])?;
        mount.mount()?;
        Ok(mount)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// The folder for a cluster's data.
    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) -> Result<(), String> {
        // A journal that is written every minute only keeps nothing by accident.
        run("mount", &["-o", "loop,commit=60", &text(&self.image()), &text(&self.path())])
    }

    /// Writes everything that is on its way.
    pub(crate) fn sync(&self) {
        run("sync", &["-f", &text(&self.path())]).expect("written");
    }

    /// Cuts the power: whatever is not on the device by now never gets there.
    pub(crate) fn cut_power(&self) {
        let program = "open(my $disk, '<', $ARGV[0]) or die $!; ioctl($disk, hex($ARGV[1]), pack('L', $ARGV[2])) or die $!";
        run("perl", &["-e", program, &text(&self.path()), SHUTDOWN, NO_LOG_FLUSH]).expect("the power is cut");
    }

    /// Mounts anew what is on the device, as a machine that starts again does. Nobody may use it any more.
    pub(crate) async fn restart(&self) {
        until("the file system is not used any more", async || run("umount", &[&text(&self.path())]).ok()).await.expect("unmounted");
        self.mount().expect("mounted again");
    }

    /// From now on whoever writes or flushes waits, until this is dropped: a disk that does not answer.
    pub(crate) fn stall(&self) -> Stalled {
        let path = text(&self.path());
        // Should we be killed meanwhile, nobody could end those who wait.
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60; exec fsfreeze --unfreeze \"$0\"", &path]).process_group(0);
        let watch = command.spawn().expect("a shell");
        run("fsfreeze", &["--freeze", &path]).expect("stalled");
        Stalled { path, watch }
    }

    /// Takes all room but this.
    pub(crate) fn fill(&self, leave_bytes: u64) {
        let filler = self.path().join("filler");
        let mut file = std::fs::File::create(&filler).expect("a file");
        let block = vec![0_u8; 1 << 16];
        let mut written = 0;
        while std::io::Write::write_all(&mut file, &block).is_ok() {
            written += block.len() as u64;
        }
        file.set_len(written.saturating_sub(leave_bytes)).expect("a little room");
    }

    /// Gives the room back.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.path().join("filler")).expect("removed");
    }
}

/// A file system that does not answer.
pub(crate) struct Stalled {
    path: String,
    watch: std::process::Child,
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = run("fsfreeze", &["--unfreeze", &self.path]);
        let group = i32::try_from(self.watch.id()).map(nix::unistd::Pid::from_raw);
        let _ = group.map(|group| nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL));
        let _ = self.watch.wait();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever still uses it keeps it until they end.
        let _ = run("umount", &[&text(&self.path())]).or_else(|_| run("umount", &["-l", &text(&self.path())]));
    }
}

pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
