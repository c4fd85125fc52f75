//! Asking a running router's gRPC health, as `responses-router health --grpc` does: distroless images have no other
//! program that could.

use std::time::Duration;

use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::Listen;

/// Why a router is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answers there, or not in clear text.
    #[error("no connection to {listen}")]
    Connection {
        /// Where.
        listen: Listen,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The health service answers with an error.
    #[error("{0}")]
    Refused(String),
    /// The router tells another status than SERVING.
    #[error("not serving: the router is draining")]
    NotServing,
}

/// Asks the health of the whole server, in clear text.
///
/// # Errors
/// [`ProbeError`] for every answer but SERVING.
pub async fn grpc(listen: &Listen, patience: Duration) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Connection { listen: listen.clone(), source };
    let uri = match listen {
        Listen::Tcp(address) => format!("http://{address}"),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(failed)?.connect_timeout(patience).timeout(patience);
    let channel = endpoint.connect().await.map_err(failed)?;
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .map_err(|status| ProbeError::Refused(status.message().to_owned()))?;
    if answer.into_inner().status() == ServingStatus::Serving { Ok(()) } else { Err(ProbeError::NotServing) }
}
