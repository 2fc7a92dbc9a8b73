//! slirp4netns: a TCP/IP stack of its own (libslirp) between a namespace's TAP and sockets.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::lab::{Lab, Service};
use super::outside::{OUTSIDE, World};
use super::words;
use crate::error::{Error, Result};
use crate::ns::{Family, Netns};
use crate::process::{self, Process, Scratch, Stop};
use crate::race::scenario::Scenario;

/// It gives every container this address.
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn start(family: &Family, dir: Scratch, scenario: Scenario, mtu: u16) -> Result<Lab> {
    let world = World::create(family)?;
    let container = Netns::create(family.name("a"))?;
    let (socket, mtu, path) =
        (dir.file("slirp.sock"), mtu.to_string(), container.path().display().to_string());
    let argv = words(&[
        "slirp4netns",
        "--configure",
        "--mtu",
        &mtu,
        "--api-socket",
        &socket,
        "--netns-type=path",
        &path,
        "eth0",
    ]);
    let mut slirp = Process::start(&dir, Some(world.host.name()), &argv, Stop::Term)?;
    let socket = Path::new(&socket);
    let ready = || {
        slirp.check_alive()?;
        Ok(socket.exists() && container.ip(&["route", "get", &OUTSIDE.to_string()]).is_ok())
    };
    process::until("the TAP of slirp4netns", LIMIT, ready)?;
    if scenario == Scenario::Publish {
        let (first, last) = Service::PORTS;
        for port in first..=last {
            publish(socket, "tcp", port)?;
            publish(socket, "udp", port)?;
        }
    }
    Ok(world.into_lab(scenario, dir, vec![slirp], container, CONTAINER))
}

/// One request a connection: that is how it wants it.
fn publish(socket: &Path, proto: &str, port: u16) -> Result<()> {
    let says = |detail: String| Error::Answer { who: "slirp4netns", detail };
    let request = json!({"execute": "add_hostfwd", "arguments":
        {"proto": proto, "host_addr": "0.0.0.0", "host_port": port, "guest_port": port}});
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(request.to_string().as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok::<_, std::io::Error>(line)
    };
    let line = ask().map_err(Error::io("ask slirp4netns to publish a port"))?;
    if is_done(&line) { Ok(()) } else { Err(says(format!("to {request}: {}", line.trim()))) }
}

fn is_done(line: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(line).is_ok_and(|answer| answer.get("return").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_no_answer() {
        assert!(is_done(r#"{"return":{"id":1}}"#));
        assert!(!is_done(r#"{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}"#));
        assert!(!is_done(""));
    }
}
