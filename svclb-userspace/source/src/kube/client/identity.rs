//! The client certificate that the API server is shown.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, Error, InconsistentKeys};

/// A client certificate with its key, as they were given.
#[derive(Clone)]
pub(super) struct Identity {
    /// PEM: the certificate, then those that lead to its authority.
    pub(super) certificate: Vec<u8>,
    /// PEM.
    pub(super) key: Vec<u8>,
    /// Where they are from, for messages.
    pub(super) from: String,
}

impl Identity {
    /// What TLS takes.
    ///
    /// rustls checks that the key is that of the certificate, and cannot read one of X.509 version 1
    /// for it. API servers accept such certificates, so that here this check alone is left out.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub(super) fn resolver(
        &self,
        provider: &CryptoProvider,
    ) -> Result<Arc<dyn ResolvesClientCert>, String> {
        let from = &self.from;
        let chain = CertificateDer::pem_slice_iter(&self.certificate);
        let chain: Vec<_> = chain
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{from}: the client certificate is no PEM: {error}"))?;
        if chain.is_empty() {
            return Err(format!("{from}: there is no certificate in PEM"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            format!(
                "{from}: there is no private key in PEM ({error}); it has to be without a passphrase"
            )
        })?;
        let key = provider.key_provider.load_private_key(key);
        let key = key.map_err(|error| {
            format!(
                "{from}: the private key cannot be used ({error}); give one of RSA, ECDSA or Ed25519"
            )
        })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(format!(
                "{from}: the private key is not that of the client certificate; give both of one pair"
            )),
            Err(Error::InvalidCertificate(CertificateError::BadEncoding)) => Err(format!(
                "{from}: the client certificate is no X.509 certificate"
            )),
            // Among these is a version that rustls does not read.
            Ok(()) | Err(_) => Ok(Arc::new(SingleCertAndKey::from(certified))),
        }
    }
}
