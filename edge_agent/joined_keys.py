"""The keys that a device has by joining a gateway, as its files have them at each connection."""

from __future__ import annotations

from pathlib import Path

from edge_agent.gateway_proof import GatewayProof
from edge_agent.store import AgentStore
from fedprune.system.disk import Directory
from fedprune.wire.authentication import read_key
from fedprune.wire.proof import read_root_key


class JoinedKeys:
    """The files `authentication_key` and `root_key`, relative to `base`; None where the device has not joined. They may
    be replaced while the agent runs. Every method raises `ConfigurationError` if one cannot be read."""

    def __init__(
        self,
        federation: str,
        authentication_key: str | None,
        root_key: str | None,
        base: Path,
        store: AgentStore,
        disk: Directory,
    ) -> None:
        self._federation, self._store, self._disk = federation, store, disk
        self._key_file = None if authentication_key is None else base / authentication_key
        self._root_file = None if root_key is None else base / root_key
        self._proof: GatewayProof | None = None
        self.read()

    def read(self) -> tuple[bytes | None, GatewayProof | None]:
        """The authentication key, and the proof by the root key."""
        key = None if self._key_file is None else read_key(self._key_file)
        root = None if self._root_file is None else read_root_key(self._root_file)
        if root is not None and (self._proof is None or self._proof.root != root):
            self._proof = GatewayProof(self._federation, root, self._disk, self._store.done)
        return key, self._proof
