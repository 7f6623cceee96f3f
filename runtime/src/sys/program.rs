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

/// Lets `file`, which has the same content, be the one that the calling process runs from: maps it where the program's
/// file is mapped, and then has the kernel take it for that (`PR_SET_MM_MAP` of prctl(2)), which it does when nothing of
/// the old file is mapped any more. For a process with one thread. After a failure the program goes on, from either.
pub(crate) fn replace_program(file: impl AsFd, map: MemoryMap) -> nix::Result<()> {
    let file = file.as_fd();
    let (segments, fixed) = loaded();
    if segments.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    for segment in segments {
        map_again(segment, file)?;
    }
    for Segment { start, length, .. } in fixed {
        // SAFETY: the dynamic linker makes this part read-only after its relocations; nobody writes to it later.
        check(unsafe { libc::mprotect(start as *mut _, length, libc::PROT_READ) }.into())?;
    }
    // SAFETY: asks where the heap ends.
    let brk = unsafe { libc::syscall(libc::SYS_brk, 0) } as u64;
    let map = MemoryMap { brk, exe_fd: file.as_raw_fd() as u32, ..map };
    let size = size_of::<MemoryMap>();
    // SAFETY: the structure outlives the call, which reads it.
    check(unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const map, size, 0) }.into()).map(drop)
}

/// Maps a file over a segment that holds the same, or is a changed copy of it, which is kept.
fn map_again(segment: Segment, file: BorrowedFd<'_>) -> nix::Result<()> {
    let Segment { start, length, offset, protection } = segment;
    let map = |address: usize, protection: i32, flags: i32, fd: i32, offset: usize| {
        // SAFETY: either a place of the kernel's choice or a segment of the program, whose bytes stay the same.
        let at = unsafe { libc::mmap(address as *mut _, length, protection, flags, fd, offset as libc::off_t) };
        if at == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(at) }
    };
    let own = libc::MAP_PRIVATE;
    if protection & libc::PROT_WRITE == 0 {
        return map(start, protection, own | libc::MAP_FIXED, file.as_raw_fd(), offset).map(drop);
    }
    let copy = map(0, protection, own | libc::MAP_ANONYMOUS, -1, 0)?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the segment is readable and as long as the copy, which nobody else knows. From the one call to the other
    // this thread, the only one, changes no variable, so that the copy is what it takes the place of.
    let moved = unsafe {
        std::ptr::copy_nonoverlapping(start as *const u8, copy.cast(), length);
        libc::mremap(copy, length, length, flags, start as *mut libc::c_void)
    };
    if moved == libc::MAP_FAILED {
        let errno = Errno::last();
        // SAFETY: it is still where it was made, and nobody else knows it.
        unsafe { libc::munmap(copy, length) };
        return Err(errno);
    }
    Ok(())
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
        // SAFETY: plain numbers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
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
