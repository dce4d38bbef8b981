//! The ring over loopback, with real sockets.

use super::*;
use crate::sockets::{self, IcmpErrors, Sharing};
use relay_common::wire::attribute::Icmp;
use rustix::event::{EventfdFlags, eventfd};
use std::net::UdpSocket;

const TOKEN: Token = 7;

fn ring() -> (Ring, OwnedFd) {
    let wake = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    (Ring::new(wake.try_clone().unwrap()).unwrap(), wake)
}

/// A socket that the ring receives from, and another that talks to it.
fn pair(ring: &mut Ring, host: &str) -> (OwnedFd, SocketAddr, UdpSocket) {
    let any = SocketAddr::new(host.parse().unwrap(), 0);
    let socket = sockets::bind(any, Sharing::Exclusive).unwrap();
    let addr = UdpSocket::from(socket.try_clone().unwrap()).local_addr().unwrap();
    ring.receive(named(&socket));
    let other = UdpSocket::bind(any).unwrap();
    other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (socket, addr, other)
}

fn named(socket: &OwnedFd) -> Socket {
    Socket { token: TOKEN, fd: socket.as_raw_fd() }
}

fn wait_for(ring: &mut Ring) -> Event {
    for _ in 0..50 {
        if let Some(event) = ring.next() {
            return event;
        }
        ring.wait(Some(Duration::from_millis(100))).unwrap();
    }
    panic!("nothing completes");
}

fn received(ring: &mut Ring) -> Datagram {
    match wait_for(ring) {
        Event::Received(TOKEN, datagram) => datagram,
        _ => panic!("not a datagram"),
    }
}

#[test]
fn a_datagram_is_sent_on_in_place_behind_a_head_and_before_padding() {
    for host in ["127.0.0.1", "::1"] {
        let (mut ring, _wake) = ring();
        let (socket, addr, other) = pair(&mut ring, host);
        other.set_ttl(9).ok();
        other.send_to(b"0123456789", addr).unwrap();
        let datagram = received(&mut ring);
        assert_eq!(datagram.from, other.local_addr().unwrap());
        assert_eq!(ring.bytes(&datagram), b"0123456789");
        let fields = datagram.fields.relayed().unwrap();
        if host == "127.0.0.1" {
            assert_eq!(fields.hop_limit, Some(8));
        }
        let frame = Frame { head: b"HEAD", payload: 2..7, padding: 3 };
        let to = datagram.from;
        ring.forward(named(&socket), to, fields, datagram, &frame);
        ring.wait(Some(Duration::from_millis(100))).unwrap();
        let mut answer = [0; 64];
        let (length, from) = other.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..length], from), (&b"HEAD23456\0\0\0"[..], addr));
    }
}

#[test]
fn hop_limit_and_traffic_class_cross_the_families() {
    for (here, there) in [("127.0.0.1", "::1"), ("::1", "127.0.0.1")] {
        let (mut ring, _wake) = ring();
        let (_from, addr, client) = pair(&mut ring, here);
        let client = socket2::Socket::from(client);
        match addr {
            SocketAddr::V4(_) => {
                client.set_ttl_v4(40).unwrap();
                client.set_tos_v4(0xB9).unwrap();
            }
            SocketAddr::V6(_) => {
                client.set_unicast_hops_v6(40).unwrap();
                client.set_tclass_v6(0xB9).unwrap();
            }
        }
        client.send_to(b"marked", &addr.into()).unwrap();
        let datagram = received(&mut ring);
        let fields = datagram.fields.relayed().unwrap();
        let any = SocketAddr::new(there.parse().unwrap(), 0);
        let relayed = sockets::bind(any, Sharing::Exclusive).unwrap();
        let (_peer, peer_addr, _) = pair(&mut ring, there);
        let frame = Frame { head: &[], payload: 0..6, padding: 0 };
        ring.forward(named(&relayed), peer_addr, fields, datagram, &frame);
        let datagram = received(&mut ring);
        assert_eq!(ring.bytes(&datagram), b"marked");
        assert_eq!(datagram.fields, IpFields { hop_limit: Some(39), traffic_class: 0xB9 });
    }
}

/// An address that nobody has.
fn dead(host: &str) -> SocketAddr {
    UdpSocket::bind(SocketAddr::new(host.parse().unwrap(), 0)).unwrap().local_addr().unwrap()
}

/// What a socket is told when nobody has the port.
fn refused(host: &str) -> Icmp {
    let (kind, code) = if host == "::1" { (1, 4) } else { (3, 3) };
    Icmp { kind, code, data: 0 }
}

#[test]
fn an_icmp_error_ends_reception_and_names_whom_it_is_about() {
    for host in ["127.0.0.1", "::1"] {
        let (mut ring, _wake) = ring();
        let (socket, addr, other) = pair(&mut ring, host);
        let dead = dead(host);
        ring.send(named(&socket), dead, b"ignored");
        ring.wait(Some(Duration::from_millis(100))).unwrap();
        sockets::set_icmp_errors(&socket, IcmpErrors::Kept).unwrap();
        ring.send(named(&socket), dead, b"anybody?");
        assert!(matches!(wait_for(&mut ring), Event::Failed(TOKEN)));
        assert_eq!(sockets::next_error(&socket), Queued::Icmp(dead, refused(host)));
        assert_eq!(sockets::next_error(&socket), Queued::Nothing);
        ring.receive(named(&socket));
        other.send_to(b"still here", addr).unwrap();
        let datagram = received(&mut ring);
        assert_eq!(ring.bytes(&datagram), b"still here");
        sockets::set_icmp_errors(&socket, IcmpErrors::Ignored).unwrap();
        ring.send(named(&socket), dead, b"anybody?");
        other.send_to(b"nothing failed", addr).unwrap();
        let datagram = received(&mut ring);
        assert_eq!(ring.bytes(&datagram), b"nothing failed");
        assert_eq!(ring.losses(), Losses::default());
    }
}

#[test]
fn a_datagram_that_finds_the_error_of_another_one_is_sent_again() {
    for host in ["127.0.0.1", "::1"] {
        let (mut ring, _wake) = ring();
        let any = SocketAddr::new(host.parse().unwrap(), 0);
        let socket = sockets::bind(any, Sharing::Exclusive).unwrap();
        sockets::set_icmp_errors(&socket, IcmpErrors::Kept).unwrap();
        let other = UdpSocket::bind(any).unwrap();
        other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let dead = dead(host);
        ring.send(named(&socket), dead, b"anybody?");
        ring.wait(Some(Duration::from_millis(100))).unwrap();
        ring.send(named(&socket), other.local_addr().unwrap(), b"to another");
        let Event::Unsent(TOKEN, unsent) = wait_for(&mut ring) else { panic!("it was sent") };
        assert_eq!(sockets::next_error(&socket), Queued::Icmp(dead, refused(host)));
        ring.resend(socket.as_raw_fd(), unsent);
        ring.wait(Some(Duration::from_millis(100))).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(other.recv(&mut bytes).unwrap(), 10);
        assert_eq!(&bytes[..10], b"to another");
        assert_eq!(ring.losses(), Losses::default());
    }
}

#[test]
fn buffers_come_back_however_many_datagrams_pass() {
    let (mut ring, _wake) = ring();
    let (_socket, addr, other) = pair(&mut ring, "127.0.0.1");
    for round in 0..u32::from(pool::BUFFERS) + 10 {
        other.send_to(&round.to_be_bytes(), addr).unwrap();
        let datagram = received(&mut ring);
        assert_eq!(ring.bytes(&datagram), round.to_be_bytes());
        ring.release(datagram);
    }
    assert_eq!(ring.losses(), Losses::default());
}

#[test]
fn without_buffers_reception_stops_and_starts_again() {
    let (mut ring, _wake) = ring();
    let (socket, addr, other) = pair(&mut ring, "127.0.0.1");
    let mut held = Vec::new();
    let stopped = loop {
        other.send_to(b"x", addr).unwrap();
        match wait_for(&mut ring) {
            Event::Received(_, datagram) => held.push(datagram),
            Event::Stopped(token) => break token,
            Event::Failed(_) | Event::Unsent(..) => panic!("nothing failed"),
            Event::Woken => panic!("nobody woke it"),
        }
    };
    assert_eq!((stopped, held.len()), (TOKEN, usize::from(pool::BUFFERS)));
    held.drain(..).for_each(|datagram| ring.release(datagram));
    ring.receive(named(&socket));
    let datagram = received(&mut ring);
    assert_eq!(ring.bytes(&datagram), b"x", "what waited in the socket is not lost");
}

#[test]
fn a_datagram_that_does_not_fit_is_counted_and_its_buffer_kept() {
    let (mut ring, _wake) = ring();
    let (_socket, addr, other) = pair(&mut ring, "127.0.0.1");
    other.send_to(&[1; 20_000], addr).unwrap();
    other.send_to(b"small", addr).unwrap();
    let datagram = received(&mut ring);
    assert_eq!(ring.bytes(&datagram), b"small");
    assert_eq!(ring.losses(), Losses { unusable: 1, ..Losses::default() });
}

#[test]
fn a_cancelled_socket_is_free_at_once() {
    let (mut ring, _wake) = ring();
    let (socket, addr, _other) = pair(&mut ring, "127.0.0.1");
    ring.wait(Some(Duration::from_millis(10))).unwrap();
    ring.cancel(TOKEN);
    assert!(matches!(wait_for(&mut ring), Event::Stopped(TOKEN)));
    drop(socket);
    sockets::bind(addr, Sharing::Exclusive).unwrap();
}

#[test]
fn a_write_to_the_descriptor_wakes_it_each_time() {
    let (mut ring, wake) = ring();
    for _ in 0..3 {
        rustix::io::write(&wake, &1u64.to_ne_bytes()).unwrap();
        assert!(matches!(wait_for(&mut ring), Event::Woken));
    }
}
