//! Signing up, in and out over HTTP, and what an account is good for.

mod support;

use meridian_access::token::verify;
use meridian_control_plane::config::AccountsConfig;
use serde_json::{Value, json};
use support::{Answer, World, config};

const PASSWORD: &str = "correct horse battery";

async fn sign_up(world: &World, email: &str) -> Value {
    let body = json!({"email": email, "name": "Ana", "password": PASSWORD});
    let answer = world.post("/api/v1/accounts", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

async fn sign_in(world: &World, email: &str, password: &str) -> Answer {
    world
        .post("/api/v1/sessions", json!({"email": email, "password": password}))
        .await
}

async fn refresh(world: &World, token: &Value) -> Answer {
    world
        .post("/api/v1/sessions/refresh", json!({"refresh_token": token}))
        .await
}

async fn call(world: &World, method: &str, path: &str, token: &str, body: Option<&Value>) -> Answer {
    let bearer = format!("Bearer {token}");
    world.http(method, path, &[("Authorization", &bearer)], body).await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test]
async fn an_owner_finds_and_ends_their_meetings_from_any_device() {
    let (world, _edges) = World::with_edges(config()).await;
    let laptop = sign_up(&world, "Ana@Example.org").await;
    assert_eq!(text(&laptop["account"]["email"]), "ana@example.org");
    let token = text(&laptop["access_token"]);
    let made = call(
        &world,
        "POST",
        "/api/v1/meetings",
        token,
        Some(&json!({"title": "Plan"})),
    )
    .await;
    assert_eq!(made.status, 201, "{}", made.text);
    let code = made.json()["code"].as_str().unwrap().to_owned();
    world.meeting(json!({"title": "Nobody's"})).await;

    let phone = sign_in(&world, "ana@example.org", PASSWORD).await;
    assert_eq!(phone.status, 201, "{}", phone.text);
    let phone = phone.json();
    let token = text(&phone["access_token"]);
    assert_eq!(
        call(&world, "GET", "/api/v1/account", token, None).await.json()["name"],
        "Ana"
    );
    let list = call(&world, "GET", "/api/v1/account/meetings", token, None)
        .await
        .json();
    let meetings = list["meetings"].as_array().unwrap();
    assert_eq!((meetings.len(), text(&meetings[0]["code"])), (1, code.as_str()));

    let ben = sign_up(&world, "ben@example.org").await;
    let path = format!("/api/v1/meetings/{code}");
    let ben = text(&ben["access_token"]);
    assert_eq!(
        call(&world, "DELETE", &path, ben, None).await.refusal(),
        (403, "not_host".into())
    );
    assert_eq!(call(&world, "DELETE", &path, token, None).await.status, 204);
    assert_eq!(world.get(&path).await.status, 410);
    let list = call(&world, "GET", "/api/v1/account/meetings", token, None)
        .await
        .json();
    assert_eq!(list["meetings"], json!([]));
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_a_stolen_one_ends_the_session() {
    let world = World::start().await;
    let first = sign_up(&world, "ana@example.org").await;
    let second = refresh(&world, &first["refresh_token"]).await;
    assert_eq!(second.status, 200, "{}", second.text);
    let second = second.json();
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    let stolen = refresh(&world, &first["refresh_token"]).await;
    assert_eq!(stolen.refusal(), (401, "signed_out".into()));
    let good = refresh(&world, &second["refresh_token"]).await;
    assert_eq!(good.refusal(), (401, "signed_out".into()), "it may be the thief's");
    for wrong in ["", "x", "x.y", &"x".repeat(9_000)] {
        assert_eq!(
            refresh(&world, &json!(wrong)).await.refusal(),
            (401, "signed_out".into())
        );
    }
    let again = sign_in(&world, "ana@example.org", PASSWORD).await.json();
    let out = call(&world, "DELETE", "/api/v1/sessions", text(&again["access_token"]), None).await;
    assert_eq!(out.status, 204);
    let refused = refresh(&world, &again["refresh_token"]).await;
    assert_eq!(refused.refusal(), (401, "signed_out".into()));
}

#[tokio::test]
async fn account_tokens_and_join_tokens_do_not_pass_for_each_other() {
    let (world, _edges) = World::with_edges(config()).await;
    let ana = sign_up(&world, "ana@example.org").await;
    let token = text(&ana["access_token"]);
    let as_join = verify(token, world.plane.key_ring()).unwrap();
    assert!(as_join.join_grants().is_err(), "no edge lets it in");
    let (code, host_key) = world.meeting(json!({"passcode": "1234"})).await;
    let body = json!({"name": "Ana", "previous_token": token});
    assert_eq!(
        world.join(&code, body).await.refusal(),
        (403, "passcode_required".into())
    );
    let join = world
        .join(&code, json!({"name": "Ana", "passcode": "1234"}))
        .await
        .json();
    for wrong in [text(&join["token"]), host_key.as_str(), "", "a.b.c"] {
        let answer = call(&world, "GET", "/api/v1/account", wrong, None).await;
        assert_eq!(answer.refusal(), (401, "not_signed_in".into()), "{wrong}");
    }
    let made = call(&world, "POST", "/api/v1/meetings", "a.b.c", Some(&json!({}))).await;
    assert_eq!(made.refusal(), (401, "not_signed_in".into()));
    assert_eq!(
        world.get("/api/v1/account").await.refusal(),
        (401, "not_signed_in".into())
    );
}

#[tokio::test]
async fn guesses_are_counted_and_tell_nothing() {
    let world = World::start().await;
    sign_up(&world, "ana@example.org").await;
    let wrong = (401, "wrong_sign_in".to_owned());
    assert_eq!(sign_in(&world, "ben@example.org", PASSWORD).await.refusal(), wrong);
    assert_eq!(sign_in(&world, "no address", PASSWORD).await.refusal(), wrong);
    assert_eq!(
        sign_in(&world, "ana@example.org", &"x".repeat(4_000)).await.refusal(),
        wrong
    );
    let mut last = wrong.clone();
    for _ in 0..12 {
        last = sign_in(&world, "ana@example.org", "wrong password").await.refusal();
    }
    assert_eq!(last, (429, "rate_limited".to_owned()));
    let right = sign_in(&world, "ana@example.org", PASSWORD).await;
    assert_eq!(right.refusal().0, 429, "not even the right one, for a minute");
}

#[tokio::test]
async fn who_may_make_an_account_is_the_operators_choice() {
    let mut closed = config();
    closed.accounts.sign_up = false;
    let world = World::with(closed).await;
    let body = json!({"email": "ana@example.org", "password": PASSWORD});
    let refused = world.post("/api/v1/accounts", body.clone()).await;
    assert_eq!(refused.refusal(), (403, "sign_up_closed".into()));

    let mut small = config();
    small.accounts = AccountsConfig {
        sign_up: true,
        accounts_max: 1,
    };
    let world = World::with(small).await;
    for (body, refusal) in [
        (json!({"email": "ana", "password": PASSWORD}), (400, "bad_request")),
        (
            json!({"email": "ana@example.org", "password": "short"}),
            (400, "bad_request"),
        ),
        (
            json!({"email": "ana@example.org", "password": "x".repeat(129)}),
            (400, "bad_request"),
        ),
        (json!({"email": "ana@example.org"}), (400, "bad_request")),
    ] {
        let answer = world.post("/api/v1/accounts", body).await.refusal();
        assert_eq!((answer.0, answer.1.as_str()), refusal);
    }
    let made = world.post("/api/v1/accounts", body.clone()).await;
    assert_eq!(made.json()["account"]["name"], "ana", "a name is not asked for");
    assert_eq!(
        world.post("/api/v1/accounts", body).await.refusal(),
        (409, "email_taken".into())
    );
    let second = json!({"email": "ben@example.org", "password": PASSWORD});
    assert_eq!(
        world.post("/api/v1/accounts", second).await.refusal(),
        (403, "sign_up_closed".into())
    );
}
