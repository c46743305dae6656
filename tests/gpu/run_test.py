"""tests/gpu/run where nvidia-smi shows a GPU, with programs that are played: what it counts as passed, failed and skipped."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent

SMI = "#!/bin/sh\necho 'NVIDIA H200, 580.65, 143771 MiB, 9.0'\n"
PASSES = "#!/bin/sh\necho '[  PASSED  ] 3 tests.'\n"
SKIPS = """#!/bin/sh
echo '[ RUN      ] CudaMatMul.Agrees'
echo 'matmul_test.cc:14: Skipped'
echo 'backend "cuda": the driver serves CUDA 12.4'
echo '[  PASSED  ] 0 tests.'
echo '[  SKIPPED ] 3 tests, listed below:'
"""
FINDS_NONE = "#!/bin/sh\necho '[  PASSED  ] 0 tests.'\n"
FAILS = "#!/bin/sh\necho '[  PASSED  ] 2 tests.'\necho '[  FAILED  ] 1 test, listed below:'\nexit 1\n"
FIGURE = """#!/bin/sh\necho '{"name": "memory read", "value": 4000, "unit": "GB/s"}'\n"""
CRASHES = "#!/bin/sh\nexit 3\n"
NO_TORCH = "import sys\nprint('a warning')\nsys.exit('SKIPPED: this Python has no torch')\n"


class Run(unittest.TestCase):
    def report(self, *more, gpu_test=PASSES, gpu_bench=FIGURE, before=None):
        """The exit status, and of every stage of the report its result and detail. `before`: the report that is there."""
        with tempfile.TemporaryDirectory() as made:
            folder = pathlib.Path(made)
            programs = {"nvidia-smi": SMI, "compute-sanitizer": "#!/bin/sh\nshift 6\nexec \"$@\"\n", "gpu_test": gpu_test,
                        "gpu_bench": gpu_bench, "overlap_bench": FIGURE, "peers.py": NO_TORCH}
            for name, text in programs.items():
                (folder / name).write_text(text, encoding="utf-8")
                (folder / name).chmod(0o755)
            if before:
                (folder / "report.json").write_text(json.dumps(before), encoding="utf-8")
            ran = subprocess.run([sys.executable, "-B", HERE / "run", "--carried", folder, "--report", folder / "report.json",
                                  "--traces", folder / "traces", *more],
                                 env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}, capture_output=True, text=True, check=False)
            self.assertTrue((folder / "report.json").exists(), ran.stdout + ran.stderr)
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        self.assertEqual(report["gpu"], "NVIDIA H200, 580.65, 143771 MiB, 9.0", ran.stdout + ran.stderr)
        self.figures = [figure["name"] for figure in report["figures"]]
        return ran.returncode, {stage["stage"]: (stage["result"], stage["detail"]) for stage in report["stages"]}

    def test_all_that_passes(self):
        status, stages = self.report()
        self.assertEqual(status, 0)
        self.assertEqual(stages.pop("peers"), ("skipped", "SKIPPED: this Python has no torch"))
        self.assertEqual({result for result, _ in stages.values()}, {"passed"})
        self.assertEqual(stages["ops"][1], "3 passed")
        self.assertEqual(stages["memcheck"][1], "3 passed")
        self.assertEqual(stages["gpu_bench"][1], "1 figures")

    def test_a_backend_that_does_not_open_is_a_failure(self):
        status, stages = self.report(gpu_test=SKIPS)
        self.assertEqual(status, 1)
        self.assertEqual(stages["ops"], ("failed", 'nothing of it ran: 0 passed, 3 skipped (backend "cuda": the driver serves CUDA 12.4)'))
        self.assertEqual(stages["oracle"][0], "skipped")

    def test_a_pattern_that_fits_no_test_is_a_failure(self):
        status, stages = self.report(gpu_test=FINDS_NONE)
        self.assertEqual(status, 1)
        self.assertEqual(stages["layouts"], ("failed", "nothing of it ran: 0 passed"))

    def test_a_test_that_fails(self):
        status, stages = self.report(gpu_test=FAILS)
        self.assertEqual(status, 1)
        self.assertEqual(stages["tiny models"], ("failed", "2 passed, 1 failed"))

    def test_a_benchmark_that_ends_early(self):
        status, stages = self.report(gpu_bench=CRASHES)
        self.assertEqual(status, 1)
        self.assertEqual(stages["gpu_bench"], ("failed", "0 figures"))

    def test_figures_of_a_benchmark_that_ends_in_the_middle_of_a_line(self):
        status, stages = self.report("--only", "gpu_bench", gpu_bench=FIGURE + "printf '{\"name\": \"cut'\nexit 1\n")
        self.assertEqual((status, stages), (1, {"gpu_bench": ("failed", "1 figures")}))
        self.assertEqual(self.figures, ["memory read"])

    def test_a_part_adds_to_the_report(self):
        before = {"multi": {}, "figures": [{"name": "memory read"}, {"name": "other"}],
                  "stages": [{"stage": "oracle", "result": "passed", "detail": "as before"}, {"stage": "ops", "result": "failed", "detail": ""}]}
        status, stages = self.report("--only", "op", before=before)
        self.assertEqual(status, 0)
        self.assertEqual(stages, {"oracle": ("passed", "as before"), "ops": ("passed", "3 passed")})
        self.assertEqual(self.figures, ["memory read", "other"])

    def test_a_stage_without_time(self):
        status, stages = self.report("--budget", "0.5")
        self.assertEqual(status, 0)
        self.assertEqual(set(stages.values()), {("skipped", "the time of --budget is over")})

    def test_a_program_that_is_missing(self):
        status, stages = self.report("--carried", "/nonexistent", "--only", "ops")
        self.assertEqual(status, 1)
        self.assertEqual(stages["ops"][0], "failed")


if __name__ == "__main__":
    unittest.main()
