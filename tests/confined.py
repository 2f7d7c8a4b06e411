"""`confined.py UNIT COMMAND …` runs a command as a systemd unit confines it: system calls, memory, no new privileges.

systemd itself cannot run in a test. These three are what may stop a program in the middle of its work, and they come
with the processes that it starts.
"""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN = 38, 65, 1
SCMP_ACT_ALLOW, SCMP_ACT_ERRNO = 0x7FFF0000, 0x00050000


def directives(unit: Path) -> dict[str, str]:
    """Return what the unit's [Service] says; a setting that stands there several times has as many lines."""
    found: dict[str, str] = {}
    section = ""
    for line in unit.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def calls(name: str) -> set[str]:
    """Return the system calls of a set, such as `@system-service`, as this machine's systemd knows it."""
    if not name.startswith("@"):
        return {name}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    members = [line.strip() for line in shown.stdout.splitlines()[1:]]
    return {call for member in members if member and not member.startswith("#") for call in calls(member)}


def allowed(unit: Path) -> set[str]:
    """Return the system calls that the unit lets through."""
    found: set[str] = set()
    for line in directives(unit)["SystemCallFilter"].splitlines():
        named = {call for name in line.lstrip("~").split() for call in calls(name)}
        found = found - named if line.startswith("~") else found | named
    return found


def confine(unit: Path) -> None:
    """Confine this process and its children as the unit does."""
    given = directives(unit)
    assert given["NoNewPrivileges"] == given["MemoryDenyWriteExecute"] == "yes"
    assert given["SystemCallErrorNumber"] == "EPERM"
    system = ctypes.CDLL(None, use_errno=True)
    # A kernel before 6.3 does not know it; systemd then refuses the same by its filter.
    if system.prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
        assert ctypes.get_errno() == errno.EINVAL
    assert system.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(SCMP_ACT_ERRNO | errno.EPERM))
    for call in allowed(unit):
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        # Below it are those of other machines.
        assert number < 0 or seccomp.seccomp_rule_add(rules, SCMP_ACT_ALLOW, number, 0) == 0
    assert seccomp.seccomp_load(rules) == 0


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
