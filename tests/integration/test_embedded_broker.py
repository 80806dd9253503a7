"""`fedprune broker`, as a person starts it."""

from __future__ import annotations

import socket
import subprocess
import sys

from fedprune.errors import BrokerError


def test_a_busy_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = (sys.executable, "-m", "fedprune.command", "broker", "--port", port)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == BrokerError.exit_code
    assert len(done.stderr.splitlines()) == 1
    assert f"port {port} on 127.0.0.1 cannot be used" in done.stderr
