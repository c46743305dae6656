"""What tests/gpu/run and tests/gpu/run_multi have in common: where the programs are, stages and their table, and gpu_report.json."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
STAGE_SECONDS = 590


def gpus():
    """What nvidia-smi says of each GPU; empty where there is none."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = "--query-gpu=name,driver_version,memory.total,compute_cap"
    asked = subprocess.run([smi, query, "--format=csv,noheader"], capture_output=True, text=True)
    return [line.strip() for line in asked.stdout.splitlines() if line.strip()] if asked.returncode == 0 else []


def nccl_folder():
    """Of PyTorch's NCCL, where this Python has one: its include/ and lib/ are on no path."""
    try:
        found = importlib.util.find_spec("nvidia.nccl")
    except ImportError:
        return None
    return pathlib.Path(next(iter(found.submodule_search_locations))) if found else None


def merged(before, now, *keys):
    """What was there before, but for what `now` has again (by `keys`), and all of that behind it."""
    again = {tuple(one[key] for key in keys) for one in now}
    return [one for one in before if tuple(one[key] for key in keys) not in again] + now


class Stages:
    """Runs stages one after the other and remembers what they came to; the report is written after each. The programs lie in `folder`:
    built there, or carried."""

    def __init__(self, options):
        self.options = options
        self.stages = []
        self.ends = time.monotonic() + options.budget
        self.env = dict(os.environ)
        self.folder = pathlib.Path(options.carried).resolve() if options.carried else ROOT / "build-gpu" / "tests"
        self.nccl = nccl_folder()
        # The system's own libraries before the wheel's.
        added = [self.folder / "lib"] * bool(options.carried) + [os.environ.get("LD_LIBRARY_PATH", "")] + [self.nccl / "lib" if self.nccl else ""]
        self.env["LD_LIBRARY_PATH"] = ":".join(str(folder) for folder in added if folder)
        # A part of the stages adds to the report of others; all of them begin it anew.
        self.before = self.read_report() if options.only else {}

    @staticmethod
    def add_options(parser):
        parser.add_argument("--carried")
        parser.add_argument("--libraries")
        parser.add_argument("--report", default="gpu_report.json")
        parser.add_argument("--only", default="")
        parser.add_argument("--budget", type=float, default=24 * 3600.0, metavar="SECONDS")

    def seconds_left(self):
        return min(STAGE_SECONDS, self.ends - time.monotonic())

    def build(self, *programs):
        folder = ROOT / "build-gpu"
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        architecture = gpus()[0].rsplit(",", 1)[1].strip().replace(".", "") if gpus() else "90"
        configure = ["cmake", "-S", ROOT, "-B", folder, "-DECHELON_CUDA=ON", f"-DECHELON_CUDA_ARCHITECTURES={architecture}",
                     "-DCMAKE_BUILD_TYPE=Release", "-DECHELON_PARTS=GPU", *generator]
        if self.nccl and (self.nccl / "include" / "nccl.h").exists():
            configure.append(f"-DECHELON_NCCL_HINT={self.nccl / 'include'}")
        if self.options.libraries:
            configure[1:1] = ["-C", pathlib.Path(self.options.libraries).resolve() / "libraries.cmake"]
        if not self.run("configure", configure):
            return False
        return self.run("build", ["cmake", "--build", folder, "-j", str(os.cpu_count()), "--target", *programs])

    def note(self, name, result, seconds=0.0, detail=""):
        self.stages.append({"stage": name, "result": result, "seconds": round(seconds, 1), "detail": detail})
        print(f"== {name}: {result} ({seconds:.0f} s) {detail}", flush=True)
        self.report()

    def run(self, name, command, read=None, env=None, may_be_empty=False):
        """A stage: the exit status decides, and whether anything ran at all: `read(output)` gives the detail and how much did."""
        print(f"== {name}: {' '.join(map(str, command))}", flush=True)
        begin, limit = time.monotonic(), self.seconds_left()
        if limit < 1:
            self.note(name, "skipped", 0, "the time of --budget is over")
            return False
        try:
            process = subprocess.Popen(command, env={**self.env, **(env or {})}, text=True, errors="replace", stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            self.note(name, "failed", 0, str(error))
            return False
        try:
            output, status = process.communicate(timeout=limit)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too: a program under the sanitizer
            output, status = process.communicate()[0], None
        seconds = time.monotonic() - begin
        if status is None:
            result, detail = "failed", f"did not end within {limit:.0f} s"
        elif skipped := re.search("^SKIPPED.*", output, re.MULTILINE):
            result, detail = "skipped", skipped.group()
        else:
            result, detail = ("passed" if status == 0 else "failed"), ""
        if read and result != "skipped":
            told, ran = read(output)  # also of what was ended: its figures so far
            detail = "; ".join(filter(None, (detail, told)))
            if result == "passed" and not ran:
                result, detail = ("skipped" if may_be_empty else "failed"), f"nothing of it ran: {detail}"
        if result == "failed":
            print(output[-6000:], flush=True)
        self.note(name, result, seconds, detail)
        return result == "passed"

    def table(self):
        width = max((len(stage["stage"]) for stage in self.stages), default=14)
        for stage in self.stages:
            print(f"{stage['stage']:<{width}} {stage['result']:<8} {stage['seconds']:>7.1f} s  {stage['detail']}")

    @staticmethod
    def counts(stages):
        return {word: sum(stage["result"] == word for stage in stages) for word in ("passed", "failed", "skipped")}

    def ended(self):
        """The last line, and the exit status."""
        counts = self.counts(self.stages)
        print(f"\n{self.options.report}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
        return 1 if counts["failed"] else 0

    def read_report(self):
        try:
            return json.loads(pathlib.Path(self.options.report).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}

    def write(self, members):
        """Replaces these members of the report; the others stay, so that several commands fill one."""
        text = json.dumps({**self.read_report(), **members}, indent=1) + "\n"
        pathlib.Path(self.options.report).write_text(text, encoding="utf-8")
