"""The program `echelon` against real groups: shapes, exit statuses, nothing left behind.

usage: cli_test.py [CASE...]        needs the SmolLM2 checkpoint
"""
import collections
import ctypes
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))

import service

ECHELON = str(service.BIN / "echelon")
MODEL = str(service.SMOL)


def ours():
    """Living processes of the build under test, as {pid: command}: what a command must not leave behind."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")  # empty for a zombie
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            continue
        if folder.name.isdigit() and words[0].decode(errors="replace").startswith(str(service.BIN)):
            found[int(folder.name)] = b" ".join(words).decode(errors="replace")
    return found


def echelon(*arguments, status=0, **options):
    before = ours()
    words = [word if isinstance(word, bytes) else str(word) for word in arguments]
    done = subprocess.run([ECHELON, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, **options)
    assert done.returncode == status, f"exit status {done.returncode}, not {status}:\n{done.stderr[-3000:]}"
    left = {pid: command for pid, command in ours().items() if pid not in before}
    assert not left, f"left behind: {left}"
    return done


def last_json(done):
    return json.loads(done.stdout.rstrip("\n").split("\n")[-1])


def check_shape(answer):
    for name in ("prompt_ids", "token_ids"):
        assert answer[name] and all(type(i) is int for i in answer[name]), answer
    assert type(answer["text"]) is str and answer["finish_reason"] in ("stop", "length", "cancelled")
    assert type(answer["timings"]["ttft_s"]) in (int, float) and answer["timings"]["ttft_s"] > 0
    assert answer["timings"]["decode_tokens_per_s"] > 0
    for row in answer["logprobs"]:
        assert all(type(entry["id"]) is int and entry["logprob"] <= 0 for entry in row)


def test_generate_json(_):
    done = echelon("generate", "--model", MODEL, "--tp", 2, "--prompt", "The capital of France is", "--max-tokens", 6,
                   "--temperature", 0, "--logprobs", 2, "--prompt-logprobs", 1, "--json")
    answer = last_json(done)
    check_shape(answer)
    assert done.stdout.count("\n") == 1  # the object alone
    assert answer["layout"] == {"tp": 2, "pp": 1, "sp": 1} and answer["finish_reason"] == "length"
    assert len(answer["token_ids"]) == len(answer["logprobs"]) == 6 and "Paris" in answer["text"]
    assert answer["prompt_logprobs"][0] is None and len(answer["prompt_logprobs"]) == len(answer["prompt_ids"])
    for row, following in zip(answer["prompt_logprobs"][1:], answer["prompt_ids"][1:]):
        assert following in [entry["id"] for entry in row]
    for word in ("rank 0", "rank 1", "ready", "seed", "time to first token", "hidden", "exposed"):
        assert word in done.stderr, f"{word!r} is not in stderr:\n{done.stderr}"


def test_dummy_weights_of_a_bare_configuration(_):
    with tempfile.TemporaryDirectory() as folder:
        config = {"model_type": "llamaLadder", "hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 640,
                  "num_hidden_layers": 6, "vocab_size": 1000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "ladder_layers": 4,
                  "tie_word_embeddings": True}
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        words = ["generate", "--model", folder, "--set", "model.load_format=dummy", "--prompt-ids", "1,2,3", "--max-tokens", 8, "--temperature", 0, "--json"]
        tp3 = last_json(echelon(*words, "--tp", 3, "--pp", 2))
        assert len(tp3["token_ids"]) == 8 and tp3["text"] == "".join(f" {i}" for i in tp3["token_ids"]), tp3
        assert last_json(echelon(*words, "--tp", 3))["token_ids"] == tp3["token_ids"]


def test_generate_text_and_messages(_):
    done = echelon("generate", "--model", MODEL, "--prompt", "1, 2, 3, 4,", "--max-tokens", 6, "--temperature", 0)
    assert " 5, 6" in done.stdout, done.stdout
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([{"role": "user", "content": "Name three uses of a ladder."}], file)
        file.flush()
        answer = last_json(echelon("generate", "--model", MODEL, "--pp", 2, "--messages", file.name, "--temperature", 0,
                                   "--max-tokens", 16, "--json"))
    assert len(answer["token_ids"]) == 16 and answer["finish_reason"] == "length" and len(answer["text"].split()) > 4
    assert answer["layout"] == {"tp": 1, "pp": 2, "sp": 1} and answer["logprobs"] == []


def test_stages_compute_on_different_backends(_):
    """Their tokens are those of one backend, and as many backends as stages are asked for."""
    def tokens(backend):
        return last_json(echelon("generate", "--model", MODEL, "--pp", 2, "--backend", backend, "--prompt", "The capital of France is",
                                 "--temperature", 0, "--max-tokens", 8, "--json"))["token_ids"]
    want = tokens("cpu")
    assert tokens("cpu,reference") == want and tokens("reference,cpu") == want
    refused = echelon("generate", "--model", MODEL, "--pp", 3, "--backend", "cpu,reference", "--prompt", "x", status=2).stderr
    assert "worker.backend: names 2 stages, but layout.pp is 3" in refused, refused


def test_connect_and_seeds(running):
    ask = ["generate", "--connect", running.endpoint, "--prompt-ids", "1,9690,198", "--max-tokens", 8, "--json"]
    first = echelon(*ask)
    seed = [line for line in first.stderr.split("\n") if line.startswith("seed ")][0].split()[1]
    again, other = last_json(echelon(*ask, "--seed", seed)), last_json(echelon(*ask, "--seed", int(seed) ^ 1))
    assert again["token_ids"] == last_json(first)["token_ids"] != other["token_ids"]
    assert again["prompt_ids"] == [1, 9690, 198] and again["layout"]["tp"] == 2
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([{"role": "user", "content": "Name three uses of a ladder."}], file)
        file.flush()
        greedy = ["--connect", running.endpoint, "--temperature", 0, "--max-tokens", 16]
        text = last_json(echelon("generate", *greedy, "--messages", file.name, "--json"))["text"]
    assert echelon("run", *greedy, "Name three uses of a ladder.").stdout == text + "\n"
    status = last_json(echelon("status", "--connect", running.endpoint, "--json"))
    assert status["state"] == "ready" and status["kv_pages_free"] == status["kv_pages_total"]
    assert f"rank 1 computes on {status['ranks'][1]['backend']}\n" in echelon("status", "--connect", running.endpoint).stdout


def test_chat_remembers(running):
    """The second answer is the one that the whole conversation gets."""
    greedy = ["--connect", running.endpoint, "--temperature", "0", "--max-tokens", "16"]
    questions = ["My name is Ada. Say hello.", "What is my name?"]
    done = subprocess.run([ECHELON, "chat", *greedy], input="\n".join(questions) + "\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with tempfile.TemporaryDirectory() as folder:
        messages, shown = [], ""
        for question in questions:
            messages.append({"role": "user", "content": question})
            file = pathlib.Path(folder) / "messages.json"
            file.write_text(json.dumps(messages))
            answer = last_json(echelon("generate", *greedy, "--messages", file, "--json"))["text"]
            messages.append({"role": "assistant", "content": answer})
            shown += answer + "\n"
    assert done.stdout == shown, (done.stdout, shown)


def test_chat_on_a_terminal(running):
    """Ctrl-C cancels the answer and the conversation goes on; Ctrl-D ends it with status 0."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(ECHELON, [ECHELON, "chat", "--connect", running.endpoint, "--temperature", "0", "--max-tokens", "2000"])

    def read_until(word, seconds=30):
        seen, end = b"", time.monotonic() + seconds
        while word not in seen:
            assert time.monotonic() < end, seen
            seen += os.read(terminal, 4096)
        return seen

    read_until(b"> ")
    os.write(terminal, b"Write a very long story about a ladder.\n")
    read_until(b"ladder", 30)  # the echo
    read_until(b" ", 30)  # the answer has begun
    time.sleep(0.3)
    os.write(terminal, b"\x03")
    read_until(b"\n> ")
    with_status = last_json(echelon("status", "--connect", running.endpoint, "--json"))
    assert with_status["running"] == 0, with_status
    os.write(terminal, b"\x04")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    assert status == 0, status


def test_perplexity_and_tokens(running):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("The ladder stood against the wall. " * 20)
        file.flush()
        out = last_json(echelon("perplexity", "--model", MODEL, "--connect", running.endpoint, "--file", file.name, "--chars", 300,
                                "--window", 32, "--json"))
        ids = last_json(echelon("tokenize", "--model", MODEL, "--text", ("The ladder stood against the wall. " * 20)[:300], "--json"))["ids"]
    windows = [ids[i:i + 32] for i in range(0, len(ids), 32)]
    assert out["predicted"] == sum(len(window) - 1 for window in windows), out
    assert 1 < out["perplexity"] < 50, out


def check_bench(report, repeat):
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "served_tokens_per_s"):
        assert 0 < report[name]["min"] <= report[name]["median"] <= report[name]["max"], report
    assert report["repeat"] == repeat and report["streams"] == 3


def test_bench(_):
    """Its own group: the memory is measured, and the bytes of a token are those of the file's matrices and of keys and values."""
    words = ["bench", "--model", MODEL, "--prompt", 40, "--gen", 8, "--streams", 3]
    done = echelon(*words, "--repeat", 2, "--tp", 2, "--set", "worker.kv_type=f16", "--json")
    report = last_json(done)
    check_bench(report, 2)
    assert done.stdout.count("\n") == 1 and "run 2 of 2" in done.stderr, done
    assert report["layout"]["tp"] == 2 and len(report["backends"]) == 2
    position = 30 * 2 * 3 * 64 * 2  # layers, keys and values, KV heads, values a head, bytes of a float16
    weights = report["bytes_per_token"] - position * (40 + 8 / 2)
    assert 0.9 < weights / service.SMOL.stat().st_size < 1.1, report
    assert report["memory_read_gb_per_s"] > 0.1
    expected = report["decode_tokens_per_s"]["median"] * report["bytes_per_token"] / report["memory_read_gb_per_s"] / 1e9
    assert abs(report["bandwidth_fraction"]["median"] / expected - 1) < 1e-6, report
    text = echelon(*words, "--repeat", 1).stdout
    assert "prefill of 40" in text and "tokens/s" in text and "GB/s" in text, text


def test_bench_of_a_running_service(running):
    words = ["bench", "--model", MODEL, "--connect", running.endpoint, "--gen", 4, "--streams", 3, "--repeat", 1, "--json"]
    report = last_json(echelon(*words, "--prompt", 20))
    check_bench(report, 1)
    assert report["memory_read_gb_per_s"] is None and report["bandwidth_fraction"] is None and report["bytes_per_token"] > 1e7
    echelon("bench", "--connect", running.endpoint, status=2)
    echelon("bench", "--model", MODEL, "--gen", 1, status=2)
    assert "context" in echelon(*words, "--prompt", 100_000, status=1).stderr.strip().split("\n")[-1]


def test_trace(_):
    """Every op of both ranks by its layer, and every sum with its layer: posted, arrived and waited for; nothing but the file stays."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "trace.json")
        echelon("trace", "--model", MODEL, "--tp", 2, "--prompt", 20, "--gen", 4, "--streams", 2, "--out", out)
        events = json.loads(out.read_text())
        assert [path.name for path in pathlib.Path(folder).iterdir()] == ["trace.json"]
        for rank in (0, 1):
            mine = [event for event in events if event["pid"] == rank]
            steps = [event for event in mine if event["name"] == "step"]
            rows = [step["args"] for step in steps]
            assert {"rows": 20, "sequences": 1} in rows and {"rows": 2, "sequences": 2} in rows, rows
            for name, layers in (("gate_up", 30), ("attention", 30), ("head", 1)):
                for step in steps:  # what ranks try before the first step is outside
                    ops = [event["args"]["layer"] for event in mine if event["name"] == name and 0 <= event["ts"] - step["ts"] <= step["dur"]]
                    counts = collections.Counter(ops)  # twice a layer: a step in two parts
                    assert len(counts) == layers and set(counts.values()) in ({1}, {2}), (name, step, counts)
            sums = [event for event in mine if event["name"] == "all_reduce"]
            posted, arrived = ({event["id"]: event for event in sums if event["ph"] == kind} for kind in "be")
            waited = {event["args"]["message"]: event for event in sums if event["ph"] == "X"}
            assert posted.keys() == arrived.keys() and waited.keys() <= posted.keys()
            for step in steps:
                inside = [event for event in posted.values() if 0 <= event["ts"] - step["ts"] <= step["dur"]]
                layers = collections.Counter(event["args"]["layer"] for event in inside)  # two a layer and the embedding's; twice: in two parts
                assert set(layers) == set(range(-1, 30)) and layers[-1] in (1, 2) and {layers[i] for i in range(30)} == {2 * layers[-1]}, layers
                end = step["ts"] + step["dur"]  # the last rows may arrive while the first are added, behind the wait
                assert all(event["ts"] <= arrived[event["id"]]["ts"] <= end for event in inside), step
            assert all(posted[message]["ts"] <= wait["ts"] for message, wait in waited.items())
        echelon("trace", "--model", MODEL, "--out", pathlib.Path(folder, "no/such/place.json"), status=2)
    echelon("trace", "--model", MODEL, "--connect", "tcp://127.0.0.1:1", status=2)


def test_exit_statuses(_):
    for words, expected in [(["--tp", "10"], "9"), (["--pp", "31"], "30"), (["--sp", "513"], "512"),
                            (["--tp", "0"], "--tp"), (["--temperature", "nan"], "--temperature"), (["--wat"], "--wat"),
                            (["--set", "layout.tq=2"], "layout.tp")]:
        done = echelon("generate", "--model", MODEL, "--prompt", "x", *words, status=2)
        assert expected in done.stderr.strip().split("\n")[-1], done.stderr
        assert done.stdout == ""
    # Layouts that cannot work: why, and what would, before anything is loaded.
    hostfile = ["--set", "group.launcher=hostfile", "--set", "group.hosts=a:2,b:1"]
    for words, why, status in [(["--sp", "41", "--set", "model.context_max_tokens=640"], "at most 40 KV pages", 2),
                               (["--pp", "31", "--sp", "2"], "30 layers", 2), (["--sp", "8", *hostfile], "the hosts have 3 slots", 1)]:
        last = echelon("generate", "--model", MODEL, "--prompt", "x", *words, status=status).stderr.strip().split("\n")[-1]
        assert why in last and "the nearest that work: tp " in last, last
    for words, expected in [(["--model", "/no/such.gguf"], "/no/such.gguf"), (["--model", "/etc/passwd"], "/etc/passwd"),
                            (["--connect", "tcp://127.0.0.1:1"], "tcp://127.0.0.1:1")]:
        done = echelon("generate", *words, "--prompt", "x", status=1)
        assert expected in done.stderr.strip().split("\n")[-1], done.stderr
    assert "UTF-8" in echelon("generate", "--model", MODEL, "--prompt", b"a\xff", status=2).stderr
    done = echelon("generate", "--model", MODEL, "--prompt-ids", "49152", status=1)
    assert "prompt" in done.stderr.strip().split("\n")[-1] and "49151" in done.stderr.strip().split("\n")[-1]


NO_GPU = re.compile(
    r'echelon: error: the worker group failed: rank [01] on host \S+: backend "cuda"(: this host has no NVIDIA driver \(libcuda\.so\.1\): install one '
    r'for CUDA [\d.]+ or later| is not in this build: configure with -DECHELON_CUDA=ON where the CUDA toolkit is), or use backend "cpu"')


def test_no_driver_is_one_clear_error(_):
    """Which rank on which host, what is missing there and what to do, also where another stage could compute; nothing is left."""
    try:
        ctypes.CDLL("libcuda.so.1")
        return  # a machine with a driver: tests/gpu
    except OSError:
        pass
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "service.yaml")
        config.write_text(f"model:\n  path: {MODEL}\nfrontend:\n  endpoint: tcp://127.0.0.1:0\nmetrics:\n  address: 127.0.0.1:0\n")
        trace = ["--out", pathlib.Path(folder, "trace.json")]
        for words in (["generate", "--model", MODEL, "--tp", 2, "--prompt", "x", "--backend", "cuda"],
                      ["generate", "--model", MODEL, "--pp", 2, "--prompt", "x", "--backend", "cpu,cuda"],
                      ["run", MODEL, "x", "--backend", "cuda"], ["trace", "--model", MODEL, "--backend", "cuda", *trace],
                      ["serve", config, "--backend", "cuda"]):
            done = echelon(*words, status=1)
            lines = done.stderr.strip().split("\n")
            own = [line for line in lines if line.startswith("echelon: ")]  # serve shows the others' lines, too
            assert NO_GPU.fullmatch(lines[-1]) and own == lines[-1:] and done.stdout == "", (words, done)
        assert os.listdir(folder) == ["service.yaml"], os.listdir(folder)


def test_another_schedule_is_a_loud_warning(_):
    done = echelon("generate", "--model", MODEL, "--prompt", "x", "--max-tokens", 2, "--schedule", "ladder", "--ladder-layers", "last:10")
    assert "WARNING" in done.stderr and "ladder" in done.stderr
    done = echelon("generate", "--model", MODEL, "--prompt", "x", "--max-tokens", 2, "--schedule", "standard")
    assert "WARNING" not in done.stderr


def test_an_interrupt_leaves_nothing(_):
    """While it loads and while it generates; from the keyboard, so that the whole foreground group is hit."""
    for wait_for in ("rank", "seed"):
        before = ours()
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(ECHELON, [ECHELON, "generate", "--model", MODEL, "--tp", "2", "--prompt", "x", "--max-tokens", "5000", "--ignore-eos"])
        seen = b""
        while wait_for.encode() not in seen:
            seen += os.read(terminal, 4096)
        time.sleep(0.3)
        os.write(terminal, b"\x03")
        end = time.monotonic() + 30
        try:
            while os.read(terminal, 4096):
                assert time.monotonic() < end
        except OSError:
            pass  # the terminal's other side is closed
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(terminal)
        assert status == 1, status
        left = {p: command for p, command in ours().items() if p not in before}
        assert not left, f"left behind after a Ctrl-C at {wait_for!r}: {left}"


def test_a_killed_command_leaves_nothing(_):
    """No process, and none of its own files; what a group keeps for itself goes with the coordinator."""
    before, folder = ours(), tempfile.TemporaryDirectory()
    process = subprocess.Popen([ECHELON, "generate", "--model", MODEL, "--tp", "2", "--prompt", "x", "--max-tokens", "5000", "--ignore-eos"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               env={**os.environ, "TMPDIR": folder.name})
    process.stdout.read(20)  # the answer has begun
    assert not list(pathlib.Path(folder.name).glob("echelon-??????"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 20
    while any(pid not in before for pid in ours()):
        assert time.monotonic() < end, f"left behind: {ours()}"
        time.sleep(0.2)


def test_a_dead_coordinator_ends_the_command_at_once(_):
    before = ours()
    process = subprocess.Popen([ECHELON, "generate", "--model", MODEL, "--tp", "2", "--prompt", "x", "--max-tokens", "5000", "--ignore-eos"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.read(20)  # the answer has begun
    coordinator = [pid for pid, command in ours().items() if pid not in before and "echelon-coordinator" in command.split(" ")[0]]
    os.kill(coordinator[0], signal.SIGKILL)
    started = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and time.monotonic() - started < 10
    assert "the local group ended" in stderr.strip().split("\n")[-1], stderr
    left = {pid: command for pid, command in ours().items() if pid not in before}
    assert not left, f"left behind: {left}"


def test_serve_and_check_config(_):
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "service.yaml"
        config.write_text(f"model:\n  path: {MODEL}\nfrontend:\n  endpoint: tcp://127.0.0.1:0\nmetrics:\n  address: 127.0.0.1:0\n")
        shown = echelon("check-config", config, "--set", "layout.pp=2").stdout
        assert "pp: 2" in shown and MODEL in shown
        config.with_name("wrong.yaml").write_text("model:\n  pat: x\n")
        done = echelon("check-config", config.with_name("wrong.yaml"), status=1)
        assert "path" in done.stderr.strip().split("\n")[-1]
        before = ours()
        process = subprocess.Popen([ECHELON, "serve", str(config)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("serving at "):
                break
        endpoint = lines[-1].split()[2].rstrip(",;")
        assert echelon("generate", "--connect", endpoint, "--prompt", "x", "--max-tokens", 2).returncode == 0
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 0, "".join(lines) + rest
        assert not [pid for pid in ours() if pid not in before]


if __name__ == "__main__":
    service.run_cases(globals(), sys.argv[1:])
