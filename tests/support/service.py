"""Starts a real service (coordinator and worker group) for a test and proves that nothing of it is left.

    with Service({"model.path": gguf, "layout.tp": 2}) as service:
        service.endpoint        # for clients
        service.metrics_url     # http://127.0.0.1:port
        service.ranks()         # [{"rank", "host", "pid"}...] from /proc, for tests that kill them

A test that finds no model, program or privilege calls skip(), which prints why; the runner counts it.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("ECHELON_BIN", ROOT / "build" / "bin"))
MODELS = pathlib.Path(os.environ.get("ECHELON_TEST_MODELS", pathlib.Path.home() / ".cache/echelon/models"))
SMOL = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = MODELS / "gemma-3-270m-q4_k_m.gguf"
SKIP_EXIT_STATUS = 77  # what ctest's SKIP_RETURN_CODE is set to


def skip(reason):
    print(f"SKIPPED: {reason}", flush=True)
    sys.exit(SKIP_EXIT_STATUS)


def need_model(path):
    if not path.exists():
        skip(f"{path} is missing; deploy/fetch-model gets it")
    return path


def children_of(pid):
    """Every living descendant of pid, as {pid: command line}; zombies do not count."""
    parents, commands = {}, {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            state, parent = stat[stat.rindex(")") + 2:].split()[:2]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(entry.name)] = int(parent)
            commands[int(entry.name)] = command.strip()
    found, grew = {pid}, True
    while grew:
        more = {p for p, parent in parents.items() if parent in found} - found
        grew = bool(more)
        found |= more
    return {p: commands[p] for p in found - {pid} if p in commands}


class Service:
    def __init__(self, settings, ready_seconds=120, check_leftovers=True, prefix=(), worker="echelon-worker"):
        self.settings = {"frontend.endpoint": "tcp://127.0.0.1:0", "metrics.address": "127.0.0.1:0", **settings}
        self.ready_seconds = ready_seconds
        self.check_leftovers = check_leftovers
        self.worker = str(worker)  # a name beside the coordinator, or a path
        self.prefix = list(prefix)  # for example ["ip", "netns", "exec", "n1"]
        self.folder = tempfile.TemporaryDirectory(prefix="echelon-test-")
        self.log_path = pathlib.Path(self.folder.name) / "coordinator.log"
        self.process = None
        self.seen = {}  # every descendant ever seen: pid -> command line

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, kind, *rest):
        if kind is not None:
            print(self.log()[-6000:], file=sys.stderr)
            self.kill()
        else:
            self.stop()

    def start(self):
        announce = pathlib.Path(self.folder.name) / "announce.json"
        command = [*self.prefix, str(BIN / "echelon-coordinator"), "--announce", str(announce), "--exit-with-parent",
                   "--worker", str(BIN / self.worker)]
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._wait(announce.exists, "announce its sockets")
        said = json.loads(announce.read_text())
        self.endpoint, self.metrics_url = said["endpoint"], "http://" + said["metrics"] if said["metrics"] else ""
        self.wait_ready()
        return self

    def wait_ready(self):
        self._wait(lambda: self.status().get("state") == "ready", "get ready")
        self.seen.update(self.ranks_and_launchers())

    def _wait(self, condition, what):
        end = time.monotonic() + self.ready_seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the coordinator ended with {self.process.returncode} before it could {what}:\n{self.log()}")
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(f"the coordinator did not {what} within {self.ready_seconds} s:\n{self.log()}")

    def status(self, timeout_s=2.0):
        """One status request over a socket of its own, by the document alone (no client library)."""
        import zmq
        context = zmq.Context.instance()
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        try:
            socket.connect(self.endpoint)
            socket.send_multipart([b"echelon/1", b"status", b"", b"{}"])
            if not socket.poll(timeout_s * 1000):
                return {}
            return json.loads(socket.recv_multipart()[3])
        finally:
            socket.close()

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def ranks_and_launchers(self):
        return children_of(self.process.pid)

    def ranks(self):
        """Worker pids on this machine, in no particular order."""
        return [pid for pid, command in self.ranks_and_launchers().items()
                if command.split(" ")[0].endswith(self.worker)]

    def stop(self, within_seconds=20):
        self.seen.update(self.ranks_and_launchers())
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(within_seconds)
        assert status == 0, f"the coordinator ended with {status}:\n{self.log()[-4000:]}"
        if self.check_leftovers:
            self.assert_nothing_left()
        self.folder.cleanup()

    def assert_nothing_left(self, within_seconds=8):
        end = time.monotonic() + within_seconds
        while True:
            left = {pid: command for pid, command in self.seen.items() if self._alive(pid, command)}
            if not left:
                return
            if time.monotonic() > end:
                raise AssertionError(f"left behind: {left}")
            time.sleep(0.1)

    @staticmethod
    def _alive(pid, command):
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
            now = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat[stat.rindex(")") + 2:].split()[0] != "Z" and now == command

    def kill(self):
        """After a failure: end what this test started, by pid."""
        if self.process is None:
            return
        pids = list(children_of(self.process.pid))
        for pid in [self.process.pid, *pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def run_cases(namespace, wanted):
    """Runs the functions test_*(running) of a test file against one tp=2 service, all of them or those whose names hold a wanted word, and
    exits with 1 when any failed. Leaving the service checks that it ended with 0 and that no process of it is left."""
    need_model(SMOL)
    cases = [(name, case) for name, case in namespace.items()
             if name.startswith("test_") and (not wanted or any(word in name for word in wanted))]
    failed = 0
    with Service({"model.path": SMOL, "layout.tp": 2}) as running:
        for name, case in cases:
            started = time.monotonic()
            try:
                case(running)
                print(f"ok   {name} ({time.monotonic() - started:.1f} s)", flush=True)
            except Exception:
                failed += 1
                print(f"FAIL {name}", flush=True)
                traceback.print_exc()
    sys.exit(1 if failed else 0)
