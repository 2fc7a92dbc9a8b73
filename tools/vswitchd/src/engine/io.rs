//! Which I/O engine reads and writes the devices, and why.

use std::sync::Arc;

use rustix::io::Errno;
use switch::io::epoll::EpollIo;
use switch::io::uring::{self, Unusable, UringIo};
use switch::mailbox::Mailbox;

use crate::api::rows::{IoEngine, IoStatus};
use crate::config::Io;

/// An engine.
pub enum Engine {
    Uring(Box<UringIo>),
    Epoll(Box<EpollIo>),
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// The file asks for io_uring, and the kernel refuses it.
    #[error("`io` = \"uring\": this host refuses it: {0}; with \"auto\" or \"epoll\" the daemon runs here")]
    Refused(#[from] Unusable),
    /// The kernel has no descriptors left.
    #[error("epoll: {0}")]
    Epoll(#[from] Errno),
}

/// The engine that the configuration asks for, for so many ports, and what `show status` says of it, in one of so many
/// workers. With "auto" the probe
/// decides, and what it found is said.
///
/// "auto" prefers io_uring: of epoll's figures it has 1.34 of the highest rate of 64-byte UDP without loss, 1.33 of the
/// flood, 1.13 of one TCP stream, 0.85 of two against each other, 0.98 of round trips and connects (`bench race l2 --peers
/// vswitchd-epoll --peers vswitchd-uring`, 3 rounds, 2 cores, Linux 6.18).
pub fn choose(
    wanted: Io,
    ports: usize,
    workers: usize,
    mailbox: &Arc<Mailbox>,
) -> Result<(Engine, IoStatus), IoError> {
    let ring = || -> Result<UringIo, Unusable> {
        uring::probe()?;
        let mut io = UringIo::new(ports, Arc::clone(mailbox))?;
        io.share_cores(workers);
        Ok(io)
    };
    let by_ring = |io, why: &str| (Engine::Uring(Box::new(io)), status(IoEngine::Uring, why.into()));
    let by_epoll = |why| {
        let mut io = EpollIo::new(ports, Arc::clone(mailbox))?;
        io.share_cores(workers);
        Ok((Engine::Epoll(Box::new(io)), status(IoEngine::Epoll, why)))
    };
    match wanted {
        Io::Uring => Ok(by_ring(ring()?, "io = uring")),
        Io::Epoll => by_epoll("io = epoll".into()),
        Io::Auto => match ring() {
            Ok(io) => Ok(by_ring(io, "io = auto: this host allows it, tried at start")),
            Err(unusable) => {
                tracing::warn!(%unusable, "io_uring cannot be used here: epoll instead");
                by_epoll(format!("io = auto: io_uring cannot be used: {unusable}"))
            }
        },
    }
}

const fn status(engine: IoEngine, why: String) -> IoStatus {
    IoStatus { engine, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_says_why() {
        let mailbox = Arc::new(Mailbox::new(1).unwrap());
        let said = |wanted| choose(wanted, 1, 1, &mailbox).map(|(_, said)| said);
        assert_eq!(said(Io::Epoll).unwrap(), status(IoEngine::Epoll, "io = epoll".into()));
        match said(Io::Uring) {
            Ok(said) => assert_eq!(said, status(IoEngine::Uring, "io = uring".into())),
            Err(error) => assert!(error.to_string().contains("`io` = \"uring\""), "{error}"),
        }
        assert!(said(Io::Auto).unwrap().why.starts_with("io = auto: "));
    }

    #[test]
    fn a_refusal_says_what_was_asked_answered_and_would_help() {
        let error = IoError::Refused(Unusable { step: "io_uring_setup", errno: Errno::PERM }).to_string();
        for words in ["`io` = \"uring\"", "io_uring_setup", "not permitted", "seccomp", "\"epoll\""] {
            assert!(error.contains(words), "{words} in {error}");
        }
    }
}
