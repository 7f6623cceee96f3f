//! Architectures: their audit numbers and their system calls by name.

use oci_spec::runtime::Arch;
use syscalls::x86_64::Sysno;

/// An architecture that a filter can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    X86_64,
    /// The x32 ABI: reported as x86_64, with [`X32_BIT`] in the numbers.
    X32,
    X86,
    Aarch64,
    Arm,
}

/// What profiles can name here; others in a profile are for other machines and are left out, since no process
/// can make their system calls on this one.
pub(crate) const SUPPORTED: [Arch; 5] =
    [Arch::ScmpArchX86_64, Arch::ScmpArchX32, Arch::ScmpArchX86, Arch::ScmpArchAarch64, Arch::ScmpArchArm];

/// `__X32_SYSCALL_BIT`.
pub(super) const X32_BIT: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE: Architecture = Architecture::X86_64;
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE: Architecture = Architecture::Aarch64;

/// System calls that have numbers of their own on x32, from 512 on.
const X32_ONLY: [Sysno; 36] = [
    Sysno::rt_sigaction,
    Sysno::rt_sigreturn,
    Sysno::ioctl,
    Sysno::readv,
    Sysno::writev,
    Sysno::recvfrom,
    Sysno::sendmsg,
    Sysno::recvmsg,
    Sysno::execve,
    Sysno::ptrace,
    Sysno::rt_sigpending,
    Sysno::rt_sigtimedwait,
    Sysno::rt_sigqueueinfo,
    Sysno::sigaltstack,
    Sysno::timer_create,
    Sysno::mq_notify,
    Sysno::kexec_load,
    Sysno::waitid,
    Sysno::set_robust_list,
    Sysno::get_robust_list,
    Sysno::vmsplice,
    Sysno::move_pages,
    Sysno::preadv,
    Sysno::pwritev,
    Sysno::rt_tgsigqueueinfo,
    Sysno::recvmmsg,
    Sysno::sendmmsg,
    Sysno::process_vm_readv,
    Sysno::process_vm_writev,
    Sysno::setsockopt,
    Sysno::getsockopt,
    Sysno::io_setup,
    Sysno::io_submit,
    Sysno::execveat,
    Sysno::preadv2,
    Sysno::pwritev2,
];

/// System calls of x86_64 that x32 does not have (arch/x86/entry/syscalls/syscall_64.tbl, abi `64`).
const NOT_X32: [Sysno; 14] = [
    Sysno::uselib,
    Sysno::_sysctl,
    Sysno::create_module,
    Sysno::get_kernel_syms,
    Sysno::query_module,
    Sysno::nfsservctl,
    Sysno::set_thread_area,
    Sysno::get_thread_area,
    Sysno::epoll_ctl_old,
    Sysno::epoll_wait_old,
    Sysno::vserver,
    Sysno::uretprobe,
    Sysno::uprobe,
    Sysno::map_shadow_stack,
];

/// A number of aarch64 that `syscalls` has under a name that the kernel does not use.
const NEWFSTATAT: (&str, u32) = ("newfstatat", 79);

/// Numbers of calls with 64-bit times, which `syscalls` has for aarch64 too, but 32-bit architectures only have
/// (include/uapi/asm-generic/unistd.h).
const TIME64: std::ops::RangeInclusive<u32> = 403..=423;

/// A call of x86 that `syscalls` does not have: its name is a word of Rust.
const BREAK: (&str, u32) = ("break", 17);

/// `__ARM_NR_BASE` and the calls above it (arch/arm/include/uapi/asm/unistd.h).
const ARM_PRIVATE: [(&str, u32); 6] = [
    ("breakpoint", 0xf_0001),
    ("cacheflush", 0xf_0002),
    ("usr26", 0xf_0003),
    ("usr32", 0xf_0004),
    ("set_tls", 0xf_0005),
    ("get_tls", 0xf_0006),
];

/// `socketcall` and `ipc` of x86.
const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;

/// What 32-bit x86 can also ask for, or only, by `socketcall` or `ipc`, with these numbers as their first argument
/// (linux/net.h, linux/ipc.h).
const MULTIPLEXED: [(&str, u32, u64); 32] = [
    ("socket", SOCKETCALL, 1),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("listen", SOCKETCALL, 4),
    ("accept", SOCKETCALL, 5),
    ("getsockname", SOCKETCALL, 6),
    ("getpeername", SOCKETCALL, 7),
    ("socketpair", SOCKETCALL, 8),
    ("send", SOCKETCALL, 9),
    ("recv", SOCKETCALL, 10),
    ("sendto", SOCKETCALL, 11),
    ("recvfrom", SOCKETCALL, 12),
    ("shutdown", SOCKETCALL, 13),
    ("setsockopt", SOCKETCALL, 14),
    ("getsockopt", SOCKETCALL, 15),
    ("sendmsg", SOCKETCALL, 16),
    ("recvmsg", SOCKETCALL, 17),
    ("accept4", SOCKETCALL, 18),
    ("recvmmsg", SOCKETCALL, 19),
    ("sendmmsg", SOCKETCALL, 20),
    ("semop", IPC, 1),
    ("semget", IPC, 2),
    ("semctl", IPC, 3),
    ("semtimedop", IPC, 4),
    ("msgsnd", IPC, 11),
    ("msgrcv", IPC, 12),
    ("msgget", IPC, 13),
    ("msgctl", IPC, 14),
    ("shmat", IPC, 21),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shmctl", IPC, 24),
];

/// A table of `syscalls`: its last number, and the name of each.
type Names = (u32, fn(u32) -> Option<&'static str>);

macro_rules! names {
    ($module:ident) => {
        (syscalls::$module::Sysno::last().id() as u32, |number| {
            syscalls::$module::Sysno::new(number as usize).map(|call| call.name())
        })
    };
}

/// By number: the tables' own iterators leave the last one out. One loop for all, since the tables are long matches, of
/// which the compiler makes code instead of data where it sees what is done with each name.
#[inline(never)]
fn walk((last, name): Names, tell: &mut dyn FnMut(&'static str, u32)) {
    for number in 0..=last {
        if let Some(name) = name(number) {
            tell(name, number);
        }
    }
}

impl Architecture {
    /// The architecture of a profile's name for it; `None` for one that this machine does not have.
    pub(super) fn from_spec(arch: Arch) -> Option<Architecture> {
        let known = match arch {
            Arch::ScmpArchNative => NATIVE,
            Arch::ScmpArchX86_64 => Architecture::X86_64,
            Arch::ScmpArchX32 => Architecture::X32,
            Arch::ScmpArchX86 => Architecture::X86,
            Arch::ScmpArchAarch64 => Architecture::Aarch64,
            Arch::ScmpArchArm => Architecture::Arm,
            _ => return None,
        };
        Some(known)
    }

    /// `AUDIT_ARCH_*` of linux/audit.h, as `seccomp_data.arch` has it.
    pub(super) fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 | Architecture::X32 => 0xc000_003e,
            Architecture::X86 => 0x4000_0003,
            Architecture::Aarch64 => 0xc000_00b7,
            Architecture::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 64 bits.
    pub(super) fn is_64_bit(self) -> bool {
        matches!(self, Architecture::X86_64 | Architecture::Aarch64)
    }

    /// Tells the name and number of every system call. To look up each of them in a profile is faster than to look
    /// up each name of the profile.
    pub(super) fn each(self, tell: &mut dyn FnMut(&'static str, u32)) {
        let is_in = |calls: &[Sysno], number| calls.iter().any(|call| call.id() as u32 == number);
        match self {
            Architecture::X86_64 => walk(names!(x86_64), tell),
            Architecture::X32 => {
                walk(names!(x86_64), &mut |name, number| {
                    if !is_in(&X32_ONLY, number) && !is_in(&NOT_X32, number) {
                        tell(name, number | X32_BIT);
                    }
                });
                for (at, call) in X32_ONLY.iter().enumerate() {
                    tell(call.name(), (512 + at as u32) | X32_BIT);
                }
            }
            Architecture::X86 => {
                walk(names!(x86), tell);
                tell(BREAK.0, BREAK.1);
            }
            Architecture::Aarch64 => {
                walk(names!(aarch64), &mut |name, number| {
                    if number != NEWFSTATAT.1 && !TIME64.contains(&number) {
                        tell(name, number);
                    }
                });
                tell(NEWFSTATAT.0, NEWFSTATAT.1);
            }
            Architecture::Arm => {
                walk(names!(arm), tell);
                for (name, number) in ARM_PRIVATE {
                    tell(name, number);
                }
            }
        }
    }

    /// The calls that are also made by another one: its number, and what its first argument is then.
    pub(super) fn multiplexed(self) -> &'static [(&'static str, u32, u64)] {
        if self == Architecture::X86 { &MULTIPLEXED } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(architecture: Architecture, name: &str) -> Option<u32> {
        let mut found = None;
        architecture.each(&mut |known, number| {
            if known == name {
                found = Some(number);
            }
        });
        found
    }

    #[test]
    fn numbers() {
        assert_eq!(number(Architecture::X86_64, "read"), Some(0));
        assert_eq!(number(Architecture::X86_64, "file_setattr"), Some(469), "the last of the table");
        assert_eq!(number(Architecture::X86, "read"), Some(3));
        assert_eq!(number(Architecture::X86, "socketcall"), Some(SOCKETCALL));
        assert_eq!(number(Architecture::X86, "ipc"), Some(IPC));
        assert_eq!(number(Architecture::Aarch64, "openat"), Some(56));
        assert_eq!(number(Architecture::Aarch64, "newfstatat"), Some(79));
        assert_eq!(number(Architecture::Aarch64, "open"), None);
        assert_eq!(number(Architecture::Arm, "read"), Some(3));
        assert_eq!(number(Architecture::Arm, "set_tls"), Some(0xf_0005));
        assert_eq!(number(Architecture::X32, "read"), Some(X32_BIT));
        assert_eq!(number(Architecture::X32, "pwritev2"), Some(X32_BIT + 547));
        assert_eq!(number(Architecture::X86_64, "no_such_call"), None);
    }
}
