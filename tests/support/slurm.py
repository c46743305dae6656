"""A real Slurm of one machine: munged, slurmctld and two slurmd under a folder of their own, on ports of their own. Needs root.

    with Slurm() as slurm:
        subprocess.run(["srun", "-N2", "-n2", "--mpi=pmix", program], env=slurm.environment)
"""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import service

PROGRAMS = ["munged", "slurmctld", "slurmd", "srun", "scontrol", "sinfo", "squeue"]
NODES = ["n1", "n2"]


def need_slurm():
    if os.geteuid() != 0:
        service.skip("a Slurm of our own needs root")
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        service.skip(f"no {', '.join(missing)}; deploy/setup --with-tests gets them")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Slurm:
    def __init__(self):
        self.folder = None
        self.daemons = []

    def __enter__(self):
        need_slurm()
        # Not below a folder that others may write to: munged refuses such a place for its key.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="echelon-slurm-", dir="/run"))
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        try:
            self.start()
        except BaseException:
            print(self.logs())
            self.remove()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            print(self.logs())
        self.remove()

    def configure(self):
        host = socket.gethostname().split(".")[0]
        folder, cores = self.folder, os.cpu_count()
        lines = [
            "ClusterName=echelon", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={free_port()}",
            "SlurmUser=root", "SlurmdUser=root", "AuthType=auth/munge", f"AuthInfo=socket={folder}/munge.socket",
            f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/%n/spool",
            f"SlurmctldPidFile={folder}/slurmctld.pid", f"SlurmdPidFile={folder}/%n/slurmd.pid",
            f"SlurmctldLogFile={folder}/slurmctld.log", f"SlurmdLogFile={folder}/%n/slurmd.log",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU", "MpiDefault=pmix", "ReturnToService=2", "SlurmdTimeout=30", "KillWait=2",
            # Two slurmd on one host would make the same PMIx folder under /tmp.
            f"TmpFS={folder}/%n/tmp",
        ]
        for name in NODES:
            for sub in ("spool", "tmp"):
                (folder / name / sub).mkdir(parents=True)
            lines.append(f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs={cores}")
        lines.append(f"PartitionName=all Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP")
        (folder / "state").mkdir()
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")

    def start(self):
        folder = self.folder
        folder.chmod(0o755)
        self.configure()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.daemon("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
                    f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log")
        self.wait(lambda: (folder / "munge.socket").exists(), "munged's socket")
        self.daemon("slurmctld", "-D")
        for name in NODES:
            self.daemon("slurmd", "-D", "-N", name)
        self.wait(self.nodes_idle, "two idle nodes")

    def daemon(self, *words):
        log = open(self.folder / f"{words[0]}.out", "ab")
        self.daemons.append(subprocess.Popen(words, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def run(self, *words):
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)

    def nodes_idle(self):
        states = self.run("sinfo", "--noheader", "-N", "-o", "%t").stdout.split()
        return states == ["idle"] * len(NODES)

    def jobs(self):
        return self.run("squeue", "--noheader", "-o", "%i").stdout.split()

    def wait(self, condition, what, seconds=30):
        end = time.monotonic() + seconds
        while not condition():
            dead = [daemon.args[0] for daemon in self.daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                raise AssertionError(f"Slurm: no {what} ({'ended: ' + ', '.join(dead) if dead else f'within {seconds} s'})")
            time.sleep(0.1)

    def logs(self):
        parts = []
        for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out"), *self.folder.glob("*/*.log")]):
            parts.append(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}")
        return "\n".join(parts)

    def processes(self, program=""):
        """Living processes that carry this Slurm's environment (its daemons, steps and tasks): {pid: program's name}."""
        found, marker = {}, f"SLURM_CONF={self.folder}/slurm.conf".encode()
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                    name = os.path.basename(os.readlink(entry / "exe"))
                    if not program or name == program:
                        found[int(entry.name)] = name
            except OSError:
                continue  # it ended meanwhile, or is a kernel thread
        found.pop(os.getpid(), None)
        return found

    def remove(self):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)
