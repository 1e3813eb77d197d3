//! Networks of a test's own: namespaces of the kernel that are joined by a bridge, in which packets can be dropped by iptables. Nobody is told
//! that they are: no connection ends by it.

use std::{
    ffi::OsString,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rootward_cluster::Elsewhere;

/// Networks begin with this.
const PREFIX: &str = "10.77";
const IP: &str = "/usr/sbin/ip";
/// How many networks this process has made.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Which packets are dropped, seen from inside of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Those that leave it.
    Out,
    /// Those that come in.
    In,
    /// All of them.
    Both,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 3] = [Way::Out, Way::In, Way::Both];
}

/// Connections of the namespace by TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The address of the other end.
    pub with: String,
    /// The port at the other end, if it is a certain one.
    pub their_port: Option<u16>,
    /// The port at this end, if it is a certain one.
    pub own_port: Option<u16>,
}

/// A bridge on this machine, and a namespace for each member. Dropping it takes all of it away.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    number: u32,
    namespaces: Vec<String>,
}

impl Network {
    /// With so many namespaces; none, with the reason printed, where the machine gives us none.
    pub fn new(members: u32) -> Option<Network> {
        let made = Network::make(members);
        made.map_err(|why| eprintln!("SKIPPED: there are no network namespaces with iptables here: {why}")).ok()
    }

    fn make(members: u32) -> Result<Network, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("we are not root".to_owned());
        }
        remove_abandoned();
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let taken = run(IP, &["-4", "-o", "address", "show"])?;
        let is_free = |number: &u32| !taken.contains(&format!(" {PREFIX}.{number}."));
        let numbers = (0..250).map(|step| (process + count * 50 + step) % 250 + 1);
        let number = numbers.into_iter().find(is_free).ok_or("all addresses are taken")?;
        let mut network = Network { bridge: format!("rwb{process:x}{count}"), number, namespaces: Vec::new() };
        run(IP, &["link", "add", &network.bridge, "type", "bridge"])?;
        run(IP, &["address", "add", &format!("{}/24", network.outside()), "dev", &network.bridge])?;
        run(IP, &["link", "set", &network.bridge, "up"])?;
        for member in 0..members {
            let (name, here) = (format!("rw-{process}-{count}-{member}"), format!("rwv{process:x}{count}{member}"));
            run(IP, &["netns", "add", &name])?;
            network.namespaces.push(name.clone());
            run(IP, &["link", "add", &here, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            run(IP, &["link", "set", &here, "master", &network.bridge, "up"])?;
            run(IP, &["-n", &name, "address", "add", &format!("{}/24", network.address(member)), "dev", "eth0"])?;
            run(IP, &["-n", &name, "link", "set", "eth0", "up"])?;
            run(IP, &["-n", &name, "link", "set", "lo", "up"])?;
            run(IP, &["netns", "exec", &name, "iptables", "-w", "-F"])?;
        }
        Ok(network)
    }

    /// Where the rest of the machine is for members.
    pub fn outside(&self) -> String {
        format!("{PREFIX}.{}.1", self.number)
    }

    /// Where a member is.
    pub fn address(&self, member: u32) -> String {
        format!("{PREFIX}.{}.{}", self.number, member + 2)
    }

    /// All of them, as `pg_hba.conf` names them.
    pub fn everybody(&self) -> String {
        format!("{PREFIX}.{}.0/24", self.number)
    }

    /// How a worker is started as a member; outside of all namespaces if it is none.
    pub fn place(&self, member: Option<u32>) -> Elsewhere {
        let Some(member) = member else { return Elsewhere { address: self.outside(), ..Elsewhere::default() } };
        let through = [IP, "netns", "exec", self.name(member)].map(OsString::from).into();
        Elsewhere { through, address: self.address(member), ..Elsewhere::default() }
    }

    /// From now on packets of these connections of a member are lost.
    ///
    /// # Panics
    /// If iptables refuses.
    pub fn cut(&self, member: u32, flow: &Flow, way: Way) {
        let ports = |name: &str, port: Option<u16>| port.map(|port| [name.to_owned(), port.to_string()]).into_iter().flatten();
        let rule = |chain: &str, with: &str, theirs: &str, own: &str| {
            let start = ["netns", "exec", self.name(member), "iptables", "-w", "-A", chain, with, &flow.with, "-p", "tcp"];
            let start = start.into_iter().map(str::to_owned);
            let all = start.chain(ports(theirs, flow.their_port)).chain(ports(own, flow.own_port)).chain(["-j", "DROP"].map(str::to_owned));
            let all: Vec<String> = all.collect();
            run(IP, &all.iter().map(String::as_str).collect::<Vec<_>>()).expect("a rule");
        };
        if way != Way::In {
            rule("OUTPUT", "-d", "--dport", "--sport");
        }
        if way != Way::Out {
            rule("INPUT", "-s", "--sport", "--dport");
        }
    }

    /// From now on a member hears nothing, as a machine without power.
    ///
    /// # Panics
    /// If iptables refuses.
    pub fn silence(&self, member: u32) {
        run(IP, &["netns", "exec", self.name(member), "iptables", "-w", "-A", "INPUT", "-j", "DROP"]).expect("a rule");
    }

    /// Lets everything of a member pass again.
    ///
    /// # Panics
    /// If iptables refuses.
    pub fn heal(&self, member: u32) {
        run(IP, &["netns", "exec", self.name(member), "iptables", "-w", "-F"]).expect("no rules");
    }

    fn name(&self, member: u32) -> &str {
        usize::try_from(member).ok().and_then(|at| self.namespaces.get(at)).map_or("", String::as_str)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = run(IP, &["netns", "delete", name]);
        }
        let _ = run(IP, &["link", "delete", &self.bridge]);
    }
}

/// What processes left that were killed.
fn remove_abandoned() {
    let is_gone = |process: &str| !std::path::Path::new("/proc").join(process).exists();
    for name in run(IP, &["netns", "list"]).unwrap_or_default().split_whitespace() {
        let process = name.strip_prefix("rw-").and_then(|rest| rest.split('-').next());
        if process.is_some_and(is_gone) {
            let _ = run(IP, &["netns", "delete", name]);
        }
    }
    let bridges = run(IP, &["-o", "link", "show", "type", "bridge"]).unwrap_or_default();
    for name in bridges.lines().filter_map(|line| line.split(": ").nth(1)) {
        let digits = name.strip_prefix("rwb").and_then(|rest| rest.split_at_checked(rest.len().saturating_sub(1)));
        let process = digits.and_then(|(process, _)| u32::from_str_radix(process, 16).ok());
        if process.is_some_and(|process| is_gone(&process.to_string())) {
            let _ = run(IP, &["link", "delete", name]);
        }
    }
}

/// What a program prints.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
