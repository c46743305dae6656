"""The README's commands work: every block marked as shell is run in one go, in order, in a copy of this checkout, as a newcomer would.

usage: readme_test.py          takes the models from the cache; needs what deploy/setup installs
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import service

# The one command that is not run again: it is what runs this test.
OURSELVES = "tests/run"


def shell_blocks(text):
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def copy_checkout(folder):
    listed = subprocess.run(["git", "-C", str(service.ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, target = service.ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def main():
    service.need_model(service.SMOL)
    blocks = shell_blocks((service.ROOT / "README.md").read_text())
    commands = "".join(blocks).split("\n")
    assert commands[0].startswith("deploy/quickstart") and OURSELVES in commands[:3], "the two commands come first"
    assert commands.count(OURSELVES) == 1 and (service.ROOT / OURSELVES).stat().st_mode & 0o111
    script = "\n".join(command for command in commands if command != OURSELVES)
    with tempfile.TemporaryDirectory(prefix="echelon-readme-") as name:
        folder = pathlib.Path(name)
        copy_checkout(folder)
        environment = {**os.environ, "ECHELON_MODELS": str(service.MODELS)}
        done = subprocess.run(["bash", "-euo", "pipefail", "-x", "-c", script], cwd=folder, env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, errors="replace")
    print(done.stdout[-8000:])
    assert done.returncode == 0, f"exit status {done.returncode}"
    assert re.search(r"^echelon_generation_tokens_total [1-9]", done.stdout, re.MULTILINE), "no token was counted"


if __name__ == "__main__":
    main()
