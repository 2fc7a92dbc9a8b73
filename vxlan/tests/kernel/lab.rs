//! Two namespaces with a veth between them and a VXLAN device over it on both sides.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use switch::sys::netns;

const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the veth says that it completes checksums and cuts super-frames.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    On,
    Off,
}

pub struct Lab {
    homes: [OwnedFd; 2],
}

impl Lab {
    /// `None`: not here, which is said, and which fails where `CI` is set.
    pub fn new(offloads: Offloads) -> Option<Self> {
        match Self::make(offloads) {
            Ok(lab) => Some(lab),
            Err(why) => {
                assert!(std::env::var("CI").is_err(), "no VXLAN device in a namespace of our own: {why}");
                println!("skipped: no VXLAN device in a namespace of our own: {why}");
                None
            }
        }
    }

    fn make(offloads: Offloads) -> Result<Self, String> {
        let home = || netns::create().map_err(|errno| errno.to_string());
        let lab = Self { homes: [home()?, home()?] };
        for home in 0..2 {
            // Without IPv6 nobody asks for routers and groups in between. Where the file is not, there is none.
            lab.inside(home, || drop(std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")));
        }
        let other = format!("/proc/{}/fd/{}", std::process::id(), lab.homes[1].as_raw_fd());
        lab.run(0, &format!("ip link add u0 address 02:00:00:00:01:01 type veth peer name u0 address 02:00:00:00:01:02 netns {other}"))?;
        for (home, me, you) in [(0, 1, 2), (1, 2, 1)] {
            if offloads == Offloads::Off {
                lab.run(home, "ethtool -K u0 tx off tso off gso off")?;
            }
            for command in [
                format!("ip address add 192.0.2.{me}/24 dev u0"),
                "ip link set u0 up".to_owned(),
                format!(
                    "ip link add vx0 address 02:00:00:00:02:0{me} type vxlan id 42 local 192.0.2.{me} \
                     remote 192.0.2.{you} dstport 4789 dev u0"
                ),
                "ethtool -K vx0 gro off".to_owned(),
                format!("ip address add 10.9.0.{me}/24 dev vx0"),
                "ip link set vx0 up".to_owned(),
            ] {
                lab.run(home, &command)?;
            }
        }
        Ok(lab)
    }

    fn run(&self, home: usize, command: &str) -> Result<(), String> {
        let done = self.inside(home, || {
            let mut words = command.split_whitespace();
            Command::new(words.next().unwrap_or_default())
                .args(words)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .status()
        });
        match done {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{command}: {status}")),
            Err(error) => Err(format!("{command}: {error}")),
        }
    }

    pub fn inside<T: Send>(&self, home: usize, work: impl FnOnce() -> T + Send) -> T {
        netns::in_netns(self.homes[home].as_fd(), work).unwrap()
    }

    /// A ping, a datagram each way, and a TCP connection by which each side sends so many bytes.
    pub fn talk(&self, bytes: usize) {
        self.run(0, "ping -c1 -W5 10.9.0.2").unwrap();
        let [one, two] = [(0, "10.9.0.1:0"), (1, "10.9.0.2:0")]
            .map(|(home, address)| self.inside(home, || UdpSocket::bind(address).unwrap()));
        let mut buffer = [0; 100];
        for (from, to) in [(&one, &two), (&two, &one)] {
            to.set_read_timeout(Some(PATIENCE)).unwrap();
            from.send_to(b"a datagram", to.local_addr().unwrap()).unwrap();
            assert_eq!(to.recv(&mut buffer).unwrap(), 10);
        }
        let listener = self.inside(1, || TcpListener::bind("10.9.0.2:0").unwrap());
        let to = listener.local_addr().unwrap();
        let client = self.inside(0, || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        let sent: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        let mut received = vec![0; bytes];
        for (mut from, mut to) in [(&client, &server), (&server, &client)] {
            to.set_read_timeout(Some(PATIENCE)).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| from.write_all(&sent).unwrap());
                to.read_exact(&mut received).unwrap();
            });
            assert!(sent == received);
        }
        // Both ends are closed when the other has seen it: nothing is under way afterwards but acknowledgments.
        drop(client);
        assert_eq!(server.read(&mut buffer).unwrap(), 0);
    }
}
