#!/usr/bin/env python3
"""Asks the server of a disk, as docs/control-socket.md says: python3 control-client.py 0 stats"""

import json
import os
import socket
import sys


class Server:
    """The server of a device, on its control socket."""

    def __init__(self, device):
        directory = os.environ.get("UBLK_TS_RUN_DIR", "/run/ublk-ts")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(f"{directory}/{device}.sock")
        self._lines = self._socket.makefile("rw", encoding="utf-8", newline="\n")
        self._last = 0

    def call(self, method, on_part=None, **params):
        """Returns the result. Parts that come before it are passed to on_part."""
        self._last += 1
        request = {"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        for line in self._lines:
            reply = json.loads(line)
            if reply.get("method") == "part":
                if on_part:
                    on_part(reply["params"]["part"])
            elif "error" in reply:
                raise RuntimeError(f"{reply['error']['message']} ({reply['error']['code']})")
            elif reply["id"] == self._last:
                return reply["result"]
        raise RuntimeError("the server has ended")


def value_of(word):
    """Params are JSON, such as true or 5; what is not is text, such as 2G."""
    try:
        return json.loads(word)
    except ValueError:
        return word


if __name__ == "__main__":
    device, method, *words = sys.argv[1:]
    params = {name: value_of(text) for name, _, text in (word.partition("=") for word in words)}
    try:
        print(json.dumps(Server(device).call(method, print, **params), indent=2))
    except (OSError, RuntimeError) as error:
        sys.exit(str(error))
