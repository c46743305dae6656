"""What ring attention gives: contexts that one rank's memory does not hold, keys and values that travel behind attention, and prompts that
several ranks compute together. Prints three tables.

usage: sequence_parallel.py [--parts memory,ring,speed] [--quick] [--json FILE]

  memory  every rank may keep so many bytes of keys and values (worker.kv_memory_bytes): the longest context of one rank and of sp = 4,
          accepted and served; a page more is refused; what each rank keeps of it.
  ring    two hosts (network namespaces) joined by an emulated link (tests/net/link_relay.cc), a rank of one thread on each: a prompt over links
          of several speeds. C = its time where the link has no limit, M = the time that its keys and values need on the link alone, T = its
          time over the link; hidden = (C + M - T) / M, where M <= C. Needs root; without, the rest runs and the script says it skipped.
  speed   a prompt on one rank of one core, and on two ranks of one core each, sp = 2 and tp = 2: asked in turn, medians.

--quick: small sizes, and fails where less than a quarter of the passing is hidden: of the least times seen, since other programs only ever add to
a time, in at most so many rounds. Every run fails where the context grows less than 3.0 times or a rank keeps more than its share and a page.
"""
import argparse
import contextlib
import json
import os
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import hosts
import service

PAGE = 16
SMOL_POSITION_BYTES = 30 * 2 * 3 * 64 * 2  # layers, keys and values, KV heads, head_dim, float16


def prompt_of(tokens, seed=0):
    return [(7 * i + 13 * seed) % 900 + 100 for i in range(tokens)]


# --- memory: the longest context under a limit per rank -------------------------------------------------------------------------------------


def longest_context(sp, limit_bytes):
    settings = {"model.path": service.need_model(service.SMOL), "worker.backend": "cpu", "worker.threads": 1 if sp > 1 else 2,
                "worker.kv_memory_bytes": limit_bytes, "layout.sp": sp}
    with service.Service(settings) as running:
        connection = api.Connection(running.endpoint)
        longest = min(running.status()["kv_pages_total"] * PAGE, running.status()["context_max"])
        request = {"temperature": 0, "ignore_eos": True}
        # The last token is never fed: it needs no place.
        connection.submit("longest", prompt=prompt_of(longest - 15), max_tokens=16, **request)
        most = [0] * sp
        while not connection.answers["longest"].ended:
            connection.pump(0.2)
            most = [max(was, rank["kv_bytes_used"]) for was, rank in zip(most, running.status(10)["ranks"])]
        answer = connection.answers["longest"]
        assert answer.error is None and len(answer.token_ids) == 16, f"a context of {longest} was not served: {answer.error}"
        more = connection.ask("more", prompt=prompt_of(longest + PAGE - 15), max_tokens=16, **request)
        assert more.error is not None, f"a context of {longest + PAGE} fits too"
        connection.close()
    total = longest // PAGE * PAGE * SMOL_POSITION_BYTES
    worst = max(abs(used - total / sp) for used in most)
    assert worst <= PAGE * SMOL_POSITION_BYTES, f"ranks keep {most} bytes of {total}: not a share and a page"
    return {"sp": sp, "limit_bytes": limit_bytes, "context": longest, "kv_bytes": total, "kv_bytes_of_ranks": most,
            "tokens": answer.token_ids, "refused": more.error["message"]}


def memory(flags):
    limit = (1024 if flags.quick else 2048) * SMOL_POSITION_BYTES
    rows = [longest_context(sp, limit) for sp in (1, 4)]
    for row in rows:
        row["ratio"] = row["context"] / rows[0]["context"]
    print(f"\nlongest context of SmolLM2-135M where a rank may keep {limit / 2**20:.1f} MiB of keys and values, ring buffers included")
    print("| ranks | longest context | times | keys and values, MiB | kept by each rank, MiB |")
    print("|---|---|---|---|---|")
    for row in rows:
        kept = ", ".join(f"{used / 2**20:.1f}" for used in row["kv_bytes_of_ranks"])
        print(f"| sp = {row['sp']} | {row['context']} | {row['ratio']:.2f} | {row['kv_bytes'] / 2**20:.1f} | {kept} |")
    print(f"one page more: {rows[1]['refused']}", flush=True)
    assert rows[1]["ratio"] >= 3.0, f"four ranks hold only {rows[1]['ratio']:.2f} x the context of one"
    return rows


# --- ring: keys and values that travel behind attention -------------------------------------------------------------------------------------

RING_MODEL = {"model_type": "llama", "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 1024,
              "num_hidden_layers": 4, "vocab_size": 2048, "max_position_embeddings": 16384, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
QUICK_HIDDEN = 0.25  # 0.7 and more where it works, 0 or less where it does not
QUICK_ROUNDS_MIN, QUICK_ROUNDS_MAX = 3, 8
RING_POSITION_BYTES = 2 * 8 * 64 * 2  # of a layer


def ask_prefill(connection, name, tokens):
    answer = connection.ask(name, prompt=prompt_of(tokens, seed=abs(hash(name)) % 97), max_tokens=1, temperature=0, ignore_eos=True)
    assert answer.error is None, answer.error
    rank = answer.done["ranks"][1]
    return {"seconds": answer.done["timings"]["ttft_s"], "compute_s": rank["compute_s"], "hidden_s": rank["comm_hidden_s"],
            "exposed_s": rank["comm_exposed_s"]}


def passing_seconds(sent, rate):
    return sent * 8 / (rate * 1e6)


def hidden_share(alone, passing, over):
    return (alone + passing - over) / min(alone, passing)


def hidden_of_least(seen, rate, sent):
    alone, over = (min(run["seconds"] for run in seen[r]) for r in (0, rate))
    return hidden_share(alone, passing_seconds(sent, rate), over)


def ring_inside(agent):
    flags = parse(json.loads(os.environ["ECHELON_BENCH_FLAGS"]))
    link, tokens = hosts.Link.of_this_test(), flags.tokens or 4096
    rates = [250] if flags.quick else [1000, 500, 250, 125]
    # Sent by each rank: its half of the keys and values, once a layer.
    sent = tokens // 2 * RING_POSITION_BYTES * RING_MODEL["num_hidden_layers"]
    seen = {rate: [] for rate in [0, *rates]}
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(RING_MODEL))
        settings = {"model.path": folder, "model.load_format": "dummy", "worker.backend": "cpu", "worker.threads": 1, "worker.kv_memory_bytes": 256 << 20,
                    "scheduler.step_tokens_max": tokens, "layout.sp": 2, "group.launcher": "hostfile", "group.remote_agent": agent,
                    "group.interface": hosts.NETWORK, "group.hosts": ",".join(f"{hosts.Hosts.address(host)}:1" for host in (1, 2))}
        with service.Service(settings) as running:
            connection = api.Connection(running.endpoint)
            ask_prefill(connection, "warm", tokens)
            for run in range(flags.rounds):
                for rate in seen:
                    link.set(rate_mbit=rate)
                    seen[rate].append(ask_prefill(connection, f"{rate}.{run}", tokens))
                if flags.quick and run + 1 >= QUICK_ROUNDS_MIN and hidden_of_least(seen, rates[0], sent) >= QUICK_HIDDEN:
                    break
            relay = link.stats()
            link.set(rate_mbit=0)
            connection.close()
    rows = []
    for rate in rates:
        passing = passing_seconds(sent, rate)
        alone, over = ([run["seconds"] for run in seen[r]] for r in (0, rate))
        hidden = statistics.median(hidden_share(c, passing, t) for c, t in zip(alone, over))
        rows.append({"rate_mbit": rate, "tokens": tokens, "passing_s": passing, "alone_s": statistics.median(alone), "over_s": statistics.median(over),
                     "hidden": hidden, "hidden_of_least": hidden_of_least(seen, rate, sent), "runs": {"alone": seen[0], "over": seen[rate]}})
    pathlib.Path(os.environ["ECHELON_BENCH_ANSWER"]).write_text(json.dumps({"rows": rows, "relay": relay}))


def ring(flags):
    with tempfile.TemporaryDirectory() as folder:
        answer = pathlib.Path(folder, "answer.json")
        os.environ.update(ECHELON_BENCH_FLAGS=json.dumps(flags.words), ECHELON_BENCH_ANSWER=str(answer))
        with hosts.Hosts(2, link={}) as network:
            status = network.run_on(1, [sys.executable, "-B", "-u", __file__, "--inside", str(network.agent)])
            assert status == 0, "the run on two hosts failed"
        found = json.loads(answer.read_text())
    rows = found["rows"]
    share = found["relay"]["cpu_seconds"] / found["relay"]["seconds"]
    print(f"\na prompt of {rows[0]['tokens']} tokens on sp = 2 over an emulated link (the relay took {share:.2f} of a core)")
    print("| link, Mbit/s | C: no limit, s | M: passing alone, s | T, s | hidden |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['rate_mbit']} | {row['alone_s']:.2f} | {row['passing_s']:.2f} | {row['over_s']:.2f} | {row['hidden']:.2f} |", flush=True)
    if flags.quick:
        hidden = rows[0]["hidden_of_least"]
        assert hidden >= QUICK_HIDDEN, f"only {hidden:.2f} of the passing is hidden in {len(rows[0]['runs']['over'])} rounds: the overlap is lost"
    return found


# --- speed: one core and two ----------------------------------------------------------------------------------------------------------------


def speed(flags):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("\nspeed: left out, it needs two cores", flush=True)
        return None
    layouts = {"one rank, one core": ({}, ["taskset", "-c", str(cores[0])]),
               "sp = 2": ({"layout.sp": 2}, ["taskset", "-c", f"{cores[0]},{cores[1]}"]),
               "tp = 2": ({"layout.tp": 2}, ["taskset", "-c", f"{cores[0]},{cores[1]}"])}
    tokens = flags.tokens or (2048 if flags.quick else 4096)
    seen = {name: [] for name in layouts}
    with contextlib.ExitStack() as stack:
        connections = {}
        for name, (settings, prefix) in layouts.items():
            running = service.Service({"model.path": service.need_model(service.SMOL), "worker.backend": "cpu", "worker.threads": 1,
                                       "worker.kv_memory_bytes": 256 << 20, **settings}, prefix=prefix)
            connections[name] = api.Connection(stack.enter_context(running).endpoint)
            stack.callback(connections[name].close)
        for run in range(flags.rounds):
            for name, connection in connections.items():
                answer = connection.ask(f"{run}", prompt=prompt_of(tokens, seed=run), max_tokens=1, temperature=0, ignore_eos=True)
                assert answer.error is None, answer.error
                seen[name].append(answer.done["timings"]["ttft_s"])
    alone = seen["one rank, one core"]
    rows = [{"layout": name, "tokens": tokens, "seconds": times, "speedup": statistics.median(one / mine for one, mine in zip(alone, times))}
            for name, times in seen.items()]
    print(f"\na prompt of {tokens} tokens, SmolLM2-135M, a core for each rank")
    print("| layout | s | tokens/s | times one rank | efficiency |")
    print("|---|---|---|---|---|")
    for row in rows:
        seconds, ranks = statistics.median(row["seconds"]), 1 if row["layout"].startswith("one") else 2
        print(f"| {row['layout']} | {seconds:.2f} | {tokens / seconds:.0f} | {row['speedup']:.2f} | {row['speedup'] / ranks:.2f} |", flush=True)
    return rows


def parse(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default="memory,ring,speed")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", default=0, type=int)
    parser.add_argument("--tokens", default=0, type=int, help="of the prompt of ring or speed")
    parser.add_argument("--json", help="what was measured is added to this file")
    flags = parser.parse_args(words)
    flags.words, flags.rounds = words, flags.rounds or (QUICK_ROUNDS_MAX if flags.quick else 3)
    return flags


def main():
    flags = parse(sys.argv[1:])
    service.need_model(service.SMOL)
    parts = {"memory": memory, "ring": ring, "speed": speed}
    wanted = flags.parts.split(",")
    left_out = "ring" in wanted and os.geteuid() != 0
    if left_out:
        wanted.remove("ring")
    for name in wanted:
        found = parts[name](flags)
        if flags.json and found:
            path = pathlib.Path(flags.json)
            known = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps({**known, name: found}, indent=1) + "\n")
    if left_out:
        service.skip("ring: network namespaces need root; the other parts ran")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        ring_inside(sys.argv[2])
    else:
        main()
