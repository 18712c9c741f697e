"""The configuration file: every key, whose word counts, and one sentence for whatever is wrong with it."""

import tomllib
from pathlib import Path

import pytest
from server_process import ROOT, RunningServer, run

from server import cli
from server.config import KEYS, read_config
from server.errors import ConfigBad
from server.settings import DAY_S, Settings


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


EVERYTHING = """
data = "/srv/blobfs"
[listen]
host = "::1"
port = 0
public_url = "https://files.example"
[tls]
certificate = "/etc/cert.pem"
key = "/etc/key.pem"
[catalog]
url = "postgresql://blobfs@db/blobfs"
[blobs]
url = "s3://bucket/prefix"
options = { access_key_id = "a", secret_access_key = "b" }
[limits]
requests_per_second = 10.5
burst = 20
json_bytes = 67108864
connections = 500
floor_bytes = 0
idle_seconds = 5
[upkeep]
every_seconds = 60
grace_days = 0.5
retention_days = 2
[metrics]
loopback = false
"""


def test_every_key_reaches_its_setting(tmp_path: Path) -> None:
    found = read_config(write(tmp_path / "c.toml", EVERYTHING))
    assert set(found) == {field for field, _ in KEYS.values()}
    settings = Settings(**found)
    assert (settings.data, settings.port, settings.grace_s) == (Path("/srv/blobfs"), 0, DAY_S / 2)
    assert settings.blobs_options["access_key_id"] == "a"
    assert settings.metrics_loopback is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 1", "unknown key port"),
        ("[listen]\nport = 65536", "listen.port is a whole number"),
        ("[listen]\nport = true", "listen.port is a whole number"),
        ('[upkeep]\ngrace_days = "7"', "upkeep.grace_days is a number"),
        ("[upkeep]\ngrace_days = nan", "upkeep.grace_days is a number"),
        ('data = "here"', "data is a path from / on"),
        ('[metrics]\nloopback = "no"', "metrics.loopback is true or false"),
        ('[listen]\npublic_url = "files"', "listen.public_url is http"),
        ("listen = ", "is no TOML"),
        ("\xff", "is no TOML"),
        ("[a.b.c]\nd = 1", "unknown key a.b"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode("latin-1"))
    done = run("usage", "--config", path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_keys_of_an_object_store_must_be_closed_to_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigBad, match="chmod 600"):
        read_config(write(tmp_path / "c.toml", EVERYTHING, mode=0o644))
    with pytest.raises(ConfigBad, match="cannot be read"):
        read_config(tmp_path / "none.toml")


def test_an_argument_outweighs_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert run("user", "add", "me", "--data", data).returncode == 0
    write(data / "server.toml", '[listen]\npublic_url = "https://a.example"\n[upkeep]\ngrace_days = 1\n')
    parsed = cli._server_parser().parse_args(["--data", str(data), "--grace-days", "2"])
    settings = cli.settings_of(parsed)
    assert (settings.grace_s, settings.retention_s) == (2 * DAY_S, 30 * DAY_S)
    assert settings.public_url == "https://a.example"


def test_without_a_data_directory_nothing_runs() -> None:
    assert "--data DIR" in run("usage").stderr
    assert run("usage").returncode == 2


def test_a_server_and_its_commands_run_from_a_file_alone(data: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", f'data = "{data}"\n[listen]\nport = 0\n')
    running = RunningServer(data, "--config", path)
    assert run("user", "add", "me", "--config", path).returncode == 0
    assert '"user": "me"' in run("usage", "--json", "--config", path).stdout
    assert running.stop() == 0


def test_the_example_in_the_documentation_has_every_key() -> None:
    page = (ROOT / "docs/OPERATIONS.md").read_text()
    example = page.split("```toml\n", 1)[1].split("```", 1)[0]
    shown = {"data"} | {
        f"{table}.{key}" for table, keys in tomllib.loads(example).items() if table != "data" for key in keys
    }
    assert shown == set(KEYS)
