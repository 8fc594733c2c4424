//! What a page of the app may do (Content Security Policy Level 3 and Permissions Policy): its own files, its own API, and the mesh's
//! edges. Nothing else is loaded or called, so that words put into a page by somebody else run nothing and reach nobody.

use axum::http::HeaderValue;

/// More edges than this are not named one by one: proxies refuse long headers (4 KiB is common).
const EDGES_MAX: usize = 40;

/// For answers that are no page.
pub(super) const NO_PAGE: &str = "default-src 'none'; frame-ancestors 'self'";

/// Devices that a meeting uses are the app's own; everything else that browsers could offer is off.
pub(super) const PERMISSIONS: &str = "camera=(self), microphone=(self), display-capture=(self), autoplay=(self), fullscreen=(self), \
    picture-in-picture=(self), screen-wake-lock=(self), clipboard-write=(self), accelerometer=(), geolocation=(), gyroscope=(), hid=(), \
    magnetometer=(), midi=(), payment=(), serial=(), usb=(), xr-spatial-tracking=()";

/// The policy of a page that may connect to `edges`: their client URLs (`wss://host[:port]`), and origins named by the operator.
pub(super) fn of_page<'a>(edges: impl Iterator<Item = &'a str>) -> HeaderValue {
    let text = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self'; \
         worker-src 'self' blob:; connect-src 'self'{}; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
        sources(edges)
    );
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(NO_PAGE))
}

/// Each edge as a WebSocket and as what measures it (`/probe`), with a space before each.
fn sources<'a>(edges: impl Iterator<Item = &'a str>) -> String {
    let mut named = String::new();
    for (count, edge) in edges.enumerate() {
        match origin(edge) {
            Some((socket, http, host)) if count < EDGES_MAX => {
                named.push_str(&format!(" {socket}://{host} {http}://{host}"));
            }
            // Too many, or one that has no form in a policy (an IPv6 address): any host, but by TLS.
            _ => return " wss: https:".into(),
        }
    }
    named
}

/// The two schemes and the host with its port, if a policy can name it. `*.edge.example.org` is a host here.
fn origin(url: &str) -> Option<(&'static str, &'static str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let (socket, http) = match scheme {
        "wss" | "https" => ("wss", "https"),
        "ws" | "http" => ("ws", "http"),
        _ => return None,
    };
    let host = rest.split('/').next()?;
    let (name, port) = host.split_once(':').unwrap_or((host, "443"));
    let nameable = |c: char| c.is_ascii_alphanumeric() || "-.*".contains(c);
    (!name.is_empty() && name.chars().all(nameable) && port.parse::<u16>().is_ok()).then_some((socket, http, host))
}

/// Whether `http.edge_origins` may hold it.
pub(crate) fn is_edge_origin(url: &str) -> bool {
    origin(url).is_some() && url.matches('/').count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connects(edges: &[&str]) -> String {
        let policy = of_page(edges.iter().copied());
        let policy = policy.to_str().expect("ASCII");
        let rule = policy.split("; ").find(|rule| rule.starts_with("connect-src"));
        rule.expect("a rule").to_owned()
    }

    #[test]
    fn edges_are_named_as_sockets_and_as_what_measures_them() {
        assert_eq!(
            connects(&[
                "wss://fra.example.org:7443",
                "ws://127.0.0.1:4000/",
                "wss://*.edge.example.org"
            ]),
            "connect-src 'self' wss://fra.example.org:7443 https://fra.example.org:7443 ws://127.0.0.1:4000 http://127.0.0.1:4000 \
             wss://*.edge.example.org https://*.edge.example.org"
        );
        assert_eq!(connects(&[]), "connect-src 'self'");
    }

    #[test]
    fn what_a_policy_cannot_name_is_allowed_by_tls_only() {
        for strange in [
            "wss://[2001:db8::1]:443",
            "wss://a;script-src *",
            "wss://a b",
            "ftp://a",
            "wss://",
            "nonsense",
        ] {
            assert_eq!(
                connects(&["wss://a", strange]),
                "connect-src 'self' wss: https:",
                "{strange}"
            );
        }
        let many: Vec<String> = (0..=EDGES_MAX).map(|n| format!("wss://edge-{n}.example.org")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(connects(&many), "connect-src 'self' wss: https:");
    }

    #[test]
    fn origins_of_the_configuration_have_no_path() {
        assert!(is_edge_origin("wss://*.edge.example.org") && is_edge_origin("wss://a:7443"));
        assert!(!is_edge_origin("wss://a/") && !is_edge_origin("a") && !is_edge_origin("wss://a:x"));
    }
}
