"""`pull`: whole or not there, whatever the server, the disk or the process does; against a server of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import signal
import ssl
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request

import pytest
from click.testing import CliRunner, Result
from golden.networks import checkpoint

import resforward as rf
from resforward import download
from resforward.cli import main
from resforward.download import Pulled, pull
from resforward.weights import WEIGHTS, Checksum, Weights

BODY = bytes(range(256)) * 4000  # about 1 MB
OTHER = BODY[::-1]
MD5, SHA256 = hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()
PART, NOTE = "w.bin.part", "w.bin.part.json"


class Server:
    """One file, and what is odd about the server; every field may be changed between requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.body = BODY
        self.etag: str | None = '"one"'
        self.cuts: list[int] = []  # bytes after which each of the next answers breaks off
        self.status: list[int] = []  # of the next answers
        self.ranges = True
        self.sends = "bytes {start}-{last}/{size}"  # what it says that the part of an answer is
        self.if_range = True  # else it sends the part that was asked for, whatever the file has become
        self.length: int | None = None  # what it says instead of the truth
        self.framing = "length"  # or "chunked", or "close": until the connection ends
        self.gate: threading.Event | None = None  # half of the answer waits for it
        self.redirect: str | None = None
        self.asked: list[tuple[str | None, str | None]] = []  # Range and If-Range of each request


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            served.asked.append((wanted, condition))
            if served.status and (status := served.status.pop(0)) != 200:
                return self.refuse(status)
            if served.redirect and self.path != "/moved":
                self.send_response(302)
                self.send_header("Location", served.redirect)
                return self.finish_headers(0)
            start, body = 0, served.body
            if wanted and served.ranges and (condition == served.etag or not served.if_range):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    return self.refuse(416)
                self.send_response(206)
                said = served.sends.format(start=start, last=len(body) - 1, size=len(body))
                self.send_header("Content-Range", said)
            else:
                self.send_response(200)
            if served.etag:
                self.send_header("ETag", served.etag)
            return self.give(body[start:])

        def give(self, body: bytes) -> None:
            cut = served.cuts.pop(0) if served.cuts else len(body)
            chunked = served.framing == "chunked"
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
            else:
                length = served.length if served.length is not None else len(body)
                self.finish_headers(length if served.framing == "length" else None)
            half = len(body) // 2
            with contextlib.suppress(ConnectionError):
                for piece in (body[: min(half, cut)], body[half:cut]):
                    if piece:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                        self.wfile.flush()
                    if served.gate and piece:
                        served.gate.wait(60)
                if chunked and cut >= len(body):
                    self.wfile.write(b"0\r\n\r\n")

        def refuse(self, status: int) -> None:
            self.send_response(status)
            self.finish_headers(0)

        def finish_headers(self, length: int | None) -> None:
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Server(f"http://127.0.0.1:{listener.server_port}/w.bin")
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield served
    if served.gate:
        served.gate.set()
    listener.shutdown()
    listener.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "_PAUSES", (0, 0, 0))
    publish(server, monkeypatch)


def publish(server: Server, monkeypatch: pytest.MonkeyPatch, checksum: Checksum | None = None) -> None:
    monkeypatch.setitem(WEIGHTS, "w", Weights(server.url, "w.bin", checksum or Checksum("md5", MD5)))


def left() -> list[str]:
    return sorted(os.listdir())


def broken(server: Server, at: int) -> None:
    """A download that broke off, and that no attempt could complete."""
    server.status = [200, 404]
    server.cuts = [at]
    with pytest.raises(rf.ResforwardError, match="404"):
        pull("w")
    assert left() == [PART, NOTE]
    assert os.path.getsize(PART) == at
    server.asked.clear()


def whole(pulled: Pulled, body: bytes = BODY) -> bool:
    return Path(pulled.path).read_bytes() == body and left() == ["w.bin"]


# The table


def test_the_table_is_of_https_and_of_checksums_that_can_be() -> None:
    files = [row.file for row in WEIGHTS.values()]
    assert len(set(files)) == len(files)
    for name, row in WEIGHTS.items():
        if name == "w":
            continue
        assert re.fullmatch(r"https://[a-z.]+/\S+", row.url)
        assert row.url.endswith(row.file) or name == "keras_resnet50_2015"
        assert re.fullmatch(r"[\w.-]+", row.file)
        if row.checksum:
            whole_sum = {"md5": 32, "sha256": 64}[row.checksum.kind]
            assert re.fullmatch(r"[0-9a-f]+", row.checksum.digits)
            assert len(row.checksum.digits) in (8, whole_sum)
        if name.startswith("torchvision_"):
            assert row.checksum
            assert f"-{row.checksum.digits}." in row.file
    assert set(WEIGHTS) & set(rf.NETWORKS) == {f"resnet_v{v}_{depth}" for v in (1, 2) for depth in (50, 101, 152)}


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(rf.NetworkError, match=r"no weights are called keras_resnet_50\n(.|\n)*`keras_resnet50`"):
        pull("keras_resnet_50")
    assert left() == []


# Whole


@pytest.mark.parametrize(
    ("checksum", "said"),
    [(Checksum("md5", MD5), "md5"), (Checksum("sha256", SHA256[:8]), "sha256, its first 8 digits")],
)
def test_a_file_is_downloaded_and_compared(
    server: Server, monkeypatch: pytest.MonkeyPatch, checksum: Checksum, said: str
) -> None:
    publish(server, monkeypatch, checksum)
    seen: list[tuple[int, int | None]] = []
    pulled = pull("w", progress=lambda *step: seen.append(step))
    assert pulled == Pulled("./w.bin", server.url, len(BODY), SHA256, said, False)
    assert whole(pulled)
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert server.asked == [(None, None)]


def test_without_a_published_checksum_that_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WEIGHTS, "w", Weights(server.url, "w.bin"))
    pulled = pull("w")
    assert (pulled.compared, pulled.sha256) == (None, SHA256)
    assert pull("w").there_already


def test_a_folder_is_made(server: Server, tmp_path: Path) -> None:
    assert pull("w", tmp_path / "a" / "b").path == str(tmp_path / "a" / "b" / "w.bin")
    assert os.listdir(tmp_path / "a" / "b") == ["w.bin"]


def test_what_is_there_is_not_downloaded_again(server: Server) -> None:
    assert not pull("w").there_already
    again = pull("w")
    assert again.there_already
    assert (again.sha256, again.compared) == (SHA256, "md5")
    assert len(server.asked) == 1


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_any_way_to_say_where_the_end_is(server: Server, monkeypatch: pytest.MonkeyPatch, framing: str) -> None:
    monkeypatch.setitem(WEIGHTS, "w", Weights(server.url, "w.bin"))
    server.framing = framing
    if framing == "close":  # is none
        with pytest.raises(rf.ResforwardError, match="the server does not say how long it is"):
            pull("w")
        assert left() == []
    else:
        assert whole(pull("w"))


def test_a_redirection_is_followed(server: Server) -> None:
    server.redirect = server.url.replace("/w.bin", "/moved")
    assert whole(pull("w"))


def test_a_redirection_from_https_stays_with_https() -> None:
    follow: Any = download._StaySecure().redirect_request
    asked = Request("https://a.example/w.bin", headers={"Range": "bytes=5-"})
    assert follow(asked, None, 302, "Found", {}, "http://a.example/w.bin") is None
    followed = follow(asked, None, 302, "Found", {}, "https://b.example/w.bin")
    assert followed.full_url == "https://b.example/w.bin"
    assert followed.get_header("Range") == "bytes=5-"


# Resumed


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_dropped_connection_is_taken_up_where_it_broke(server: Server, framing: str) -> None:
    server.framing = framing
    server.cuts = [300_000, 100_000]
    lines: list[str] = []
    assert whole(pull("w", tell=lines.append))
    first, second, third = server.asked
    assert first == (None, None)
    starts = [int(str(wanted).removeprefix("bytes=").removesuffix("-")) for wanted, _ in (second, third)]
    assert starts == [300_000, 400_000]
    assert second[1] == third[1] == '"one"'
    assert len(lines) == 2
    of = f"{len(BODY):,}" if framing == "length" else "an unknown number of"
    assert lines[0] == f"the connection dropped after 300,000 of {of} bytes: trying again in 0 s"


def test_another_call_goes_on(server: Server) -> None:
    broken(server, 300_000)
    assert whole(pull("w"))
    assert server.asked == [("bytes=300000-", '"one"')]


def test_attempts_end_and_what_is_there_is_kept(server: Server) -> None:
    server.cuts = [1000, 1000, 1000, 1000, 1000]
    with pytest.raises(
        rf.ResforwardError, match=r"cannot download http(.|\n)*dropped after 4,000 of(.|\n)*goes on"
    ) as told:
        pull("w")
    assert type(told.value) is rf.ResforwardError
    assert left() == [PART, NOTE]
    assert len(server.asked) == 4
    assert whole(pull("w"))


def test_a_length_that_is_too_long_is_a_dropped_connection(server: Server) -> None:
    server.length = len(BODY) + 5
    server.ranges = False
    with pytest.raises(rf.ResforwardError, match=rf"dropped after {len(BODY):,} of {len(BODY) + 5:,} bytes"):
        pull("w")
    assert "w.bin" not in left()


def test_a_length_that_is_too_short_fails_the_checksum(server: Server) -> None:
    server.length = len(BODY) - 5
    with pytest.raises(rf.CheckpointError, match="is not what was published"):
        pull("w")
    assert left() == []


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_has_changed_starts_anew(server: Server, monkeypatch: pytest.MonkeyPatch, if_range: bool) -> None:
    broken(server, 300_000)
    server.body, server.etag, server.if_range = OTHER, '"two"', if_range
    publish(server, monkeypatch, Checksum("md5", hashlib.md5(OTHER).hexdigest()))
    assert whole(pull("w"), OTHER)
    assert server.asked[0] == ("bytes=300000-", '"one"')
    assert len(server.asked) == (1 if if_range else 2)


def test_a_file_that_has_become_shorter_starts_anew(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(server, 300_000)
    server.body, server.if_range = BODY[:1000], False  # which is answered by 416
    publish(server, monkeypatch, Checksum("md5", hashlib.md5(BODY[:1000]).hexdigest()))
    assert whole(pull("w"), BODY[:1000])


@pytest.mark.parametrize("sends", ["bytes 0-{last}/{size}", "bytes {start}-{last}/7", "bytes {start}-{last}/*", ""])
def test_another_part_than_was_asked_for_is_not_joined(server: Server, sends: str) -> None:
    broken(server, 300_000)
    server.asked, server.sends = [], sends
    told: list[str] = []
    assert whole(pull("w", tell=told.append))
    assert told == ["the file on the server has changed: trying again in 0 s"]
    assert server.asked == [("bytes=300000-", '"one"'), (None, None)]


def test_a_server_without_ranges_starts_anew(server: Server) -> None:
    broken(server, 300_000)
    server.ranges = False
    assert whole(pull("w"))
    assert server.asked == [("bytes=300000-", '"one"')]


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_without_a_strong_name_of_the_bytes_nothing_is_taken_up(server: Server, etag: str | None) -> None:
    server.etag = etag
    server.cuts = [300_000]
    assert whole(pull("w"))
    assert server.asked == [(None, None)] * 2


def test_what_nothing_is_known_of_is_not_taken_up(server: Server) -> None:
    notes = ["", "{", "[]", '{"url": 1}', json.dumps({"url": "http://a/b", "etag": '"one"', "size": None})]
    for note in [None, *notes]:
        Path(PART).write_bytes(OTHER[:5000])
        if note is not None:
            Path(NOTE).write_text(note)
        assert whole(pull("w"))
        os.unlink("w.bin")
    assert server.asked == [(None, None)] * 6


def test_only_the_name_was_missing(server: Server) -> None:
    Path(PART).write_bytes(BODY)
    Path(NOTE).write_text(json.dumps({"url": server.url, "etag": '"one"', "size": len(BODY)}))
    assert whole(pull("w"))
    assert server.asked == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.status = [status, status]
    assert whole(pull("w"))
    assert len(server.asked) == 3


# Refused


def test_a_wrong_checksum_keeps_nothing(server: Server) -> None:
    server.body = OTHER
    with pytest.raises(rf.CheckpointError) as told:
        pull("w")
    assert told.value.found == (f"found md5 {hashlib.md5(OTHER).hexdigest()}", f"published {MD5} (md5)")
    assert left() == []


def test_bytes_that_were_changed_on_the_disk_are_found(server: Server) -> None:
    broken(server, 300_000)
    with open(PART, "r+b") as stream:
        stream.write(b"changed")
    with pytest.raises(rf.CheckpointError, match="is not what was published"):
        pull("w")
    assert left() == []
    assert whole(pull("w"))


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_is_not_there_is_said_at_once(server: Server, status: int) -> None:
    server.status = [status]
    with pytest.raises(rf.ResforwardError, match=rf"cannot download {server.url}\n  - the server answers {status} "):
        pull("w")
    assert left() == []
    assert len(server.asked) == 1


def test_a_certificate_that_is_not_valid_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = ssl.SSLCertVerificationError(1, "certificate verify failed")
    invalid.verify_message = "certificate has expired"
    opened = []

    class Opener:
        def open(self, request: Request, timeout: float) -> None:
            opened.append(request)
            raise URLError(invalid)

    monkeypatch.setattr(download, "build_opener", lambda *handlers: Opener())
    with pytest.raises(rf.ResforwardError, match="its certificate is not valid: certificate has expired"):
        pull("w")
    assert len(opened) == 1
    assert left() == []


def test_nobody_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WEIGHTS, "w", Weights("http://127.0.0.1:9/w.bin", "w.bin"))
    with pytest.raises(rf.ResforwardError, match=r"connection refused\n  - 4 attempts\nhelp: look at the connection"):
        pull("w")
    assert left() == []


def test_another_file_is_not_overwritten(server: Server) -> None:
    Path("w.bin").write_bytes(b"mine")
    with pytest.raises(rf.TargetError, match=r"w\.bin is there already, and is another file\n  - found md5 "):
        pull("w")
    assert Path("w.bin").read_bytes() == b"mine"
    assert server.asked == []


def test_what_had_come_is_kept_beside_another_file(server: Server) -> None:
    broken(server, 300_000)
    Path("w.bin").write_bytes(b"mine")
    with pytest.raises(rf.TargetError, match="is another file"):
        pull("w")
    assert left() == ["w.bin", PART, NOTE]
    os.unlink("w.bin")
    assert whole(pull("w"))
    assert server.asked == [("bytes=300000-", '"one"')]


@pytest.mark.parametrize("noted", [True, False])
def test_a_process_that_ended_between_its_two_names_leaves_nothing_for_long(server: Server, noted: bool) -> None:
    Path(PART).write_bytes(BODY)
    Path(NOTE).write_text("{}")
    os.link(PART, "w.bin")
    if not noted:
        os.unlink(NOTE)
    assert pull("w").there_already
    assert left() == ["w.bin"]
    assert server.asked == []


def test_a_file_that_comes_in_the_meantime_is_not_overwritten(server: Server) -> None:
    def meanwhile(done: int, total: int | None) -> None:
        if done == total:
            Path("w.bin").write_bytes(b"mine")

    with pytest.raises(rf.TargetError, match=r"w\.bin is there already"):
        pull("w", progress=meanwhile)
    assert Path("w.bin").read_bytes() == b"mine"


def test_what_is_no_file_is_not_replaced(server: Server) -> None:
    os.mkdir("w.bin")
    with pytest.raises(rf.TargetError, match="is no file"):
        pull("w")
    Path("file").touch()
    with pytest.raises(rf.TargetError, match="file is there already, and is no folder"):
        pull("w", "file")


def test_a_link_in_the_way_is_not_followed(server: Server) -> None:
    Path("precious").write_bytes(b"mine")
    os.symlink("precious", PART)
    with pytest.raises(rf.ResforwardError, match="cannot write"):
        pull("w")
    assert Path("precious").read_bytes() == b"mine"


def test_no_room_is_said_before_anything_comes(server: Server) -> None:
    server.length = 1 << 60
    with pytest.raises(rf.ResforwardError, match=r"no room for \./w\.bin\n  - 1,152,\S+ MB are to come, and "):
        pull("w")
    assert left() == []


# Processes


def process(server: Server, code: str, **more: Any) -> subprocess.Popen[bytes]:
    setup = (
        "import resource, resforward as rf\n"
        "from resforward.weights import WEIGHTS, Checksum, Weights\n"
        f"WEIGHTS['w'] = Weights({server.url!r}, 'w.bin', Checksum('md5', {MD5!r}))\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(rf.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", setup + code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
    )


def wait_for(true: Any) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that in a minute")


def test_a_killed_process_is_taken_up(server: Server) -> None:
    server.gate = threading.Event()
    with process(server, "rf.pull('w')") as child:
        wait_for(lambda: os.path.exists(PART) and os.path.getsize(PART) == len(BODY) // 2)
        child.kill()
        child.communicate(timeout=60)
    server.gate.set()
    assert child.returncode == -signal.SIGKILL
    assert left() == [PART, NOTE]
    assert whole(pull("w"))
    assert server.asked[1:] == [(f"bytes={len(BODY) // 2}-", '"one"')]


def test_of_two_processes_one_downloads_and_the_other_waits(server: Server) -> None:
    server.gate = threading.Event()
    code = "print(rf.pull('w', tell=lambda line: print(line, flush=True)).there_already)"
    with process(server, code) as first:
        wait_for(lambda: os.path.exists(PART) and os.path.getsize(PART) > 0)
        with process(server, code) as second:
            assert second.stdout
            assert second.stdout.readline() == b"another process is pulling ./w.bin: waiting for it\n"
            server.gate.set()
            assert first.communicate(timeout=60) == (b"False\n", b"")
            assert second.communicate(timeout=60) == (b"True\n", b"")
    assert Path("w.bin").read_bytes() == BODY
    assert left() == ["w.bin"]
    assert len(server.asked) == 1


def test_who_waited_for_what_was_thrown_away_begins_anew(server: Server) -> None:
    found: list[Pulled] = []
    waits = threading.Event()
    waiting = threading.Thread(target=lambda: found.append(pull("w", tell=lambda line: waits.set())))
    with open(PART, "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting.start()
        assert waits.wait(60)
        os.unlink(PART)
    waiting.join(60)
    assert whole(found[0])
    assert left() == ["w.bin"]


def test_who_waited_for_a_killed_process_goes_on(server: Server) -> None:
    server.gate = threading.Event()
    with process(server, "rf.pull('w')") as first:
        wait_for(lambda: os.path.exists(PART) and os.path.getsize(PART) == len(BODY) // 2)
        with process(server, "print(rf.pull('w', tell=lambda line: print(line, flush=True)).bytes)") as second:
            assert second.stdout
            second.stdout.readline()
            first.kill()
            first.communicate(timeout=60)
            server.gate.set()
            assert second.communicate(timeout=60) == (f"{len(BODY)}\n".encode(), b"")
    assert server.asked[1:] == [(f"bytes={len(BODY) // 2}-", '"one"')]
    assert left() == ["w.bin"]


def test_many_at_once_get_one_file(server: Server) -> None:
    children = [process(server, "print(rf.pull('w').sha256)") for _ in range(4)]
    assert [child.communicate(timeout=120) for child in children] == [(f"{SHA256}\n".encode(), b"")] * 4
    assert left() == ["w.bin"]
    assert len(server.asked) == 1


def test_a_full_disk_is_said_and_what_came_is_kept(server: Server) -> None:
    code = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        "try: rf.pull('w')\n"
        "except rf.ResforwardError as error: print(error)"
    )
    with process(server, code) as child:
        said, talk = child.communicate(timeout=60)
    assert talk == b""
    assert said.decode() == (
        "cannot write ./w.bin: file too large\nhelp: what is there is kept, and the same call goes on from it\n"
    )
    assert left() == [PART, NOTE]
    assert os.path.getsize(PART) == 400_000
    server.asked.clear()
    assert whole(pull("w"))
    assert server.asked == [("bytes=400000-", '"one"')]


# The command


def run(*arguments: Any, **options: Any) -> Result:
    return CliRunner().invoke(main, ["pull", *map(str, arguments)], prog_name="resforward", **options)


def test_the_command_says_where_it_is_and_what_comes_next(server: Server) -> None:
    result = run("w", "--to", "my models")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "file      my models/w.bin: 1.02 MB\n"
        f"sha256    {SHA256}\n"
        "compared  md5: as published\n"
        "next      resforward inspect 'my models/w.bin'\n"
    )
    assert "1.02 MB, there already\n" in run("w", "--to", "my models").stdout


def test_the_next_command_works(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.body = checkpoint("slim_v2_batch").read_bytes()
    monkeypatch.setitem(WEIGHTS, "w", Weights(server.url, "w.ckpt"))
    result = run("w")
    assert "compared  no checksum is published to compare it with\n" in result.stdout
    *_, command = result.stdout.split("next      resforward ")
    assert CliRunner().invoke(main, command.split()).exit_code == 0


def test_json(server: Server) -> None:
    told = json.loads(run("w", "--json").stdout)
    keys = re.search(r"Keys of --json: (.*?)\. With --list, of each: (.*?)\. ", " ".join(run("-h").stdout.split()))
    assert keys
    assert keys[1].split(", ") == list(told)
    assert (told["name"], told["sha256"], told["there_already"]) == ("w", SHA256, False)
    rows = json.loads(run("--list", "--json").stdout)
    assert keys[2].split(", ") == list(rows[0])
    assert [row["name"] for row in rows] == list(WEIGHTS)
    assert rows[-1]["checksum"] == {"kind": "md5", "digits": MD5}


def test_the_list_has_every_name_and_its_checksum() -> None:
    head, *rows = run("--list").stdout.splitlines()
    assert head.split() == ["name", "file", "published", "checksum"]
    assert [row.split()[0] for row in rows[: len(WEIGHTS)]] == list(WEIGHTS)
    assert re.search(r"^resnet_v2_50 .* none$", "\n".join(rows), re.MULTILINE)
    assert re.search(r"^torchvision_resnet50_v2 .* sha256, its first 8 digits$", "\n".join(rows), re.MULTILINE)


@pytest.mark.parametrize("arguments", [(), ("w", "--list")])
def test_usage(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "give the name of weights, or --list" in result.stderr


def test_exit_codes(server: Server) -> None:
    assert run("nothing").exit_code == 2
    server.status = [404]
    assert run("w").exit_code == 1
    server.body = OTHER
    result = run("w")
    assert result.exit_code == 4
    assert result.stderr.startswith(f"error: what came from {server.url} is not what was published")
    Path("w.bin").touch()
    assert run("w").exit_code == 2


def test_a_bar_is_for_terminals(server: Server) -> None:
    code = "from resforward.cli import main\nmain(['pull', 'w'])"
    with process(server, code) as child:
        assert child.communicate(timeout=60)[1] == b""
    os.unlink("w.bin")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with process(server, f"import os\nos.dup2({theirs}, 2)\n{code}", pass_fds=(theirs,)) as child:
        os.close(theirs)
        child.communicate(timeout=60)
    shown = os.read(ours, 100_000)
    os.close(ours)
    assert child.returncode == 0
    assert b"B/s]" in shown
