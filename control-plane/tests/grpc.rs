//! gRPC as edges meet it: identity by certificate, policy first, load that moves people, forwarded joins, enrolment.

mod support;

use meridian_access::token::{Claims, KeyRing, mint, verify};
use meridian_pki::NodeIdentity;
use meridian_pki::enrolment::{Enrolment, EnrolmentError};
use meridian_turn_core::credentials::Credentials;
use meridian_wire::v1::{self, edge_command::Command, entry::Kind, join_answer::Answer};
use serde_json::json;
use std::time::{Duration, Instant};
use support::{World, config, eventually};
use tonic::Code;

#[tokio::test]
async fn an_edge_gets_its_policy_first_and_can_verify_tokens_with_it() {
    let (world, _edges) = World::with_edges(config()).await;
    let mut edge = world.attach("fra-1").await;
    let Command::Policy(policy) = edge.command().await else {
        panic!("the policy comes first")
    };
    let keys = KeyRing::from(&policy);
    assert!(policy.load_interval_ms > 0);
    let (code, _) = world.meeting(json!({})).await;
    let join = world.join(&code, json!({"name": "Ana"})).await.json();
    assert!(verify(join["token"].as_str().unwrap(), &keys).is_ok());
    let token = mint(&Claims::join("sdk", "SDK", "any"), "devkey", support::API_SECRET).unwrap();
    assert!(verify(&token, &keys).is_ok(), "API keys reach the edges too");
}

#[tokio::test]
async fn a_join_names_the_turn_server_of_its_edge_first_with_credentials_that_the_edges_can_check() {
    for external in [vec![], vec!["turns:far.example.org:443?transport=tcp".to_owned()]] {
        let mut config = config();
        config.turn.urls = external.clone();
        if !external.is_empty() {
            config.turn.secret = "shared-with-that-server".to_owned();
        }
        let (world, _edges) = World::with_edges(config).await;
        let mut edge = world.attach("fra-1").await;
        let Command::Policy(policy) = edge.command().await else {
            panic!("the policy comes first")
        };
        let turn = policy.turn.unwrap();
        assert_eq!(
            turn.urls, external,
            "what the edges know anyway is not repeated to them"
        );
        let (code, _) = world.meeting(json!({})).await;
        let join = world.join(&code, json!({"name": "Ana", "from": "iad"})).await.json();
        let servers = join["ice_servers"].as_array().unwrap();
        let urls: Vec<_> = servers.iter().map(|one| one["urls"][0].as_str().unwrap()).collect();
        let mut expected = vec!["turn:iad.example.org:3478?transport=udp"];
        expected.extend(external.iter().map(String::as_str));
        assert_eq!(urls, expected);
        let known = Credentials::default().with_secret(turn.secret);
        for server in servers {
            let account = known.find(server["username"].as_str().unwrap()).unwrap();
            assert_eq!(account.passwords[0], server["credential"].as_str().unwrap());
            assert_eq!(account.quota_name, join["identity"].as_str().unwrap());
        }
    }
}

#[tokio::test]
async fn edges_get_another_token_for_whoever_is_in_a_meeting_until_it_ends() {
    let (world, _edges) = World::with_edges(config()).await;
    let keys = world.plane.key_ring().clone();
    let identity = world.plane.certificate_authority().issue_node("fra-1", &[]).unwrap();
    let mut edge = world.client(&identity);
    let (code, host_key) = world.meeting(json!({"max_participants": 7})).await;
    let join = world.join(&code, json!({"name": "Ana"})).await.json();
    let token = join["token"].as_str().unwrap().to_owned();
    let renew = |token: &str| v1::RenewRequest {
        token: token.to_owned(),
    };
    let renewed = edge.renew(renew(&token)).await.unwrap().into_inner();
    let (before, after) = (verify(&token, &keys).unwrap(), verify(&renewed.token, &keys).unwrap());
    assert_eq!(after.exp, Some(renewed.expires));
    assert!(after.exp >= before.exp);
    let lasting = |claims: &Claims| Claims {
        exp: None,
        nbf: None,
        ..claims.clone()
    };
    assert_eq!(lasting(&after), lasting(&before), "only for longer");

    let mut forged = before.clone();
    forged.iss = "devkey".to_owned();
    let forged = mint(&forged, "devkey", support::API_SECRET).unwrap();
    for wrong in [&forged, "x.y.z", ""] {
        let refused = edge.renew(renew(wrong)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{wrong}");
    }
    let bearer = format!("Bearer {host_key}");
    let path = format!("/api/v1/meetings/{code}");
    let ended = world.http("DELETE", &path, &[("Authorization", &bearer)], None).await;
    assert_eq!(ended.status, 204, "{}", ended.text);
    assert_eq!(edge.renew(renew(&token)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn load_reports_move_people_and_count_them() {
    let (world, _edges) = World::with_edges(config()).await;
    let fra = world.attach("fra-1").await;
    let (code, _) = world.meeting(json!({"max_participants": 100})).await;
    fra.report(99, &[(&code, 99)]).await;
    let path = format!("/api/v1/meetings/{code}");
    eventually("the meeting counts 99", async || {
        world.get(&path).await.json()["participants"] == 99
    })
    .await;
    let answer = world.join(&code, json!({"name": "Ana", "from": "fra"})).await.json();
    assert_eq!(answer["edge"]["id"], "iad-1", "fra-1 is nearly full");
    assert_eq!(
        world.join(&code, json!({"name": "Bob", "from": "fra"})).await.refusal(),
        (409, "full".into())
    );
}

#[tokio::test]
async fn an_edge_that_vanishes_gets_nobody_new_and_a_cordoned_one_neither() {
    let (world, mut edges) = World::with_edges(config()).await;
    let (code, _) = world.meeting(json!({})).await;
    let body = json!({"name": "Ana", "from": "fra"});
    let edge_of = async |world: &World| {
        world.join(&code, body.clone()).await.json()["edge"]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let fra = world.attach("fra-1").await;
    assert_eq!(edge_of(&world).await, "fra-1");
    // Its stream breaks, long before its lease ends.
    drop(fra);
    eventually("fra-1 is doubtful", async || edge_of(&world).await == "iad-1").await;
    let _fra = world.attach("fra-1").await;
    assert_eq!(edge_of(&world).await, "fra-1");
    edges[0].set_state(meridian_registry::nodes::NodeState::Cordoned);
    eventually("fra-1 is cordoned", async || edge_of(&world).await == "iad-1").await;
    // It leaves for good.
    let fra = edges.remove(0);
    fra.leave().await;
    eventually("fra-1 is gone", async || {
        world.get("/readyz").await.json()["nodes"] == 2
    })
    .await;
}

/// `fra-1` as it is now.
fn hello(incarnation: u64) -> v1::Hello {
    v1::Hello {
        protocol: 2,
        node: "fra-1".into(),
        incarnation,
        ..v1::Hello::default()
    }
}

#[tokio::test]
async fn an_entry_is_acted_on_once_however_often_its_edge_comes_back_with_it() {
    let world = World::start().await;
    let identity = world.plane.certificate_authority().issue_node("fra-1", &[]).unwrap();
    let session = || {
        Some(Kind::Session(v1::SessionReport {
            ended: true,
            ..v1::SessionReport::default()
        }))
    };
    let emptied = || Some(Kind::RoomEmptied(v1::RoomEmptied::default()));
    let mut first = world.attach_with(&identity, hello(1)).await.unwrap();
    assert!(first.acknowledges);
    first.entry(1, session()).await;
    first.entry(2, emptied()).await;
    first.received(2).await;
    // 3 was dropped. What a newer edge tells is acknowledged, too.
    first.entry(4, None).await;
    first.received(4).await;
    let mut second = world.attach_with(&identity, hello(1)).await.unwrap();
    second.entry(2, emptied()).await;
    second.entry(4, None).await;
    second.entry(5, session()).await;
    second.received(5).await;
    // The one before has not noticed yet that it was replaced.
    first.entry(5, session()).await;
    first.received(5).await;
    // It starts anew, and with it its numbers.
    let mut third = world.attach_with(&identity, hello(2)).await.unwrap();
    third.entry(1, session()).await;
    third.received(1).await;
    // And as an older edge tells it.
    let old = world.attach("fra-1").await;
    old.session("192.0.2.1", 20.0).await;
    let count = async |line: &str| {
        let text = world.get("/metrics").await.text;
        text.lines().any(|held| held == line)
    };
    eventually("four sessions", async || count("meridian_sessions_ended_total 4").await).await;
    for line in [
        "meridian_entries_total{kind=\"session\"} 3",
        "meridian_entries_total{kind=\"room_emptied\"} 1",
        "meridian_entries_total{kind=\"unknown\"} 1",
        "meridian_entries_total{kind=\"repeated\"} 3",
    ] {
        assert!(count(line).await, "{line}");
    }
}

#[tokio::test]
async fn an_edge_that_was_away_learns_on_attaching_what_is_wanted_of_it() {
    let (world, _edges) = World::with_edges(config()).await;
    let identity = world.plane.certificate_authority().issue_node("fra-1", &[]).unwrap();
    let mut edge = world.attach_with(&identity, hello(1)).await.unwrap();
    let Command::Desired(desired) = edge.command().await else {
        panic!("everything wanted comes first")
    };
    assert!(desired.policy.is_some_and(|policy| !policy.token_keys.is_empty()));
    assert_eq!((desired.state, desired.closed.len()), (None, 0));
    drop(edge);
    let (code, host_key) = world.meeting(json!({})).await;
    let bearer = format!("Bearer {host_key}");
    let path = format!("/api/v1/meetings/{code}");
    let ended = world.http("DELETE", &path, &[("Authorization", &bearer)], None).await;
    assert_eq!(ended.status, 204, "{}", ended.text);
    let mut edge = world.attach_with(&identity, hello(1)).await.unwrap();
    let Command::Desired(desired) = edge.command().await else {
        panic!("everything wanted comes first")
    };
    assert_eq!(desired.closed.len(), 1);
    assert_eq!(desired.closed[0].room, code);
}

#[tokio::test]
async fn a_join_forwarded_by_an_edge_is_the_same_join() {
    let (world, _edges) = World::with_edges(config()).await;
    let mut edge = world.attach("sin-1").await;
    let (code, host_key) = world.meeting(json!({"title": "T", "passcode": "sesame"})).await;
    let request = |passcode: &str| v1::JoinRequest {
        code: code.clone(),
        name: "Ana".into(),
        passcode: passcode.into(),
        client_address: "203.0.113.9".into(),
        from: "fra".into(),
        ..v1::JoinRequest::default()
    };
    let Some(Answer::Refused(refused)) = edge.client.join(request("no")).await.unwrap().into_inner().answer else {
        panic!()
    };
    assert_eq!((refused.status, refused.code.as_str()), (403, "wrong_passcode"));
    let Some(Answer::Granted(granted)) = edge.client.join(request("sesame")).await.unwrap().into_inner().answer else {
        panic!()
    };
    assert_eq!(
        (granted.edge.unwrap().id.as_str(), granted.title.as_str()),
        ("fra-1", "T")
    );
    // The end of a meeting reaches the edges.
    assert!(matches!(edge.command().await, Command::Policy(_)));
    let bearer = format!("Bearer {host_key}");
    world
        .http(
            "DELETE",
            &format!("/api/v1/meetings/{code}"),
            &[("Authorization", &bearer)],
            None,
        )
        .await;
    let Command::CloseRoom(close) = edge.command().await else {
        panic!()
    };
    assert_eq!(close.room, code);
}

#[tokio::test]
async fn nobody_attaches_as_somebody_else() {
    let world = World::start().await;
    let authority = world.plane.certificate_authority();
    let iad = authority.issue_node("iad-1", &[]).unwrap();
    assert_eq!(
        world.attach_as(&iad, "fra-1").await.err().unwrap().code(),
        Code::PermissionDenied
    );
    let control = authority.issue_control_plane("other", &[]).unwrap();
    assert_eq!(
        world.attach_as(&control, "other").await.err().unwrap().code(),
        Code::PermissionDenied
    );
    let foreign = meridian_pki::CertificateAuthority::create()
        .unwrap()
        .issue_node("fra-1", &[])
        .unwrap();
    let foreign = NodeIdentity {
        ca_pem: authority.certificate_pem().to_owned(),
        ..foreign
    };
    assert!(world.attach_as(&foreign, "fra-1").await.is_err());
    let request = v1::EnrollRequest {
        token: String::new(),
        node: "fra-1".into(),
        ..v1::EnrollRequest::default()
    };
    let refused = world.client(&iad).enroll(request).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::PermissionDenied,
        "without tokens there is no enrolment, not even with an empty one"
    );
}

#[tokio::test]
async fn a_new_edge_enrols_with_a_token_and_its_own_key() {
    let mut config = config();
    config.enrolment_tokens = vec!["a-token-of-sufficient-length".into()];
    let (world, _edges) = World::with_edges(config).await;
    let enrolment = |node: &str, token: &str| Enrolment {
        control_plane: format!("https://{}", world.plane.grpc_address()),
        ca_pem: world.plane.certificate_authority().certificate_pem().to_owned(),
        token: token.into(),
        node: node.into(),
        region: "fra".into(),
        names: vec!["192.0.2.1".into()],
    };
    let token = "a-token-of-sufficient-length";
    let refused = |result: Result<NodeIdentity, EnrolmentError>| match result {
        Err(EnrolmentError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(enrolment("new-1", "guess").run().await),
        "the enrolment token is not valid"
    );
    assert!(refused(enrolment("New 1", token).run().await).contains("a-z, 0-9"));
    assert!(
        refused(enrolment("fra-1", token).run().await).contains("is alive"),
        "nobody becomes a living node"
    );
    let identity = enrolment("new-1", token).run().await.unwrap();
    let mut edge = world.attach_as(&identity, "new-1").await.unwrap();
    assert!(matches!(edge.command().await, Command::Policy(_)));
    // An impostor of the control plane gets no token.
    let ca_pem = meridian_pki::CertificateAuthority::create()
        .unwrap()
        .certificate_pem()
        .to_owned();
    let wary = Enrolment {
        ca_pem,
        ..enrolment("new-2", token)
    };
    assert!(matches!(wary.run().await, Err(EnrolmentError::Unreachable { .. })));
}

#[tokio::test]
async fn without_a_certificate_enrolment_is_all_there_is() {
    use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
    let mut config = config();
    config.enrolment_tokens = vec!["a-token-of-sufficient-length".into()];
    let world = World::with(config).await;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(
            world.plane.certificate_authority().certificate_pem(),
        ))
        .domain_name(meridian_pki::CONTROL_PLANE_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", world.plane.grpc_address())).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
    let mut client = v1::edge_control_client::EdgeControlClient::new(channel);
    assert_eq!(
        client.join(v1::JoinRequest::default()).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let nothing = tokio_stream::empty::<v1::EdgeReport>();
    assert_eq!(client.attach(nothing).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_control_plane_stops_promptly_with_edges_attached() {
    let world = World::start().await;
    let mut edge = world.attach("fra-1").await;
    assert!(matches!(edge.command().await, Command::Policy(_)));
    let World {
        plane,
        directory: _kept,
        ..
    } = world;
    let started = Instant::now();
    plane.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(
        edge.commands.message().await.is_ok_and(|end| end.is_none()),
        "the edge is told"
    );
}
