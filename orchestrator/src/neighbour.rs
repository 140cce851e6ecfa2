//! Detects when the process of a node on this machine has ended. That is certain here, and only likely for other
//! machines.
//!
//! When a process on this machine ends, nothing listens at its port any more, and the kernel says so at once. From
//! another machine the same answer may come from a firewall, a router that has just restarted, or a new owner of
//! the address, while the node continues to draw. For such nodes the lease decides.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};
use tonic::transport::Uri;

/// How long the kernel, or another machine, may take to refuse a connection. This is longer than on any link that
/// suits a render farm, and short for a node that waits to register.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

/// Returns where a node's own process listens, if that is on this machine: its connection comes from this machine,
/// and its address is one of this machine with the port that it listens on. Another port may belong to a
/// forwarder, which can end before the node.
pub(crate) fn of(address: &str, port: u32, peer: Option<SocketAddr>) -> Option<SocketAddr> {
    let at = socket(address)?;
    let peer = peer?.ip().to_canonical();
    (u32::from(at.port()) == port && is_here(at.ip()) && is_here(peer)).then_some(at)
}

/// Returns the socket address of a URL whose host is an IP address or `localhost`.
pub(crate) fn socket(address: &str) -> Option<SocketAddr> {
    let uri: Uri = address.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.parse().ok()?,
    };
    Some(SocketAddr::new(ip.to_canonical(), uri.port_u16()?))
}

/// Whether the machine replies that nothing listens there.
pub(crate) async fn refuses(at: SocketAddr) -> bool {
    match timeout(REFUSED_WITHIN, TcpStream::connect(at)).await {
        Ok(Err(error)) => error.kind() == ErrorKind::ConnectionRefused,
        Ok(Ok(_)) | Err(_) => false,
    }
}

/// Whether an address belongs to this machine: a packet to it would be sent from the same address. No packet is
/// sent to find out.
fn is_here(ip: IpAddr) -> bool {
    if ip.is_loopback() {
        return true;
    }
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = || {
        let socket = UdpSocket::bind((any, 0))?;
        // Any port will do.
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    !ip.is_unspecified() && from().is_ok_and(|from| from.ip() == ip)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_neighbour_calls_from_here_and_is_reached_here_at_its_own_port() {
        let here: SocketAddr = "127.0.0.1:50000".parse().unwrap();
        let elsewhere: SocketAddr = "192.0.2.7:50000".parse().unwrap();
        let at = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        assert_eq!(of("http://127.0.0.1:3000", 3000, Some(here)), at("127.0.0.1:3000"));
        assert_eq!(of("http://[::1]:3000/", 3000, Some(here)), at("[::1]:3000"));
        assert_eq!(of("http://localhost:3000", 3000, Some(here)), at("127.0.0.1:3000"));
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:50000".parse().unwrap();
        assert_eq!(of("http://127.0.0.1:3000", 3000, Some(mapped)), at("127.0.0.1:3000"));
        for (address, port, peer) in [
            ("http://127.0.0.1:3000", 4000, Some(here)),
            ("http://127.0.0.1:3000", 0, Some(here)),
            ("http://127.0.0.1:3000", 3000, Some(elsewhere)),
            ("http://127.0.0.1:3000", 3000, None),
            ("http://192.0.2.7:3000", 3000, Some(elsewhere)),
            ("http://192.0.2.7:3000", 3000, Some(here)),
            ("http://0.0.0.0:3000", 3000, Some(here)),
            ("http://render-7:3000", 3000, Some(here)),
            ("http://127.0.0.1", 80, Some(here)),
        ] {
            assert_eq!(of(address, port, peer), None, "{address} {port} {peer:?}");
        }
    }

    #[tokio::test]
    async fn only_a_port_without_a_listener_refuses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert!(!refuses(at).await);
        drop(listener);
        assert!(refuses(at).await);
    }
}
