//! Which of several peers is nearest: by the measured way to its worker, else by the map.
//!
//! Whoever may ask any of them asks the nearest one first: what reads reference data alone, and what every peer knows.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rootward_proto::v1;
use rootward_schema::kilometres;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{CatalogPeer, service::RouterService};

/// A pause between two measurements.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a worker may take to answer; else it counts as dead until it is measured again.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Of so many measurements the shortest counts: the others have waited for something besides the way.
const KEPT: usize = 8;
/// Ways that differ by less are equally long, and the map decides: so much is the noise of a busy machine.
const STEP: Duration = Duration::from_millis(5);

/// How far peers are from this router.
#[derive(Debug, Default)]
pub(crate) struct Nearness {
    /// Where the router stands, in degrees, if that is known.
    here: Option<(f64, f64)>,
    /// By the address of a peer's worker. The measuring task writes, whoever asks reads.
    measured: Mutex<HashMap<String, Measured>>,
}

#[derive(Debug, Default, Clone)]
struct Measured {
    recent: VecDeque<Duration>,
    is_silent: bool,
}

impl Nearness {
    pub(crate) fn new(here: Option<(f64, f64)>) -> Nearness {
        Nearness { here, measured: Mutex::default() }
    }

    /// Puts the nearest one first, and those last that didn't answer when they were measured.
    pub(crate) fn sort(&self, peers: &mut [&CatalogPeer]) {
        let measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let rank = |peer: &CatalogPeer| {
            let known = measured.get(&peer.worker_address);
            // What was not measured yet may be as near as any: the map decides.
            let way = known.and_then(|known| known.recent.iter().min()).map_or(0, |way| way.as_micros() / STEP.as_micros());
            let distance = self.here.zip(peer.latitude.zip(peer.longitude)).map_or(f64::INFINITY, |(here, there)| kilometres(here, there));
            (known.is_some_and(|known| known.is_silent), way, distance)
        };
        peers.sort_by(|one, other| {
            let (one_rank, other_rank) = (rank(one), rank(other));
            (one_rank.0, one_rank.1)
                .cmp(&(other_rank.0, other_rank.1))
                .then(one_rank.2.total_cmp(&other_rank.2))
                .then(one.id.cmp(&other.id))
        });
    }

    /// None if it didn't answer.
    fn note(&self, address: &str, way: Option<Duration>) {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let known = measured.entry(address.to_owned()).or_default();
        known.is_silent = way.is_none();
        known.recent.extend(way);
        while known.recent.len() > KEPT {
            known.recent.pop_front();
        }
    }

    /// Forgets addresses at which nobody is any more.
    fn keep(&self, addresses: &[&str]) {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner).retain(|address, _| addresses.contains(&address.as_str()));
    }
}

/// Measures the way to every worker again and again.
pub(crate) async fn measure(service: RouterService, shutdown: CancellationToken) {
    loop {
        measure_once(&service).await;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn measure_once(service: &RouterService) {
    let ask = |mut client: v1::worker_client::WorkerClient<tonic::transport::Channel>| async move {
        // Questions that a worker answers from memory; the first one opens the connection.
        client.get_reference_data(v1::GetReferenceDataRequest::default()).await?;
        let began = Instant::now();
        client.get_reference_data(v1::GetReferenceDataRequest::default()).await?;
        Ok(began.elapsed())
    };
    let Ok((answered, silent)) = service.ask_all(ANSWER_LIMIT, ask).await else { return };
    answered.iter().for_each(|(peer, way)| service.nearness.note(&peer.worker_address, Some(*way)));
    silent.iter().for_each(|(peer, _)| service.nearness.note(&peer.worker_address, None));
    let known = answered.iter().map(|(peer, _)| peer).chain(silent.iter().map(|(peer, _)| peer));
    service.nearness.keep(&known.map(|peer| peer.worker_address.as_str()).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, longitude: Option<f64>) -> CatalogPeer {
        CatalogPeer {
            id: id.into(),
            worker_address: format!("http://{id}"),
            capacity: 1,
            region: String::new(),
            state: "active".into(),
            is_hub: false,
            timeline: 1,
            latitude: longitude.map(|_| 0.0),
            longitude,
            is_relay: false,
        }
    }

    #[test]
    fn the_way_counts_first_then_the_map_and_the_dead_come_last() {
        let all = [peer("p1", Some(50.0)), peer("p2", Some(5.0)), peer("p3", Some(20.0)), peer("p4", None)];
        let nearness = Nearness::new(Some((0.0, 0.0)));
        let order = || {
            let mut peers: Vec<&CatalogPeer> = all.iter().collect();
            nearness.sort(&mut peers);
            peers.iter().map(|peer| peer.id.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order(), "p2 p3 p1 p4", "nothing is measured: the map decides, and who is not on it comes behind");
        let ms = Duration::from_millis;
        for (id, way) in [("p1", ms(1)), ("p2", ms(4)), ("p3", ms(40)), ("p4", ms(3))] {
            nearness.note(&format!("http://{id}"), Some(way));
        }
        assert_eq!(order(), "p2 p1 p4 p3", "4 ms are as near as 1 ms, and 40 ms are not");
        nearness.note("http://p2", Some(ms(400)));
        assert_eq!(order(), "p2 p1 p4 p3", "the shortest counts");
        nearness.note("http://p2", None);
        assert_eq!(order(), "p1 p4 p3 p2", "who didn't answer comes last");
        nearness.note("http://p2", Some(ms(2)));
        assert_eq!(order(), "p2 p1 p4 p3", "until it does");
        (0..KEPT).for_each(|_| nearness.note("http://p2", Some(ms(90))));
        assert_eq!(order(), "p1 p4 p3 p2", "a way that has become longer is known as longer");
        nearness.keep(&["http://p1"]);
        assert_eq!(nearness.measured.lock().expect("no panic").len(), 1);
        let nowhere = Nearness::default();
        let mut peers: Vec<&CatalogPeer> = all.iter().rev().collect();
        nowhere.sort(&mut peers);
        assert_eq!(peers[0].id, "p1", "nothing is known: by name");
    }
}
