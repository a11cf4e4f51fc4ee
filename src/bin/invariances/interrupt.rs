//! Handles Ctrl-C as a request to stop, so that running work ends in order and no file stays
//! incomplete.

use invariances::{Error, Result};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Installs the handler. From now on the first Ctrl-C, termination signal or closed terminal is
/// recorded and does not end the process; the second one ends it.
///
/// # Errors
/// [`Error::Io`] if the operating system refuses the handler.
pub fn listen() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Handlers run in the order in which they are registered. At the first signal the flag is
        // not set yet, so the process goes on.
        flag::register_conditional_shutdown(signal, 130, &ASKED)
            .and_then(|_| flag::register(signal, &ASKED))
            .map_err(|e| Error::io("signal handler", e))?;
    }
    Ok(())
}

/// Whether the user has requested to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
