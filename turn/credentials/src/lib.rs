//! Time-limited TURN credentials of the REST convention (draft-uberti-behave-turn-rest): username = `expiry:id` in Unix seconds,
//! password = base64(HMAC-SHA1(secret, username)); and the lists of ICE servers that clients get. A leaf of pure functions: whoever
//! lets people in mints them, whoever serves TURN checks them, and both see nothing else of each other.
#![forbid(unsafe_code)]

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A shared secret shorter than this could be guessed.
pub const SECRET_BYTES_MIN: usize = 16;

/// A username and password for `id`, valid until `expires_unix` (Unix seconds): what a join API hands to clients.
pub fn time_limited_credential(secret: &[u8], id: &str, expires_unix: u64) -> (String, String) {
    let username = format!("{expires_unix}:{id}");
    let password = time_limited_password(secret, &username);
    (username, password)
}

/// One entry of a client's list of ICE servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IceServer {
    pub urls: Vec<String>,
    /// Empty for STUN.
    pub username: String,
    pub credential: String,
}

/// URLs of servers by the region they stand in ("" = none in particular): those of `permitted` regions (`None` = of all), `near` first.
pub fn permitted_urls(
    regional: impl IntoIterator<Item = (String, Vec<String>)>,
    near: &str,
    permitted: Option<&[String]>,
) -> Vec<String> {
    let permits = |region: &String| permitted.is_none_or(|regions| regions.contains(region));
    let mut servers: Vec<_> = regional.into_iter().filter(|(region, _)| permits(region)).collect();
    servers.sort_by_key(|(region, _)| region != near);
    servers.into_iter().flat_map(|(_, urls)| urls).collect()
}

/// The entries for one person: STUN without, TURN with a credential for `id` that holds until `expires_unix`. None for no URLs.
pub fn ice_servers(urls: &[String], secret: &[u8], id: &str, expires_unix: u64) -> Vec<IceServer> {
    let (stun, turn): (Vec<String>, Vec<String>) = urls.iter().cloned().partition(|url| url.starts_with("stun"));
    let mut servers = Vec::new();
    if !stun.is_empty() {
        servers.push(IceServer {
            urls: stun,
            ..IceServer::default()
        });
    }
    if !turn.is_empty() {
        let (username, credential) = time_limited_credential(secret, id, expires_unix);
        servers.push(IceServer {
            urls: turn,
            username,
            credential,
        });
    }
    servers
}

/// The password that goes with a username of the form `expiry:id`.
pub fn time_limited_password(secret: &[u8], username: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    STANDARD.encode(hmac::sign(&key, username.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_what_the_convention_says() {
        // python3 -c 'import hmac,hashlib,base64;print(base64.b64encode(hmac.new(b"north",b"1700000000:anna",hashlib.sha1).digest()).decode())'
        let python_says = "WS1fjjHj2gNlXzhc/ZcwmC3ofIo=";
        let (username, password) = time_limited_credential(b"north", "anna", 1_700_000_000);
        assert_eq!((username.as_str(), password.as_str()), ("1700000000:anna", python_says));
    }

    #[test]
    fn only_turn_gets_a_credential_and_only_permitted_regions_are_named() {
        let servers = [
            (String::new(), vec!["stun:any".to_owned()]),
            ("iad".to_owned(), vec!["turn:iad".to_owned()]),
            ("fra".to_owned(), vec!["turn:fra".to_owned()]),
        ];
        assert_eq!(
            permitted_urls(servers.clone(), "fra", None),
            ["turn:fra", "stun:any", "turn:iad"]
        );
        let permitted = permitted_urls(servers.clone(), "fra", Some(&["iad".to_owned()]));
        assert_eq!(permitted, ["turn:iad"]);
        let list = ice_servers(&permitted_urls(servers, "fra", None), b"north", "anna", 9);
        assert_eq!(list[0].urls, ["stun:any"]);
        assert!(list[0].username.is_empty() && list[0].credential.is_empty());
        assert_eq!((list[1].urls.len(), list[1].username.as_str()), (2, "9:anna"));
        assert!(ice_servers(&[], b"north", "anna", 9).is_empty());
    }
}
