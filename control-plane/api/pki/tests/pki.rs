//! The mesh's CA: real TLS handshakes between what it issues, and refusals of what it did not.

use meridian_pki::{CertificateAuthority, NodeIdentity, PeerName, Role};
use rustls::pki_types::ServerName;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

/// Runs a TLS handshake in memory; returns the peer names (as the client sees the server, as the server sees the client).
fn shake(server: &NodeIdentity, client: &NodeIdentity, name: &str) -> Result<(PeerName, PeerName), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut c = rustls::ClientConnection::new(Arc::new(client.client_config(&[b"x"]).unwrap()), name)?;
    let mut s = rustls::ServerConnection::new(Arc::new(server.server_config(&[b"x"]).unwrap()))?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while c.wants_write() {
            c.write_tls(&mut wire).unwrap();
        }
        let mut read = wire.as_slice();
        while !read.is_empty() {
            s.read_tls(&mut read).unwrap();
            s.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while s.wants_write() {
            s.write_tls(&mut wire).unwrap();
        }
        let mut read = wire.as_slice();
        while !read.is_empty() {
            c.read_tls(&mut read).unwrap();
            c.process_new_packets()?;
        }
    }
    assert!(!c.is_handshaking() && !s.is_handshaking());
    let seen = |certs: Option<&[rustls::pki_types::CertificateDer<'_>]>| {
        meridian_pki::peer_name_of(&certs.unwrap()[0]).unwrap()
    };
    Ok((seen(c.peer_certificates()), seen(s.peer_certificates())))
}

#[test]
fn edges_and_control_plane_authenticate_each_other_by_name() {
    let ca = CertificateAuthority::create().unwrap();
    let fra = ca
        .issue_node("fra-1", &["192.0.2.7".into(), "fra.example.org".into()])
        .unwrap();
    let iad = ca.issue_node("iad-1", &[]).unwrap();
    let control = ca.issue_control_plane("cp-1", &[]).unwrap();
    let (server, client) = shake(&fra, &iad, "fra-1.node.meridian.internal").unwrap();
    assert_eq!(
        (server.id.as_str(), client.id.as_str(), client.role),
        ("fra-1", "iad-1", Role::Edge)
    );
    let (server, _) = shake(&control, &iad, meridian_pki::CONTROL_PLANE_NAME).unwrap();
    assert_eq!((server.role, server.id.as_str()), (Role::ControlPlane, "cp-1"));
    for name in ["192.0.2.7", "fra.example.org", "localhost", "127.0.0.1"] {
        shake(&fra, &iad, name).unwrap();
    }
}

#[test]
fn a_wrong_name_a_foreign_ca_and_an_expired_certificate_are_refused() {
    let (ours, theirs) = (
        CertificateAuthority::create().unwrap(),
        CertificateAuthority::create().unwrap(),
    );
    let fra = ours.issue_node("fra-1", &[]).unwrap();
    let iad = ours.issue_node("iad-1", &[]).unwrap();
    let foreign = theirs.issue_node("iad-1", &[]).unwrap();
    assert!(shake(&fra, &iad, "sin-1.node.meridian.internal").is_err());
    assert!(
        shake(&fra, &iad, meridian_pki::CONTROL_PLANE_NAME).is_err(),
        "an edge must not pass for a control plane"
    );
    assert!(shake(&fra, &foreign, "fra-1.node.meridian.internal").is_err());
    assert!(shake(&foreign, &fra, "iad-1.node.meridian.internal").is_err());
    let mixed = NodeIdentity {
        ca_pem: fra.ca_pem.clone(),
        ..foreign
    };
    assert!(
        shake(&fra, &mixed, "fra-1.node.meridian.internal").is_err(),
        "the server must check the client's chain"
    );
    let name = PeerName {
        role: Role::Edge,
        id: "old-1".into(),
    };
    let old = ours.issue(name, &[], std::time::Duration::ZERO).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(shake(&old, &iad, "old-1.node.meridian.internal").is_err());
}

#[test]
fn a_saved_authority_goes_on_issuing_and_its_key_is_private() {
    let directory = std::env::temp_dir().join(format!("meridian-pki-{}", std::process::id()));
    let first = CertificateAuthority::load_or_create(&directory).unwrap();
    let before = first.issue_node("fra-1", &[]).unwrap();
    let again = CertificateAuthority::load_or_create(&directory).unwrap();
    let after = again.issue_node("iad-1", &[]).unwrap();
    assert_eq!(first.certificate_pem(), again.certificate_pem());
    shake(&before, &after, "fra-1.node.meridian.internal").unwrap();
    after.save(&directory.join("node")).unwrap();
    assert_eq!(NodeIdentity::load(&directory.join("node")).unwrap(), after);
    for secret in ["ca.key", "node/node.key"] {
        assert_eq!(
            std::fs::metadata(directory.join(secret)).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    std::fs::remove_file(directory.join("ca.key")).unwrap();
    let error = CertificateAuthority::load_or_create(&directory)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("ca.key"), "{error}");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn an_edges_own_key_is_signed_and_a_bad_one_refused() {
    use rcgen::PublicKeyData as _;
    let ca = CertificateAuthority::create().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate_pem = ca.sign_node_key("sin-1", &key.subject_public_key_info(), &[]).unwrap();
    let sin = NodeIdentity {
        certificate_pem,
        key_pem: key.serialize_pem(),
        ca_pem: ca.certificate_pem().to_owned(),
    };
    let fra = ca.issue_node("fra-1", &[]).unwrap();
    shake(&sin, &fra, "sin-1.node.meridian.internal").unwrap();
    assert!(ca.sign_node_key("sin-1", b"nonsense", &[]).is_err());
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert!(ca.sign_node_key("sin-1", &ed.subject_public_key_info(), &[]).is_err());
}

#[test]
fn names_that_would_be_somebody_else_are_refused() {
    let ca = CertificateAuthority::create().unwrap();
    for bad in ["", "Fra", "a.b", "-a", "a-", "fra 1", &"x".repeat(41)] {
        assert!(ca.issue_node(bad, &[]).is_err(), "{bad:?}");
    }
    for stolen in [
        "iad-1.node.meridian.internal",
        "Control.Meridian.Internal",
        "x.control.meridian.internal.",
    ] {
        assert!(ca.issue_node("fra-1", &[stolen.to_owned()]).is_err(), "{stolen}");
    }
    let control = ca.issue_control_plane("cp", &[]).unwrap();
    let der = meridian_pki::parse_certificates("x", &control.certificate_pem).unwrap();
    assert_eq!(meridian_pki::node_id_of(&der[0]), None);
    assert_eq!(meridian_pki::node_id_of(b"junk"), None);
}
