"""The parent's end of the workers: one process a library, asked one at a time."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from libraries import LIBRARIES

HERE = Path(__file__).resolve().parent


class Lost(Exception):
    """A library failed; the others go on without it."""


class Peer:
    """One worker: a library, or one mode of vecidx."""

    def __init__(self, label, name, python=sys.executable, arguments=None):
        self.label, self.name = label, name
        self.process = subprocess.Popen(
            [python, HERE / "worker.py", name, json.dumps(arguments or {})], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.result = {"library": name, "arguments": arguments or {}, "build": [], "search": {},
                       "single": {}}

    def ask(self, do, **arguments):
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass        # it may have left a last word
        line = self.process.stdout.readline()
        if not line:
            raise Lost(f"its process ended (status {self.process.wait()})")
        answer = json.loads(line)
        if answer.get("missing"):
            raise Lost("not installed")
        if "error" in answer:
            raise Lost(answer["error"])
        return answer

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Peers:
    """All workers of a run; one that fails is left out and named in `skipped`."""

    def __init__(self):
        self.peers = []
        self.skipped = {}

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def start(self, libraries, also=(), modes=()):
        """`also`: (label, interpreter) pairs of vecidx; `modes`: its arguments, as text."""
        for name in libraries:
            self.peers.append(Peer(name, name))
        for text in modes:
            self.peers.append(Peer(f"vecidx[{text}]", "vecidx", arguments=mode_arguments(text)))
        for label, python in also:
            self.peers.append(Peer(label, "vecidx", python))
        self.each(0, lambda peer: peer.result.update(peer.ask("about")))

    def each(self, turn, work):
        """work(peer) for every peer still there, beginning with another one every turn."""
        n = len(self.peers)
        for peer in [self.peers[(turn + i) % n] for i in range(n)]:
            try:
                work(peer)
            except Lost as lost:
                self.say(f"{peer.label}: left out: {lost}")
                self.skipped[peer.label] = str(lost)
                self.peers.remove(peer)
                peer.close()

    def close(self):
        for peer in self.peers:
            peer.close()

    def broken(self):
        return [label for label, why in self.skipped.items() if why != "not installed"]


def mode_arguments(text):
    """'quantization=sq8,rows=3' -> {'quantization': 'sq8', 'rows': 3}: Python literals where
    they are some, else words."""
    arguments = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.removeprefix("search.").isidentifier():
            raise ValueError(f"{part!r}: expected NAME=VALUE or search.NAME=VALUE")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    return arguments


def known(names):
    """The names of libraries in a comma-separated list; 'all' is every one."""
    names = list(LIBRARIES) if names == "all" else names.split(",")
    unknown = sorted(set(names) - set(LIBRARIES))
    if unknown:
        raise ValueError(f"unknown {unknown}, expected some of {list(LIBRARIES)}, or all")
    return names
