"""A portal that misbehaves, and the command line as a user starts it: what is exported, logged and returned."""

import io
import signal
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cc_textfile.poll import PROBES
from cc_textfile.portal.responses import Method
from tests.certificates import loopback, served
from tests.conftest import PATIENCE, Program, environment, run
from tests.server import REFUSAL, Peer, Script, Server, channel_of, good, method_of, response, sending, then

# Each of these starts the program, most of them several times.
pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20


@pytest.fixture
def textfile(tmp_path: Path) -> Path:
    """Return the file that is written."""
    return tmp_path / "cdn.prom"


def account(url: str, textfile: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a run against the portal there, for one channel and a window on two days."""
    return (
        environment(
            CHINACACHE_USER="me",
            CHINACACHE_PASS="geheim",
            CHINACACHE_CHANNEL_IDS="47",
            CHINACACHE_URL=url,
            QUERYTIME="1440",
            CC_TEXTFILE_PATH=str(textfile),
        )
        | variables
    )


def samples(textfile: Path, prefix: str) -> list[Sample]:
    """Return the samples of a text file whose names begin so."""
    families = text_string_to_metric_families(textfile.read_text())
    return [sample for family in families for sample in family.samples if sample.name.startswith(prefix)]


def failures(textfile: Path) -> Counter[str]:
    """Return the failures that a text file shows, by reason."""
    counts: Counter[str] = Counter()
    for sample in samples(textfile, "cc_textfile_poll_failures"):
        counts[sample.labels["reason"]] += int(sample.value)
    return +counts


FAULTS: dict[str, tuple[Script, str]] = {
    "refused": (REFUSAL, "refused"),
    "401": (sending(response(b"", 401)), "status"),
    "503, and a Retry-After of 400 digits": (sending(response(b"", 503, "Retry-After: " + "9" * 400)), "status"),
    "cut JSON": (sending(response(b'{"code": 1, "totalFlux": 17, "isps": [')), "malformed"),
    "a chunk size of -5": (sending(response(b"-5\r\n{}\r\n", 200, "Transfer-Encoding: chunked")), "malformed"),
    "closed": (Peer.close, "unreachable"),
    "hangs": (Peer.hang, "timeout"),
    "drips": (then(sending(response(length=9999)), lambda peer: peer.drip(b" " * 9999)), "timeout"),
}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_fault_costs_its_own_request(fault: Script, reason: str, textfile: Path) -> None:
    """One method of one channel fails for its reason; all others are exported, and the exit status is 0."""

    def script(peer: Peer) -> None:
        if channel_of(peer) == "48" and "getIsp" in peer.target:
            fault(peer)
        else:
            good(peer)

    with Server(script) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS="47,48,49", CC_TEXTFILE_TIMEOUT="500ms")
        done = run("run", env=env)
    assert done.returncode == 0, done.stderr
    assert failures(textfile) == {reason: 1}
    assert "isp of channel 48: " in done.stderr
    down = [sample.labels for sample in samples(textfile, "cc_textfile_method_up") if not sample.value]
    assert [(labels["channel"], labels["method"]) for labels in down] == [("48", "isp")]


def numbers(peer: Peer) -> bytes:
    """Return a response all of whose numbers are that of the channel."""
    number = channel_of(peer)
    if method_of(peer) is Method.HTTP_CODE:
        return response(f'{{"success": true, "data": [{{"http_code": "200", "request_count": {number}}}]}}'.encode())
    fields = f'"Hit": {number}, "Miss": {number}' if method_of(peer) is Method.HIT_RATE else f'"totalFlux": {number}'
    return response(f'{{"code": 1, {fields}}}'.encode())


def test_no_channel_has_the_numbers_of_another(textfile: Path) -> None:
    """Interim responses, and responses that come late on a connection that seemed done, are nobody else's."""
    late: dict[Peer, bytes] = {}
    odd = [response(b"", 204), response(b"", 304), response(b"", 404), response(b"")]

    def script(peer: Peer) -> None:
        chance = zlib.crc32(peer.target.encode())
        peer.send(late.pop(peer, b""))
        if chance % 4 == 0:
            late[peer] = numbers(peer)
            peer.send(odd[chance // 4 % len(odd)])
        else:
            peer.send(response(b"", 102 + chance % 2) * (chance % 3), numbers(peer))

    channels = [str(number) for number in range(100, 200)]
    with Server(script) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS=",".join(channels), CC_TEXTFILE_CONCURRENCY="4")
        run("run", env=env)
    exported = samples(textfile, "ChinaCache_metrics_")
    assert len(exported) > len(channels)
    assert [sample for sample in exported if sample.value != int(sample.labels["channel"])] == []


@pytest.mark.parametrize("methods", ["isp", "hit_rate,isp,region,http_code"])
@pytest.mark.parametrize("doubled", ["all", "one"])
def test_a_stream_that_slips_costs_the_poll(doubled: str, methods: str, textfile: Path) -> None:
    """Where a request has two responses, the second of them late, nobody knows which response is whose."""
    peers: set[Peer] = set()

    def script(peer: Peer) -> None:
        peer.server.stopping.wait(0.01)
        peer.send(numbers(peer))
        if doubled == "all" or not peers:
            peers.add(peer)
            peer.server.stopping.wait(0.03)
            peer.send(numbers(peer))

    channels = ",".join(str(number) for number in range(100, 140))
    with Server(script) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS=channels, CC_TEXTFILE_METHODS=methods)
        done = run("run", env=env | {"CC_TEXTFILE_CONCURRENCY": "4"})
    exported = samples(textfile, "ChinaCache_metrics_")
    assert [sample for sample in exported if sample.value != int(sample.labels["channel"])] == []
    if methods == "isp":  # where methods take turns, the first response of another method may end it
        assert (done.returncode, set(failures(textfile))) == (1, {"malformed"})
        assert "more responses came than requests were made" in done.stderr


INSTEAD = {
    "a status without a body": response(b"", 503),
    "a status that never has one": b"HTTP/1.1 204 No Content\r\n\r\n",
    "the last response of a connection": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("then", ["together with the next", *INSTEAD])
def test_a_stream_that_slips_without_a_trace_at_its_end_costs_the_poll(then: str, textfile: Path) -> None:
    """The second response comes with the next one in one piece, or the right one cannot be taken for another's."""
    sent: dict[Peer, list[bytes]] = {}

    def script(peer: Peer) -> None:
        responses = sent.setdefault(peer, [])
        responses.append(numbers(peer))
        if len(responses) != 2:
            peer.server.stopping.wait(0.02)
            peer.send(responses[-1])
        elif then == "together with the next":
            peer.send(b"".join(responses))
        else:
            peer.send(responses[0])
            peer.server.stopping.wait(0.02)
            peer.send(INSTEAD[then])

    channels = ",".join(str(number) for number in range(100, 120))
    with Server(script) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS=channels, CC_TEXTFILE_METHODS="isp")
        done = run("run", env=env | {"CC_TEXTFILE_CONCURRENCY": "4"})
    assert done.returncode == 1
    assert "more responses came than requests were made" in done.stderr
    assert samples(textfile, "ChinaCache_metrics_") == []


def test_a_second_response_that_tls_has_decrypted_costs_the_poll(textfile: Path, tmp_path: Path) -> None:
    """It lies in one record behind the first, which fills the reader to the byte: no system call shows it."""
    tls, bundle = loopback(tmp_path)
    first = '{"code": 1, "totalFlux": 100}'

    def script(peer: Peer) -> None:
        if channel_of(peer) == "100":
            padding = io.DEFAULT_BUFFER_SIZE - len(response(b" " * 8000)) + 8000 - len(first)
            peer.send(response(f"{first}{' ' * padding}".encode()) + response(b'{"code": 1, "totalFlux": 666}'))
        else:
            peer.close()

    with Server(script, tls=tls) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS="100,101", CHINACACHE_CA_FILE=str(bundle))
        done = run("run", env=env | {"CC_TEXTFILE_METHODS": "isp", "CC_TEXTFILE_CONCURRENCY": "1"})
    assert done.returncode == 1
    assert "more responses came than requests were made" in done.stderr
    assert samples(textfile, "ChinaCache_metrics_") == []


def test_a_line_break_hides_no_second_response(textfile: Path, tmp_path: Path) -> None:
    """Over TLS, a line break after a body is a record of its own, and is read before what comes after it."""
    tls, bundle = loopback(tmp_path)

    def script(peer: Peer) -> None:
        for _ in range(2 if channel_of(peer) == "100" else 1):
            peer.send(numbers(peer))
            peer.send(b"\r\n")
            peer.server.stopping.wait(0.03)

    with Server(script, tls=tls) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS="100,101,102", CHINACACHE_CA_FILE=str(bundle))
        done = run("run", env=env | {"CC_TEXTFILE_METHODS": "isp", "CC_TEXTFILE_CONCURRENCY": "1"})
    assert (done.returncode, set(failures(textfile))) == (1, {"malformed"})
    assert samples(textfile, "ChinaCache_metrics_") == []


def test_a_stream_that_slips_costs_a_poll_that_ends_at_its_deadline(textfile: Path) -> None:
    """The response that shows it comes after the deadline."""

    def script(peer: Peer) -> None:
        for _ in range(2 if channel_of(peer) == "100" else 1):
            peer.server.stopping.wait(0.1)
            peer.send(numbers(peer))

    channels = ",".join(str(number) for number in range(100, 140))
    with Server(script) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS=channels, CC_TEXTFILE_METHODS="isp")
        done = run("run", env=env | {"CC_TEXTFILE_CONCURRENCY": "1", "CC_TEXTFILE_DEADLINE": "1s"})
    assert (done.returncode, set(failures(textfile))) == (1, {"malformed", "timeout"})
    assert samples(textfile, "ChinaCache_metrics_") == []


def test_what_servers_send_too_much_of_is_no_second_response(textfile: Path) -> None:
    """Line breaks between responses, and a body of a status that has none, cost no other channel its numbers."""

    def script(peer: Peer) -> None:
        several = b"\r\n" + numbers(peer) + b"\r\n"
        peer.send(several if channel_of(peer) != "104" else response(b"", 204) + b"No Content")

    channels = [str(number) for number in range(100, 120)]
    with Server(script) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS=",".join(channels), CC_TEXTFILE_METHODS="isp")
        done = run("run", env=env | {"CC_TEXTFILE_CONCURRENCY": "2"})
    assert done.returncode == 0
    assert {each.labels["channel"] for each in samples(textfile, "ChinaCache_metrics_")} == {*channels} - {"104"}


# --- Size ------------------------------------------------------------------------------------------------------------

ROWS = b'{"isp": "\xe4\xb8\xad\xe5\x9b\xbd", "fluxRatio": 0.1},' * (MEBIBYTE // 41)


def bomb(content: bytes, times: int) -> bytes:
    """Return gzip that unpacks to the content so many times over, without packing it more than once."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = pack.compress(content) + pack.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * times + b"\x03\0"  # nobody gets as far as the checksum


def flood(start: bytes, piece: bytes = ROWS) -> Script:
    """Return a script that sends a gigabyte."""

    def script(peer: Peer) -> None:
        peer.send(start)
        for _ in range(1024 * MEBIBYTE // len(piece)):
            peer.send(piece)
        peer.close()

    return script


CHUNKED = "Transfer-Encoding: chunked"
FLOODS: dict[str, tuple[Callable[[], Script], str]] = {
    "JSON": (lambda: flood(response(b'{"code": 1, "isps": [', length=1024 * MEBIBYTE)), "malformed"),
    "without a length": (lambda: flood(b'HTTP/1.1 200 OK\r\n\r\n{"code": 1, "isps": ['), "malformed"),
    "chunks": (lambda: flood(response(b"", 200, CHUNKED), b"%x\r\n%s\r\n" % (len(ROWS), ROWS)), "malformed"),
    "a chunk size of -1": (lambda: flood(response(b"-1\r\n", 200, CHUNKED)), "malformed"),
    "a chunk size of 1 GB": (lambda: flood(response(b"40000000\r\n", 200, CHUNKED)), "malformed"),
    "interim responses": (lambda: flood(b"", response(b"", 103) * 9999), "malformed"),
    "gzip of 1 GB": (
        lambda: sending(response(bomb(b" " * MEBIBYTE, 1024), 200, "Content-Encoding: gzip")), "malformed",
    ),
    "gzip in gzip": (
        lambda: sending(response(bomb(bomb(b" " * MEBIBYTE, 1024), 99), 200, "Content-Encoding: gzip, gzip")),
        "malformed",
    ),
    "a redirect": (lambda: flood(response(b"", 302, "Location: /elsewhere", length=1024 * MEBIBYTE)), "status"),
    "an error page": (lambda: flood(response(b"", 500, length=1024 * MEBIBYTE)), "status"),
}  # fmt: skip


@pytest.mark.parametrize("case", FLOODS)
def test_a_response_without_end_takes_little_memory(case: str, textfile: Path) -> None:
    """Four at once are read in a process with a memory limit, and each is a failure of its kind."""
    script, reason = FLOODS[case]
    limit = ("prlimit", f"--data={160 * MEBIBYTE}", "--")
    with Server(script()) as portal:
        done = run("run", env=account(portal.url, textfile, CC_TEXTFILE_TIMEOUT="1m"), before=limit)
    assert done.returncode == 1, done.stderr
    assert failures(textfile) == {reason: 4}, done.stderr
    assert "MemoryError" not in done.stderr


@pytest.mark.parametrize("status", [200, 500])
def test_failures_take_little_memory(status: int, textfile: Path) -> None:
    """Of a thousand pages of 200 KB only the words of the failures are kept."""
    channels = ",".join(map(str, range(250)))
    limit = ("prlimit", f"--data={160 * MEBIBYTE}", "--")
    with Server(sending(response(b"x" * 200_000, status))) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS=channels, CC_TEXTFILE_CONCURRENCY="4")
        done = run("run", env=env | {"CC_TEXTFILE_DEADLINE": "5m"}, before=limit)
    assert failures(textfile) == {"malformed" if status == 200 else "status": 1000}, done.stderr


# --- Time, descriptors and names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hanging", "files"), [(True, 20), (False, 15), (False, 16)])
def test_the_file_is_written_when_few_files_can_be_open(
    hanging: bool,  # noqa: FBT001
    files: int,
    textfile: Path,
    tmp_path: Path,
) -> None:
    """Connections that hang, or are kept, take all descriptors; they are closed before ledger and file need some."""

    def script(peer: Peer) -> None:
        if hanging and channel_of(peer) != "47":
            peer.hang()
        good(peer)

    channels = ",".join(str(number) for number in range(47, 97))
    with Server(script) as portal:
        env = account(portal.url, textfile, CHINACACHE_CHANNEL_IDS=channels, CC_TEXTFILE_DEADLINE="2s")
        env["CC_TEXTFILE_LEDGER"] = str(tmp_path / "ledger.sqlite")
        for _ in range(2):
            done = run("run", env=env, before=("prlimit", f"--nofile={files}", "--"))
            assert done.returncode == 0, done.stderr
    assert samples(textfile, "ChinaCache_metrics_hit_miss_total")


@pytest.mark.parametrize("script", [FAULTS["hangs"][0], FAULTS["drips"][0]], ids=["hangs", "drips"])
def test_the_deadline_ends_the_process(script: Script, textfile: Path) -> None:
    """The file is written and the process ends, though each request has ten minutes."""
    with Server(script) as portal:
        env = account(portal.url, textfile, CC_TEXTFILE_TIMEOUT="10m", CC_TEXTFILE_DEADLINE="500ms")
        done = run("run", env=env)
    assert done.returncode == 1
    assert failures(textfile) == {"timeout": 4}


LOOK_UPS_HANG = """
import socket, sys, threading
real = socket.getaddrinfo
def hang(name, *args, **kwargs):
    if name.endswith(b".invalid"):
        print("looking up", name.decode(), file=sys.stderr, flush=True)
        threading.Event().wait()
    return real(name, *args, **kwargs)
socket.getaddrinfo = hang
from cc_textfile.__main__ import main
main()
"""
"""The program on a host whose name server does not respond; that cannot be had on loopback."""


def test_a_look_up_that_hangs_does_not_delay_the_end(textfile: Path) -> None:
    """With a name server that never responds, a poll ends at its deadline, and the process with it."""
    env = account("http://portal.invalid", textfile, CC_TEXTFILE_TIMEOUT="10m", CC_TEXTFILE_DEADLINE="500ms")
    program = (sys.executable, "-c", LOOK_UPS_HANG, "run")
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert failures(textfile) == {"timeout": 4}


def test_sigterm_ends_a_push_whose_look_up_hangs(textfile: Path, start: Callable[..., Program]) -> None:
    """A push that waits for a name server is stopped like anything else."""
    with Server(good) as portal:
        env = account(portal.url, textfile, PUSHGATEWAY="http://gateway.invalid:9091", CC_TEXTFILE_TIMEOUT="10m")
        env["CC_TEXTFILE_PUSHGATEWAY_MODE"] = "always"
        program = start(sys.executable, "-c", LOOK_UPS_HANG, "run", "--interval", "1h", env=env)
        program.line("looking up gateway.invalid")
        assert program.end(signal.SIGTERM) == 0
    assert "Traceback" not in program.said


# --- The account, and who the portal is ------------------------------------------------------------------------------


def test_an_account_that_is_refused_is_logged_once(textfile: Path) -> None:
    """The operator is told what was not requested and what to check; the file has no numbers, and the exit is 1."""
    with Server(REFUSAL) as portal:
        channels = ",".join(map(str, range(50)))
        done = run("run", env=account(portal.url, textfile, CHINACACHE_CHANNEL_IDS=channels))
        assert len(portal.targets) == PROBES
    assert done.returncode == 1
    assert failures(textfile) == {"refused": 200}
    (line,) = [line for line in done.stderr.splitlines() if "refuses the account" in line]
    assert "user me" in line
    assert line.endswith("(requests not made, so that the account is not locked: 192)")
    assert "check CHINACACHE_USER and the password" in line
    assert not samples(textfile, "ChinaCache_metrics")


def test_nothing_in_the_environment_turns_verifying_off(textfile: Path) -> None:
    """An empty bundle variable is none, and Python's and curl's switches are not ours."""
    switches = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "", "PYTHONHTTPSVERIFY": "0", "SSL_CERT_FILE": "/dev/null"}
    with Server(good, tls=served(trustme.CA())) as portal:
        done = run("run", env=account(portal.url, textfile) | switches)
        assert portal.targets == []
    assert done.returncode == 1
    assert failures(textfile) == {"unreachable": 4}
    assert "its authority is not trusted here" in done.stderr


@pytest.mark.parametrize("variable", ["CHINACACHE_CA_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_of_ones_own(variable: str, textfile: Path, tmp_path: Path) -> None:
    """It is named by --ca-file, or for all programs that use requests by the environment."""
    tls, bundle = loopback(tmp_path)
    with Server(good, tls=tls) as portal:
        done = run("run", env=account(portal.url, textfile) | {variable: str(bundle)})
    assert done.returncode == 0, done.stderr
    assert failures(textfile) == {}


def test_a_proxy_that_cannot_be_one_ends_with_2(textfile: Path) -> None:
    """It is named, and nothing is polled."""
    done = run("run", env=account("https://portal.invalid", textfile) | {"https_proxy": "gopher://proxy:70"})
    assert done.returncode == 2
    assert "the proxy of the environment" in done.stderr
    assert not textfile.exists()
