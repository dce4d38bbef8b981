//! The side of the miniature server that clients see: UDP, TCP, TLS or DTLS. Hands over whole
//! messages with the client's address, and knows nothing of what is in them.

#![allow(dead_code, reason = "not every suite speaks all transports")]

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Dtls, DtlsCertificate, Output};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::identity::Identity;

/// A version of DTLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DtlsVersion {
    V1_2,
    V1_3,
}

/// What clients talk to.
pub(crate) enum Front {
    Udp(UdpSocket),
    Stream(Listener),
    Dtls(Associations),
}

/// A client over TCP, with TLS or without.
struct Connection {
    socket: TcpStream,
    tls: Option<ServerConnection>,
    bytes: Vec<u8>,
}

pub(crate) struct Listener {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    connections: HashMap<SocketAddr, Connection>,
}

pub(crate) struct Associations {
    socket: UdpSocket,
    version: DtlsVersion,
    config: Arc<dimpl::Config>,
    certificate: DtlsCertificate,
    clients: HashMap<SocketAddr, Dtls>,
    came: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Front {
    pub(crate) fn udp(ip: &str) -> Self {
        Self::Udp(super::open(ip.parse().unwrap()))
    }

    pub(crate) fn tcp(ip: &str) -> Self {
        Self::stream(ip, None)
    }

    pub(crate) fn tls(ip: &str, identity: &Identity) -> Self {
        let chain = vec![CertificateDer::from(identity.certificate.clone())];
        let key = PrivateKeyDer::try_from(identity.key.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self::stream(ip, Some(Arc::new(config)))
    }

    pub(crate) fn dtls(ip: &str, identity: &Identity, version: DtlsVersion) -> Self {
        let config = dimpl::Config::builder()
            .require_client_certificate(false)
            .with_crypto_provider(dimpl::crypto::rust_crypto::default_provider())
            .build()
            .unwrap();
        Self::Dtls(Associations {
            socket: super::open(ip.parse().unwrap()),
            version,
            config: Arc::new(config),
            certificate: DtlsCertificate {
                certificate: identity.certificate.clone(),
                private_key: identity.key.clone(),
            },
            clients: HashMap::new(),
            came: VecDeque::new(),
        })
    }

    fn stream(ip: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        let listener = TcpListener::bind((ip, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::Stream(Listener { listener, tls, connections: HashMap::new() })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Stream(listener) => listener.listener.local_addr(),
            Self::Dtls(associations) => associations.socket.local_addr(),
        }
        .unwrap()
    }

    /// The next message of any client.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        match self {
            Self::Udp(socket) => super::receive(socket, buffer),
            Self::Stream(listener) => listener.receive(buffer),
            Self::Dtls(associations) => associations.receive(buffer),
        }
    }

    pub(crate) fn send(&mut self, client: SocketAddr, message: &[u8]) {
        match self {
            Self::Udp(socket) => {
                socket.send_to(message, client).unwrap();
            }
            Self::Stream(listener) => listener.send(client, message),
            Self::Dtls(associations) => associations.send(client, message),
        }
    }

    /// Closes every connection, and takes no new ones seriously.
    pub(crate) fn hang_up(&mut self) {
        match self {
            Self::Udp(_) => {}
            Self::Stream(listener) => listener.connections.clear(),
            Self::Dtls(associations) => {
                let clients: Vec<_> = associations.clients.keys().copied().collect();
                for client in clients {
                    associations.clients.get_mut(&client).unwrap().close().unwrap();
                    associations.drain(client);
                }
            }
        }
    }
}

impl Listener {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        while let Ok((socket, client)) = self.listener.accept() {
            socket.set_nonblocking(true).unwrap();
            socket.set_nodelay(true).unwrap();
            let tls = self.tls.clone().map(|config| ServerConnection::new(config).unwrap());
            self.connections.insert(client, Connection { socket, tls, bytes: Vec::new() });
        }
        let mut found = None;
        self.connections.retain(|client, connection| {
            if found.is_some() {
                return true;
            }
            let alive = connection.read();
            match connection.message() {
                Ok(Some(message)) => {
                    buffer[..message.len()].copy_from_slice(&message);
                    found = Some((message.len(), *client));
                    true
                }
                Ok(None) => alive,
                // Not TURN: a TLS client at a plain port.
                Err(()) => false,
            }
        });
        found
    }

    /// A client that is gone misses what is sent to it.
    fn send(&mut self, client: SocketAddr, message: &[u8]) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        let mut padded = message.to_vec();
        padded.resize(message.len().next_multiple_of(4), 0);
        if let Some(tls) = &mut connection.tls {
            tls.writer().write_all(&padded).unwrap();
            connection.flush_tls();
        } else {
            write_all(&mut connection.socket, &padded);
        }
    }
}

impl Connection {
    /// Whether the connection lives.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            let read = match &mut self.tls {
                None => self.socket.read(&mut bytes),
                Some(tls) => match tls.read_tls(&mut self.socket) {
                    Ok(0) => Ok(0),
                    Err(error) => Err(error),
                    Ok(_) => {
                        let processed = tls.process_new_packets().is_ok();
                        let mut plain = Vec::new();
                        // What is there is taken; that there is no more is no error here.
                        let _ = tls.reader().read_to_end(&mut plain);
                        self.bytes.extend_from_slice(&plain);
                        self.flush_tls();
                        if !processed {
                            return false;
                        }
                        continue;
                    }
                },
            };
            match read {
                Ok(0) => return false,
                Ok(length) => self.bytes.extend_from_slice(&bytes[..length]),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    fn flush_tls(&mut self) {
        let tls = self.tls.as_mut().unwrap();
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).unwrap();
        }
        write_all(&mut self.socket, &out);
    }

    /// The first message, if it is whole with its padding.
    fn message(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let Some([first, _, high, low]) = self.bytes.first_chunk().copied() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let length = match first >> 6 {
            0b00 if first < 4 => 20 + length,
            0b01 => 4 + length,
            _ => return Err(()),
        };
        let padded = length.next_multiple_of(4);
        if self.bytes.len() < padded {
            return Ok(None);
        }
        let message = self.bytes[..length].to_vec();
        self.bytes.drain(..padded);
        Ok(Some(message))
    }
}

/// Waits while the client's buffers are full; a client that is gone misses it.
fn write_all(socket: &mut TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(100));
            }
            Err(_) => return,
        }
    }
}

impl Associations {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        while let Some((length, client)) = super::receive(&self.socket, buffer) {
            let Self { version, config, certificate, clients, .. } = self;
            let dtls = clients.entry(client).or_insert_with(|| {
                let (config, certificate, now) =
                    (config.clone(), certificate.clone(), Instant::now());
                match version {
                    DtlsVersion::V1_2 => Dtls::new_12(config, certificate, now),
                    DtlsVersion::V1_3 => Dtls::new_13(config, certificate, now),
                }
            });
            // An association that failed has nothing to say any more.
            let _ = dtls
                .handle_timeout(Instant::now())
                .and_then(|()| dtls.handle_packet(&buffer[..length]));
            self.drain(client);
        }
        let (client, message) = self.came.pop_front()?;
        buffer[..message.len()].copy_from_slice(&message);
        Some((message.len(), client))
    }

    fn send(&mut self, client: SocketAddr, message: &[u8]) {
        let Some(dtls) = self.clients.get_mut(&client) else { return };
        if dtls.handle_timeout(Instant::now()).is_ok()
            && dtls.send_application_data(message).is_ok()
        {
            self.drain(client);
        }
    }

    fn drain(&mut self, client: SocketAddr) {
        let dtls = self.clients.get_mut(&client).unwrap();
        let mut out = vec![0; 20_000];
        loop {
            match dtls.poll_output(&mut out) {
                Output::Packet(datagram) => {
                    self.socket.send_to(datagram, client).unwrap();
                }
                Output::ApplicationData(message) => self.came.push_back((client, message.to_vec())),
                Output::Timeout(_) => return,
                _ => {}
            }
        }
    }
}
