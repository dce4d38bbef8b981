//! Certificates of servers, made for one test, and the authority that issues them.

#![allow(dead_code, reason = "not every suite speaks TLS")]

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// When a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    Now,
    LongAgo,
}

/// A certification authority that only this test trusts.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a server proves itself with, DER.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    certificate_pem: String,
    key_pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name or an address.
    pub(crate) fn issue(&self, name: &str, validity: Validity) -> Identity {
        self.issue_all(&[name], validity)
    }

    /// A certificate for several of them.
    pub(crate) fn issue_all(&self, names: &[&str], validity: Validity) -> Identity {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if validity == Validity::LongAgo {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Writes its own certificate where `--ca` finds it.
    pub(crate) fn write_pem(&self, directory: &Path) -> PathBuf {
        write(directory, "ca.pem", &self.0.pem())
    }
}

impl Identity {
    /// Writes certificate and key.
    pub(crate) fn write_pem(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let certificate = write(directory, "server.pem", &self.certificate_pem);
        (certificate, write(directory, "server.key", &self.key_pem))
    }
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
