"""From the command to the first word of an answer, with the model in the page cache: where the time goes, as a user sees it.

usage: start.py [--model GGUF] [--tp 1] [--runs 5] [--set key=value ...]

Each run is one `echelon generate` that starts a group of its own. The phases come from the times at which lines appear on its stderr,
what a rank does from the rank's own "ready" line; the total is from the start of the process to its first byte of answer.
"""
import argparse
import os
import pathlib
import re
import selectors
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import service

# (phase that ends with this line, what the line holds)
MARKS = [("command and coordinator", "launching: "), ("mpirun", "rank 0 on host"), ("MPI and loading", ": ready after"),
         ("status, prompt, first token", None)]


def start(flags):
    """One run: {phase: seconds}, with "total" and the rank's own milliseconds."""
    command = [str(service.BIN / "echelon"), "generate", "--model", str(flags.model), "--tp", str(flags.tp), "--prompt", "The capital of France is",
               "--max-tokens", "8", "--temperature", "0", "--verbose", *(word for pair in flags.set for word in ("--set", pair))]
    begin = last = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    selector.register(process.stderr, selectors.EVENT_READ)
    phases, log = {}, ""
    while "total" not in phases:
        for key, _ in selector.select(30):
            now, got = time.monotonic(), os.read(key.fd, 1 << 16).decode(errors="replace")
            assert got, f"ended without an answer:\n{log}"
            if key.fileobj is process.stdout:
                phases[MARKS[-1][0]], phases["total"] = now - last, now - begin
                break
            log += got
            for name, text in MARKS[:-1]:
                if name not in phases and text in log:
                    phases[name], last = now - last, now
    _, rest = process.communicate()
    ready = re.search(r"worker 0: ready: (.*)", log + rest.decode())
    for name, milliseconds in re.findall(r"([\w ]+?) (\d+) ms", ready.group(1) if ready else ""):
        phases[f"  rank 0: {name.strip()}"] = int(milliseconds) / 1000
    phases["end"] = time.monotonic() - begin - phases["total"]
    return phases


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=service.SMOL, type=pathlib.Path)
    parser.add_argument("--tp", default=1, type=int)
    parser.add_argument("--runs", default=5, type=int)
    parser.add_argument("--set", default=[], action="append", metavar="KEY=VALUE")
    flags = parser.parse_args()
    service.need_model(flags.model).read_bytes()  # into the page cache
    runs = [start(flags) for _ in range(flags.runs)]
    print(f"{flags.model.name}, tp {flags.tp}: median of {flags.runs} starts (least to most), seconds")
    for name in runs[0]:
        took = sorted(run[name] for run in runs if name in run)
        print(f"{name:30} {statistics.median(took):6.3f}  ({took[0]:.3f} to {took[-1]:.3f})")


if __name__ == "__main__":
    main()
