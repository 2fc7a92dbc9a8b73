//! What is known of the cluster, in the state folder: an engine that begins while etcd is away goes on with it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cluster::{MEMORY_VERSION, Memory, Settings, State, View};
use crate::engine::control::Control;
use crate::engine::records::Outcome;
use crate::engine::store::Store;

/// The time between two writes: what changes all the time is not written all the time.
const PACE: Duration = Duration::from_secs(2);

/// The file, and what it says.
pub struct Notes {
    /// One writes at a time: a job, or the end of the engine.
    store: Arc<Mutex<Store>>,
    /// What was written last, or is being written.
    written: Option<Arc<View>>,
    /// When that was begun; `None`: nothing was.
    began: Option<Instant>,
    under_way: bool,
    /// It could not be written, and that was said.
    failing: bool,
}

impl Notes {
    /// The file of `folder`, and what it says. One that cannot be read is put aside.
    pub fn load(folder: &Path) -> (Self, Memory) {
        let (store, memory) = Store::load(folder, "cluster.json", MEMORY_VERSION);
        let store = Arc::new(Mutex::new(store));
        (Self { store, written: None, began: None, under_way: false, failing: false }, memory)
    }

    /// Whether the file says something else than what is known. Without a store that answers nothing new is known.
    fn is_behind(&self, view: &View) -> bool {
        let same = |written: &View| {
            written.hosts == view.hosts
                && written.networks == view.networks
                && written.members == view.members
                && written.addresses == view.addresses
        };
        matches!(view.state, State::Connected { .. }) && !self.written.as_deref().is_some_and(same)
    }

    /// A write to be done elsewhere, if there is one to be done now.
    fn next(&mut self, settings: &Settings, view: &Arc<View>) -> Option<impl FnOnce() -> bool + use<>> {
        let early = self.began.is_some_and(|began| began.elapsed() < PACE);
        if self.under_way || early || !self.is_behind(view) {
            return None;
        }
        (self.under_way, self.began, self.written) = (true, Some(Instant::now()), Some(Arc::clone(view)));
        let (store, settings, view, failing) =
            (Arc::clone(&self.store), settings.clone(), Arc::clone(view), self.failing);
        Some(move || save(&store, &settings, &view, failing))
    }

    /// A write came to its end; `done`: the file has it.
    fn noted(&mut self, done: bool) {
        (self.under_way, self.failing) = (false, !done);
        if !done {
            self.written = None;
        }
    }

    /// The end: what is not written yet is written now.
    pub fn finish(&self, settings: &Settings, view: &View) {
        if self.is_behind(view) || self.under_way {
            save(&self.store, settings, view, self.failing);
        }
    }
}

/// A full disk undoes nothing: it is said once, and tried again.
fn save(store: &Mutex<Store>, settings: &Settings, view: &View, said: bool) -> bool {
    let memory = Memory::of(settings, view);
    // Whoever panicked with it has written a file whole, or none.
    let saved = store.lock().unwrap_or_else(std::sync::PoisonError::into_inner).save(&memory);
    if let (Err(error), false) = (&saved, said) {
        tracing::error!(%error, "who is on other hosts is not saved: an engine that begins without etcd does not know them");
    }
    saved.is_ok()
}

impl Control {
    /// Once a second: what has changed of the cluster is written down, beside this task.
    pub(in crate::engine) fn note_cluster(&mut self) {
        let Some(joined) = &mut self.overlay.joined else { return };
        if let Some(write) = joined.notes.next(&joined.settings, &joined.view) {
            self.jobs
                .spawn(async { Outcome::Noted(tokio::task::spawn_blocking(write).await.unwrap_or(false)) });
        }
    }

    /// What came of that.
    pub(in crate::engine) fn cluster_noted(&mut self, done: bool) {
        if let Some(joined) = &mut self.overlay.joined {
            joined.notes.noted(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::cluster::{HostRecord, Member, NetworkRecord, Owner, Remote};

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("vswitch-notes-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn settings() -> Settings {
        let mut settings = Settings::new(vec!["http://198.18.1.254:2379".into()]);
        settings.name = Some("h1".into());
        settings
    }

    fn view(members: u8) -> Arc<View> {
        let since = Instant::now();
        let vtep = "198.18.1.2".parse().unwrap();
        let remote = |n: u8| {
            let member = Member {
                vni: 100,
                mac: switch::mac::MacAddr([2, 0, 0, 0, 0, n]),
                ips: vec![[10, 1, 0, n].into()],
                names: vec![format!("c{n}")],
            };
            Arc::new(Remote { host: "h2".into(), vtep, member, since })
        };
        let blue: NetworkRecord = NetworkRecord {
            name: "blue".into(),
            ..serde_json::from_str(r#"{"vni":100,"subnet":"10.1.0.0/24"}"#).unwrap()
        };
        let owner = |host: &str| Owner { host: host.into(), container: "c".into(), interface: "eth0".into() };
        let at = |ip: [u8; 4]| ("blue".to_owned(), ip.into());
        let host = |name: &str, vtep, me| HostRecord { name: name.into(), vtep, since, me, held: false };
        Arc::new(View {
            state: State::Connected { since, endpoint: "http://198.18.1.254:2379".into() },
            hosts: [host("h1", "198.18.1.1".parse().unwrap(), true), host("h2", vtep, false)].into(),
            members: (1..=members).map(remote).collect(),
            networks: [blue].into(),
            addresses: Arc::new(BTreeMap::from([
                (at([10, 1, 0, 1]), owner("h2")),
                (at([10, 1, 0, 9]), owner("h1")),
            ])),
            ..View::empty("h1".into())
        })
    }

    #[test]
    fn what_changed_is_written_once_and_no_faster_than_its_pace() {
        let folder = folder("pace");
        let (mut notes, before) = Notes::load(&folder);
        assert_eq!(before, Memory::default());
        let few = view(3);
        // Nothing new is known while the store does not answer.
        let lost =
            View { state: State::Lost { since: Instant::now(), why: "gone".into() }, ..View::clone(&few) };
        assert!(notes.next(&settings(), &Arc::new(lost)).is_none());
        let write = notes.next(&settings(), &few).unwrap();
        assert!(notes.next(&settings(), &view(4)).is_none(), "one at a time");
        let done = write();
        notes.noted(done);
        assert!(done && notes.next(&settings(), &few).is_none(), "nothing changed");
        assert!(notes.next(&settings(), &view(4)).is_none(), "not yet");
        notes.began = Instant::now().checked_sub(PACE);
        assert!(notes.next(&settings(), &view(4)).is_some());
        assert_eq!(Notes::load(&folder).1, Memory::of(&settings(), &few));
        // The end does not wait.
        notes.finish(&settings(), &view(5));
        assert_eq!(Notes::load(&folder).1, Memory::of(&settings(), &view(5)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_full_disk_is_tried_again() {
        let folder = folder("full");
        let (mut notes, _) = Notes::load(&folder);
        fs::create_dir(folder.join("cluster.json.new")).unwrap();
        let done = notes.next(&settings(), &view(1)).unwrap()();
        notes.noted(done);
        assert!(!done && notes.failing && notes.is_behind(&view(1)));
        fs::remove_dir(folder.join("cluster.json.new")).unwrap();
        notes.began = None;
        assert!(notes.next(&settings(), &view(1)).unwrap()());
        fs::remove_dir_all(folder).unwrap();
    }
}
