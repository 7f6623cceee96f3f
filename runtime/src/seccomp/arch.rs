//! Architectures: their audit numbers and their system calls by name.

use std::str::FromStr;

use oci_spec::runtime::Arch;

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
const X32_ONLY: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

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

    /// The number of a system call; `None` when the architecture has none of this name.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let number = match self {
            Architecture::X86_64 => syscalls::x86_64::Sysno::from_str(name).ok()?.id(),
            Architecture::X32 => match X32_ONLY.iter().position(|own| *own == name) {
                Some(index) => 512 + index as i32,
                None => syscalls::x86_64::Sysno::from_str(name).ok()?.id(),
            },
            Architecture::X86 => syscalls::x86::Sysno::from_str(name).ok()?.id(),
            Architecture::Aarch64 => syscalls::aarch64::Sysno::from_str(name).ok()?.id(),
            Architecture::Arm => syscalls::arm::Sysno::from_str(name).ok()?.id(),
        };
        let number = number as u32;
        Some(if self == Architecture::X32 { number | X32_BIT } else { number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(Architecture::X86_64.number("read"), Some(0));
        assert_eq!(Architecture::X86.number("read"), Some(3));
        assert_eq!(Architecture::X86.number("socketcall"), Some(102));
        assert_eq!(Architecture::Aarch64.number("openat"), Some(56));
        assert_eq!(Architecture::Aarch64.number("open"), None);
        assert_eq!(Architecture::Arm.number("read"), Some(3));
        assert_eq!(Architecture::X32.number("read"), Some(X32_BIT));
        assert_eq!(Architecture::X32.number("pwritev2"), Some(X32_BIT + 547));
        assert_eq!(Architecture::X86_64.number("no_such_call"), None);
    }
}
