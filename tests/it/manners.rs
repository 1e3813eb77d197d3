//! The manners of a gRPC service: health, reflection, deadlines, drain.

use rootward_client::{Arguments, Client};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{
    v1::{self, server_reflection_client::ServerReflectionClient},
    v1alpha::{self, server_reflection_client::ServerReflectionClient as OldReflectionClient},
};

use crate::shared::{bank, own_bank};

#[tokio::test(flavor = "multi_thread")]
async fn routers_and_workers_answer_health_and_reflection() {
    let cluster = &bank().await.embedded;
    let worker = cluster.worker_address("p1").expect("p1 has a worker").to_owned();
    for (address, service) in [(cluster.router_address().to_owned(), "rootward.v1.Rootward"), (worker, "rootward.v1.Worker")] {
        let channel = Endpoint::from_shared(address).expect("an address").connect().await.expect("it listens");
        let request = HealthCheckRequest { service: service.to_owned() };
        let health = HealthClient::new(channel.clone()).check(request).await.expect("health is answered").into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{service}");
        let list = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
        };
        let mut answers =
            ServerReflectionClient::new(channel.clone()).server_reflection_info(tokio_stream::once(list)).await.expect("v1").into_inner();
        assert!(format!("{:?}", answers.message().await.expect("an answer")).contains(service));
        // Python's client asks for the older one only.
        let list = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
        };
        let mut answers =
            OldReflectionClient::new(channel).server_reflection_info(tokio_stream::once(list)).await.expect("v1alpha").into_inner();
        assert!(format!("{:?}", answers.message().await.expect("an answer")).contains(service));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_finishes_what_is_under_way_and_the_next_one_goes_on() {
    let mut cluster = own_bank(1).await;
    let client = Client::new([cluster.embedded.router_address()]).expect("an address").with_deadline(std::time::Duration::from_secs(60));
    let open =
        |account: u64| client.call("open_account", Arguments::new().with("account_id", account).with("owner", "a").with("amount", 1));
    let opened = tokio::spawn(futures_util::future::join_all((1..=400).map(|account| open(account).send())));
    cluster.embedded.drain_worker("p1").await.expect("it drains");
    cluster.embedded.start_worker("p1", &[]).await.expect("it starts");
    for answer in opened.await.expect("no panic") {
        answer.expect("each request has its answer, from the one worker or the other");
    }
    let sum = cluster.reader().sum("select count(*) from account where account_id <= 400").await.expect("a number");
    assert_eq!(sum, 400);
}
