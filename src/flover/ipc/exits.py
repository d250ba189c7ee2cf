"""How a process ended, in words: its exit code, or the signal that killed it and what that most often means."""

from __future__ import annotations

import signal

_MEANINGS = {
    signal.SIGKILL: "by the kernel if the machine ran out of memory (its log says so), else by a kill command",
    signal.SIGILL: "it ran an instruction that this processor does not have; --cpu-isa with a lesser one avoids it",
    signal.SIGBUS: "a file that it had mapped was cut short, or shared memory (/dev/shm) is full",
    signal.SIGSEGV: "a fault in compiled code",
    signal.SIGABRT: "a library gave up; its last words are on stderr",
}


def describe_exit(code: int) -> str:
    """What became of a process with this `returncode` of `subprocess` (negative: a signal), as the end of a sentence
    that begins with its name."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"was killed by signal {-code}"
    meaning = _MEANINGS.get(number)
    return f"was killed by signal {-code} ({number.name})" + (f": {meaning}" if meaning else "")
