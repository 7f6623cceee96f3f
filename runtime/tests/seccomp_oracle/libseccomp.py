"""Compiles OCI seccomp profiles with libseccomp, called as runc calls it but for foreign architectures.

A profile per line comes in as JSON. A line per profile goes out: the program as hexadecimal, for each architecture
the newest call that the profile names, and how many seconds libseccomp took; or the error. The line "names" is
answered with the names that libseccomp has for each architecture.
"""

import json
import sys
import tempfile
import time

import seccomp

ARCHES = {
    "SCMP_ARCH_X86_64": seccomp.Arch.X86_64,
    "SCMP_ARCH_X86": seccomp.Arch.X86,
    "SCMP_ARCH_X32": seccomp.Arch.X32,
    "SCMP_ARCH_AARCH64": seccomp.Arch.AARCH64,
    "SCMP_ARCH_ARM": seccomp.Arch.ARM,
}
OPERATORS = {
    "SCMP_CMP_NE": seccomp.NE,
    "SCMP_CMP_LT": seccomp.LT,
    "SCMP_CMP_LE": seccomp.LE,
    "SCMP_CMP_EQ": seccomp.EQ,
    "SCMP_CMP_GE": seccomp.GE,
    "SCMP_CMP_GT": seccomp.GT,
    "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ,
}


def action(name, errno):
    errno = 1 if errno is None else errno
    return {
        "SCMP_ACT_KILL": seccomp.KILL,
        "SCMP_ACT_KILL_THREAD": seccomp.KILL,
        "SCMP_ACT_KILL_PROCESS": seccomp.KILL_PROCESS,
        "SCMP_ACT_TRAP": seccomp.TRAP,
        "SCMP_ACT_ERRNO": seccomp.ERRNO(errno),
        "SCMP_ACT_TRACE": seccomp.TRACE(errno),
        "SCMP_ACT_LOG": seccomp.LOG,
        "SCMP_ACT_ALLOW": seccomp.ALLOW,
        "SCMP_ACT_NOTIFY": seccomp.NOTIFY,
    }[name]


def number(arch, name):
    found = seccomp.resolve_syscall(arch, name)
    return None if found == -1 else found


def own_number(arch, name):
    """The number that runc asks for: it has none for what libseccomp multiplexes on x86."""
    found = number(arch, name)
    is_multiplexed = arch == seccomp.Arch.X86 and found in (102, 117) and name not in ("socketcall", "ipc")
    return None if is_multiplexed else found


def conditions(args):
    indices = [arg["index"] for arg in args]
    made = []
    for arg in args:
        values = [arg["value"]]
        if arg["op"] == "SCMP_CMP_MASKED_EQ":
            values.append(arg.get("valueTwo", 0))
        made.append(seccomp.Arg(arg["index"], OPERATORS[arg["op"]], *values))
    # Several on one argument are alternatives.
    return [made] if len(set(indices)) == len(indices) else [[one] for one in made]


def compile_profile(profile):
    rules = [
        (name, action(rule["action"], rule.get("errnoRet")), conditions(rule.get("args") or []))
        for rule in profile.get("syscalls", [])
        for name in rule["names"]
    ]
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    arches = {seccomp.Arch.X86_64} | {ARCHES[name] for name in profile.get("architectures", [])}
    native = {name: number(seccomp.Arch.X86_64, name) for name, _, _ in rules}
    begin = time.perf_counter()
    made = seccomp.SyscallFilter(default)
    for arch in arches - {seccomp.Arch.X86_64}:
        made.add_arch(arch)
    # runc leaves it at KILL, which ends one thread only.
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    if len(rules) > 32:
        made.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    for name, wanted, alternatives in rules:
        if wanted == default or native[name] is None:
            continue
        for arguments in alternatives:
            made.add_rule(wanted, native[name], *arguments)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        took = time.perf_counter() - begin
        file.seek(0)
        program = file.read().hex()
    newest = {}
    for label, arch in ARCHES.items():
        if arch in arches:
            numbers = [own_number(arch, name) for name, _, _ in rules]
            newest[label] = max([known for known in numbers if known is not None and known > 0], default=0)
    return {"program": program, "newest": newest, "seconds": took}


def names():
    found = {}
    for label, arch in ARCHES.items():
        bit = 0x40000000 if label == "SCMP_ARCH_X32" else 0
        known = []
        for call in list(range(600)) + list(range(0xF0000, 0xF0010)) + list(range(-224, -99)):
            try:
                name = seccomp.resolve_syscall(arch, call | bit if call >= 0 else call)
            except (ValueError, RuntimeError):
                continue
            name = name.decode() if isinstance(name, bytes) else name
            if name:
                known.append(name)
        found[label] = known
    return found


for line in sys.stdin:
    if line.strip() == "names":
        answer = names()
    else:
        try:
            answer = compile_profile(json.loads(line))
        except Exception as error:
            answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
