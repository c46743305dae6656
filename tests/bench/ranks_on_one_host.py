"""Two tensor-parallel ranks of one thread on this machine, through shared memory and through MPI, beside one rank of two threads: served,
one stream, interleaved runs, medians; idle and with other programs keeping cores busy.

usage: ranks_on_one_host.py [--model GGUF] [--runs 5] [--busy 0,1,2] [--decode-tokens 64] [--layouts 0,1,2]
"""
import argparse
import contextlib
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

PREFILL_TOKENS = 512
LAYOUTS = {
    "one rank, 2 threads": {"worker.threads": 2, "layout.tp": 1},
    "tp=2, shared memory": {"worker.threads": 1, "layout.tp": 2},
    "tp=2, MPI": {"worker.threads": 1, "layout.tp": 2, "worker.shared_memory": "off"},
}


def speed(connection, run, decode_tokens):
    """Prefill and decode in tokens/s, as the service's own timings say."""
    prompt = [7 * i + 100 for i in range(PREFILL_TOKENS)]
    first = connection.ask(f"prefill{run}", prompt=prompt, max_tokens=1, temperature=0, ignore_eos=True)
    stream = connection.ask(f"decode{run}", prompt=[1], max_tokens=decode_tokens, temperature=0, ignore_eos=True)
    return PREFILL_TOKENS / first.done["timings"]["ttft_s"], stream.done["timings"]["decode_tokens_per_s"]


@contextlib.contextmanager
def busy_programs(count):
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=service.SMOL, type=pathlib.Path)
    parser.add_argument("--runs", default=5, type=int)
    parser.add_argument("--busy", default="0", help="how many busy programs beside, one series each: 0,1,2")
    parser.add_argument("--decode-tokens", default=64, type=int)
    parser.add_argument("--layouts", default=",".join(str(i) for i in range(len(LAYOUTS))), help="which of the layouts, by number")
    flags = parser.parse_args()
    layouts = {name: LAYOUTS[name] for i, name in enumerate(LAYOUTS) if str(i) in flags.layouts.split(",")}
    with contextlib.ExitStack() as stack:
        connections = {}
        for name, settings in layouts.items():
            running = stack.enter_context(service.Service({"model.path": flags.model, "worker.backend": "cpu", **settings}))
            connections[name] = api.Connection(running.endpoint)
            stack.callback(connections[name].close)
            speed(connections[name], "warm", flags.decode_tokens)
        for busy in (int(count) for count in flags.busy.split(",")):
            seen = {name: [] for name in layouts}
            with busy_programs(busy):
                for run in range(flags.runs):
                    for name in layouts:
                        seen[name].append(speed(connections[name], f"{busy}.{run}", flags.decode_tokens))
            for name, runs in seen.items():
                prefill, decode = (sorted(values) for values in zip(*runs))
                print(f"{busy} busy, {name}: prefill {statistics.median(prefill):7.1f} ({prefill[0]:.1f}-{prefill[-1]:.1f}), "
                      f"decode {statistics.median(decode):6.1f} ({decode[0]:.1f}-{decode[-1]:.1f}) tokens/s", flush=True)


if __name__ == "__main__":
    main()
