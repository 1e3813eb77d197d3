//! Named moments around a commit where tests kill or stop this process.
//!
//! Armed by the environment of the process alone: `ROOTWARD_FAIL_POINT=after_effect/withdraw=kill` (the transaction's name
//! may be left out) or `…=pause:FILE`, which writes FILE and goes on when it is gone; `after_effect/withdraw#2` acts from the second
//! time on. Without the variable each is one comparison.

use std::{
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

struct Armed {
    point: String,
    label: Option<String>,
    /// How often it lets go before it acts.
    spared: AtomicU32,
    action: Action,
}

enum Action {
    Kill,
    Pause(PathBuf),
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

fn armed() -> Option<&'static Armed> {
    ARMED.get_or_init(|| parse(&std::env::var("ROOTWARD_FAIL_POINT").ok()?)).as_ref()
}

fn parse(text: &str) -> Option<Armed> {
    let (place, action) = text.split_once('=')?;
    let (point, label) = match place.split_once('/') {
        Some((point, label)) => (point, Some(label.to_owned())),
        None => (place, None),
    };
    let (label, spared) = match label.as_deref().and_then(|label| label.split_once('#')) {
        Some((label, time)) => (Some(label.to_owned()), time.parse::<u32>().ok()?.saturating_sub(1)),
        None => (label, 0),
    };
    let action = match action.split_once(':') {
        Some(("pause", file)) => Action::Pause(file.into()),
        _ => Action::Kill,
    };
    Some(Armed { point: point.to_owned(), label, spared: spared.into(), action })
}

/// Whether this point is armed for this transaction.
pub(crate) fn is_armed(point: &str, label: &str) -> bool {
    armed().is_some_and(|armed| armed.point == point && armed.label.as_deref().is_none_or(|wanted| wanted == label))
}

/// Whether a point is armed for this transaction by its name.
pub(crate) fn names(label: &str) -> bool {
    armed().is_some_and(|armed| armed.label.as_deref() == Some(label))
}

/// Acts if this point is armed.
pub(crate) async fn hit(point: &str, label: &str) {
    if is_armed(point, label)
        && let Some(armed) = armed()
        && armed.spared.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    {
        act(&armed.action).await;
    }
}

/// Acts while `work` is under way: after its request went out, before its answer is read.
pub(crate) async fn while_running<T>(point: &str, label: &str, work: impl Future<Output = T>) -> T {
    if !is_armed(point, label) {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    // One poll writes the request to the socket; the answer can't have been read in the same poll unless it was there.
    if let std::task::Poll::Ready(done) = futures_util::poll!(work.as_mut()) {
        hit(point, label).await;
        return done;
    }
    hit(point, label).await;
    work.await
}

async fn act(action: &Action) {
    match action {
        Action::Kill => {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
            std::future::pending().await
        }
        Action::Pause(file) => {
            let _ = std::fs::write(file, b"paused");
            while file.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_names_its_transaction_and_action() {
        let armed = parse("after_effect/withdraw=pause:/tmp/x").expect("well formed");
        assert_eq!((armed.point.as_str(), armed.label.as_deref()), ("after_effect", Some("withdraw")));
        assert!(matches!(armed.action, Action::Pause(_)));
        assert!(matches!(parse("before_begin=kill").expect("well formed").action, Action::Kill));
        let second = parse("after_effect/withdraw#2=kill").expect("well formed");
        assert_eq!((second.label.as_deref(), second.spared.into_inner()), (Some("withdraw"), 1));
        assert!(parse("nonsense").is_none());
    }
}
