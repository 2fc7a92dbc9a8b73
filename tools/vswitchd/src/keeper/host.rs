//! What the keeper does for the engine in namespaces: interfaces, loopbacks, where things are.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use switch::sys::{fds, netns, tun};

use super::link::{self, Placed};
use super::namespaces::{Home, Inherited, Namespaces, is_plain_name};
use super::nic;
use super::outside::{Found, Identity, Job, Outside};
use super::probe;
use crate::config::{HOST, LEG, OUTSIDE};
use crate::wire::{AttachInfo, AttachSpec, NetnsRef, Refusal, RefusalKind, Target};

/// Files that a container's process sees in place of the host's, and where they are looked for: what the engine
/// generated (`STATE/containers/NAME/`), and what an administrator put where `ip netns exec` looks (`/etc/netns/NAME/`).
const MOUNTED: [(&str, &str); 2] = [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")];

/// Threads that close interfaces together.
const CLOSERS: usize = 32;

/// A TAP that was attached.
#[derive(Debug)]
struct Tap {
    fd: OwnedFd,
    spec: AttachSpec,
    info: AttachInfo,
}

/// # Threads
/// Shared. Calls for different containers run beside each other; calls for one container must not, its caller orders
/// them.
#[derive(Debug)]
pub struct Host {
    scratch: OwnedFd,
    gso_writes: bool,
    state: PathBuf,
    namespaces: Namespaces,
    outside: Option<Outside>,
    taps: Mutex<HashMap<(String, String), Tap>>,
}

impl Host {
    /// As root: everything is within reach. `state` is the state folder, there already. Removes namespaces that an
    /// earlier run left.
    ///
    /// # Errors
    /// No scratch namespace to be had, or the state folder cannot be used.
    ///
    /// # Privileges
    /// `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`.
    pub fn new(state: &Path) -> Result<Self, Refusal> {
        Self::with(state, None, !super::rootless::in_initial_user_namespace())
    }

    pub(super) fn with(state: &Path, outside: Option<Outside>, by_descriptor: bool) -> Result<Self, Refusal> {
        Self::around(state, outside, Namespaces::new(state, by_descriptor), HashMap::new())
    }

    /// Goes on with what another daemon made.
    pub(super) fn inherit(
        state: &Path,
        outside: Option<Outside>,
        by_descriptor: bool,
        taps: Vec<(OwnedFd, AttachSpec, AttachInfo)>,
        namespaces: Vec<Inherited>,
    ) -> Result<Self, Refusal> {
        let namespaces = Namespaces::inherit(state, by_descriptor, namespaces);
        let taps = taps.into_iter().map(|(fd, spec, info)| (key(&spec), Tap { fd, spec, info })).collect();
        Self::around(state, outside, namespaces, taps)
    }

    fn around(
        state: &Path,
        outside: Option<Outside>,
        namespaces: io::Result<Namespaces>,
        taps: HashMap<(String, String), Tap>,
    ) -> Result<Self, Refusal> {
        let asked = "a scratch network namespace";
        let scratch = netns::create().map_err(|errno| Refusal::of_errno(asked, errno))?;
        let namespaces = namespaces.map_err(|error| {
            Refusal::new(RefusalKind::Failed, format!("state folder {}", state.display()), error)
        })?;
        // Without a TAP there is nothing to probe; whoever attaches one is told why.
        let gso_writes = probe::gso_writes(scratch.as_fd()).unwrap_or_else(|error| {
            tracing::warn!(%error, "GSO probe");
            false
        });
        let taps = Mutex::new(taps);
        Ok(Self { scratch, gso_writes, state: state.to_owned(), namespaces, outside, taps })
    }

    fn taps(&self) -> MutexGuard<'_, HashMap<(String, String), Tap>> {
        self.taps.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes an interface and keeps it; the answer is a duplicate of its TAP. Asked again for one that lives in the
    /// same place, it is adjusted and handed out again: an engine that died while it waited for the answer gets it.
    ///
    /// # Errors
    /// [`Refusal`]; nothing is left behind then, not even the namespace if this call made it.
    pub fn attach(&self, spec: &AttachSpec) -> Result<(OwnedFd, AttachInfo), Refusal> {
        let asked = || format!("interface {:?} of container {:?}", spec.ifname, spec.container);
        let copy =
            |fd: &OwnedFd| fd.try_clone().map_err(|error| Refusal::new(RefusalKind::Failed, asked(), error));
        check_leg(spec)?;
        if spec.nic {
            let (fd, info) = nic::open(spec)?;
            let duplicate = copy(&fd)?;
            self.taps().insert(key(spec), Tap { fd, spec: spec.clone(), info: info.clone() });
            return Ok((duplicate, info));
        }
        if self.is_attached_as(spec) {
            self.adjust(spec)?;
            if let Some(tap) = self.taps().get(&key(spec)) {
                return Ok((copy(&tap.fd)?, tap.info.clone()));
            }
        }
        let known_before = self.namespaces.knows(&spec.container);
        let home = self.home(&spec.container, &spec.netns, spec.create)?;
        let created = home.created;
        let placed = self.place(&home, spec).inspect_err(|_| {
            if created && !known_before {
                self.namespaces.release(&spec.container);
            }
        });
        let placed = placed.map_err(|refusal| of_leg(spec, refusal));
        let (Placed { fd, ifindex, offloads }, Identity { netns_id, cookie }) = placed?;
        let gso_writes = self.gso_writes;
        let info =
            AttachInfo { netns_id, netns_cookie: cookie, ifindex, offloads, gso_writes, created, mtu: None };
        let duplicate = copy(&fd)?;
        self.taps().insert(key(spec), Tap { fd, spec: spec.clone(), info: info.clone() });
        Ok((duplicate, info))
    }

    /// Whether the interface is there and lives; a dead one is forgotten.
    fn is_attached_as(&self, spec: &AttachSpec) -> bool {
        let mut taps = self.taps();
        let Some(tap) = taps.get(&key(spec)) else { return false };
        let good = tap.spec.netns == spec.netns && fds::is_alive(&tap.fd).unwrap_or(false);
        if !good {
            taps.remove(&key(spec));
        }
        good
    }

    fn home(&self, container: &str, reference: &NetnsRef, create: bool) -> Result<Home, Refusal> {
        self.namespaces.find(container, reference, create, self.outside.as_ref())
    }

    fn place(&self, home: &Home, spec: &AttachSpec) -> Result<(Placed, Identity), Refusal> {
        let asked = format!("interface {:?} of container {:?}", spec.ifname, spec.container);
        if let Some(fd) = &home.fd {
            let failed = |errno| Refusal::of_entering(&asked, errno);
            let netns_id = netns::identity(fd).map_err(failed)?;
            let id = Identity { netns_id, cookie: netns::cookie(fd.as_fd()).map_err(failed)? };
            // A namespace of ours lives until it is released whatever we do, so nothing is lost by making it in place.
            // The host's own outlives us.
            let in_place = home.created || spec.netns == NetnsRef::Host;
            let scratch = (!in_place).then_some(self.scratch.as_fd());
            let placed = link::place(scratch, fd.as_fd(), spec);
            return placed.map(|placed| (placed, id)).map_err(|error| error.refuse(asked));
        }
        match self.job(&Job::Place { path: home.path.clone(), spec: spec.clone() }, None)? {
            (Found::Placed { id, ifindex, offloads }, Some(fd)) => Ok((Placed { fd, ifindex, offloads }, id)),
            _ => Err(Refusal::new(RefusalKind::Failed, asked, "no descriptor came back")),
        }
    }

    fn job(&self, job: &Job, tap: Option<&OwnedFd>) -> Result<(Found, Option<OwnedFd>), Refusal> {
        match &self.outside {
            Some(outside) => outside.run(job, tap),
            None => Err(Refusal::new(RefusalKind::Failed, "a namespace of another user", "not run as root")),
        }
    }

    /// Applies MAC, MTU, addresses and default route of `spec` to the interface that is there.
    ///
    /// # Errors
    /// [`Refusal`]; [`RefusalKind::Absent`] if it is not there, or not where it was.
    pub fn adjust(&self, spec: &AttachSpec) -> Result<(), Refusal> {
        let asked = format!("interface {:?} of container {:?}", spec.ifname, spec.container);
        check_leg(spec)?;
        let gone = || Refusal::new(RefusalKind::Absent, &asked, "it is not attached any more");
        let (tap, old, info) = match self.taps().get(&key(spec)) {
            Some(tap) => (tap.fd.try_clone(), tap.spec.clone(), tap.info.clone()),
            None => return Err(gone()),
        };
        let tap = tap.map_err(|error| Refusal::new(RefusalKind::Failed, &asked, error))?;
        // A NIC is left as it is.
        if old != *spec && !spec.nic {
            let home = self.home(&spec.container, &spec.netns, false)?;
            let there = match &home.fd {
                Some(fd) => {
                    let id = netns::identity(fd).map_err(|errno| Refusal::of_errno(&asked, errno))?;
                    if id != info.netns_id {
                        return Err(gone());
                    }
                    link::adjust(tap.as_fd(), fd.as_fd(), &old, spec)
                        .map_err(|error| error.refuse(asked.clone()))
                }
                None => {
                    let job = Job::Adjust { path: home.path, old, new: spec.clone() };
                    self.job(&job, Some(&tap)).map(|_| ())
                }
            };
            there?;
        }
        if let Some(known) = self.taps().get_mut(&key(spec)) {
            known.spec = spec.clone();
        }
        Ok(())
    }

    /// Forgets an interface, which removes it (when the engine has closed it too). One that is not there is no error.
    pub fn detach(&self, container: &str, ifname: &str) {
        let tap = self.taps().remove(&(container.to_owned(), ifname.to_owned()));
        drop(tap); // after the lock: removing a device takes milliseconds
    }

    /// Sees to it that the namespace is there, its loopback up. One of ours that is held by descriptor comes back.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn netns(
        &self,
        container: &str,
        reference: &NetnsRef,
        create: bool,
    ) -> Result<Option<OwnedFd>, Refusal> {
        let asked = format!("network namespace of container {container:?}");
        no_container(container, reference)?;
        let home = self.home(container, reference, create)?;
        match &home.fd {
            Some(fd) => link::loopback(fd.as_fd()).map_err(|error| error.refuse(asked))?,
            None => {
                self.job(&Job::Loopback { path: home.path }, None)?;
            }
        }
        Ok(self.namespaces.descriptor_of(container))
    }

    /// Forgets a container: its interfaces, and its namespace if it was made by us for it alone.
    pub fn release(&self, container: &str) {
        let gone: Vec<_> =
            self.taps().extract_if(|(owner, _), _| owner == container).map(|(_, tap)| tap).collect();
        close(gone, &self.namespaces.release(container));
    }

    /// Readable when a name in `/run/netns` was removed: time for [`Host::bury`]. Nothing to poll for without root.
    pub fn removals(&self) -> Option<BorrowedFd<'_>> {
        self.namespaces.removals()
    }

    /// A namespace of ours whose name somebody removed (`ip netns del`) is given up: its interfaces are removed, so that
    /// their descriptors tell it.
    pub fn bury(&self) {
        for gone in self.namespaces.removed() {
            let taps: Vec<_> = {
                let mut taps = self.taps();
                taps.extract_if(|_, tap| tap.info.netns_id == gone).collect()
            };
            for ((container, ifname), tap) in taps {
                tracing::info!(container, ifname, "its namespace was removed");
                if let Err(error) = link::remove(tap.fd.as_fd()) {
                    tracing::debug!(container, ifname, %error, "it was gone already");
                }
            }
        }
    }

    /// Forgets everything: what was made is removed.
    pub fn release_all(&self) {
        let gone: Vec<_> = self.taps().drain().map(|(_, tap)| tap).collect();
        close(gone, &self.namespaces.release_all());
    }

    /// The cookie of the namespace that is there now.
    ///
    /// # Errors
    /// [`Refusal`]; [`RefusalKind::Absent`] if there is none.
    pub fn identify(&self, container: &str, reference: &NetnsRef) -> Result<u64, Refusal> {
        let asked = format!("network namespace of container {container:?}");
        let home = self.home(container, reference, false)?;
        match &home.fd {
            Some(fd) => netns::cookie(fd.as_fd()).map_err(|errno| Refusal::of_entering(asked, errno)),
            None => match self.job(&Job::Identify { path: home.path }, None)? {
                (Found::Done { id }, _) => Ok(id.cookie),
                _ => Err(Refusal::new(RefusalKind::Failed, asked, "no identity came back")),
            },
        }
    }

    /// How a process enters the container.
    ///
    /// # Errors
    /// [`Refusal`]; [`RefusalKind::Absent`] if the namespace is not there.
    pub fn locate(&self, container: &str, reference: &NetnsRef) -> Result<Target, Refusal> {
        no_container(container, reference)?;
        let home = self.home(container, reference, false)?;
        let mut mounts = Vec::new();
        let administrator = match reference {
            NetnsRef::Name(name) => Some((Path::new("/etc/netns").to_owned(), name.as_str())),
            _ => None,
        };
        let generated = Some((self.state.join(super::GENERATED), container));
        // The later mount wins: what the switch knows about its networks.
        for (folder, name) in [administrator, generated].into_iter().flatten() {
            if !is_plain_name(name) {
                continue;
            }
            let folder = folder.join(name);
            for (file, over) in MOUNTED {
                let source = folder.join(file);
                if fs::symlink_metadata(&source).is_ok_and(|metadata| metadata.is_file()) {
                    mounts.push((source, PathBuf::from(over)));
                }
            }
        }
        Ok(Target { user_ns: home.user_ns, net_ns: home.path, container: container.to_owned(), mounts })
    }

    /// The same for a command of ours, which starts in our user namespace.
    pub(super) fn locate_own(&self, container: &str, reference: &NetnsRef) -> Result<Target, Refusal> {
        let target = self.locate(container, reference)?;
        let ours = netns::identity_of(Path::new("/proc/self/ns/user")).ok();
        match &target.user_ns {
            Some(path) if netns::identity_of(path).ok() != ours => {
                let asked = format!("command of container {container:?}");
                Err(Refusal::new(RefusalKind::Denied, asked, "it has a user namespace of its own")
                    .help("let its own engine run it (podman exec), or run vswitchd as root"))
            }
            _ => Ok(target),
        }
    }

    /// The namespaces that were made, for a daemon that takes over.
    pub(super) fn heritage(&self) -> io::Result<Vec<Inherited>> {
        self.namespaces.heritage()
    }

    /// Duplicates of all interfaces that live, for a new engine.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn adoptable(&self) -> io::Result<Vec<(OwnedFd, AttachSpec, AttachInfo)>> {
        let mut taps = self.taps();
        taps.retain(|_, tap| fds::is_alive(&tap.fd).unwrap_or(false));
        taps.values().map(|tap| Ok((tap.fd.try_clone()?, tap.spec.clone(), tap.info.clone()))).collect()
    }
}

/// Closes `taps`. Those in namespaces that are `ending` go with them; the others the kernel removes one by one, 25 ms
/// each, most of it waiting: side by side.
fn close(taps: Vec<Tap>, ending: &[(u64, u64)]) {
    let (with_their_homes, mut alone): (Vec<_>, Vec<_>) =
        taps.into_iter().partition(|tap| ending.contains(&tap.info.netns_id));
    for tap in with_their_homes {
        if let Err(error) = tun::set_persistent(&tap.fd, true) {
            tracing::debug!(container = tap.spec.container, %error, "it was gone already");
        }
    }
    let share = alone.len().div_ceil(CLOSERS).max(1);
    std::thread::scope(|scope| {
        while !alone.is_empty() {
            let part = alone.split_off(alone.len().saturating_sub(share));
            // Without a thread the part is closed here and now.
            let _thread = std::thread::Builder::new().spawn_scoped(scope, move || drop(part));
        }
    });
}

/// In the host's own namespace nothing is made but the host's legs: a name by which nothing else is called, no route.
/// The engine is not trusted with more.
fn check_leg(spec: &AttachSpec) -> Result<(), Refusal> {
    let is_leg = spec.container == HOST && spec.ifname.starts_with(LEG);
    // A NIC is there already; its name is nobody's but the file's, which whoever asks was held to.
    let is_ours = (is_leg || spec.container == OUTSIDE) && spec.default_via.is_empty();
    if spec.netns != NetnsRef::Host || is_ours {
        return Ok(());
    }
    Err(Refusal::new(RefusalKind::Denied, format!("interface {:?} of the host", spec.ifname), "it is no leg"))
}

/// The host is asked nothing else, and runs nothing.
fn no_container(container: &str, reference: &NetnsRef) -> Result<(), Refusal> {
    match reference {
        NetnsRef::Host => {
            Err(Refusal::new(RefusalKind::Denied, format!("container {container:?}"), "it is the host"))
        }
        _ => Ok(()),
    }
}

/// What helps someone who may not make an interface of the host.
fn of_leg(spec: &AttachSpec, refusal: Refusal) -> Refusal {
    if spec.netns != NetnsRef::Host || refusal.kind != RefusalKind::Denied {
        return refusal;
    }
    let (what_for, instead) = match spec.container.as_str() {
        OUTSIDE => ("[uplink]", "give it a `netns` of your own, or take `kind` = \"sockets\""),
        _ => ("`host_address`", "leave `host_address` out"),
    };
    let asked = format!("interface {:?} of the host, for {what_for}", spec.ifname);
    Refusal::new(RefusalKind::Denied, asked, refusal.answer)
        .help(format!("it takes CAP_NET_ADMIN on the host: run vswitchd as root, or {instead}"))
}

fn key(spec: &AttachSpec) -> (String, String) {
    (spec.container.clone(), spec.ifname.clone())
}
