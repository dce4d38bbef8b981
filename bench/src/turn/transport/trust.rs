//! Whom TLS and DTLS believe: the certificates of this host, those of a file, or everyone.
//! One verifier judges for both. Opens no connection.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::clock;

/// How the server's certificate is judged, for `turns:` targets.
#[derive(Clone, Debug, Args)]
pub(crate) struct TrustArgs {
    /// Trust the certificates in this PEM file instead of those of this host (turns:). Over DTLS
    /// the server's intermediates are not seen: the file must hold the direct issuer.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Accept any certificate of the server (turns:).
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
}

/// Why nobody can be trusted.
#[derive(Debug)]
pub(crate) enum TrustError {
    /// The host of the target is no name that a certificate can be for.
    Name {
        /// The host.
        host: String,
    },
    /// The file of `--ca` cannot be read.
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: pem::Error,
    },
    /// There is no usable certificate.
    Empty {
        /// The file of `--ca`, or none for the certificates of this host.
        path: Option<PathBuf>,
    },
    /// The library does not take the certificates.
    Verifier(VerifierBuilderError),
    /// The library does not take its own algorithms.
    Library(rustls::Error),
    /// The throw-away certificate of the client cannot be made.
    Identity(rcgen::Error),
    /// The DTLS library does not take the settings.
    Dtls(dimpl::Error),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { host } => {
                write!(f, "no certificate can be for {host}: turns: needs a DNS name or an address")
            }
            Self::File { path, error } => {
                write!(f, "cannot read certificates from {} (--ca): {error}", path.display())
            }
            Self::Empty { path: Some(path) } => {
                write!(f, "{} holds no usable PEM certificate (--ca)", path.display())
            }
            Self::Empty { path: None } => f.write_str(
                "this host has no trusted certificates: install them (ca-certificates), or give \
                 --ca FILE or --insecure",
            ),
            Self::Verifier(error) => write!(f, "the trusted certificates cannot be used: {error}"),
            Self::Library(error) => write!(f, "TLS cannot be set up: {error}"),
            Self::Identity(error) => write!(f, "no certificate for this client: {error}"),
            Self::Dtls(error) => write!(f, "DTLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for TrustError {}

/// What every secure connection to one server shares.
#[derive(Clone, Debug)]
pub(crate) struct Security {
    /// Who the server should be; SNI for a DNS name.
    pub(crate) name: ServerName<'static>,
    /// The settings of TLS.
    pub(crate) tls: Arc<ClientConfig>,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl Security {
    /// For a server that must be `host`.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub(crate) fn new(args: &TrustArgs, host: &str) -> Result<Self, TrustError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TrustError::Name { host: host.to_owned() })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if args.insecure {
            Arc::new(Anyone(Arc::clone(&provider)))
        } else {
            let roots = Arc::new(roots(args.ca.as_deref())?);
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(TrustError::Verifier)?
        };
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Library)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier))
            .with_no_client_auth();
        // Allocations are clients of their own: none rides on another's handshake.
        tls.resumption = Resumption::disabled();
        Ok(Self { name, tls: Arc::new(tls), verifier })
    }

    /// Who the server should be, for texts.
    pub(crate) fn host(&self) -> String {
        self.name.to_str().into_owned()
    }

    /// Judges a certificate without its intermediates, as DTLS shows it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn judge(&self, certificate: &[u8]) -> Result<(), CertificateError> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_secs()));
        let leaf = CertificateDer::from(certificate);
        match self.verifier.verify_server_cert(&leaf, &[], &self.name, &[], now) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(error)) => Err(error),
            Err(_) => Err(CertificateError::BadEncoding),
        }
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TrustError> {
    let certificates = match ca {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| TrustError::File { path: path.to_owned(), error })?,
        // A certificate of this host that cannot be read trusts nobody: no reason to stop.
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(TrustError::Empty { path: ca.map(Path::to_owned) });
    }
    Ok(roots)
}

/// Believes every certificate, and still wants the server to hold its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
