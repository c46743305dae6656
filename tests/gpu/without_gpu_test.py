#!/usr/bin/env python3
"""The packs on a machine without a GPU: each says so, counts what it skips, writes its report and ends with status 0.

usage: without_gpu_test.py
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

PACKS = {"run": "0 passed, 0 failed, 12 skipped", "run_multi": "0 passed, 0 failed, 10 skipped"}


def main():
    with tempfile.TemporaryDirectory() as folder:
        for pack, counts in PACKS.items():
            report = pathlib.Path(folder, f"{pack}.json")
            done = subprocess.run([sys.executable, "-B", pathlib.Path(__file__).with_name(pack), "--report", report],
                                  env={**os.environ, "PATH": "/nonexistent"}, capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, f"{pack}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            assert counts in done.stdout, f"{pack}: not {counts!r}\n{done.stdout}"
            assert json.loads(report.read_text()), pack
            print(f"ok   {pack}: {counts}", flush=True)


if __name__ == "__main__":
    main()
