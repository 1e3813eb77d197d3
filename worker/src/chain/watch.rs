//! Following one chain while it goes.

use std::{sync::Arc, time::Duration};

use rootward_proto::{FaultResult, v1};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

use super::{
    commands::{MOVING, unread},
    drivers::ChainHome,
    state::Status,
    store::StoreError,
};

/// How often a chain without a driver is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Changes of a driver that come faster are told together.
const TELL_INTERVAL: Duration = Duration::from_millis(20);

impl ChainHome {
    /// Sends the chain now and after every change, until it has ended or nobody listens.
    ///
    /// # Errors
    /// RW4001 if there is no such chain here.
    pub(crate) async fn watch(self: &Arc<Self>, id: Uuid) -> FaultResult<mpsc::Receiver<FaultResult<v1::Chain>>> {
        let first = self.show(id).await?;
        let (told, watched) = mpsc::channel(4);
        let (home, stop) = (self.clone(), self.serving.stop.clone());
        self.serving.tasks.spawn(async move {
            tokio::select! {
                () = home.tell(id, first, told) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(watched)
    }

    /// The chain when it runs no more, or as it is when the time is over: for a start that was repeated, perhaps because the chain's home
    /// has just come here and its driver is not yet found.
    ///
    /// # Errors
    /// RW4001 if there is no such chain here.
    pub(crate) async fn show_when_over(self: &Arc<Self>, id: Uuid, deadline: Instant) -> FaultResult<v1::Chain> {
        let deadline = deadline - deadline.saturating_duration_since(Instant::now()) / 20;
        loop {
            let chain = self.show(id).await?;
            if !matches!(chain.status.as_str(), "running" | "compensating") || Instant::now() + TELL_INTERVAL >= deadline {
                return Ok(chain);
            }
            tokio::time::sleep(TELL_INTERVAL).await;
        }
    }

    async fn tell(self: &Arc<Self>, id: Uuid, first: v1::Chain, told: mpsc::Sender<FaultResult<v1::Chain>>) {
        let mut last = first;
        if told.send(Ok(last.clone())).await.is_err() {
            return;
        }
        while !Status::from_name(&last.status).is_some_and(Status::is_ended) {
            let pause = match self.drivers.view(id) {
                Some(mut view) => {
                    tokio::select! {
                        _ = view.changed() => {}
                        () = tokio::time::sleep(LOOK_INTERVAL) => {}
                        () = told.closed() => return,
                    }
                    TELL_INTERVAL
                }
                None => LOOK_INTERVAL,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = told.closed() => return,
            }
            match self.show(id).await {
                Ok(chain) if is_same(&chain, &last) => {}
                Ok(chain) => {
                    last = chain.clone();
                    if told.send(Ok(chain)).await.is_err() {
                        return;
                    }
                }
                Err(fault) if fault.code() == MOVING => {}
                Err(fault) => {
                    // It was here before: whoever watches finds it at its new home.
                    let fault = if fault.retry_class() == v1::RetryClass::NotFound { unread(&StoreError::Moving(id)) } else { fault };
                    let _ = told.send(Err(fault)).await;
                    return;
                }
            }
        }
    }
}

/// Whether nothing is new but its age and how long the look took.
fn is_same(chain: &v1::Chain, last: &v1::Chain) -> bool {
    let plain = |chain: &v1::Chain| {
        let mut plain = v1::Chain { age_s: 0.0, updated_at: String::new(), ..chain.clone() };
        for step in &mut plain.steps {
            step.worker_us = 0;
        }
        plain
    };
    plain(chain) == plain(last)
}
