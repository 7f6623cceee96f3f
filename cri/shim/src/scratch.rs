//! The one pair of buffers through which all output of a pod passes.
//!
//! Its pages are given back when the output pauses, so that an idle shim holds none.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

use crate::lines::{HEADER, LINE_LIMIT};

/// The most that is read at once.
pub(crate) const READ: usize = 64 * 1024;
/// A partial line kept from before, and what is read after it.
const INPUT: usize = LINE_LIMIT + READ;
/// Log lines on their way to one write.
const OUTPUT: usize = 128 * 1024;
const _: () = assert!(HEADER + LINE_LIMIT < OUTPUT);

#[derive(Debug)]
pub(crate) struct Scratch {
    base: NonNull<u8>,
    dirty: bool,
}

impl Scratch {
    pub(crate) fn new() -> nix::Result<Scratch> {
        const LENGTH: NonZeroUsize = NonZeroUsize::new(INPUT + OUTPUT).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new private mapping at an address of the kernel's choice; it is never unmapped.
        let base = unsafe { mmap_anonymous(None, LENGTH, protection, MapFlags::MAP_PRIVATE)? };
        Ok(Scratch { base: base.cast(), dirty: false })
    }

    /// The input and the output buffer.
    pub(crate) fn buffers(&mut self) -> (&mut [u8], &mut [u8]) {
        self.dirty = true;
        // SAFETY: both ranges are in the mapping, don't overlap, hold initialised (zero) bytes, and are
        // borrowed for as long as `self` is.
        unsafe {
            let input = std::slice::from_raw_parts_mut(self.base.as_ptr(), INPUT);
            let output = std::slice::from_raw_parts_mut(self.base.as_ptr().add(INPUT), OUTPUT);
            (input, output)
        }
    }

    /// It holds pages.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Gives the pages back; they read as zero afterwards.
    pub(crate) fn release(&mut self) {
        // SAFETY: the whole mapping, of which nothing is borrowed now.
        let released = unsafe { madvise(self.base.cast::<c_void>(), INPUT + OUTPUT, MmapAdvise::MADV_DONTNEED) };
        self.dirty = released.is_err();
    }
}
