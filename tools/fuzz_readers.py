"""Fuzzing of every reader of bytes from outside but the codecs, which `fuzz_codecs.py` has: valid files, damaged at random, read again.

    make fuzz FUZZ_SECONDS=600
    python tools/fuzz_readers.py --seconds 60 --reader dump_meta
    python tools/fuzz_readers.py --input build/fuzz/dump_meta-17    # one kept input again

A finding is any exception but an error of ours in one line that names the file, half a minute for an input, or 3 GiB. It is told, and its
input kept below build/fuzz; the others go on. The seed of an input is its number: equal commands try equal inputs.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from h2o_gate_plugin.errors import H2oGateError
from tests.unit.bad_input.readers import READERS, Reader

BUILD = Path(__file__).parents[1] / "build" / "fuzz"
ADDRESS_SPACE_BYTES, SECONDS_PER_INPUT = 3 * 2**30, 30
SHARE_S = 1.0
"""One reader's turn; then the next one's."""


def hung(*_: object) -> None:
    raise TimeoutError(f"{SECONDS_PER_INPUT} s")


def finding(reader: Reader, path: Path) -> str | None:
    """None: a value, or an error that a user can read."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)
    try:
        reader.read(path)
    except H2oGateError as err:
        return None if str(err) and "\n" not in str(err) else f"an error of {len(str(err).splitlines())} lines: {err}"
    except BaseException as err:
        if isinstance(err, KeyboardInterrupt):
            raise
        return traceback.format_exc(limit=-6, chain=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


class Target:
    """A reader with its folder, and how far it is."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader, self.folder, self.tried, self.found = reader, folder, 0, 0
        self.told: set[str] = set()
        folder.mkdir()
        self.path = folder / reader.make(folder)
        self.valid = self.path.read_bytes()
        reader.read(self.path)  # else the damage below would be damage to what is refused anyway

    def turn(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            data = self.reader.damage(self.valid, Random(self.tried))
            self.path.write_bytes(data)
            found = finding(self.reader, self.path)
            if found is not None:
                self.found += 1
                self._tell(data, found)
            self.tried += 1
        self.path.write_bytes(self.valid)

    def _tell(self, data: bytes, found: str) -> None:
        """Each place once: the last line of the traceback's innermost frame."""
        place = "\n".join(line for line in found.splitlines() if line.lstrip().startswith("File "))[-200:]
        if place in self.told:
            return
        self.told.add(place)
        BUILD.mkdir(parents=True, exist_ok=True)
        kept = BUILD / f"{self.reader.name}-{self.tried}"
        kept.write_bytes(data)
        print(f"fuzz_readers: {self.reader.name}: a finding, kept in {kept}\n{found}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--reader", choices=READERS, action="append", help="this one alone (repeatable)")
    parser.add_argument("--input", type=Path, help="read this kept input once; its name begins with the reader's")
    args = parser.parse_args()
    signal.signal(signal.SIGALRM, hung)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    with TemporaryDirectory(prefix="h2o-fuzz-") as scratch:
        if args.input:
            target = Target(READERS[args.input.name.rpartition("-")[0]], Path(scratch) / "one")
            target.path.write_bytes(args.input.read_bytes())
            found = finding(target.reader, target.path)
            print(found or "no finding")
            return int(found is not None)
        targets = [Target(READERS[name], Path(scratch) / name) for name in args.reader or READERS]
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            for target in targets:
                target.turn(time.monotonic() + min(SHARE_S, args.seconds / len(targets)))
    for target in targets:
        print(f"fuzz_readers: {target.reader.name:<18}{target.tried:>9} inputs{target.found:>7} findings")
    print(f"fuzz_readers: {sum(target.tried for target in targets)} inputs, {sum(target.found for target in targets)} findings")
    return int(any(target.found for target in targets))


if __name__ == "__main__":
    sys.exit(main())
