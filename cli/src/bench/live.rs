//! One line on stderr that says what is being measured, each second; nothing where stderr is no terminal.

use std::io::{IsTerminal as _, Write as _};

/// The line.
#[derive(Debug)]
pub(crate) struct Live {
    is_shown: bool,
    what: String,
    last: u64,
}

impl Live {
    /// Shown if somebody looks.
    pub(crate) fn new() -> Live {
        Live { is_shown: std::io::stderr().is_terminal(), what: String::new(), last: 0 }
    }

    /// For tests, whoever looks.
    #[cfg(test)]
    pub(crate) fn silent() -> Live {
        Live { is_shown: false, what: String::new(), last: 0 }
    }

    /// What comes next.
    pub(crate) fn begin(&mut self, what: String) {
        self.what = what;
        self.last = 0;
        self.write(&self.what);
    }

    /// How many were done so far; a second after the last time.
    pub(crate) fn show(&mut self, count: u64) {
        let rate = count.saturating_sub(self.last);
        self.last = count;
        self.write(&format!("{}   {rate}/s", self.what));
    }

    fn write(&self, text: &str) {
        if self.is_shown {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.write("");
    }
}
