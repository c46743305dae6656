"""A real Prometheus scrapes the coordinator: promtool finds nothing to complain of, the scrape configuration and the alerts of
deploy/prometheus load, queries give what was served, and every metric an alert names exists.

usage: prometheus_test.py
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service
import slurm

DEPLOY = service.ROOT / "deploy" / "prometheus"
TOKENS = 16


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        return reply.read().decode()


def query(base, expression):
    """The value of an instant query that gives one number, or None."""
    reply = json.loads(fetch(f"{base}/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
    assert reply["status"] == "success", reply
    result = reply["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def wait_for(condition, what, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def check_text(text):
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr.strip(), done.stdout + done.stderr


def check_alerts(text):
    """Metrics that alerts name and the coordinator does not have would never fire."""
    known = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    rules = (DEPLOY / "alerts.yml").read_text()
    for name in sorted(set(re.findall(r"\bechelon_\w+", rules))):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in known or base in known, f"alerts.yml names {name}, which the coordinator does not have"


def configuration(folder, target):
    """deploy/prometheus/prometheus.yml with the service's address, scraped often."""
    text = (DEPLOY / "prometheus.yml").read_text()
    assert "127.0.0.1:9760" in text
    text = text.replace("127.0.0.1:9760", target).replace("scrape_interval: 5s", "scrape_interval: 1s")
    path = folder / "prometheus.yml"
    path.write_text(text)
    shutil.copy(DEPLOY / "alerts.yml", folder)
    done = subprocess.run(["promtool", "check", "config", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def check_queries(running, folder, base):
    connection = api.Connection(running.endpoint)
    for number in range(3):
        answer = connection.ask(f"metrics.{number}", prompt="Once upon a time", temperature=0, max_tokens=TOKENS, ignore_eos=True)
        assert answer.error is None and len(answer.token_ids) == TOKENS, answer
    connection.close()
    wait_for(lambda: query(base, "up{job='echelon'}") == 1, "the target is up")
    wait_for(lambda: query(base, "sum(echelon_generation_tokens_total)") == 3 * TOKENS, "48 tokens counted")
    wait_for(lambda: query(base, "sum(echelon_time_to_first_token_seconds_count)") == 3, "three first tokens timed")
    quantile = query(base, "histogram_quantile(0.5, sum by (le) (echelon_time_to_first_token_seconds_bucket))")
    assert quantile and quantile > 0, quantile
    assert query(base, "sum(echelon_requests_running)") == 0
    firing = json.loads(fetch(f"{base}/api/v1/alerts"))["data"]["alerts"]
    assert not [alert for alert in firing if alert["state"] == "firing"], firing


def main():
    model = service.need_model(service.SMOL)
    for program in ("prometheus", "promtool"):
        if not shutil.which(program):
            service.skip(f"no {program}; deploy/setup --with-tests gets it")
    with tempfile.TemporaryDirectory(prefix="echelon-prometheus-") as name, \
            service.Service({"model.path": model, "worker.threads": 1, "layout.tp": 2}) as running:
        folder = pathlib.Path(name)
        text = fetch(f"{running.metrics_url}/metrics")
        check_text(text)
        check_alerts(text)
        assert fetch(f"{running.metrics_url}/healthz")
        path = configuration(folder, running.metrics_url.removeprefix("http://"))
        port = slurm.free_port()
        log = open(folder / "prometheus.log", "wb")
        prometheus = subprocess.Popen(["prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder}/data",
                                       f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            check_queries(running, folder, f"http://127.0.0.1:{port}")
            check_text(fetch(f"{running.metrics_url}/metrics"))
        except BaseException:
            print((folder / "prometheus.log").read_text()[-3000:])
            raise
        finally:
            prometheus.terminate()
            prometheus.wait(20)
    print("passed")


if __name__ == "__main__":
    main()
