//! A TLS connection to another thread of this process.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivatePkcs8KeyDer, ServerName},
};

const NAME: &str = "sink";

/// What `write` writes goes encrypted to `read`, which runs beside it. Returns when both are over.
pub fn send(
    write: impl FnOnce(&mut StreamOwned<ClientConnection, UnixStream>) -> Result<()>,
    read: impl FnOnce(&mut dyn Read) -> Result<()> + Send,
) -> Result<()> {
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = own.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let mut server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())?;
    // Nobody comes back, and a writer that is gone cannot be sent anything.
    server.send_tls13_tickets = 0;
    let client = ClientConnection::new(Arc::new(client), ServerName::try_from(NAME)?)?;
    let server = ServerConnection::new(Arc::new(server))?;
    let (near, far) = UnixStream::pair().context("cannot make a pair of sockets")?;
    thread::scope(|scope| {
        let reader = scope.spawn(move || read(&mut StreamOwned::new(server, far)));
        let mut near = StreamOwned::new(client, near);
        let written = write(&mut near);
        // The end of the stream is part of what is protected.
        near.conn.send_close_notify();
        let closed = near.flush().context("cannot end the connection");
        drop(near);
        reader.join().map_err(|_| anyhow!("the reader failed"))??;
        written.and(closed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_end_is_seen() {
        let text = vec![7; 100_000];
        let mut got = Vec::new();
        send(
            |to| Ok(to.write_all(&text)?),
            |from| from.read_to_end(&mut got).map(drop).map_err(Into::into),
        )
        .unwrap();
        assert_eq!(got, text);
    }

    #[test]
    fn a_writer_that_fails_fails_the_connection() {
        send(
            |_| Err(anyhow!("no more")),
            |from| Ok(from.read_to_end(&mut Vec::new()).map(drop)?),
        )
        .unwrap_err();
    }
}
