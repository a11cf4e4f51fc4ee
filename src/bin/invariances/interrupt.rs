//! Handles Ctrl-C as a request to stop, so that running work ends in order and no file stays
//! incomplete.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn ask(_: libc::c_int) {
    if ASKED.swap(true, Ordering::SeqCst) {
        // A second request ends the process immediately.
        // SAFETY: `_exit` is async-signal-safe, so a signal handler may call it.
        unsafe { libc::_exit(130) }
    }
}

/// Installs the handler. From now on the first Ctrl-C, termination signal or closed terminal is
/// recorded and does not end the process; the second one ends it.
pub fn listen() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler is an `extern "C"` function of the expected type. It only uses an
        // atomic and `_exit`, both of which are async-signal-safe.
        unsafe {
            libc::signal(
                signal,
                ask as extern "C" fn(libc::c_int) as libc::sighandler_t,
            )
        };
    }
}

/// Whether the user has requested to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
