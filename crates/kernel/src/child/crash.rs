//! Tells the kernel where a cell crashed (segmentation fault, abort), so that it can show the
//! user's line.

use rustix::fd::{AsRawFd, OwnedFd};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// The signals that end a process because of an error in it.
const SIGNALS: [c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
];
/// Frames that are reported at most; a line of that length fits into a pipe's buffer.
const FRAMES: usize = 64;

static EVENTS: AtomicI32 = AtomicI32::new(-1);
/// The handlers before ours, those of the standard library: they recognise a stack overflow.
static BEFORE: [AtomicUsize; SIGNALS.len()] = [const { AtomicUsize::new(0) }; SIGNALS.len()];

/// Installs the handlers. `events` must stay open as long as the process runs.
pub fn report_to(events: &OwnedFd) {
    EVENTS.store(events.as_raw_fd(), Ordering::Relaxed);
    // On an overflow the stack has no room for a handler; the standard library's own alternative
    // stack is too small for a walk over the frames.
    let size = 256 * 1024;
    let stack: &'static mut [u8] = Box::leak(vec![0; size].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: size,
    };
    // SAFETY: the memory is never freed, and the handler keeps to what signal handlers may do.
    unsafe {
        libc::sigaltstack(&stack, std::ptr::null_mut());
        for (signal, before) in SIGNALS.iter().zip(&BEFORE) {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction =
                crashed as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(*signal, &action, &mut old);
            before.store(old.sa_sigaction, Ordering::Relaxed);
        }
    }
}

/// Writes the return addresses, then lets the handler before this one decide.
extern "C" fn crashed(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // The walk could wait for a lock that the crashed code holds: after two seconds the process
    // ends anyway.
    // SAFETY: `alarm` and `signal` may be called in a signal handler.
    unsafe {
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::alarm(2);
    }
    let mut line = Line::new();
    let mut frames = 0;
    // SAFETY: no other thread may walk at the same time. One that panics now could; the worst that
    // can follow is that this process, which ends anyway, ends without the addresses.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            line.address(frame.ip() as usize);
            frames += 1;
            frames < FRAMES
        });
    }
    line.send();
    let position = SIGNALS.iter().position(|s| *s == signal);
    let before = position.map_or(libc::SIG_DFL, |i| BEFORE[i].load(Ordering::Relaxed));
    // SAFETY: a handler that was installed with SA_SIGINFO has this signature; the standard library
    // installs its own so. Otherwise the signal acts as it would without a handler.
    unsafe {
        if before == libc::SIG_DFL || before == libc::SIG_IGN {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        } else {
            let before: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                std::mem::transmute(before);
            before(signal, info, context);
        }
    }
}

/// A line of text without allocation.
struct Line {
    bytes: [u8; 16 + 17 * FRAMES],
    length: usize,
}

impl Line {
    fn new() -> Self {
        let mut line = Line {
            bytes: [0; 16 + 17 * FRAMES],
            length: 0,
        };
        line.add(b"crashed");
        line
    }

    fn add(&mut self, text: &[u8]) {
        for byte in text {
            if self.length < self.bytes.len() {
                self.bytes[self.length] = *byte;
                self.length += 1;
            }
        }
    }

    fn address(&mut self, address: usize) {
        self.add(b" ");
        let digits = (usize::BITS - address.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let value = (address >> (4 * digit)) & 15;
            self.add(&[b"0123456789abcdef"[value]]);
        }
    }

    fn send(mut self) {
        self.add(b"\n");
        let events = EVENTS.load(Ordering::Relaxed);
        // SAFETY: the bytes are initialised, and `write` may be called in a signal handler.
        unsafe { libc::write(events, self.bytes.as_ptr().cast(), self.length) };
    }
}

/// Returns the address at which the library with this function was loaded, 0 if it is not known.
pub fn base_of(function: *const c_void) -> u64 {
    // SAFETY: `dladdr` accepts any address and fills the structure if it returns another value
    // than 0.
    unsafe {
        let mut found: libc::Dl_info = std::mem::zeroed();
        match libc::dladdr(function, &mut found) {
            0 => 0,
            _ => found.dli_fbase as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Line;
    use crate::child::Event;

    #[test]
    fn addresses_are_written_in_hexadecimal() {
        let mut line = Line::new();
        for address in [0, 1, 0xfe, usize::MAX] {
            line.address(address);
        }
        let text = std::str::from_utf8(&line.bytes[..line.length]).unwrap();
        assert_eq!(
            Event::parse(text),
            Some(Event::Crashed {
                addresses: vec![0, 1, 0xfe, u64::MAX]
            })
        );
    }
}
