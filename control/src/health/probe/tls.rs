//! TLS of HTTP probes, by rustls.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::health::plan::Tls;

/// Configurations of rustls, made at their first use: reading the system's
/// roots takes some milliseconds.
#[derive(Debug, Default)]
pub(in crate::health) struct Configs(Mutex<HashMap<Trust, Arc<ClientConfig>>>);

/// Whom to trust: `None` is everybody, else the roots of a file or the system.
type Trust = Option<Option<PathBuf>>;

/// Opens TLS on a connection, with the name that the check says.
pub(super) async fn handshake(
    tls: &Tls,
    host: Option<&str>,
    server: SocketAddr,
    stream: TcpStream,
    configs: &Configs,
) -> Result<TlsStream<TcpStream>, String> {
    let config = configs.get(tls)?;
    let name = name(tls, host, server);
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
        // rustls's own words, without those of io::Error.
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        inner.map_or_else(|| format!("TLS: {}", super::plain(&error)), |e| format!("TLS: {e}"))
    })
}

/// The name to ask for: `sni`, the host without its port, or the address,
/// which is not sent.
fn name(tls: &Tls, host: Option<&str>, server: SocketAddr) -> ServerName<'static> {
    let host = host.map(|host| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    });
    tls.sni
        .as_deref()
        .or(host)
        .and_then(|name| ServerName::try_from(name.to_owned()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(server.ip().into()))
}

impl Configs {
    /// Has root certificates read anew.
    pub(in crate::health) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn get(&self, tls: &Tls) -> Result<Arc<ClientConfig>, String> {
        let trust = tls.verify.then(|| tls.ca.clone());
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = made.get(&trust) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(make(&trust)?);
        made.insert(trust, Arc::clone(&config));
        Ok(config)
    }
}

fn make(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match trust {
        Some(ca) => builder.with_root_certificates(roots(ca.as_deref())?),
        None => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
    };
    let mut config = builder.with_no_client_auth();
    // A resumed session would not show the certificate again.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates: Vec<CertificateDer<'static>> = match ca {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|e| format!("{}: {e}", path.display()))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        let place = ca.map_or("the system".into(), |path| path.display().to_string());
        return Err(format!("{place} has no root certificates; see ca and verify of the check"));
    }
    Ok(roots)
}

/// Takes any certificate, and still has the server prove that it has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
