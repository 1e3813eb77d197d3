//! What README and `--help` tell people to type is typed here, into a cluster that `rootward dev` starts.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::until;

use crate::shared::exe;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above")
}

/// `rootward dev` for the bank, on a free port.
struct Dev {
    child: Child,
    router: String,
    folder: PathBuf,
}

impl Dev {
    fn start() -> Dev {
        Dev::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Dev {
        let mut command = Command::new(exe());
        command.args(["dev", "--schema", "schema/examples/bank", "--listen", "127.0.0.1:0"]).args(more).current_dir(top());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut said = Vec::new();
        for line in lines {
            said.push(line.clone());
            if line.starts_with("ready in") {
                break;
            }
        }
        let word = |name: &str| {
            let line = said.iter().find(|line| line.trim_start().starts_with(name)).unwrap_or_else(|| panic!("no {name} in {said:?}"));
            line.split_whitespace().nth(1).expect("a value").to_owned()
        };
        Dev { router: word("grpc"), folder: word("data").into(), child }
    }

    fn type_in(&self, args: &[String]) -> Output {
        Command::new(exe())
            .args(args)
            .env("ROOTWARD_ROUTER", &self.router)
            .env("NO_COLOR", "1")
            .current_dir(top())
            .output()
            .expect("the program runs")
    }

    /// Every process whose command line names the folder.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let entries = fs::read_dir("/proc").expect("a Linux machine").filter_map(Result::ok);
        let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&folder)).collect()
    }

    /// Ends it and waits until no process is left, and no folder unless it is to be kept.
    async fn end(mut self, signal: Signal, is_kept: bool) {
        assert!(self.folder.exists() && !self.processes().is_empty(), "the cluster is up");
        kill(Pid::from_raw(self.child.id().try_into().expect("a small number")), signal).expect("it runs");
        self.child.wait().expect("it ends");
        let what = format!("nothing is left after {signal}");
        let is_gone = async || (self.folder.exists() == is_kept && self.processes().is_empty()).then_some(());
        until(&what, is_gone).await.unwrap_or_else(|error| panic!("{error}: {:?}", self.processes()));
    }
}

/// A test that fails leaves nothing running.
impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// The words of a command line with simple quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for character in line.chars() {
        match (character, quote) {
            (character, Some(open)) if character == open => quote = None,
            ('\'' | '"', None) => quote = Some(character),
            (' ', None) => words.push(String::new()),
            (character, _) => words.last_mut().expect("never empty").push(character),
        }
    }
    words.into_iter().filter(|word| !word.is_empty()).collect()
}

/// The commands of README's second terminal.
fn readme_commands() -> Vec<Vec<String>> {
    let readme = fs::read_to_string(top().join("README.md")).expect("a README");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("cargo run --release -- "));
    // `bench` takes minutes, and has tests of its own.
    lines.filter(|line| !["dev", "demo", "bench"].iter().any(|own| line.starts_with(own))).map(words).collect()
}

/// The commands of the page about chains, in its blocks and in its table.
fn commands_about_chains() -> Vec<Vec<String>> {
    let page = fs::read_to_string(top().join("docs/chains.md")).expect("a page");
    let in_blocks = page.lines().filter(|line| line.starts_with("rootward "));
    let in_table = page.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`').skip(1).step_by(2));
    let commands = in_blocks.chain(in_table.filter(|code| code.starts_with("rootward ")));
    let known_id = |word: String| if word == "ID" { "0198f3a0-0000-7000-8000-000000000001".to_owned() } else { word };
    commands.map(|command| words(command.trim_start_matches("rootward ")).into_iter().map(known_id).collect()).collect()
}

/// The examples of every command's help, found by walking the subcommands.
fn help_examples(path: &[String]) -> Vec<Vec<String>> {
    let output = Command::new(exe()).args(path).arg("--help").output().expect("the program runs");
    let help = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{path:?} has help");
    let mut found: Vec<Vec<String>> = help.lines().filter_map(|line| line.strip_prefix("  rootward ")).map(words).collect();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let names: Vec<String> = commands.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(!names.is_empty() || !found.is_empty(), "{path:?} shows an example:\n{help}");
    for name in names.iter().filter(|name| *name != "help") {
        let mut path = path.to_vec();
        path.push(name.clone());
        found.extend(help_examples(&path));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_readme_and_help_tell_people_to_type_works() {
    let dev = Dev::start();
    let commands = readme_commands();
    assert!(commands.len() >= 6, "README has a second terminal: {commands:?}");
    for command in commands {
        let output = dev.type_in(&command);
        assert!(output.status.success(), "rootward {}: {output:?}", command.join(" "));
    }
    let about_chains = commands_about_chains();
    assert!(about_chains.len() >= 14, "the page shows what to do: {about_chains:?}");
    for command in about_chains {
        let output = dev.type_in(&command);
        let said = String::from_utf8_lossy(&output.stderr);
        // The bank has no orders; everything else is understood, and finds nothing to do.
        let is_understood = matches!(output.status.code(), Some(0 | 3)) || said.contains("there is no chain `order`");
        assert!(is_understood, "rootward {}: {output:?}", command.join(" "));
    }
    let examples = help_examples(&[]);
    assert!(examples.len() >= 15, "help has examples: {examples:?}");
    for example in examples {
        // These serve until they are ended; `dev` runs here, `demo` and `bench` have tests of their own, the samples are parsed by a test.
        if matches!(example[0].as_str(), "dev" | "demo" | "bench" | "router" | "worker") || example.contains(&"--cluster".to_owned()) {
            continue;
        }
        let output = dev.type_in(&example);
        let code = output.status.code().expect("an end of its own");
        // Accounts and chains of the examples may not be there; but each is understood, and no fault of ours.
        assert!(code != 1 && code != 2, "rootward {}: {output:?}", example.join(" "));
    }
    dev.end(Signal::SIGINT, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_dev_leaves_no_process_and_no_folder() {
    Dev::start().end(Signal::SIGKILL, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_are_kept_over_restarts_however_dev_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let data = ["--data", data.to_str().expect("a path of text")];
    let type_in = |dev: &Dev, line: &str| dev.type_in(&words(line));
    let dev = Dev::start_with(&data);
    assert!(type_in(&dev, "call add_currency code=EUR name=Euro minor_digits=2").status.success());
    // A new id: it says when the request was issued, and one that is older than outcomes are kept is refused.
    let open = format!("call open_account account_id=1 owner=Ada amount=100 --request-id {}", uuid::Uuid::now_v7());
    until("the currency is on every peer", async || type_in(&dev, &open).status.success().then_some(())).await.expect("it arrives");
    dev.end(Signal::SIGKILL, true).await;
    for amount in ["130.00", "160.00"] {
        let dev = Dev::start_with(&data);
        assert!(type_in(&dev, "call deposit account_id=1 amount=30").status.success());
        let balance = type_in(&dev, "call balance account_id=1");
        assert!(String::from_utf8_lossy(&balance.stdout).contains(amount), "{balance:?}");
        let rename = type_in(&dev, &format!("call rename_currency code=EUR 'name=Euro {amount}'"));
        assert!(rename.status.success(), "{rename:?}");
        let follows = async || {
            String::from_utf8_lossy(&type_in(&dev, "call balance account_id=1").stdout).contains(&format!("Euro {amount}")).then_some(())
        };
        until("replication goes on after the restart", follows).await.expect("it follows");
        dev.end(Signal::SIGINT, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_hold_their_own_checks() {
    for story in ["bank", "shop", "locations"] {
        let output =
            Command::new(exe()).args(["demo", story, "--load-seconds", "4"]).current_dir(top()).output().expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !text.contains("CHECK FAILED"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn words_are_split_as_a_shell_does() {
    assert_eq!(words("call a 'b c' --x \"d\""), ["call", "a", "b c", "--x", "d"]);
}
