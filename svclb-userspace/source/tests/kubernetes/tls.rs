//! TLS of the double: certificates for a hundred years, made with openssl.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::serve::Listener;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What clients did.
#[derive(Default, Debug)]
pub(crate) struct Clients {
    /// The certificate that each connection showed.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// The protocol of each connection.
    pub(crate) protocols: Vec<Vec<u8>>,
}

/// A file of `certificates`.
pub(crate) fn file(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("tests/kubernetes/certificates").join(name)
}

pub(crate) fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(&format!("{name}.crt"))).unwrap()
}

/// Takes any client's certificate, of any version of X.509.
#[derive(Debug)]
struct Anyone(Arc<Mutex<Clients>>);

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let mut clients = self.0.lock().unwrap();
        clients.certificates.push(shown.clone().into_owned());
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub(crate) struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    clients: Arc<Mutex<Clients>>,
}

impl TlsListener {
    pub(crate) async fn bind(port: u16, clients: Arc<Mutex<Clients>>) -> Self {
        let chain = vec![certificate("server")];
        let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(Arc::new(Anyone(Arc::clone(&clients))))
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            tcp: TcpListener::bind(("127.0.0.1", port)).await.unwrap(),
            acceptor: Arc::new(config).into(),
            clients,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.tcp.local_addr().unwrap().port()
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (tcp, from) = self.tcp.accept().await.unwrap();
            if let Ok(tls) = self.acceptor.accept(tcp).await {
                let protocol = tls.get_ref().1.alpn_protocol();
                let protocol = protocol.unwrap_or_default().to_vec();
                self.clients.lock().unwrap().protocols.push(protocol);
                return (tls, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
