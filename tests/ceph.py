"""A real S3 server for the tests: Ceph's monitor, object daemons and radosgw, all on loopback, all our own children.

Data is in memory (memstore), in as many copies as there are daemons up to three, so one of three may be killed. The
daemons run as `nobody` when the tests are root's, since they want no more rights than that.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import obstore

from server.backends.objects import open_store
from tests.ports import Port

START_S = 120
_PR_SET_PDEATHSIG = 1

_CONF = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
keyring = {directory}/keyring
run dir = {directory}/run
admin socket = {directory}/run/$name.asok
log file = {directory}/log/$name.log
mon cluster log file = {directory}/log/cluster.log
crash dir = {directory}/log
mon data = {directory}/mon.$id
osd data = {directory}/osd.$id
rgw data = {directory}/rgw
osd objectstore = memstore
memstore device bytes = 4294967296
osd memory target = 939524096
osd max object name len = 256
osd max object namespace len = 64
osd pool default size = {copies}
osd pool default min size = {least}
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
# A start in seconds, and a killed daemon noticed at once: all of them are on one machine.
paxos propose interval = 0.05
paxos min wait = 0.01
mon osd min down reporters = 1
mon osd reporter subtree level = osd
osd heartbeat interval = 1
osd heartbeat grace = 5
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 32
rgw dns name = 127.0.0.1
rgw rados pool pg num min = 4
"""


class CephCluster:
    """A running cluster with one bucket; `options` are those of `server.backends.objects.open_store`."""

    bucket = "blobfs"

    def __init__(self, osds: int = 1) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="blobfs-ceph-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.directory, "nobody")
            self._as = {"user": "nobody", "extra_groups": []}
        self._conf = self.directory / "ceph.conf"
        self._libc = ctypes.CDLL(None)
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.osds: list[subprocess.Popen[bytes]] = []
        try:
            self._start(osds)
        except BaseException:
            self.stop()
            raise

    def _start(self, osds: int) -> None:
        # The daemons take them seconds later; both set SO_REUSEADDR.
        self._ports = (Port(), Port())
        monitor, gateway = (port.number for port in self._ports)
        fsid = str(uuid.uuid4())
        copies = min(osds, 3)
        places = {"directory": self.directory, "fsid": fsid, "mon": monitor, "port": gateway}
        self._conf.write_text(_CONF.format(**places, copies=copies, least=max(1, copies - 1)))
        self._conf.chmod(0o644)  # whatever our umask is: the daemons are another user
        self._run("mkdir", "mon.a", "run", "log", "rgw", *(f"osd.{number}" for number in range(osds)))
        keyring = self.directory / "keyring"
        for name, caps in (("mon.", "mon"), ("client.admin", "mon osd mgr"), ("osd.0", "mon osd mgr")):
            allowed = [part for cap in caps.split() for part in ("--cap", cap, "allow *")]
            create = [] if keyring.exists() else ["--create-keyring"]
            self._run("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *allowed)
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{monitor}]", "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", keyring)
        self._daemon("ceph-mon", "-i", "a")
        for number in range(osds):
            name, key = f"osd.{number}", str(uuid.uuid4())
            self._run("ceph", "osd", "new", key)
            if number:
                caps = [part for cap in ("mon", "osd", "mgr") for part in ("--cap", cap, "allow *")]
                self._run("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)
                self._run("ceph", "auth", "import", "-i", keyring)
            self._run("ceph-osd", "--mkfs", "-i", number, "--osd-uuid", key)
            self.osds.append(self._daemon("ceph-osd", "-i", number))
        self._daemon("radosgw", "-n", "client.admin")
        self.url = f"http://127.0.0.1:{gateway}"
        self._wait_for(lambda: httpx.get(self.url, trust_env=False).status_code == 200)
        user = ["--uid=blobfs", "--display-name=blobfs", "--access-key=blobfs", "--secret-key=secret"]
        self._run("radosgw-admin", "user", "create", *user)
        self.options = {"endpoint": self.url, "access_key_id": "blobfs", "secret_access_key": "secret"}
        self.options["region"] = "us-east-1"
        # obstore makes no buckets, but it signs the request that does.
        bucket = obstore.sign(open_store(f"s3://{self.bucket}", self.options), "PUT", "", timedelta(minutes=1))
        assert httpx.put(bucket, trust_env=False, timeout=START_S).status_code == 200

    def _run(self, program: str, *arguments: object) -> None:
        own = ["-c", str(self._conf)] if program in ("ceph", "ceph-mon", "ceph-osd", "radosgw-admin") else []
        command = [program, *own, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, timeout=START_S, check=False, **self._as
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def _daemon(self, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        daemon = subprocess.Popen(
            [program, "-f", "-c", self._conf, *map(str, arguments)],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # When the tests are killed, these end too.
            preexec_fn=lambda: self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
            **self._as,
        )
        self._daemons.append(daemon)
        return daemon

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + START_S
        while True:
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            assert all(daemon.poll() is None for daemon in self._daemons), "a daemon of Ceph's ended"
            assert time.monotonic() < end, "Ceph did not start"
            select.select([], [], [], 0.05)

    def stop(self) -> None:
        """End it and remove what it wrote; nothing in it is worth an end in good order."""
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait(START_S)
        shutil.rmtree(self.directory)
