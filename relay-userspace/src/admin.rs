//! The admin HTTP server: `/metrics`, `/healthz`, `/readyz`. Read only, no password.
//!
//! Owns HTTP and its bounds: a client that is slow, greedy or confused costs one connection for a
//! few seconds. What is reported comes from a closure; what it is called is `metrics`.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::metrics::{CONTENT_TYPE as METRICS_TYPE, Exporter, Sample};

/// Connections that are served at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// From the first byte to the end of the request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From accepting a connection to closing it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the relay may take to report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// All of a request's head, bytes; the least that hyper takes.
const HEAD_BYTES_MAX: usize = 8192;
/// Header fields of a request.
const HEADERS_MAX: usize = 32;
/// Pause after a failed accept: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";

/// What the relay says about itself.
#[derive(Clone, Default, Debug)]
pub(crate) struct Report {
    /// What it counts.
    pub(crate) sample: Sample,
    /// How it is.
    pub(crate) health: Health,
}

/// How the relay is.
#[derive(Clone, Default, Debug)]
pub(crate) struct Health {
    /// It takes allocations: its sockets are open, and it is not shutting down.
    pub(crate) ready: bool,
    /// What does not work, one sentence each; empty if all shards answer.
    pub(crate) failing: Vec<String>,
}

/// The address is taken, and nothing is served yet.
#[derive(Debug)]
pub(crate) struct Admin {
    listener: TcpListener,
    connections_max: usize,
    head_timeout: Duration,
}

/// The admin server cannot listen.
#[derive(Debug, Error)]
#[error("cannot serve metrics on {addr}: {error}; {}", hint(.error))]
pub(crate) struct BindError {
    addr: SocketAddr,
    error: io::Error,
}

impl Admin {
    /// Takes the address.
    ///
    /// # Errors
    ///
    /// If it is in use, not of this machine, or not allowed.
    pub(crate) fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let listener = TcpListener::bind(addr)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        let listener = listener.map_err(|error| BindError { addr, error })?;
        Ok(Self { listener, connections_max: CONNECTIONS_MAX, head_timeout: HEAD_TIMEOUT })
    }

    /// The address that was taken.
    #[cfg(test)]
    fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("the socket is bound")
    }

    /// Serves until the future is dropped. Each request that needs one gets a fresh report; one
    /// that takes longer than three seconds is given up.
    ///
    /// # Errors
    ///
    /// If the socket cannot be handed to the runtime.
    pub(crate) async fn serve<F, Fut>(self, exporter: Exporter, report: F) -> io::Result<Infallible>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Report> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let source = Arc::new((exporter, report));
        let permits = Arc::new(Semaphore::new(self.connections_max));
        let mut connections = JoinSet::new();
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            // Finished connections leave nothing to look at but their slot.
            while connections.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "metrics: cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let source = Arc::clone(&source);
            let head_timeout = self.head_timeout;
            connections.spawn(async move {
                let served = connection(stream, head_timeout, source);
                let outcome = timeout(CONNECTION_TIMEOUT, served).await;
                tracing::trace!(?outcome, "metrics: connection closed");
                drop(permit);
            });
        }
    }
}

async fn connection<F, Fut>(
    stream: TcpStream,
    head_timeout: Duration,
    source: Arc<(Exporter, F)>,
) -> hyper::Result<()>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Report> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let source = Arc::clone(&source);
        async move {
            let (exporter, report) = &*source;
            Ok::<_, Infallible>(respond(&request, exporter, report).await)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // An idle connection would hold one of the few places.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn respond<F, Fut>(
    request: &Request<Incoming>,
    exporter: &Exporter,
    report: &F,
) -> Response<Full<Bytes>>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Report>,
{
    let path = request.uri().path();
    if !["/metrics", "/healthz", "/readyz"].contains(&path) {
        let help = "not found; there is /metrics, /healthz and /readyz\n";
        return answer(StatusCode::NOT_FOUND, help);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let Ok(Report { sample, health }) = timeout(REPORT_TIMEOUT, report()).await else {
        return answer(StatusCode::SERVICE_UNAVAILABLE, "the relay does not answer\n");
    };
    let failing: String = health.failing.iter().map(|what| format!("{what}\n")).collect();
    match path {
        "/metrics" => {
            let mut response = answer(StatusCode::OK, exporter.render(&sample));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
            response
        }
        _ if !failing.is_empty() => answer(StatusCode::SERVICE_UNAVAILABLE, failing),
        "/readyz" if !health.ready => {
            answer(StatusCode::SERVICE_UNAVAILABLE, "takes no allocations\n")
        }
        _ => answer(StatusCode::OK, "ok\n"),
    }
}

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has the port (ss -ltnp shows which): stop it, or choose another one \
             with `[metrics] listen`"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have the address: correct `[metrics] listen`"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one with \
             `[metrics] listen`"
        }
        _ => "correct `[metrics] listen`, or set it to \"off\"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Process;
    use std::pin::Pin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    type Source = fn() -> Pin<Box<dyn Future<Output = Report> + Send>>;

    fn healthy() -> Pin<Box<dyn Future<Output = Report> + Send>> {
        let health = Health { ready: true, failing: Vec::new() };
        Box::pin(async { Report { sample: Sample::default(), health } })
    }

    /// Serves `report` and runs `client` against it.
    fn with<Fut: Future<Output = ()>>(report: Source, client: impl FnOnce(SocketAddr) -> Fut) {
        with_bounds(report, CONNECTIONS_MAX, HEAD_TIMEOUT, client);
    }

    fn with_bounds<Fut: Future<Output = ()>>(
        report: Source,
        connections_max: usize,
        head_timeout: Duration,
        client: impl FnOnce(SocketAddr) -> Fut,
    ) {
        let bound = Admin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let admin = Admin { connections_max, head_timeout, ..bound };
        let addr = admin.addr();
        let process = Process { version: "1", commit: "c", started_unix_secs: 1 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            tokio::select! {
                served = admin.serve(Exporter::new(process), report) => panic!("{served:?}"),
                () = async { timeout(Duration::from_secs(20), client(addr)).await.unwrap() } => {}
            }
        });
    }

    /// Sends bytes and reads all that comes back until the server closes.
    async fn ask(addr: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(addr: SocketAddr, path: &str) -> String {
        ask(addr, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
    }

    fn status(answer: &str) -> &str {
        answer.split(' ').nth(1).unwrap_or("")
    }

    #[test]
    fn the_three_pages_are_there_and_no_other() {
        with(healthy, async |addr| {
            let metrics = get(addr, "/metrics?x=y").await;
            assert_eq!(status(&metrics), "200");
            assert!(metrics.contains("content-type: text/plain; version=0.0.4\r\n"), "{metrics}");
            assert!(metrics.contains("\nturnpike_build_info{"), "{metrics}");
            for path in ["/healthz", "/readyz"] {
                let answer = get(addr, path).await;
                assert!(status(&answer) == "200" && answer.ends_with("\r\n\r\nok\n"), "{answer}");
            }
            for path in ["/", "/metrics/", "/Metrics", "/../metrics"] {
                assert_eq!(status(&get(addr, path).await), "404", "{path}");
            }
        });
    }

    #[test]
    fn head_is_get_without_the_body_and_other_methods_are_refused() {
        with(healthy, async |addr| {
            let head = ask(addr, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(status(&head) == "200" && head.ends_with("\r\n\r\n"), "{head}");
            assert!(head.contains("content-length: "), "{head}");
            assert!(!head.contains("content-length: 0"), "{head}");
            for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
                let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
                let answer = ask(addr, request.as_bytes()).await;
                assert_eq!(status(&answer), "405", "{answer}");
                assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
            }
        });
    }

    #[test]
    fn health_says_what_fails_and_readiness_includes_it() {
        let failing: Source = || {
            let failing = vec!["shard 1 does not answer".to_owned()];
            Box::pin(async {
                Report { health: Health { ready: true, failing }, ..Report::default() }
            })
        };
        with(failing, async |addr| {
            for path in ["/healthz", "/readyz"] {
                let answer = get(addr, path).await;
                assert_eq!(status(&answer), "503");
                assert!(answer.ends_with("shard 1 does not answer\n"), "{answer}");
            }
            assert_eq!(status(&get(addr, "/metrics").await), "200");
        });
        with(
            || Box::pin(async { Report::default() }),
            async |addr| {
                assert_eq!(status(&get(addr, "/healthz").await), "200");
                assert_eq!(status(&get(addr, "/readyz").await), "503");
            },
        );
    }

    #[test]
    fn a_relay_that_does_not_answer_is_reported_in_time() {
        with(
            || Box::pin(std::future::pending()),
            async |addr| {
                let answer = get(addr, "/healthz").await;
                assert_eq!(status(&answer), "503");
                assert!(answer.ends_with("the relay does not answer\n"), "{answer}");
            },
        );
    }

    #[test]
    fn garbage_is_refused_and_costs_only_its_connection() {
        with(healthy, async |addr| {
            let long_head = format!("GET /{} HTTP/1.1\r\n", "a".repeat(2 * HEAD_BYTES_MAX));
            let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
            let garbage: [(&[u8], &[&str]); 5] = [
                (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &["400"]),
                (b"\0\0\0\0\r\n\r\n", &["400"]),
                (b"GET\r\n\r\n", &["400"]),
                (long_head.as_bytes(), &["431", "414"]),
                (many.as_bytes(), &["431"]),
            ];
            for (bytes, expected) in garbage {
                let answer = ask(addr, bytes).await;
                assert!(expected.contains(&status(&answer)), "{bytes:?}: {answer}");
                assert_eq!(status(&get(addr, "/healthz").await), "200");
            }
        });
    }

    #[test]
    fn a_slow_client_does_not_block_another_and_is_cut_off() {
        with_bounds(healthy, CONNECTIONS_MAX, Duration::from_millis(300), async |addr| {
            let mut slow = TcpStream::connect(addr).await.unwrap();
            slow.write_all(b"GET /metrics HT").await.unwrap();
            assert_eq!(status(&get(addr, "/healthz").await), "200");
            let mut rest = Vec::new();
            // Well before the bound on the whole connection: it is the head that is late.
            let closed = timeout(CONNECTION_TIMEOUT / 3, slow.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "still open");
            assert!(!String::from_utf8(rest).unwrap().contains(" 200 "));
        });
    }

    #[test]
    fn with_all_places_taken_the_next_client_waits_for_one() {
        with_bounds(healthy, 2, Duration::from_millis(300), async |addr| {
            let first = TcpStream::connect(addr).await.unwrap();
            let second = TcpStream::connect(addr).await.unwrap();
            let waiting = timeout(Duration::from_millis(100), get(addr, "/healthz")).await;
            assert!(waiting.is_err(), "a third connection was served: {waiting:?}");
            assert_eq!(status(&get(addr, "/healthz").await), "200");
            drop((first, second));
        });
    }

    #[test]
    fn an_occupied_port_and_a_foreign_address_are_explained() {
        let first = Admin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let shown = Admin::bind(first.addr()).unwrap_err().to_string();
        assert!(shown.contains("cannot serve metrics on 127.0.0.1:"), "{shown}");
        assert!(shown.contains("another process has the port"), "{shown}");
        let shown = Admin::bind("192.0.2.1:9641".parse().unwrap()).unwrap_err().to_string();
        assert!(shown.contains("does not have the address"), "{shown}");
    }
}
