"""Several hosts on one machine: network namespaces joined by a bridge or by an emulated link, each with an address and a host name of its own. Needs root.

    with Hosts(3) as hosts:
        subprocess.run([*hosts.on(1), "hostname"])   # "host1", whose address is 10.99.0.1
        hosts.agent                                  # what mpirun takes instead of ssh; it reaches every host by its address
    with Hosts(2, link={"latency_us": 200}) as hosts:  # the settings are those of tests/net/link_relay.cc
        hosts.link.set(loss=0.01)

The names carry this process's id: what a killed run left behind is removed by the next one.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import service

NETWORK = "10.99.0.0/24"
PREFIX = "echelon"
MTU = 9000  # of an emulated link, bytes: as networks between hosts of a cluster have
# Of the hosts' TCP, whatever this machine's own is: BBR paces messages by what it saw before. (Cubic, the usual one, is not allowed in every
# namespace; on a link that loses nothing the two hardly differ.)
CONGESTION_CONTROL = "reno"


def ip(*words, check=True):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def need_namespaces():
    """Skips the test where this machine does not let us make network namespaces."""
    if os.geteuid() != 0:
        service.skip("network namespaces need root")
    if not shutil.which("ip"):
        service.skip("no ip command; deploy/setup --with-tests gets it")
    probe = f"{PREFIX}{os.getpid()}probe"
    try:
        ip("netns", "add", probe)
        ip("-n", probe, "link", "add", "probe0", "type", "bridge")
    except RuntimeError as error:
        service.skip(f"no network namespaces here: {error}")
    finally:
        ip("netns", "del", probe, check=False)


def remove_namespace(name):
    for pid in ip("netns", "pids", name, check=False).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    ip("netns", "del", name, check=False)


def remove_stale():
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        owner = name.removeprefix(f"{PREFIX}-").split("-")[0]
        if name.startswith(f"{PREFIX}-") and owner.isdigit() and not pathlib.Path(f"/proc/{owner}").exists():
            remove_namespace(name)


def set_cable(any_name, host, up):
    """Plugs or pulls a host's cable, from any host: `any_name` is the name of any namespace of the same Hosts."""
    ip("-n", f"{any_name.rsplit('-', 1)[0]}-switch", "link", "set", f"v{host}", "up" if up else "down")


class Link:
    """The wire between hosts, as any process of any of them may set it; `path` is what Hosts.link.path says."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    @staticmethod
    def of_this_test():
        """Inside a command that Hosts.run_on started."""
        return Link(os.environ["ECHELON_TEST_LINK"])

    def set(self, **settings):
        """In force on return."""
        for name, value in settings.items():
            answer = self._command(f"{name}={value}")
            assert answer == {}, f"{name}={value}: {answer}"

    def stats(self):
        """What crossed since the last call."""
        return self._command("stats")

    def _command(self, line):
        answers = self.path / "answers"
        seen = answers.stat().st_size
        with open(self.path / "commands", "w") as commands:
            commands.write(line + "\n")
        for _ in range(2500):
            text = answers.read_text()[seen:]
            if text.endswith("\n"):
                return json.loads(text)
            time.sleep(0.002)
        raise AssertionError("the link relay does not answer")


class Hosts:
    def __init__(self, count, link=None):
        self.count = count
        self.link_settings = link
        self.relay = None
        self.folder = tempfile.TemporaryDirectory(prefix="echelon-hosts-")
        self.agent = pathlib.Path(self.folder.name) / "agent"

    def name(self, host):
        return f"{PREFIX}-{os.getpid()}-{host}"

    @staticmethod
    def address(host):
        return f"10.99.0.{host}"

    def __enter__(self):
        need_namespaces()
        remove_stale()
        try:
            self.make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def make(self):
        for host in range(1, self.count + 1):
            ip("netns", "add", self.name(host))
        if self.link_settings is None:
            self.join_by_bridge()
        else:
            self.join_by_relay()
        for host in range(1, self.count + 1):
            name = self.name(host)
            ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            subprocess.run(["ip", "netns", "exec", name, "sysctl", "-q", f"net.ipv4.tcp_congestion_control={CONGESTION_CONTROL}"], check=True)
        # mpirun calls it as "agent ADDRESS WORDS...", the words being for a shell, as with ssh.
        self.agent.write_text("#!/bin/bash\nhost=${1##*.}; shift\n"
                              f"exec ip netns exec {PREFIX}-{os.getpid()}-$host unshare --uts "
                              "bash -c \"hostname host$host; $*\"\n")
        self.agent.chmod(0o755)

    def join_by_bridge(self):
        switch = self.name("switch")
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for host in range(1, self.count + 1):
            ip("-n", switch, "link", "add", f"v{host}", "type", "veth", "peer", "name", "eth0", "netns", self.name(host))
            ip("-n", switch, "link", "set", f"v{host}", "master", "br0", "up")

    def join_by_relay(self):
        self.link = Link(self.folder.name)
        os.mkfifo(self.link.path / "commands")
        # Opened for both, so that it does not end when a writer of commands closes its end.
        commands = os.open(self.link.path / "commands", os.O_RDWR)
        words = [service.BIN.parent / "tests/link_relay", *(f"/run/netns/{self.name(host)}" for host in range(1, self.count + 1)),
                 *(f"{name}={value}" for name, value in self.link_settings.items())]
        with open(self.link.path / "answers", "w") as answers:
            self.relay = subprocess.Popen(words, stdin=commands, stdout=answers)
        os.close(commands)
        while not (self.link.path / "answers").read_text():
            assert self.relay.poll() is None, "the link relay did not start"
            time.sleep(0.01)
        for host in range(1, self.count + 1):
            ip("-n", self.name(host), "link", "set", "eth0", "mtu", str(MTU))

    def on(self, host):
        """The words that run a command on a host; the command keeps the process id that was started."""
        return ["ip", "netns", "exec", self.name(host), "unshare", "--uts", "bash", "-c",
                f"hostname host{host}; exec \"$@\"", "--"]

    def run_on(self, host, command):
        """Runs a command that may look after the network itself; its exit status."""
        known = {"ECHELON_TEST_NAMESPACE": self.name(host), "ECHELON_TEST_LINK": self.folder.name}
        return subprocess.run([*self.on(host), *command], env={**os.environ, **known}).returncode

    def pids(self):
        """Every process on any of the hosts."""
        return [int(pid) for host in range(1, self.count + 1) for pid in ip("netns", "pids", self.name(host), check=False).split()]

    def assert_empty(self, within_seconds=8):
        end = time.monotonic() + within_seconds
        while True:
            left = self.pids()
            if not left:
                return
            if time.monotonic() > end:
                raise AssertionError("left on the hosts: " + subprocess.run(
                    ["ps", "-o", "pid,stat,args", "-p", ",".join(map(str, left))], capture_output=True, text=True).stdout)
            time.sleep(0.1)

    def remove(self):
        if self.relay:
            self.relay.kill()
            self.relay.wait()
            self.relay = None
        for host in [*range(1, self.count + 1), "switch"]:
            remove_namespace(self.name(host))
        self.folder.cleanup()


def run_on_first(count, inside, script, link=None):
    """The main of a test on `count` hosts: starts `script` again on the first of them, where inside(agent) is the test."""
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2])
        return
    service.need_model(service.SMOL)
    with Hosts(count, link) as network:
        status = network.run_on(1, [sys.executable, "-B", "-u", script, "--inside", str(network.agent)])
        if status == 0:
            network.assert_empty()
    sys.exit(status)
