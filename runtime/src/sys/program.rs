//! Another file in the place of the one that the running program was executed from.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::check;

/// What the kernel keeps of where a program is: `prctl_mm_map` of linux/prctl.h. Fields as in proc_pid_stat(5).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct MemoryMap {
    pub(crate) start_code: u64,
    pub(crate) end_code: u64,
    pub(crate) start_data: u64,
    pub(crate) end_data: u64,
    pub(crate) start_brk: u64,
    pub(crate) brk: u64,
    pub(crate) start_stack: u64,
    pub(crate) arg_start: u64,
    pub(crate) arg_end: u64,
    pub(crate) env_start: u64,
    pub(crate) env_end: u64,
    /// Null: it stays as it is.
    pub(crate) auxv: u64,
    pub(crate) auxv_size: u32,
    pub(crate) exe_fd: u32,
}

/// A loaded segment, in whole pages.
#[derive(Clone, Copy, Debug)]
struct Segment {
    start: usize,
    length: usize,
    offset: usize,
    protection: i32,
}

impl Segment {
    fn is_writable(self) -> bool {
        self.protection & libc::PROT_WRITE != 0
    }
}

/// What is to take a segment's place, at an address of the kernel's choice.
#[derive(Debug)]
struct Mapping(Segment, usize);

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is where it was made, and nobody else knows it.
        unsafe { libc::munmap(self.1 as *mut libc::c_void, self.0.length) };
    }
}

/// Lets `file`, which has the same content, be the one that the calling process runs from: maps it where the program's
/// file is mapped, and then has the kernel take it for that (`PR_SET_MM_MAP` of prctl(2)), which it does when nothing of
/// the old file is mapped any more.
///
/// For a process with one thread, or what others write meanwhile is lost. What may fail is done before anything is
/// changed, and whatever fails, the program goes on, from the one file or the other. `ENOEXEC` is a program that is not
/// this file's.
pub(crate) fn replace_program(file: impl AsFd, map: MemoryMap) -> nix::Result<()> {
    let file = file.as_fd();
    let (segments, fixed) = loaded();
    let copies = segments.into_iter().map(|segment| map_elsewhere(segment, file)).collect::<nix::Result<Vec<_>>>()?;
    if !copies.iter().any(is_same_program) {
        return Err(Errno::ENOEXEC);
    }
    for copy in copies {
        put_in_place(copy)?;
    }
    for Segment { start, length, .. } in fixed {
        // SAFETY: this part is for reading alone after relocation, whether or not the loader has seen to that.
        check(unsafe { libc::mprotect(start as *mut _, length, libc::PROT_READ) }.into())?;
    }
    // SAFETY: asks where the heap ends.
    let brk = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
    let map = MemoryMap { brk, exe_fd: file.as_raw_fd() as u32, ..map };
    let (request, size) = (libc::PR_SET_MM_MAP as libc::c_ulong, size_of::<MemoryMap>());
    // SAFETY: the structure outlives the call, which reads it.
    check(unsafe { libc::prctl(libc::PR_SET_MM, request, &raw const map, size, 0_usize) }.into()).map(drop)
}

/// Maps what a segment has of a file; memory of nobody's for one that the program changes.
fn map_elsewhere(segment: Segment, file: BorrowedFd<'_>) -> nix::Result<Mapping> {
    let Segment { length, offset, protection, .. } = segment;
    let of_file = (libc::MAP_PRIVATE, file.as_raw_fd(), offset);
    let of_nobody = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
    let (flags, fd, offset) = if segment.is_writable() { of_nobody } else { of_file };
    // SAFETY: at a place of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, offset as libc::off_t) };
    if at == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(Mapping(segment, at as usize)) }
}

/// Whether this is a segment with the headers of a program (elf(5)), and they are those of the program that runs.
fn is_same_program(copy: &Mapping) -> bool {
    let Mapping(segment, at) = copy;
    let length = segment.length.min(page_size());
    // SAFETY: both are mapped, readable, at least as long, and not written to.
    let bytes = |address: usize| unsafe { std::slice::from_raw_parts(address as *const u8, length) };
    segment.offset == 0 && !segment.is_writable() && bytes(*at) == bytes(segment.start)
}

fn put_in_place(copy: Mapping) -> nix::Result<()> {
    let Mapping(Segment { start, length, .. }, at) = copy;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the segment is readable and as long as the copy, which nobody else knows and which has the same bytes when
    // it takes its place: from the one call to the other this thread, the only one, changes no variable.
    let moved = unsafe {
        if copy.0.is_writable() {
            std::ptr::copy_nonoverlapping(start as *const u8, at as *mut u8, length);
        }
        libc::mremap(at as *mut libc::c_void, length, length, flags, start as *mut libc::c_void)
    };
    if moved == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // It is where the segment was.
    std::mem::forget(copy);
    Ok(())
}

fn page_size() -> usize {
    // SAFETY: plain numbers.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// What of the program's file is mapped, and which parts of that are read-only after relocation (elf(5)).
fn loaded() -> (Vec<Segment>, Vec<Segment>) {
    extern "C" fn take(info: *mut libc::dl_phdr_info, _size: usize, found: *mut libc::c_void) -> libc::c_int {
        // SAFETY: dl_iterate_phdr(3) gives a valid structure with as many headers as it says, and the pointer that it
        // was given.
        let (base, headers, found) = unsafe {
            let info = &*info;
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
            (info.dlpi_addr as usize, headers, &mut *found.cast::<(Vec<Segment>, Vec<Segment>)>())
        };
        let page = page_size();
        for header in headers {
            let begin = base + header.p_vaddr as usize;
            let end = begin + header.p_filesz as usize;
            let start = begin / page * page;
            let flag = |flag: u32, protection: i32| if header.p_flags & flag == 0 { 0 } else { protection };
            let protection = flag(libc::PF_R, libc::PROT_READ)
                | flag(libc::PF_W, libc::PROT_WRITE)
                | flag(libc::PF_X, libc::PROT_EXEC);
            let offset = header.p_offset as usize / page * page;
            let until = |end: usize| Segment { start, length: end - start, offset, protection };
            match header.p_type {
                libc::PT_LOAD if end > begin => found.0.push(until(end.next_multiple_of(page))),
                libc::PT_GNU_RELRO if end / page * page > start => found.1.push(until(end / page * page)),
                _ => (),
            }
        }
        // The first is the program; the others are libraries.
        1
    }
    let mut found = (Vec::new(), Vec::new());
    // SAFETY: the function takes what it is given here.
    unsafe { libc::dl_iterate_phdr(Some(take), (&raw mut found).cast()) };
    found
}
