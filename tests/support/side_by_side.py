"""Services that differ in some settings, all up at once and asked in turn, so that each round compares them within a second or two.

    with SideBySide(common, {"off": {"worker.token_split": "off"}, "on": {...}}) as services:
        services.connections["on"].ask(...)
"""
import sys

import api
import hosts
import service


def on_two_hosts(agent):
    """Settings of a service with a rank on each of two emulated hosts (hosts.py)."""
    return {"layout.tp": 2, "group.launcher": "hostfile", "group.remote_agent": agent, "group.interface": hosts.NETWORK,
            "group.hosts": ",".join(f"{hosts.Hosts.address(host)}:1" for host in (1, 2))}


class SideBySide:
    def __init__(self, common, variants):
        self.services = {name: service.Service({**common, **settings}) for name, settings in variants.items()}
        self.connections = {}

    def __enter__(self):
        for name, running in self.services.items():
            self.connections[name] = api.Connection(running.start().endpoint)
            print(f"{name}: ready", file=sys.stderr, flush=True)
        return self

    def __exit__(self, kind, *_):
        for connection in self.connections.values():
            connection.close()
        for running in self.services.values():
            running.kill() if kind else running.stop()
