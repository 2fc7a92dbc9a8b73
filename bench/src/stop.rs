//! SIGINT, SIGTERM and SIGHUP become a flag, so that every guard's `Drop` runs and nothing is left on the machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::error::{Error, Result};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Catches the signals from now on, on a thread of their own.
///
/// # Errors
/// When the thread or its signal handlers cannot be made.
pub fn watch() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("a signal runtime"))?;
    let guard = runtime.enter();
    let listen = |kind| signal(kind).map_err(Error::io("a signal handler"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    drop(guard);
    let body = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                STOPPED.store(true, Ordering::Relaxed);
            }
        });
    };
    thread::Builder::new().name("signals".into()).spawn(body).map_err(Error::io("a thread for signals"))?;
    Ok(())
}

/// `Err(Interrupted)` once a signal came.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    if STOPPED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
