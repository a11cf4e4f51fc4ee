//! Ctrl-C as a request: what is under way is ended in order, so that nothing stays half written.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn ask(_: libc::c_int) {
    if ASKED.swap(true, Ordering::SeqCst) {
        // Asked twice: at once. SAFETY: `_exit` may be called in a signal handler.
        unsafe { libc::_exit(130) }
    }
}

/// From here on Ctrl-C, a request to terminate and a closed terminal are noted instead of ending the
/// process; the second one ends it.
pub fn listen() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler touches only an atomic and calls `_exit`.
        unsafe {
            libc::signal(
                signal,
                ask as extern "C" fn(libc::c_int) as libc::sighandler_t,
            )
        };
    }
}

/// Whether somebody asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
