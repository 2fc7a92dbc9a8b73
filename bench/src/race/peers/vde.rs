//! VDE2: `vde_switch` reads and writes TAPs itself, so no plug stands between it and a container.

use std::time::Duration;

use super::lab::{ADDRESSES, LINKS, Lab, Site};
use super::words;
use crate::error::Result;
use crate::ns::Family;
use crate::process::{self, Process, Scratch, Stop};

pub(super) fn start(family: &Family, dir: Scratch) -> Result<Lab> {
    let site = Site::create(family)?;
    let [first, second] = LINKS;
    let argv = words(&["vde_switch", "-s", &dir.file("vde"), "-t", first, "-t", second]);
    // It ends when its stdin does, which our pipe keeps open.
    let switch = Process::start(&dir, Some(site.workshop.name()), &argv, Stop::Term)?;
    for link in LINKS {
        let made = || Ok(site.workshop.ip(&["link", "show", link]).is_ok());
        process::until("a TAP of vde_switch", Duration::from_secs(5), made)?;
    }
    site.hand_over(|_| Ok(()))?;
    Ok(site.into_lab(dir, vec![switch], ADDRESSES))
}
