"""What tests/gpu/run and tests/gpu/run_multi have in common: where the programs are, stages and their table, and gpu_report.json."""

import json
import os
import pathlib
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


class Stages:
    """Runs stages one after the other and remembers what they came to. The programs lie in `folder`: built there, or carried."""

    def __init__(self, options):
        self.options = options
        self.stages = []
        self.env = dict(os.environ)
        self.folder = pathlib.Path(options.carried).resolve() if options.carried else ROOT / "build-gpu" / "tests"
        if options.carried:
            self.env["LD_LIBRARY_PATH"] = f"{self.folder / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"

    @staticmethod
    def add_options(parser):
        parser.add_argument("--carried")
        parser.add_argument("--libraries")
        parser.add_argument("--report", default="gpu_report.json")

    def build(self, *programs):
        folder = ROOT / "build-gpu"
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        architecture = gpus()[0].rsplit(",", 1)[1].strip().replace(".", "") if gpus() else "90"
        configure = ["cmake", "-S", ROOT, "-B", folder, "-DECHELON_CUDA=ON", f"-DECHELON_CUDA_ARCHITECTURES={architecture}",
                     "-DCMAKE_BUILD_TYPE=Release", "-DECHELON_PARTS=GPU", *generator]
        if self.options.libraries:
            configure[1:1] = ["-C", pathlib.Path(self.options.libraries).resolve() / "libraries.cmake"]
        if not self.run("configure", configure):
            return False
        return self.run("build", ["cmake", "--build", folder, "-j", str(os.cpu_count()), "--target", *programs])

    def note(self, name, result, seconds=0.0, detail=""):
        self.stages.append({"stage": name, "result": result, "seconds": round(seconds, 1), "detail": detail})
        print(f"== {name}: {result} ({seconds:.0f} s) {detail}", flush=True)

    def run(self, name, command, read=None, env=None, may_be_empty=False):
        """A stage: the exit status decides, and whether anything ran at all: `read(output)` gives the detail and how much did."""
        print(f"== {name}: {' '.join(map(str, command))}", flush=True)
        begin = time.monotonic()
        process = subprocess.Popen(command, env={**self.env, **(env or {})}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        try:
            output, status = process.communicate(timeout=STAGE_SECONDS)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too: a program under the sanitizer
            output, status = process.communicate()[0], None
        seconds = time.monotonic() - begin
        if status is None:
            result, detail = "failed", f"did not end within {STAGE_SECONDS} s"
        elif output.startswith("SKIPPED"):
            result, detail = "skipped", output.strip()
        else:
            result, detail = ("passed" if status == 0 else "failed"), ""
        if read and result != "skipped" and status is not None:
            detail, ran = read(output)
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

    def counts(self):
        return {word: sum(stage["result"] == word for stage in self.stages) for word in ("passed", "failed", "skipped")}

    def ended(self):
        """The last line, and the exit status."""
        counts = self.counts()
        print(f"\n{self.options.report}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
        return 1 if counts["failed"] else 0

    def write(self, members):
        """Replaces these members of the report; the others stay, so that several commands fill one."""
        path = pathlib.Path(self.options.report)
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            report = {}
        path.write_text(json.dumps({**report, **members}, indent=1) + "\n", encoding="utf-8")
