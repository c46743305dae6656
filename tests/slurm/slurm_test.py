"""A group started by Slurm's own srun on two nodes (launcher: slurm): a real prompt is answered, a cancelled step is replaced, the batch script
of deploy/slurm serves and answers, and ending the coordinator leaves neither a job nor a process.

usage: slurm_test.py          as root
"""
import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service
import slurm

PROMPT = {"prompt": "The three uses of a ladder are", "temperature": 0, "max_tokens": 24}


def ask(endpoint):
    connection = api.Connection(endpoint)
    answer = connection.ask(f"slurm.{time.monotonic_ns()}", **PROMPT)
    connection.close()
    assert answer.error is None, answer.error
    return answer.token_ids


def wait_for(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def check_nothing_left(cluster):
    wait_for(lambda: not cluster.jobs(), f"no job left: {cluster.run('squeue').stdout}", 30)
    ours = ("echelon-worker", "echelon-coordinator", "echelon", "srun")
    wait_for(lambda: not any(cluster.processes(name) for name in ours), "no process left", 15)


def check_srun(cluster, model):
    with service.Service({"model.path": model, "worker.threads": 1, "layout.tp": 2}) as running:
        expected = ask(running.endpoint)
    settings = {"model.path": model, "worker.threads": 1, "layout.tp": 2, "group.launcher": "slurm", "group.interface": "127.0.0.0/8"}
    with service.Service(settings) as running:
        jobs = cluster.jobs()
        assert len(jobs) == 1, jobs
        assert ask(running.endpoint) == expected
        print(f"srun on two nodes: {len(expected)} tokens, the same as with mpirun", flush=True)

        epoch = running.status()["epoch"]
        assert cluster.run("scancel", jobs[0]).returncode == 0
        wait_for(lambda: running.status().get("epoch", 0) > epoch and running.status()["state"] == "ready", "a new group after scancel")
        assert ask(running.endpoint) == expected
        print("scancel of the step: relaunched, the same answer", flush=True)
    check_nothing_left(cluster)


def check_batch(cluster, model):
    folder = pathlib.Path(cluster.folder)
    port = slurm.free_port()
    (folder / "service.yaml").write_text(f"model: {{path: {model}}}\nworker: {{threads: 1}}\nlayout: {{tp: 2}}\n"
                                         f"frontend: {{endpoint: \"tcp://127.0.0.1:{port}\"}}\nmetrics: {{address: \"127.0.0.1:0\"}}\n"
                                         "group: {launcher: slurm, interface: 127.0.0.0/8}\n")
    done = cluster.run("sbatch", "--parsable", "-N2", "-n2", f"--output={folder}/batch.out", f"--export=ALL,ECHELON_BIN={service.BIN}",
                       str(service.ROOT / "deploy/slurm/echelon.sbatch"), str(folder / "service.yaml"))
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    output = folder / "batch.out"

    def ready():
        if job not in cluster.jobs():
            raise AssertionError(f"the job ended:\n{output.read_text() if output.exists() else 'no output'}")
        probe = service.Service({})
        probe.endpoint = f"tcp://127.0.0.1:{port}"
        return probe.status().get("state") == "ready"
    wait_for(ready, "the batch job serves")
    assert ask(f"tcp://127.0.0.1:{port}")
    assert len(cluster.processes("echelon-worker")) == 2
    assert cluster.run("scancel", job).returncode == 0
    wait_for(lambda: job not in cluster.jobs(), "scancel ends the job")
    check_nothing_left(cluster)
    print("sbatch: serves, answers, and scancel leaves nothing", flush=True)


def main():
    model = service.need_model(service.SMOL)
    with slurm.Slurm() as cluster:
        os.environ.update(SLURM_CONF=cluster.environment["SLURM_CONF"])
        check_srun(cluster, model)
        check_batch(cluster, model)


if __name__ == "__main__":
    main()
