//! Which addresses clients reach this edge at: what GeoDNS answers with.

use std::net::{IpAddr, SocketAddr};

use crate::config::EdgeConfig;

/// The configured ones, or what follows from the rest of the configuration: the address in `http.public_url`, those of
/// `media.advertise`, the bound one. Empty: it cannot be told.
pub(crate) fn public_addresses(config: &EdgeConfig, bound: SocketAddr) -> Vec<IpAddr> {
    let http = &config.http;
    if !http.public_addresses.is_empty() {
        return http.public_addresses.clone();
    }
    if let Some(address) = host_address(&http.public_url) {
        return vec![address];
    }
    if !config.media.advertise.is_empty() {
        return config.media.advertise.clone();
    }
    let bound = bound.ip();
    if bound.is_unspecified() {
        Vec::new()
    } else {
        vec![bound]
    }
}

/// The host of `wss://host[:port][/…]`, if it is an address.
fn host_address(url: &str) -> Option<IpAddr> {
    let authority = url.split_once("://")?.1.split('/').next()?;
    let plain = authority.trim_start_matches('[').trim_end_matches(']');
    let address = authority.parse::<SocketAddr>().map(|with_port| with_port.ip());
    address.ok().or_else(|| plain.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_from_the_first_place_that_has_them() {
        let mut config = EdgeConfig::default();
        let texts = |config: &EdgeConfig, bound: &str| -> Vec<String> {
            let found = public_addresses(config, bound.parse().unwrap());
            found.iter().map(ToString::to_string).collect()
        };
        assert!(texts(&config, "0.0.0.0:443").is_empty());
        assert_eq!(texts(&config, "203.0.113.1:443"), ["203.0.113.1"]);
        config.media.advertise = vec!["203.0.113.2".parse().unwrap()];
        assert_eq!(texts(&config, "0.0.0.0:443"), ["203.0.113.2"]);
        config.http.public_url = "wss://fra-1.example.org".into();
        assert_eq!(
            texts(&config, "0.0.0.0:443"),
            ["203.0.113.2"],
            "a name is not looked up"
        );
        for (url, expected) in [
            ("wss://203.0.113.3", "203.0.113.3"),
            ("wss://203.0.113.3:8443/x", "203.0.113.3"),
            ("wss://[2001:db8::3]:8443", "2001:db8::3"),
            ("wss://[2001:db8::3]", "2001:db8::3"),
        ] {
            config.http.public_url = url.into();
            assert_eq!(texts(&config, "0.0.0.0:443"), [expected], "{url}");
        }
        config.http.public_addresses = vec!["203.0.113.4".parse().unwrap(), "2001:db8::4".parse().unwrap()];
        assert_eq!(texts(&config, "0.0.0.0:443"), ["203.0.113.4", "2001:db8::4"]);
    }
}
