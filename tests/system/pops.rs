//! What operators do with PoPs: cordon, drain, and the way back, by the command line and over restarts of everything.

use meridian_pki::CertificateAuthority;
use meridian_wire::v1;
use meridian_wire::v1::operators_client::OperatorsClient;
use meridian_wire::v1::pop_action::Action;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::mesh::process::{Process, eventually, get, send};
use crate::mesh::{MERIDIAN, Mesh, OPERATOR_TOKEN, SOON};

/// `meridian pop …`: whether it succeeded, and what it printed.
async fn pop(mesh: &Mesh, words: &str) -> (bool, String) {
    operator(mesh, &format!("pop {words}")).await
}

async fn operator(mesh: &Mesh, words: &str) -> (bool, String) {
    let log = mesh.folder.path(&format!("{}.log", words.replace([' ', '-'], "_")));
    let _ = std::fs::remove_file(&log);
    let words = format!("{words} --url http://{} --token {OPERATOR_TOKEN}", mesh.http);
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let mut process = Process::start(MERIDIAN, &words, &log);
    let good = process.ended(SOON).await.success();
    (good, process.log())
}

async fn done(mesh: &Mesh, words: &str) -> Value {
    let (good, text) = pop(mesh, &format!("{words} --json")).await;
    assert!(good, "{words}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words}: {error}: {text}"))
}

/// Until the edge itself says why it takes nobody new; empty: it does.
async fn edge_says(mesh: &Mesh, edge: &str, why: &str) {
    eventually(&format!("{edge} says {why:?}"), SOON, async || {
        let address = mesh.edge_address(edge).await;
        let ready = get(address, "/readyz").await?;
        (ready.status == if why.is_empty() { 200 } else { 503 } && ready.text.contains(why)).then_some(())
    })
    .await;
}

/// Until somebody from there is placed there: the registry has to hear of it from the edge.
async fn is_placed_on(mesh: &Mesh, code: &str, edge: &str) {
    edge_says(mesh, edge, "").await;
    eventually(&format!("people are placed on {edge}"), SOON, async || {
        (mesh.edge_for(code, edge).await == edge).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cordoned_pop_gets_nobody_new_and_stays_so_whoever_restarts() {
    let mut mesh = Mesh::start(&["fra", "iad"]).await;
    let (code, _) = mesh.meeting(json!({})).await;
    assert_eq!(mesh.edge_for(&code, "fra").await, "fra");
    let (_, table) = pop(&mesh, "list").await;
    assert!(
        table.starts_with("pop ") && table.contains("\nfra ") && table.contains("\niad "),
        "{table}"
    );
    assert!(!table.contains('\u{1b}'), "no colour in a file: {table}");

    assert_eq!(done(&mesh, "cordon fra").await["state"], "cordoned");
    assert_eq!(mesh.edge_for(&code, "fra").await, "iad", "from the very next join on");
    edge_says(&mesh, "fra", "cordoned").await;

    mesh.control.signal("KILL");
    mesh.control.ended(SOON).await;
    mesh.restart_control();
    mesh.control_answers().await;
    mesh.wait_for_edges(2).await;
    assert_eq!(mesh.edge_for(&code, "fra").await, "iad", "kept in the database");
    let mut edge = mesh.edges.remove("fra").unwrap();
    edge.signal("KILL");
    edge.ended(SOON).await;
    mesh.run_edge("fra");
    edge_says(&mesh, "fra", "cordoned").await;
    assert_eq!(mesh.edge_for(&code, "fra").await, "iad", "told again at its Hello");

    done(&mesh, "uncordon fra").await;
    is_placed_on(&mesh, &code, "fra").await;
}

#[tokio::test]
async fn a_drain_is_refused_for_the_last_of_a_region_and_called_off_by_undrain() {
    let mesh = Mesh::start(&["fra", "iad"]).await;
    let (code, _) = mesh.meeting(json!({})).await;
    let (good, why) = pop(&mesh, "drain fra").await;
    assert!(
        !good && why.contains("fra is the last PoP of region fra") && why.contains("--force"),
        "{why}"
    );
    let drained = done(&mesh, "drain fra --deadline 10m --force").await;
    assert_eq!(
        (&drained["state"], &drained["drain"]["people_left"]),
        (&json!("draining"), &json!(0))
    );
    assert_eq!(drained["drain"]["eta_s"], 0, "nobody is there");
    assert_eq!(mesh.edge_for(&code, "fra").await, "iad");
    edge_says(&mesh, "fra", "draining").await;
    let (good, why) = pop(&mesh, "uncordon fra").await;
    assert!(!good && why.contains("undrain"), "{why}");
    done(&mesh, "undrain fra").await;
    is_placed_on(&mesh, &code, "fra").await;

    let (good, why) = pop(&mesh, "cordon lhr").await;
    assert!(!good && why.contains("There is no PoP lhr"), "{why}");
    let path = "/api/v1/operator/pops/fra/cordon";
    let stranger = send(mesh.http, "POST", path, "Authorization: Bearer guess\r\n", "")
        .await
        .unwrap();
    assert_eq!(stranger.status, 401, "{stranger:?}");
    assert_eq!(mesh.edge_for(&code, "fra").await, "fra");
}

#[tokio::test]
async fn the_matrix_and_top_show_every_pop_and_what_links_measure() {
    let mesh = Mesh::start(&["fra", "iad"]).await;
    let told = |matrix: &Value, from: &str, to: &str| {
        let links = matrix["links"].as_array().cloned().unwrap_or_default();
        links
            .iter()
            .any(|link| link["from"] == from && link["to"] == to && link["rtt_p50_ms"].as_f64() > Some(0.0))
    };
    // Links are told of every ten seconds, and measured once a second.
    eventually("both ends have measured", 4 * SOON, async || {
        let authorization = format!("Authorization: Bearer {OPERATOR_TOKEN}\r\n");
        let matrix = send(mesh.http, "GET", "/api/v1/operator/mesh/matrix", &authorization, "")
            .await?
            .json();
        (told(&matrix, "fra", "iad") && told(&matrix, "iad", "fra")).then_some(())
    })
    .await;
    for (words, wanted) in [("mesh matrix", ["fra", "iad", "ms"]), ("top", ["fra", "iad", "2 PoPs"])] {
        let (good, shown) = operator(&mesh, words).await;
        assert!(
            good && wanted.iter().all(|word| shown.contains(word)),
            "{words}: {shown}"
        );
    }
}

#[tokio::test]
async fn operators_do_the_same_by_grpc_and_nobody_else_does() {
    let mesh = Mesh::start(&["fra", "iad"]).await;
    let (code, _) = mesh.meeting(json!({})).await;
    let authority = CertificateAuthority::load(&mesh.folder.path("data/pki")).unwrap();
    let identity = authority.issue_node("ops", &[]).unwrap();
    let endpoint = Endpoint::from_shared(format!("https://{}", mesh.grpc)).unwrap();
    let channel = endpoint.tls_config(identity.tonic_client()).unwrap().connect_lazy();
    let mut client = OperatorsClient::new(channel);
    let mut act = async |token: &str, action: Action| {
        let mut request = tonic::Request::new(v1::PopAction {
            pop: "fra".to_owned(),
            action: action.into(),
            ..v1::PopAction::default()
        });
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let answer = client.act_on_pop(request).await;
        answer.map(|pop| pop.into_inner().state).map_err(|status| status.code())
    };
    assert_eq!(
        act("a-certificate-is-not-enough", Action::Cordon).await,
        Err(Code::Unauthenticated)
    );
    assert_eq!(
        act(OPERATOR_TOKEN, Action::Unspecified).await,
        Err(Code::InvalidArgument)
    );
    assert_eq!(
        act(OPERATOR_TOKEN, Action::Drain).await,
        Err(Code::FailedPrecondition),
        "the last of its region"
    );
    assert_eq!(act(OPERATOR_TOKEN, Action::Cordon).await.as_deref(), Ok("cordoned"));
    assert_eq!(mesh.edge_for(&code, "fra").await, "iad");
    act(OPERATOR_TOKEN, Action::Uncordon).await.unwrap();
    is_placed_on(&mesh, &code, "fra").await;
}
