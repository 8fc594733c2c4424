//! Sleeping until a socket is readable, somebody wakes us, or a deadline passes. `ppoll` over a handful of descriptors
//! is as cheap as epoll, and its timeout counts nanoseconds where epoll's counts milliseconds.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::Socket;

/// Wakes a thread out of [`wait`]. Cheap when that thread is awake: the system call is made only if it sleeps.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
    sleeping: AtomicBool,
}

impl Waker {
    pub fn new() -> io::Result<Waker> {
        // SAFETY: no pointers are passed; a non-negative result is a descriptor that nobody else owns.
        let fd = unsafe {
            let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Waker {
            fd,
            sleeping: AtomicBool::new(false),
        })
    }

    /// Call after publishing work. The sleeper re-checks its queues between [`Waker::prepare`] and [`wait`], so nothing
    /// is lost whichever of the two comes first.
    pub fn wake(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: writes eight bytes from a local; a full counter (EAGAIN) means it is readable anyway.
            unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// Announces sleep. Between this and [`wait`] the caller looks at its queues once more, and if it finds work calls
    /// [`Waker::cancel`] instead of waiting.
    pub fn prepare(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
        // The queues read next must not be read before the announcement is visible.
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    pub fn cancel(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    fn drain(&self) {
        let mut count = [0u8; 8];
        // SAFETY: reads at most eight bytes into a local of eight bytes.
        unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// Which of the sockets given to [`wait`] have something to read: bit i = socket i.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready(pub u64);

impl Ready {
    pub fn contains(self, index: usize) -> bool {
        index < 64 && self.0 & (1 << index) != 0
    }
}

/// Sleeps until a socket is readable, `waker` is woken or `timeout` has passed (`None` = for ever); at most 15 sockets
/// are watched. A signal counts as waking up with nothing ready.
pub fn wait(sockets: &[Socket], waker: &Waker, timeout: Option<Duration>) -> io::Result<Ready> {
    let mut fds = [libc::pollfd {
        fd: -1,
        events: libc::POLLIN,
        revents: 0,
    }; 16];
    fds[0].fd = waker.fd.as_raw_fd();
    for (slot, socket) in fds[1..].iter_mut().zip(sockets) {
        slot.fd = socket.raw_fd();
    }
    let count = 1 + sockets.len().min(fds.len() - 1);
    let timespec = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    let timespec_ptr = timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` has at least `count` entries; the timeout is null or points at a local; no signal mask is passed.
    let n = unsafe { libc::ppoll(fds.as_mut_ptr(), count as libc::nfds_t, timespec_ptr, std::ptr::null()) };
    waker.cancel();
    if n < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted {
            Ok(Ready(0))
        } else {
            Err(error)
        };
    }
    if fds[0].revents != 0 {
        waker.drain();
    }
    let mut ready = 0;
    for (i, slot) in fds[1..count].iter().enumerate() {
        // POLLERR too: reading is what clears a pending socket error.
        if slot.revents != 0 {
            ready |= 1 << i;
        }
    }
    Ok(Ready(ready))
}

/// Waits until the socket takes more to send; `false` when the time is over.
pub(crate) fn wait_writable(socket: &Socket, timeout: Duration) -> bool {
    let mut fd = libc::pollfd {
        fd: socket.raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let millis = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: one pollfd on our stack.
    unsafe { libc::poll(&raw mut fd, 1, millis) > 0 && fd.revents & libc::POLLOUT != 0 }
}
