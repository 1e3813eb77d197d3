//! A way between processes that a test can cut: in both directions, in one, or so that connections are refused; and make longer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Everything.
    None,
    /// Nothing, and nobody is told: connections stay, and new ones are made.
    Both,
    /// What is asked is lost on the way; nothing is told.
    Requests,
    /// What is asked arrives; what is answered is lost on the way.
    Answers,
    /// Connections end, and new ones end at once.
    Refused,
    /// Nothing of any process but this one, and nobody is told: what others send to a worker, while a router reaches it.
    AllBut(u32),
}

impl Cut {
    fn passes(self, direction: Direction, asker: Option<u32>) -> bool {
        match self {
            Cut::None => true,
            Cut::AllBut(process) => asker == Some(process),
            Cut::Requests => direction == Direction::Answers,
            Cut::Answers => direction == Direction::Requests,
            Cut::Both | Cut::Refused => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

/// The way. Dropping it refuses everything.
pub struct Detour {
    address: SocketAddr,
    cut: watch::Sender<Cut>,
    /// How much longer each piece takes, there and back.
    delay: Arc<AtomicU64>,
    /// Accepts; its connections end with it.
    _tasks: JoinSet<()>,
}

impl Detour {
    /// To what listens at `to`.
    ///
    /// # Errors
    /// If there is no port left.
    pub async fn to(to: String) -> Result<Detour> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (cut, known) = watch::channel(Cut::None);
        let delay = Arc::<AtomicU64>::default();
        let longer = delay.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((asking, from)) = listener.accept().await {
                let asker = process_of(from.port(), address.port());
                connections.spawn(join(asking, asker, to.clone(), known.clone(), longer.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Detour { address, cut, delay, _tasks: tasks })
    }

    /// Where it begins, as workers advertise it.
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it is longer by this much, each way.
    pub fn lengthen(&self, by: Duration) {
        self.delay.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// From now on. What was held up passes when nothing is cut any more.
    pub fn cut(&self, cut: Cut) {
        self.cut.send_replace(cut);
    }
}

/// The process whose socket on this machine has a local and a remote port.
fn process_of(local: u16, remote: u16) -> Option<u32> {
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    let sockets = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let socket = sockets.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1)?.ends_with(&local) && words.get(2)?.ends_with(&remote)).then(|| format!("socket:[{}]", words.get(9).unwrap_or(&"")))
    })?;
    let holds = |process: u32| {
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        files.into_iter().any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()))
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.into_iter().find(|process| holds(*process))
}

async fn join(asking: TcpStream, asker: Option<u32>, to: String, cut: watch::Receiver<Cut>, delay: Arc<AtomicU64>) {
    let mut refused = cut.clone();
    let joined = async {
        if *cut.borrow() == Cut::Refused {
            return;
        }
        let Ok(answering) = TcpStream::connect(to).await else { return };
        // As if nothing lay between.
        let _ = (asking.set_nodelay(true), answering.set_nodelay(true));
        let (from_asking, to_asking) = asking.into_split();
        let (from_answering, to_answering) = answering.into_split();
        // Either end closes both, as long as something passes.
        tokio::select! {
            () = pass(from_asking, to_answering, (Direction::Requests, asker), cut.clone(), &delay) => {}
            () = pass(from_answering, to_asking, (Direction::Answers, asker), cut, &delay) => {}
        }
    };
    tokio::select! {
        () = joined => {}
        _ = refused.wait_for(|cut| *cut == Cut::Refused) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (direction, asker): (Direction, Option<u32>),
    mut cut: watch::Receiver<Cut>,
    delay: &AtomicU64,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if cut.wait_for(|cut| cut.passes(direction, asker)).await.is_err() || read == 0 {
            return;
        }
        let longer = delay.load(Ordering::Relaxed);
        if longer > 0 {
            tokio::time::sleep(Duration::from_millis(longer)).await;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
