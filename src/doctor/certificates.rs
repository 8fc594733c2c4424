//! Certificates: that of HTTPS and TURN, and the one by which the mesh knows an edge. Names, dates, and who may read the keys.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use meridian_pki::{NodeIdentity, node_server_name, parse_certificates};
use meridian_serving::listener::Certificate;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::report::Finding;

/// ACME clients renew 30 days before the end: what is nearer than half of it was forgotten.
const SOON_DAYS: i64 = 14;
const DAY_S: i64 = 86_400;

/// The files of a listener; `host` is what clients call it, if that is known.
pub(super) fn files(chain: Option<&Path>, key: Option<&Path>, host: Option<&str>) -> Vec<Finding> {
    const CHECK: &str = "certificate";
    let Some((chain, key)) = chain.zip(key) else {
        return vec![Finding::good(
            CHECK,
            "none is configured: HTTPS is the business of a proxy on this machine",
        )];
    };
    // Together, as the role would read them.
    if let Err(error) = Certificate::read(chain, key) {
        return vec![Finding::problem(
            CHECK,
            error.to_string(),
            "name the PEM chain (leaf first) and the key that belongs to it",
        )];
    }
    let text = std::fs::read_to_string(chain).unwrap_or_default();
    let Ok(certificates) = parse_certificates(&chain.display().to_string(), &text) else {
        return Vec::new();
    };
    let Some(Ok((_, leaf))) = certificates.first().map(|der| parse_x509_certificate(der)) else {
        return vec![Finding::problem(
            CHECK,
            format!("{} holds no X.509 certificate that can be read", chain.display()),
            "issue it again",
        )];
    };
    let mut found = vec![dates(CHECK, &chain.display().to_string(), &leaf)];
    if let Some(host) = host {
        found.push(names(chain, &leaf, host));
    }
    found.extend(key_mode(CHECK, key));
    found
}

/// The mesh's certificate of the edge `node`: itself, if it is good for a connection.
pub(super) fn of_mesh(directory: &Path, node: &str) -> (Option<NodeIdentity>, Vec<Finding>) {
    const CHECK: &str = "mesh identity";
    let again = format!(
        "`meridian pki node {node} --out {}` beside the authority, or `meridian pki enrol {node}` here",
        directory.display()
    );
    let identity = match NodeIdentity::load(directory) {
        Ok(identity) => identity,
        Err(error) => return (None, vec![Finding::problem(CHECK, error.to_string(), again)]),
    };
    let certified = identity.name().map(|name| name.id).unwrap_or_default();
    if certified != node {
        let says = format!(
            "node.id is {node}, but the certificate in {} is {certified}'s",
            directory.display()
        );
        return (None, vec![Finding::problem(CHECK, says, again)]);
    }
    let certificates = parse_certificates("node.pem", &identity.certificate_pem).unwrap_or_default();
    let Some(Ok((_, leaf))) = certificates.first().map(|der| parse_x509_certificate(der)) else {
        let says = "node.pem holds no X.509 certificate that can be read";
        return (None, vec![Finding::problem(CHECK, says, again)]);
    };
    let mut found = vec![dates(CHECK, &directory.join("node.pem").display().to_string(), &leaf)];
    if let Err(why) = signed_by_ca(&identity, &certificates, node) {
        let says = format!(
            "node.pem and ca.pem in {} do not belong together: {why}",
            directory.display()
        );
        found.push(Finding::problem(CHECK, says, again));
    }
    found.extend(key_mode(CHECK, &directory.join("node.key")));
    (Some(identity), found)
}

fn dates(check: &'static str, what: &str, certificate: &X509Certificate<'_>) -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    dates_at(
        check,
        what,
        now,
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    )
}

/// All in seconds since 1970.
fn dates_at(check: &'static str, what: &str, now: i64, from: i64, until: i64) -> Finding {
    let renew = "renew it; a replaced file of HTTPS is shown within seconds, the mesh's at the next start";
    if now < from {
        let says = format!(
            "{what} is not valid yet, for another {} s: a clock is wrong, here or where it was made",
            from - now
        );
        return Finding::problem(check, says, "see `clock`");
    }
    match until - now {
        left if left <= 0 => Finding::problem(check, format!("{what} ended {} days ago", -left / DAY_S), renew),
        left if left < SOON_DAYS * DAY_S => {
            Finding::warning(check, format!("{what} ends in {} days", left / DAY_S), renew)
        }
        left => Finding::good(check, format!("{what} is good for {} days", left / DAY_S)),
    }
}

fn names(chain: &Path, leaf: &X509Certificate<'_>, host: &str) -> Finding {
    const CHECK: &str = "certificate";
    let known: Vec<String> = leaf
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|names| names.value.general_names.iter().filter_map(name).collect())
        .unwrap_or_default();
    if known.iter().any(|name| covers(name, host)) {
        return Finding::good(CHECK, format!("it is for {host}, as clients are told"));
    }
    Finding::problem(
        CHECK,
        format!(
            "clients are told {host}, but {} is for {}: browsers will refuse it",
            chain.display(),
            if known.is_empty() {
                "no name at all".to_owned()
            } else {
                known.join(", ")
            }
        ),
        format!("issue a certificate for {host}, or tell clients one of its names"),
    )
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|v6| std::net::Ipv6Addr::from(v6).to_string()),
        },
        _ => None,
    }
}

/// RFC 6125 §6.4.3: a wildcard is the whole first label.
fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Dates aside, which were told already.
fn signed_by_ca(identity: &NodeIdentity, chain: &[CertificateDer<'static>], node: &str) -> Result<(), String> {
    let (leaf, between) = chain.split_first().ok_or("node.pem is empty")?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(parse_certificates("ca.pem", &identity.ca_pem).map_err(|error| error.to_string())?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let name: ServerName<'_> = node_server_name(node).map_err(|error| error.to_string())?;
    let (_, parsed) = parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
    let within = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or_default() + 1;
    let when = UnixTime::since_unix_epoch(std::time::Duration::from_secs(within));
    match verifier.verify_server_cert(leaf, between, &name, &[], when) {
        Ok(_) => Ok(()),
        // The authority is younger than the hour by which certificates are dated back.
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYetContext { .. })) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn key_mode(check: &'static str, key: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(key).ok()?.permissions().mode();
    // ACME clients give the key to a group of those who serve with it.
    (mode & 0o007 != 0).then(|| {
        Finding::problem(
            check,
            format!("everybody on this machine may read {}", key.display()),
            format!(
                "chmod o= {}; then issue a new certificate with a new key",
                key.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn certificates_end_with_a_warning_before() {
        let told = |left: i64| dates_at("certificate", "x.pem", 1_000_000_000, 0, 1_000_000_000 + left);
        assert_eq!(told(90 * DAY_S).says, "x.pem is good for 90 days");
        assert_eq!(told(90 * DAY_S).verdict, Verdict::Good);
        assert_eq!(
            (told(3 * DAY_S).verdict, told(3 * DAY_S).says.as_str()),
            (Verdict::Warning, "x.pem ends in 3 days")
        );
        assert_eq!(
            (told(-3 * DAY_S).verdict, told(-3 * DAY_S).says.as_str()),
            (Verdict::Problem, "x.pem ended 3 days ago")
        );
        let early = dates_at("certificate", "x.pem", 100, 160, 1_000);
        assert!(early.says.contains("for another 60 s"), "{}", early.says);
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (pattern, host, expected) in [
            ("*.example.org", "fra-1.example.org", true),
            ("*.example.org", "a.fra-1.example.org", false),
            ("*.example.org", "example.org", false),
            ("FRA-1.example.org", "fra-1.example.org", true),
            ("fra-1.example.org", "iad-1.example.org", false),
        ] {
            assert_eq!(covers(pattern, host), expected, "{pattern} {host}");
        }
    }
}
