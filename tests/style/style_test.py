"""The house rules that a machine can check: include direction, third parties' headers, sizes, disabled tests, names of hosts.

usage: style_test.py          checks this checkout's files (those git knows, and new ones it does not ignore)
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 80  # about 70 is the aim
LINE_COLUMNS_MAX = {".py": 160, ".md": 10_000}  # C++ lines are clang-format's business: 100 columns
CODE = {".h", ".cc", ".cu", ".cuh"}
FOLDERS = ("common", "kernels", "worker", "coordinator", "client", "tests")

# What a file below the folder may include of ours. Longest folder first wins.
MAY_INCLUDE = {
    "common": [r"common/"],
    "kernels": [r"kernels/", r"common/(check|checked|half|random|result|strings|tensor_format)\.h"],
    "worker": [r"worker/", r"kernels/", r"common/"],
    "coordinator": [r"coordinator/", r"common/"],
    "client": [r"client/", r"common/"],
}
# A third party's headers and the only files that may wrap them; never a header of ours. tests/ may
# use GoogleTest, Google Benchmark and what it takes to play the other side of a socket.
THIRD_PARTY = {
    r"yaml-cpp/": r"common/config_yaml\.cc",
    r"nlohmann/": r"common/json\.cc",
    r"pcre2\.h": r"common/model/[a-z_]+\.cc",
    r"mpi\.h": r"worker/(comm/mpi_[a-z_]+|main|worker_process|mpi_[a-z_]+)\.cc|tests/parallel/[a-z_]+\.cc",
    r"zmq\.hp*": r"(worker/control_link|coordinator/(zmq_[a-z_]+|[a-z_]+_socket)|client/(cpp|testing)/[a-z_]+)\.cc"
                 r"|tests/[a-z_/]+\.(cc|h)",
    r"prometheus/": r"coordinator/[a-z_]*metrics[a-z_]*\.cc",
    r"CLI/": r"(coordinator|worker|client/cli)/[a-z_]+\.cc",
    r"(spdlog|fmt)/": r"common/log\.cc",
    r"nccl\.h": r"worker/comm/nccl_[a-z_]+\.(cc|cu)",
    r"(cuda|cublas)[a-z_0-9]*\.h": r"kernels/cuda/[a-z_0-9]+\.(cc|cu|cuh)|worker/comm/nccl_[a-z_]+\.(cc|cu)",
    r"(gtest|gmock)/": r"tests/.*",
    r"benchmark/": r"tests/.*",
}
HOSTS = re.compile(r"pypi\.org|pythonhosted|proxy\.golang|registry\.npmjs|crates\.io|deb\.debian\.org|archive\.ubuntu", re.I)
PRIVATE_PATHS = re.compile(r"(?<![\w./-])/(work|home|Users)/\w")
DISABLED = re.compile(r"\bDISABLED_\w|\bTEST(_[FP])?\(\s*\w+\s*,\s*DISABLED|^\s*#\s*if\s+0\b|\bDISABLED\s+TRUE\b", re.M)


def files():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            capture_output=True, check=True).stdout.decode()
    paths = [pathlib.PurePosixPath(name) for name in listed.split("\0") if name]
    return [path for path in paths if (ROOT / path).is_file()]


def is_text(path):
    return b"\0" not in (ROOT / path).open("rb").read(4096)


def lines_of(path):
    return (ROOT / path).read_text(encoding="utf-8").split("\n")


def includes_of(path):
    for number, line in enumerate(lines_of(path), 1):
        match = re.match(r'\s*#\s*include\s*[<"]([^">]+)[">]', line)
        if match:
            yield number, match.group(1)


def check_direction(path):
    """common -> nothing of ours, kernels -> common's basics, worker -> common and kernels, the rest -> common."""
    top = path.parts[0]
    if path.suffix not in CODE or top not in MAY_INCLUDE:
        return
    for number, name in includes_of(path):
        ours = name.split("/")[0] in FOLDERS
        if ours and not any(re.match(rule, name) for rule in MAY_INCLUDE[top]):
            yield f"{path}:{number}: {top} must not include {name}"
        elif not ours and "/" not in name and (ROOT / path.parent / name).exists():
            yield f"{path}:{number}: include \"{path.parent / name}\" by its full path"


def check_third_party(path):
    """A third party's header stands in the one source that wraps it, never in a header of ours."""
    if path.suffix not in CODE:
        return
    for number, name in includes_of(path):
        for header, allowed in THIRD_PARTY.items():
            if re.match(header, name) and not re.fullmatch(allowed, str(path)):
                yield f"{path}:{number}: {name} belongs into {allowed}"


def check_size(path):
    if path.suffix in CODE | {".py", ".cmake", ".sh", ".yaml"} or path.suffix == "" and is_text(path):
        if path.name != "LICENSE" and len(lines_of(path)) - 1 > FILE_LINES_MAX:
            yield f"{path}: {len(lines_of(path)) - 1} lines, at most {FILE_LINES_MAX}: split it by its nouns"
    limit = LINE_COLUMNS_MAX.get(path.suffix)
    if limit:
        for number, line in enumerate(lines_of(path), 1):
            if len(line) > limit:
                yield f"{path}:{number}: {len(line)} columns, at most {limit}"


def check_functions(path):
    """A function begins at a line in column 0 that ends with "{" and ends at the "}" in column 0."""
    if path.suffix not in {".cc", ".cu"} or path.parts[0] == "tests":  # a table of cases may be long
        return
    start = None
    for number, line in enumerate(lines_of(path), 1):
        if line.startswith("}"):
            if start and number - start + 1 > FUNCTION_LINES_MAX:
                yield f"{path}:{start}: a function of {number - start + 1} lines, at most {FUNCTION_LINES_MAX}"
            start = None
        elif re.match(r"[A-Za-z~ ].*[)a-z] \{$", line) and not re.match(r"(namespace|class|struct|enum|extern|union) |\s", line):
            start = number


def check_links(path):
    if path.suffix != ".md":
        return
    for number, line in enumerate(lines_of(path), 1):
        for target in re.findall(r"\]\(([^)#]+)", line):
            if "://" not in target and not (ROOT / path.parent / target).exists():
                yield f"{path}:{number}: links to {target}, which is not there"


def check_disabled(path):
    if path.suffix in CODE | {".py", ".txt"} and path.name != "style_test.py":
        for match in DISABLED.finditer("\n".join(lines_of(path))):
            yield f"{path}: a disabled test or dead code: {match.group(0).strip()}"


def check_hosts(path):
    if path.name != "style_test.py" and is_text(path) and path.suffix != ".json":
        for number, line in enumerate(lines_of(path), 1):
            if HOSTS.search(line):
                yield f"{path}:{number}: names a registry's host; the machine's own settings say where packages come from"


def check_paths(path):
    if path.name != "style_test.py" and is_text(path):
        for number, line in enumerate(lines_of(path), 1):
            if PRIVATE_PATHS.search(line):
                yield f"{path}:{number}: a path of somebody's own machine"


def check_guard(path):
    if path.suffix in {".h", ".cuh"} and not lines_of(path)[0].startswith("#pragma once"):
        yield f"{path}:1: a header begins with #pragma once"


def check_top_level(paths):
    allowed = {"coordinator", "worker", "common", "kernels", "deploy", "tests", "client", "docs", "CMakeLists.txt",
               "README.md", "CONTRIBUTING.md", "LICENSE"}
    for name in sorted({path.parts[0] for path in paths}):
        if name not in allowed and not name.startswith("."):
            yield f"{name}: not a folder or file of the top level"


def check_test_names(paths):
    """A file of tests that no build knows runs never: C++ tests are globbed, scripts are rows of a CMakeLists.txt."""
    listed = "".join("\n".join(lines_of(p)) for p in paths if p.name == "CMakeLists.txt" and p.parts[0] in ("tests", "client"))
    for path in paths:
        if path.parts[0] == "tests" and path.name.endswith("_test.py"):
            if str(path.relative_to("tests")) not in listed:
                yield f"{path}: no CMakeLists.txt runs it"


def main():
    paths = files()
    problems = [*check_top_level(paths), *check_test_names(paths)]
    for path in paths:
        for check in (check_direction, check_third_party, check_size, check_functions, check_links, check_disabled, check_hosts, check_paths, check_guard):
            problems += check(path)
    for problem in problems:
        print(problem)
    print(f"{len(paths)} files, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
