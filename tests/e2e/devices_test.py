"""The whole service on GPU workers whose CUDA devices are emulated (tests/chaos/emulated_worker.cc): coordinator, clients, mpirun and real
processes. In several layouts, exchanging as they choose, which is through each other's device memory, through the hosts' and over an NCCL that
is played between the processes, answers are those of the reference backend in the same layout; and a rank that is killed amid them changes none.
`echelon trace` shows what each rank's device did.

usage: devices_test.py [WORD ...]     layouts whose names have one of the words
"""
import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

EMULATED_WORKER = pathlib.Path(service.BIN).parent / "tests" / "emulated_worker"
MODEL = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
         "num_hidden_layers": 3, "vocab_size": 320, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
COMMON = {"model.load_format": "dummy", "worker.threads": 1, "worker.kv_memory_bytes": 4 << 20, "worker.kv_type": "f32", "worker.page_tokens": 8,
          "model.context_max_tokens": 128, "group.relaunches_max": 20}
LAYOUTS = {
    "tp2": {"layout.tp": 2},
    "tp2 x pp2, ladder": {"layout.tp": 2, "layout.pp": 2, "model.schedule": "ladder"},
    "sp2": {"layout.sp": 2},
    "pp2 of two backends": {"layout.pp": 2, "worker.backend": "cpu,cuda"},
}
TOKENS = 64  # so many that a rank dies amid them
PROMPTS = {"short": [3, 1, 4, 1, 5], "long": [(37 * i) % 250 + 1 for i in range(40)]}


def ask(running, kill=False):
    """Greedy answers to all prompts, which go on together; `kill`: a rank dies when all have begun."""
    connection = api.Connection(running.endpoint)
    try:
        # A request of a known name would be answered from what the coordinator remembers.
        names = {name: f"{name}.killed" if kill else name for name in PROMPTS}
        if kill:  # before they begin: it takes a while
            running.seen.update(running.ranks_and_launchers())
            victim = max(running.ranks())
        for name, prompt in PROMPTS.items():
            connection.submit(names[name], prompt=prompt, max_tokens=TOKENS, temperature=0, ignore_eos=True)
        if kill:
            while not all(len(connection.answers[names[name]].token_ids) > 2 for name in PROMPTS):
                assert connection.pump(60), "no tokens"
            os.kill(victim, signal.SIGKILL)
        answers = connection.finish()
        assert all(answer.error is None for answer in answers), [answer.error for answer in answers]
        return {name: connection.answers[names[name]].token_ids for name in PROMPTS}
    finally:
        connection.close()


def check(name, layout, folder):
    began = time.monotonic()
    reference = {**COMMON, "model.path": folder, **layout, "worker.backend": "reference"}
    with service.Service(reference) as running:
        want = ask(running)
    exchanges = ("staged",) if "worker.backend" in layout else ("staged", "auto", "nccl")
    for exchange in exchanges:
        settings = {**COMMON, "model.path": folder, "worker.backend": "cuda", "worker.device_exchange": exchange, "group.interface": "127.0.0.0/8",
                    **layout}
        with service.Service(settings, worker=EMULATED_WORKER) as running:
            assert ask(running) == want, f"{name}, {exchange}: other tokens than the reference backend"
            assert ask(running, kill=True) == want, f"{name}, {exchange}: other tokens after the loss of a rank"
            assert running.status()["epoch"] == 2, running.status()
            if exchange == "nccl":
                for line in ("devices exchange over NCCL, interface =lo", "played NCCL: NCCL_SOCKET_IFNAME is =lo"):
                    assert line in running.log(), f"{name}: no line \"{line}\":\n{running.log()[-4000:]}"
            assert (exchange == "auto") == ("devices exchange through peer memory" in running.log()), running.log()
    print(f"ok   {name}: {', '.join(exchanges)} ({time.monotonic() - began:.1f} s)", flush=True)


def trace(name, layout, folder):
    """Every rank's device has tracks of its own: ops of every layer, each step's, and what the link carried of every layer."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as programs:  # the CLI starts what lies beside it
        for program in ("echelon", "echelon-coordinator"):
            shutil.copy(pathlib.Path(service.BIN, program), programs)
        shutil.copy(EMULATED_WORKER, pathlib.Path(programs, "echelon-worker"))
        out = pathlib.Path(programs, "trace.json")
        settings = {**COMMON, **layout, "worker.device_exchange": "nccl"}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        done = subprocess.run([pathlib.Path(programs, "echelon"), "trace", "--model", folder, "--backend", "cuda", *words, "--prompt", "12",
                               "--gen", "3", "--out", out], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        events = json.loads(out.read_text())
    layers = range(MODEL["num_hidden_layers"])
    for rank in range(layout.get("layout.tp", 1)):
        mine = [event for event in events if event["pid"] == rank]
        tracks = {event["args"]["name"]: event["tid"] for event in mine if event["name"] == "thread_name"}
        steps = sum(event["name"] == "step" for event in mine)
        ops, carried = ([event for event in mine if event["tid"] == tracks[track] and event["ph"] == "X"]
                        for track in ("device compute (op by op, no graphs)", "device communication"))
        attention = collections.Counter(event["args"]["layer"] for event in ops if event["name"] == "attention")
        assert steps > 2 and attention == {layer: steps for layer in layers}, (rank, steps, attention)
        assert {event["args"]["layer"] for event in carried if event["name"] == "transfer"} == {-1, *layers}, (rank, carried)
        assert all(event["dur"] >= 0 for event in ops + carried)
        assert not [event for event in mine if event["tid"] == tracks["compute"] and event["ph"] == "X"], "what a device computes is not the host's"
    print(f"ok   trace of {name} ({time.monotonic() - began:.1f} s)", flush=True)


def main():
    if not EMULATED_WORKER.exists():
        service.skip(f"{EMULATED_WORKER} is not built")
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(MODEL))
        for name, layout in LAYOUTS.items():
            if len(sys.argv) < 2 or any(word in name for word in sys.argv[1:]):
                check(name, layout, folder)
        if len(sys.argv) < 2 or "trace" in sys.argv[1:]:
            trace("tp2", LAYOUTS["tp2"], folder)


if __name__ == "__main__":
    main()
