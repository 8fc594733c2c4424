//! The HTTP API as browsers meet it.

mod support;

use meridian_access::token::{Claims, mint, verify};
use meridian_control_plane::{ControlPlane, ControlPlaneConfig, StartError};
use serde_json::json;
use std::sync::Arc;
use support::{World, config, exchange};

#[tokio::test]
async fn a_meeting_is_made_looked_up_and_joined_from_anywhere() {
    let (world, _edges) = World::with_edges(config()).await;
    let created = world
        .post(
            "/api/v1/meetings",
            json!({"title": " Stand-up ", "max_participants": 5}),
        )
        .await;
    assert_eq!(
        (created.status, created.header("cache-control")),
        (201, Some("no-store"))
    );
    let meeting = created.json();
    let code = meeting["code"].as_str().unwrap();
    assert_eq!(
        (meeting["title"].as_str(), meeting["passcode_required"].as_bool()),
        (Some("Stand-up"), Some(false))
    );
    assert_eq!(
        (meeting["path"].as_str(), meeting["state"].as_str()),
        (Some(format!("/m/{code}").as_str()), Some("open"))
    );
    let info = world
        .get(&format!("/api/v1/meetings/{}", code.replace('-', "").to_uppercase()))
        .await;
    assert_eq!((info.status, info.json()["code"].as_str()), (200, Some(code)));
    assert!(info.json().get("host_key").is_none(), "the key is shown once");
    for (from, nearest) in [("fra", "fra-1"), ("waw", "fra-1"), ("iad", "iad-1"), ("syd", "sin-1")] {
        let answer = world.join(code, json!({"name": "Ana", "from": from})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let join = answer.json();
        assert_eq!(join["edge"]["id"], nearest, "from {from}");
        assert_eq!(join["edge"]["url"], format!("ws://127.0.0.1:1/{}", &nearest[..3]));
        assert_eq!(join["alternates"].as_array().unwrap().len(), 2);
        assert_ne!(join["alternates"][0]["id"], join["edge"]["id"]);
        assert!(
            join["reasons"][0]["text"]
                .as_str()
                .unwrap()
                .starts_with(&format!("{nearest}: round trip")),
            "{join}"
        );
        let claims = verify(join["token"].as_str().unwrap(), world.plane.key_ring()).unwrap();
        let grants = claims.join_grants().unwrap();
        assert_eq!((claims.name.as_str(), grants.room.as_str()), ("Ana", code));
        assert_eq!(
            (join["identity"].as_str().unwrap(), join["expires"].as_u64()),
            (claims.identity(), claims.exp)
        );
        assert_eq!(claims.meridian.unwrap().max_participants, Some(5));
    }
}

#[tokio::test]
async fn every_way_to_be_refused_has_its_own_answer() {
    let (world, _edges) = World::with_edges(config()).await;
    let (open, host_key) = world.meeting(json!({"title": "x", "max_participants": 1})).await;
    let (locked, _) = world.meeting(json!({"title": "x", "passcode": "sesame"})).await;
    let name = json!({"name": "Ana"});
    assert_eq!(
        world.join("zzz-zzzz-zzz", name.clone()).await.refusal(),
        (404, "not_found".into())
    );
    assert_eq!(
        world.join("nonsense", name.clone()).await.refusal(),
        (404, "not_found".into())
    );
    assert_eq!(
        world.join(&locked, name.clone()).await.refusal(),
        (403, "passcode_required".into())
    );
    let with = |passcode: &str| json!({"name": "Ana", "passcode": passcode});
    assert_eq!(
        world.join(&locked, with("open")).await.refusal(),
        (403, "wrong_passcode".into())
    );
    assert_eq!(world.join(&locked, with("sesame")).await.status, 200);
    assert_eq!(
        world.join(&open, json!({"name": " "})).await.refusal(),
        (400, "bad_request".into())
    );
    assert_eq!(
        world.join(&open, json!({"name": "A", "from": "mars"})).await.refusal(),
        (400, "bad_request".into())
    );
    assert_eq!(
        world.join(&open, json!({"name": 7})).await.refusal(),
        (400, "bad_request".into())
    );
    assert_eq!(world.join(&open, name.clone()).await.status, 200);
    assert_eq!(
        world.join(&open, name.clone()).await.refusal(),
        (409, "full".into()),
        "the first is on the way"
    );
    let path = format!("/api/v1/meetings/{open}");
    assert_eq!(
        world.http("DELETE", &path, &[], None).await.refusal(),
        (403, "not_host".into())
    );
    assert_eq!(
        world
            .http("DELETE", &path, &[("Authorization", "Bearer x")], None)
            .await
            .status,
        403
    );
    let bearer = format!("Bearer {host_key}");
    assert_eq!(
        world
            .http("DELETE", &path, &[("Authorization", &bearer)], None)
            .await
            .status,
        204
    );
    assert_eq!(world.join(&open, name).await.refusal(), (410, "ended".into()));
    assert_eq!(world.get(&path).await.refusal(), (410, "ended".into()));
    assert_eq!(
        world.get("/api/v1/nothing").await.refusal(),
        (404, "no_such_endpoint".into())
    );
    assert_eq!(
        world.get(&format!("{path}/join")).await.refusal(),
        (405, "wrong_method".into())
    );
    assert_eq!(
        world
            .post("/api/v1/meetings", json!({"max_participants": 0}))
            .await
            .status,
        400
    );
    let simple = [("Content-Type", "text/plain")];
    let answer = world.http("POST", "/api/v1/meetings", &simple, Some(&json!({}))).await;
    assert_eq!(
        answer.refusal(),
        (415, "unsupported_media_type".into()),
        "a foreign page's form must not reach the API"
    );
    let huge = json!({"title": "x".repeat(20_000)});
    assert_eq!(
        world.post("/api/v1/meetings", huge).await.refusal(),
        (413, "too_large".into())
    );
}

#[tokio::test]
async fn without_an_edge_a_join_says_so() {
    let world = World::start().await;
    let (code, _) = world.meeting(json!({})).await;
    let answer = world.join(&code, json!({"name": "Ana"})).await;
    assert_eq!(
        (answer.refusal(), answer.header("retry-after")),
        ((503, "no_edge".into()), Some("5"))
    );
}

#[tokio::test]
async fn guessing_codes_and_passcodes_is_slowed_down_by_address_and_by_meeting() {
    let mut config = config();
    config.limits.wrong_codes_per_minute_address = 3;
    config.limits.wrong_passcodes_per_minute_meeting = 3;
    config.http.trusted_proxies = vec!["127.0.0.0/8".into()];
    let (world, _edges) = World::with_edges(config).await;
    let (code, _) = world.meeting(json!({"passcode": "sesame"})).await;
    let body = json!({"name": "Ana", "passcode": "guess"});
    let guess = |code: &str, from: &str| {
        let (path, from, body) = (format!("/api/v1/meetings/{code}/join"), from.to_owned(), body.clone());
        let world = &world;
        async move {
            world
                .http("POST", &path, &[("X-Forwarded-For", from.as_str())], Some(&body))
                .await
        }
    };
    for _ in 0..3 {
        assert_eq!(guess("abc-defg-hjk", "203.0.113.1").await.status, 404);
    }
    let answer = guess("abc-defg-hjk", "203.0.113.1").await;
    assert_eq!(answer.refusal(), (429, "rate_limited".into()));
    assert!(answer.header("retry-after").is_some() && answer.json()["retry_after_s"].as_u64() > Some(0));
    assert_eq!(
        guess("abc-defg-hjk", "203.0.113.2").await.status,
        404,
        "another address is another matter"
    );
    for n in 0..3 {
        assert_eq!(guess(&code, &format!("198.51.100.{n}")).await.status, 403);
    }
    assert_eq!(
        guess(&code, "198.51.100.99").await.status,
        429,
        "a passcode is guarded against many addresses"
    );
}

#[tokio::test]
async fn forwarded_addresses_are_not_believed_from_strangers() {
    let mut config = config();
    config.limits.joins_per_minute_address = 2;
    let (world, _edges) = World::with_edges(config).await;
    let (code, _) = world.meeting(json!({})).await;
    let path = format!("/api/v1/meetings/{code}/join");
    let mut last = 0;
    for n in 0..3 {
        let forwarded = format!("203.0.113.{n}");
        let headers = [("X-Forwarded-For", forwarded.as_str())];
        last = world
            .http("POST", &path, &headers, Some(&json!({"name": "x"})))
            .await
            .status;
    }
    assert_eq!(last, 429);
}

#[tokio::test]
async fn who_rejoins_keeps_the_identity_and_needs_neither_passcode_nor_room() {
    let (world, _edges) = World::with_edges(config()).await;
    let (code, _) = world
        .meeting(json!({"passcode": "sesame", "max_participants": 1}))
        .await;
    let first = world
        .join(&code, json!({"name": "Ana", "passcode": "sesame", "from": "fra"}))
        .await
        .json();
    let again = json!({"name": "Ana", "previous_token": first["token"], "from": "fra", "avoid": ["fra-1"]});
    let answer = world.join(&code, again).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        (&answer.json()["identity"], &answer.json()["edge"]["id"]),
        (&first["identity"], &json!("iad-1"))
    );
    let forged = mint(&Claims::join("u-x", "Eve", &code), "devkey", support::API_SECRET).unwrap();
    let answer = world
        .join(&code, json!({"name": "Eve", "previous_token": forged}))
        .await;
    assert_eq!(
        answer.refusal(),
        (403, "passcode_required".into()),
        "an API key's token is no passcode"
    );
}

#[tokio::test]
async fn health_readiness_metrics_and_regions_are_served() {
    let (world, edges) = World::with_edges(config()).await;
    assert_eq!(world.get("/healthz").await.text, "ok\n");
    let ready = world.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["nodes"].as_u64()), (200, Some(3)));
    let (code, _) = world.meeting(json!({})).await;
    world.join(&code, json!({"name": "Ana"})).await;
    let metrics = world.get("/metrics").await.text;
    let lines: Vec<&str> = metrics.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let name = family.split(' ').next().unwrap();
            let help = lines[number - 1].strip_prefix(&format!("# HELP {name} "));
            assert!(help.is_some_and(|help| !help.is_empty()), "{name} is not explained");
        }
    }
    assert!(
        metrics.contains("meridian_joins_total{outcome=\"granted\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("meridian_edge_healthy{node=\"fra-1\"} 1")
            && metrics.contains("meridian_join_seconds_count 1")
    );
    let regions = world.get("/api/v1/regions").await.json();
    let names: Vec<_> = regions["regions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        (names, regions["demo"].as_bool()),
        (vec!["fra", "iad", "sin"], Some(true))
    );
    assert_eq!(regions["regions"][0]["city"], "Frankfurt");
    drop(edges);
}

#[tokio::test]
async fn the_web_app_is_served_with_its_pages_and_caching() {
    let mut config = config();
    let web = support::directory();
    std::fs::create_dir_all(web.join("assets")).unwrap();
    std::fs::write(web.join("index.html"), "<title>app</title>").unwrap();
    std::fs::write(web.join("assets/app-1234.js"), "run()").unwrap();
    std::fs::write(web.join("assets/app-1234.js.br"), "small").unwrap();
    std::fs::write(web.join("assets/app-1234.js.gz"), "less").unwrap();
    std::fs::write(web.join("favicon.svg"), "<svg/>").unwrap();
    config.http.web_directory = Some(web.clone());
    let world = World::with(config).await;
    for page in ["/", "/m/abc-defg-hjk", "/m/abc-defg-hjk?from=fra"] {
        let answer = world.get(page).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (200, "<title>app</title>"),
            "{page}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert_eq!(answer.header("content-type"), Some("text/html"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("script-src 'self';"), "{policy}");
        assert!(answer.header("permissions-policy").unwrap().contains("camera=(self)"));
    }
    let asset = world.get("/assets/app-1234.js").await;
    assert_eq!((asset.status, asset.text.as_str()), (200, "run()"));
    assert_eq!(
        asset.header("cache-control"),
        Some("public, max-age=31536000, immutable")
    );
    assert_eq!(asset.header("x-content-type-options"), Some("nosniff"));
    for (accepted, sent, encoding) in [("gzip", "less", "gzip"), ("gzip, deflate, br, zstd", "small", "br")] {
        let path = "/assets/app-1234.js";
        let small = world.http("GET", path, &[("accept-encoding", accepted)], None).await;
        assert_eq!((small.status, small.text.as_str()), (200, sent));
        assert_eq!(small.header("content-encoding"), Some(encoding));
        assert_eq!(small.header("content-type"), asset.header("content-type"));
        assert_eq!(small.header("vary"), Some("Accept-Encoding"));
    }
    let missing = world.get("/assets/app-old.js").await;
    assert_eq!(
        (missing.status, missing.header("cache-control")),
        (404, Some("no-store")),
        "a missing script is no page"
    );
    assert_eq!(world.get("/favicon.svg").await.text, "<svg/>");
    assert_ne!(world.get("/../../etc/passwd").await.text.get(..4), Some("root"));
    assert_eq!(world.get("/api/v1/x").await.status, 404);
    std::fs::remove_dir_all(web).unwrap();
}

#[tokio::test]
async fn a_page_may_connect_to_the_edges_and_to_nothing_else() {
    let mut config = config();
    let web = support::directory();
    std::fs::create_dir_all(&web).unwrap();
    std::fs::write(web.join("index.html"), "<title>app</title>").unwrap();
    config.http.web_directory = Some(web.clone());
    config.http.edge_origins = vec!["wss://*.edge.example.org".into()];
    let (world, edges) = World::with_edges(config).await;
    let page = world.get("/").await;
    let policy = page.header("content-security-policy").unwrap();
    let connect = policy.split("; ").find(|rule| rule.starts_with("connect-src")).unwrap();
    let allowed: Vec<&str> = connect.split(' ').collect();
    // What is announced in these tests is one address; a policy names no paths.
    for origin in ["wss://*.edge.example.org", "ws://127.0.0.1:1", "http://127.0.0.1:1"] {
        assert!(allowed.contains(&origin), "{origin} in {connect}");
    }
    assert_eq!(allowed.len(), 2 + 2 + 2 * edges.len(), "{connect}");
    let since = page.header("last-modified").unwrap();
    let again = world.http("GET", "/", &[("if-modified-since", since)], None).await;
    assert_eq!(
        (again.status, again.header("content-security-policy")),
        (304, Some(policy))
    );
    let api = world.get("/api/v1/regions").await;
    assert_eq!(
        api.header("content-security-policy"),
        Some("default-src 'none'; frame-ancestors 'self'")
    );
    std::fs::remove_dir_all(web).unwrap();
}

#[tokio::test]
async fn other_origins_are_let_in_only_by_name() {
    let mut config = config();
    config.http.allowed_origins = vec!["https://meet.example.org".into()];
    let world = World::with(config).await;
    let preflight = |origin: &'static str| {
        let world = &world;
        async move {
            let headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
            let answer = world.http("OPTIONS", "/api/v1/meetings", &headers, None).await;
            answer.header("access-control-allow-origin").map(str::to_owned)
        }
    };
    assert_eq!(
        preflight("https://meet.example.org").await.as_deref(),
        Some("https://meet.example.org")
    );
    assert_eq!(preflight("https://evil.example.org").await, None);
}

#[tokio::test]
async fn plain_http_is_for_loopback_and_https_for_the_world() {
    let mut open = config();
    open.http.bind = ([0, 0, 0, 0], 0).into();
    let registry = Arc::new(meridian_registry::MemoryRegistry::new());
    let refused = ControlPlane::start(open.clone(), registry.clone()).await;
    let Err(StartError::NeedsCertificate(how)) = refused else {
        panic!("it must not start")
    };
    assert!(how.contains("http.certificate") && how.contains("127.0.0.1"), "{how}");
    // The same with a certificate.
    let directory = support::directory();
    std::fs::create_dir_all(&directory).unwrap();
    let authority = meridian_pki::CertificateAuthority::create().unwrap();
    let identity = authority.issue_node("web", &[]).unwrap();
    identity.save(&directory).unwrap();
    open.http.certificate = Some(directory.join("node.pem"));
    open.http.private_key = Some(directory.join("node.key"));
    let world = World::with(open).await;
    let client = tokio_rustls::TlsConnector::from(Arc::new(identity.client_config(&[b"http/1.1"]).unwrap()));
    let address = format!("127.0.0.1:{}", world.plane.http_address().port());
    // Somebody who connects and says nothing keeps nobody else waiting.
    let _silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let stream = client.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    assert_eq!(exchange(stream, "GET", "/healthz", &[], None).await.text, "ok\n");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn meetings_keys_and_certificates_survive_a_restart() {
    let (world, edges) = World::with_edges(config()).await;
    let (code, _) = world.meeting(json!({"title": "kept"})).await;
    let token = world.join(&code, json!({"name": "Ana"})).await.json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let ca = world.plane.certificate_authority().certificate_pem().to_owned();
    let again = ControlPlaneConfig {
        data_directory: world.directory.0.clone(),
        ..config()
    };
    let World {
        plane,
        registry,
        directory: _kept,
    } = world;
    plane.shutdown().await;
    let second = ControlPlane::start(again, registry).await.unwrap();
    assert_eq!(second.certificate_authority().certificate_pem(), ca);
    assert!(verify(&token, second.key_ring()).is_ok());
    let info = second.joins().info(&code, [127, 0, 0, 1].into()).await.unwrap();
    assert_eq!(info.title, "kept");
    second.shutdown().await;
    drop(edges);
}

#[test]
fn settings_without_sense_are_refused_with_file_line_and_key() {
    use meridian_config::Loader;
    let text = "[http]\nbind = '0.0.0.0:80'\ntrusted_proxies = ['proxy']\n[registry]\nkind = 'etcd'\n[assignment]\nload_knee = 2.0\n[api_keys]\nk = 'short'\n[turn]\nurls = ['turn:x']\n";
    let problems = Loader::new("MERIDIAN")
        .env([])
        .file_text("m.toml", text)
        .load::<ControlPlaneConfig>()
        .unwrap_err()
        .to_string();
    for expected in [
        "m.toml:2: http.bind: 0.0.0.0:80 is reachable from other machines, so it needs HTTPS",
        "m.toml:3: http.trusted_proxies: `proxy` is neither",
        "registry.endpoints: must list etcd's client URLs",
        "m.toml:7: assignment.load_knee: must be 0 to 1",
        "api_keys.k: the secret needs at least 32 characters",
        "turn.secret: TURN servers need the secret",
    ] {
        assert!(problems.contains(expected), "{expected}\nnot in\n{problems}");
    }
}

#[tokio::test]
async fn the_host_gets_a_token_that_records_and_does_nothing_else() {
    let (world, _edges) = World::with_edges(config()).await;
    let (code, host_key) = world.meeting(json!({})).await;
    let path = format!("/api/v1/meetings/{code}/recording-token");
    assert_eq!(world.post(&path, json!({})).await.refusal(), (403, "not_host".into()));
    let join = world.join(&code, json!({"name": "Ana"})).await.json();
    for wrong in ["x", join["token"].as_str().unwrap()] {
        let bearer = format!("Bearer {wrong}");
        let answer = world.http("POST", &path, &[("Authorization", &bearer)], None).await;
        assert!(matches!(answer.status, 401 | 403), "{wrong}: {}", answer.status);
    }
    let bearer = format!("Bearer {host_key}");
    let answer = world.http("POST", &path, &[("Authorization", &bearer)], None).await;
    assert_eq!(answer.status, 200);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let claims = meridian_access::token::verify(&token, world.plane.key_ring()).unwrap();
    assert!(claims.join_grants().is_err(), "it lets nobody in");
    let grants = claims.video.unwrap();
    assert_eq!((grants.room_record, grants.room.as_str()), (true, code.as_str()));
    let elsewhere = world.meeting(json!({})).await.0;
    let body = json!({"name": "Eve", "previous_token": token});
    assert_ne!(world.join(&elsewhere, body).await.json()["identity"], json!("host"));
}

#[tokio::test]
async fn an_address_has_so_many_requests_and_is_told_how_many_are_left() {
    let mut config = config();
    config.limits.requests_per_minute_address = 3;
    let world = World::start().await;
    let free = world.get("/api/v1/regions").await;
    assert_eq!(
        (free.header("ratelimit-limit"), free.header("ratelimit-remaining")),
        (Some("6000"), Some("5999"))
    );
    let (world, _edges) = World::with_edges(config).await;
    for left in ["2", "1", "0"] {
        let answer = world.get("/api/v1/regions").await;
        assert_eq!((answer.status, answer.header("ratelimit-remaining")), (200, Some(left)));
        assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 16));
    }
    let refused = world.get("/api/v1/regions").await;
    assert_eq!(refused.refusal(), (429, "rate_limited".into()));
    assert_eq!(
        (refused.header("retry-after"), refused.header("ratelimit-reset")),
        (Some("20"), Some("20"))
    );
    assert_eq!(
        world.get("/healthz").await.status,
        200,
        "probes are no users of the API"
    );
}

#[tokio::test]
async fn the_api_describes_itself_to_programs_and_to_people() {
    let world = World::start().await;
    let document = world.get("/api/v1/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document}");
    let paths = document["paths"].as_object().unwrap();
    // What the code's router holds: a route is made of its description, so this list is all there is to forget.
    for (path, methods) in [
        ("/meetings", &["post"][..]),
        ("/meetings/{code}", &["get", "delete"]),
        ("/meetings/{code}/join", &["post"]),
        ("/meetings/{code}/recording-token", &["post"]),
        ("/regions", &["get"]),
        ("/probes", &["get"]),
        ("/operator/assign", &["get"]),
        ("/operator/mesh/matrix", &["get"]),
        ("/operator/pops", &["get"]),
        ("/operator/pops/{id}", &["get"]),
        ("/operator/pops/{id}/{action}", &["post"]),
        ("/accounts", &["post"]),
        ("/sessions", &["post", "delete"]),
        ("/sessions/refresh", &["post"]),
        ("/account", &["get"]),
        ("/account/meetings", &["get"]),
    ] {
        for method in methods {
            let operation = &paths[path][method];
            assert!(operation["summary"].is_string(), "{method} {path}: {operation}");
            let refused = &operation["responses"]["4XX"]["content"]["application/problem+json"]["schema"];
            assert_eq!(refused["$ref"], "#/components/schemas/Problem", "{method} {path}");
        }
        assert_eq!(paths[path].as_object().unwrap().len(), methods.len(), "{path}");
    }
    assert_eq!(paths.len(), 16);
    let page = world.get("/api/v1/docs").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(
        page.text.contains("<code>POST /meetings/{code}/join</code>"),
        "{}",
        page.text
    );
    assert!(
        !page.text.contains("<script") && !page.text.contains("//"),
        "it loads nothing"
    );
}
