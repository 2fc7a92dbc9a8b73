//! Our bare relay, as a process of its own.

use std::time::Duration;

use super::lab::{ADDRESSES, LINKS, Lab, Site};
use crate::error::Result;
use crate::ns::Family;
use crate::process::{self, Process, Scratch, Stop};

pub(super) fn start(family: &Family, dir: Scratch, ring: bool) -> Result<Lab> {
    let site = Site::create(family)?;
    let [first, second] = LINKS;
    let how: &[&str] = if ring { &["--ring"] } else { &[] };
    let argv = process::own(&[&["relay", first, second], how].concat())?;
    let mut relay = Process::start(&dir, Some(site.workshop.name()), &argv, Stop::Kill)?;
    relay.wait_line("ready", Duration::from_secs(5))?;
    site.hand_over(|_| Ok(()))?;
    Ok(site.into_lab(dir, vec![relay], ADDRESSES))
}
