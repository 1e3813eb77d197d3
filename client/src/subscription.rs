//! What takes effect at the roots of an entity, as it takes effect.

use std::{collections::BTreeMap, time::Duration};

use rootward_proto::{
    FaultResult,
    v1::{self, RetryClass},
};

use crate::{Answers, Client, retry::Policy};

/// A pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// A subscription. It survives breaks: whatever ends a stream, the next one goes on behind what was returned. So each event comes at least once, and in order
/// within its partition; its number tells a repetition.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    request: v1::SubscribeRequest,
    positions: BTreeMap<i32, i64>,
    answers: Option<Answers<v1::SubscribeResponse>>,
}

impl Subscription {
    /// What has been returned, by partition: keep it with what you made of the events, and give it to the next subscription as `after`.
    pub fn positions(&self) -> Vec<v1::JournalPosition> {
        self.positions.iter().map(|(partition, sequence)| v1::JournalPosition { partition: *partition, sequence: *sequence }).collect()
    }

    /// The next events; perhaps none, but news of how far it has read. Waits as long as it takes.
    ///
    /// Cancel safety: dropping the future loses nothing.
    ///
    /// # Errors
    /// RW2003 or RW2011 if there is nothing to subscribe to; else why no router was reached before the client's deadline, after which it can be
    /// called again.
    pub async fn next(&mut self) -> FaultResult<v1::SubscribeResponse> {
        loop {
            let Some(answers) = &mut self.answers else {
                let request = v1::SubscribeRequest { after: self.after(), ..self.request.clone() };
                let opened =
                    self.client.send(request, Policy::REPEATABLE, |mut router, request| async move { router.subscribe(request).await });
                self.answers = Some(Answers(opened.await?));
                continue;
            };
            match answers.next().await {
                Ok(Some(response)) => {
                    self.positions.extend(response.positions.iter().map(|read| (read.partition, read.sequence)));
                    return Ok(response);
                }
                Err(fault) if fault.retry_class() == RetryClass::Refused => return Err(fault),
                Ok(None) | Err(_) => {
                    self.answers = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// What was given and what was returned since.
    fn after(&self) -> Vec<v1::JournalPosition> {
        let given = self.request.after.iter().filter(|after| !self.positions.contains_key(&after.partition)).copied();
        given.chain(self.positions()).collect()
    }
}

impl Client {
    /// Subscribes to what takes effect at the roots of an entity that has a journal. Nothing is asked for before [`Subscription::next`].
    pub fn subscribe(&self, request: v1::SubscribeRequest) -> Subscription {
        Subscription { client: self.clone(), request, positions: BTreeMap::new(), answers: None }
    }
}
