"""pip-audit over pinned requirements. What no service could answer for is said, and is no clean bill: pip-audit itself calls it one.

    make audit

Exit code 0: nothing known against any of them; 1: something is; 3: not audited, or not all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SERVICES = ("pypi", "osv")
FOUND, NOT_AUDITED = 1, 3


def asked(service: str, path: Path) -> list[dict[str, Any]]:
    """pip-audit's dependencies; none, and a line that says why, when the service did not answer."""
    argv = (sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--format=json", "--no-deps", "--disable-pip", "-s", service)
    done = subprocess.run((*argv, "-r", str(path)), capture_output=True, text=True, check=False)
    try:
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = done.stderr.strip().splitlines() or ["nothing"]
        print(f"audit: {service}: expected its answer, got none: {said[-1][:200]}", file=sys.stderr)
        return []
    return dependencies


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("requirements", type=Path)
    path = parser.parse_args().requirements
    left: dict[str, str] = {}
    known: set[str] = set()
    vulnerable = 0
    for service in SERVICES:
        for each in asked(service, path):
            name = f"{each['name']} {each.get('version', '')}".strip()
            if "skip_reason" in each:
                left.setdefault(each["name"], each["skip_reason"])
                continue
            known.add(each["name"])
            for finding in each["vulns"]:
                vulnerable += 1
                print(f"{name}: {finding['id']}: fixed in {', '.join(finding['fix_versions']) or 'no version'}")
        if known and not left.keys() - known:
            break
    missing = sorted(left.keys() - known)
    print(f"audit: {path}: {len(known)} dependencies answered for, {vulnerable} vulnerabilities known, {len(missing)} not answered for")
    if not known:
        print(f"audit: {path}: NOT AUDITED: no vulnerability service can be reached from here; run it where one can", file=sys.stderr)
    elif missing:
        print(f"audit: {path}: NOT ALL AUDITED: {', '.join(missing)}", file=sys.stderr)
    return FOUND if vulnerable else NOT_AUDITED if missing or not known else 0


if __name__ == "__main__":
    sys.exit(main())
