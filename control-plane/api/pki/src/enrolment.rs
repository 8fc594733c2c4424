//! How a new edge gets its certificate: it makes a key, shows an enrolment token, and has the public half signed. Run once per edge, by
//! the operator or by whatever installs it; the result is saved with [`NodeIdentity::save`] and loaded at every start.

use crate::{CONTROL_PLANE_NAME, NodeIdentity, PkiError, generate_node_key};
use meridian_wire::v1;
use meridian_wire::v1::edge_control_client::EdgeControlClient;
use std::time::Duration;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

const WITHIN: Duration = Duration::from_secs(10);

/// What an operator gives a new edge.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// A control plane's gRPC address: `https://host:8090`.
    pub control_plane: String,
    /// The mesh's CA certificate (`ca.pem`): the control plane must show a certificate of it, or the token would go to a stranger.
    pub ca_pem: String,
    /// One of the control plane's `enrolment_tokens`.
    pub token: String,
    pub node: String,
    pub region: String,
    /// Further DNS names or IP addresses for the certificate.
    pub names: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    #[error("{url} cannot be reached: {source}")]
    Unreachable {
        url: String,
        source: tonic::transport::Error,
    },
    #[error("the control plane refused: {0}")]
    Refused(String),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the control plane signed a certificate for {0}, which is not this edge")]
    Misnamed(String),
}

impl Enrolment {
    /// Asks for a certificate. The private key never leaves this process.
    ///
    /// # Errors
    /// [`EnrolmentError`].
    pub async fn run(&self) -> Result<NodeIdentity, EnrolmentError> {
        let unreachable = |source| EnrolmentError::Unreachable {
            url: self.control_plane.clone(),
            source,
        };
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .domain_name(CONTROL_PLANE_NAME);
        let endpoint = Endpoint::from_shared(self.control_plane.clone()).map_err(unreachable)?;
        let endpoint = endpoint
            .tls_config(tls)
            .map_err(unreachable)?
            .connect_timeout(WITHIN)
            .timeout(WITHIN);
        let mut client = EdgeControlClient::new(endpoint.connect().await.map_err(unreachable)?);
        let (key_pem, public_key) = generate_node_key()?;
        let request = v1::EnrollRequest {
            token: self.token.clone(),
            node: self.node.clone(),
            region: self.region.clone(),
            public_key,
            names: self.names.clone(),
        };
        let refused = |status: tonic::Status| EnrolmentError::Refused(status.message().to_owned());
        let answer = client.enroll(request).await.map_err(refused)?.into_inner();
        let identity = NodeIdentity {
            certificate_pem: answer.certificate_pem,
            key_pem,
            ca_pem: self.ca_pem.clone(),
        };
        let name = identity.name()?;
        // The certificate must fit the key and the CA as well, or every later connection would fail with a riddle.
        identity.server_config(&[])?;
        if name.id == self.node {
            Ok(identity)
        } else {
            Err(EnrolmentError::Misnamed(name.id))
        }
    }
}
