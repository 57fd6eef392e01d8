//! Looks after kernels between cells.
//!
//! Threads and subprocesses that a cell left behind may go on printing; were
//! nobody to read, they would block on a full pipe. One thread watches all
//! kernels that run no cell. It is told with two or three system calls when a
//! kernel changes hands, and sleeps while cells run.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{buffer::spare_capacity, event::epoll, io::Errno};

use super::{Slots, kernel::Kernel};

/// Stack of the watching thread, which calls nothing deep.
const STACK_BYTES: usize = 64 << 10;

/// Events taken at once: three for each of the few kernels, at most.
const EVENTS_MAX: usize = 64;

/// The watcher; see the module.
#[derive(Debug)]
pub(super) struct Watcher {
    epoll: OwnedFd,
}

impl Watcher {
    /// A watcher with its thread running.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(slots: &Arc<Slots>, out_of_memory: LookAfter) -> io::Result<Arc<Self>> {
        let watcher = Arc::new(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        });
        let (for_thread, slots) = (Arc::clone(&watcher), Arc::clone(slots));
        std::thread::Builder::new()
            .name("idle kernels".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || for_thread.watch(&slots, &*out_of_memory))?;
        Ok(watcher)
    }

    /// The kernel runs no cell now.
    pub(super) fn begin(&self, slot: u64, kernel: &mut Kernel) -> io::Result<()> {
        let once = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        let result = self.set(slot, kernel, once, true);
        kernel.is_watched = true;
        result
    }

    /// The kernel begins a cell: its pipes are the cell's.
    pub(super) fn end(&self, slot: u64, kernel: &Kernel) -> io::Result<()> {
        if !kernel.is_watched {
            return Ok(());
        }
        self.set(slot, kernel, epoll::EventFlags::ONESHOT, false)
    }

    fn set(
        &self,
        slot: u64,
        kernel: &Kernel,
        flags: epoll::EventFlags,
        exit_too: bool,
    ) -> io::Result<()> {
        let data = epoll::EventData::new_u64(slot);
        let pipes = [kernel.stdout.pipe(), kernel.stderr.pipe()];
        let exit = exit_too.then(|| kernel.child.exit.as_fd());
        let files = pipes.into_iter().flatten().map(AsFd::as_fd).chain(exit);
        for file in files {
            if kernel.is_watched {
                epoll::modify(&self.epoll, file, data, flags)?;
            } else {
                epoll::add(&self.epoll, file, data, flags)?;
            }
        }
        Ok(())
    }

    fn watch(&self, slots: &Slots, look_after: &(dyn Fn(&mut Kernel) -> Option<String> + Send)) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            // Without a deadline: there is nothing to do until something happens.
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // The descriptor is ours and stays open: this cannot happen.
                Err(_) => return,
            }
            for event in &events {
                self.look_after(slots, event.data.u64(), look_after);
            }
        }
    }

    fn look_after(
        &self,
        slots: &Slots,
        id: u64,
        look_after: &(dyn Fn(&mut Kernel) -> Option<String> + Send),
    ) {
        let Some(slot) = slots.by_id(id) else { return };
        let mut state = slot.state();
        // While a cell runs the kernel is not here.
        let Some(kernel) = &mut state.kernel else {
            return;
        };
        match look_after(kernel) {
            None => {
                // Should it fail, the kernel is merely not watched until its next cell.
                let _ = self.begin(id, kernel);
            }
            Some(reason) => {
                state.lost = Some(reason);
                state.kernel = None;
            }
        }
    }
}

/// What to do with a kernel to which something happened; the reason, if it has ended.
pub(super) type LookAfter = Box<dyn Fn(&mut Kernel) -> Option<String> + Send>;
