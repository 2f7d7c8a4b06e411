"""`confined.py UNIT COMMAND …` runs a command as a systemd unit confines it: system calls, memory, no new privileges.

systemd itself cannot run in a test. These three restrictions may stop a program in the middle of its work, and the
processes that it starts inherit them.
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
    """Return the settings in the unit's [Service] section; a repeated setting has one line for each value."""
    values: dict[str, str] = {}
    section = ""
    for line in unit.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            values[name] = f"{values[name]}\n{value}" if name in values else value
    return values


def calls(name: str) -> set[str]:
    """Return the system calls of a set, such as `@system-service`, as this machine's systemd defines it."""
    if not name.startswith("@"):
        return {name}
    done = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    members = [line.strip() for line in done.stdout.splitlines()[1:]]
    return {call for member in members if member and not member.startswith("#") for call in calls(member)}


def allowed(unit: Path) -> set[str]:
    """Return the system calls that the unit lets through."""
    permitted: set[str] = set()
    for line in directives(unit)["SystemCallFilter"].splitlines():
        group = {call for name in line.lstrip("~").split() for call in calls(name)}
        permitted = permitted - group if line.startswith("~") else permitted | group
    return permitted


def confine(unit: Path) -> None:
    """Confine this process and its children as the unit does."""
    values = directives(unit)
    assert values["NoNewPrivileges"] == values["MemoryDenyWriteExecute"] == "yes"
    assert values["SystemCallErrorNumber"] == "EPERM"
    system = ctypes.CDLL(None, use_errno=True)
    # Kernels before 6.3 do not have it; systemd then refuses the same by its filter.
    if system.prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
        assert ctypes.get_errno() == errno.EINVAL
    assert system.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(SCMP_ACT_ERRNO | errno.EPERM))
    for call in allowed(unit):
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        # Negative numbers are system calls of other architectures.
        assert number < 0 or seccomp.seccomp_rule_add(rules, SCMP_ACT_ALLOW, number, 0) == 0
    assert seccomp.seccomp_load(rules) == 0


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
