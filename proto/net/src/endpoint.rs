//! Where to connect, and how a peer that is gone is noticed.

use std::time::Duration;

use tonic::transport::Endpoint;

/// How long a connection may take, and how an idle one is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection may take to come about.
    pub connect_within: Duration,
    /// How often an idle connection is probed.
    pub probe_every: Duration,
    /// How long a probe may go unanswered.
    pub answer_within: Duration,
}

/// A text that is no `http://` URL with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a URL like http://127.0.0.1:4000")]
pub struct InvalidUrl;

/// The endpoint at `url`. Connects to nothing yet.
///
/// # Errors
/// [`InvalidUrl`].
pub fn endpoint(url: &str, keepalive: Keepalive) -> Result<Endpoint, InvalidUrl> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| InvalidUrl)?;
    let uri = endpoint.uri();
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err(InvalidUrl);
    }
    let Keepalive { connect_within, probe_every, answer_within } = keepalive;
    Ok(endpoint
        .connect_timeout(connect_within)
        .http2_keep_alive_interval(probe_every)
        .keep_alive_timeout(answer_within)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_url_with_scheme_and_host_is_accepted() {
        let second = Duration::from_secs(1);
        let keepalive =
            Keepalive { connect_within: second, probe_every: second, answer_within: second };
        for url in ["", "127.0.0.1", "localhost:4000", "ftp://a:1", "http://", "http://a b"] {
            assert!(endpoint(url, keepalive).is_err(), "{url}");
        }
        assert!(endpoint("http://127.0.0.1:4000", keepalive).is_ok());
    }
}
