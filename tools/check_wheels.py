"""Checks that the compiled modules of each wheel are of the machine that its name says.

python tools/check_wheels.py dist/*.whl
"""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

MACHINES = {"x86_64": 62, "aarch64": 183}
"""`e_machine` in the header of an ELF file."""


def problems(wheel: Path) -> list[str]:
    """What is wrong with a wheel, in words; nothing if it is right."""
    machine = next((name for name in MACHINES if wheel.stem.endswith(f"linux_{name}")), None)
    if machine is None:
        return [f"{wheel.name}: its platform is none of {', '.join(f'linux_{name}' for name in MACHINES)}"]
    found = []
    with ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        for name in modules:
            with archive.open(name) as file:
                header = file.read(20)
            if header[:4] != b"\x7fELF" or int.from_bytes(header[18:20], "little") != MACHINES[machine]:
                found.append(f"{wheel.name}: {name} is not compiled for {machine}")
            if machine not in name:
                found.append(f"{wheel.name}: Python on {machine} does not look for {name}")
    return found or ([] if modules else [f"{wheel.name}: no compiled module"])


def main(arguments: list[str]) -> int:
    if not arguments:
        print("which wheels?", file=sys.stderr)
        return 2
    found = [problem for path in arguments for problem in problems(Path(path))]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"{len(arguments)} wheels hold what their names say")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
