"""llama.cpp as the peer: built natively from PyPI's source archive of llama-cpp-python, kept in ~/.cache/echelon/peers."""
import json
import os
import pathlib
import subprocess
import sys

VERSION = "0.3.36"
CACHE = pathlib.Path.home() / ".cache/echelon/peers"
PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-quantize")


def build():
    """The folder of the peer's programs; fetched and built the first time (some minutes)."""
    source = CACHE / f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
    programs = source / "build/bin"
    if all((programs / name).exists() for name in PROGRAMS):
        return programs
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"llama_cpp_python-{VERSION}.tar.gz"
    if not archive.exists():
        # pip asks the archive for its metadata; ":all:" would have it build the tools for that from source too.
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", CACHE,
                        f"llama-cpp-python=={VERSION}"], check=True)
    subprocess.run(["tar", "-C", CACHE, "-xf", archive], check=True)
    subprocess.run(["cmake", "-S", source, "-B", source / "build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF",
                    "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", source / "build", "-j", str(os.cpu_count()), "--target", *PROGRAMS], check=True, stdout=subprocess.DEVNULL)
    return programs


def requantised(programs, model):
    """The model in Q4_0, the layout that llama.cpp has its fastest kernels for."""
    path = CACHE / (model.stem + ".requantised-Q4_0.gguf")
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        subprocess.run([programs / "llama-quantize", "--allow-requantize", model, partial, "Q4_0"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        partial.rename(path)
    return path


class Peer:
    """Tokens a second of one model file; a bare loop in one process for each figure."""

    def __init__(self, programs, model, threads):
        self.programs, self.model, self.threads = programs, model, str(threads)

    def _bench(self, *words):
        command = [self.programs / "llama-bench", "-m", self.model, "-t", self.threads, "-r", "1", "-o", "json", *map(str, words)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return json.loads(out)[0]["avg_ts"]

    # `flash`: 1 with flash attention. Their programs' defaults differ (off in one, by device in the other), so it is always given.
    def prefill(self, tokens, flash):
        return self._bench("-p", tokens, "-n", 0, "-fa", flash)

    def decode(self, context, tokens, flash):
        return self._bench("-p", 0, "-n", tokens, "-d", context, "-fa", flash)

    def served(self, streams, prompt, gen, flash):
        """Generated tokens over the time of all prompts and all decoding."""
        command = [self.programs / "llama-batched-bench", "-m", self.model, "-t", self.threads, "-tb", self.threads, "-c",
                   streams * (prompt + gen) + 64, "-fa", "on" if flash else "off",
                   "-b", 2048, "-ub", 512, "-npp", prompt, "-ntg", gen, "-npl", streams, "--output-format", "jsonl"]
        out = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout
        row = json.loads(out.strip().splitlines()[-1])
        return streams * gen / (row["t_pp"] + row["t_tg"])
