"""Runs the attacks of scripts/slow one after the other and prints a table.

The attackers connect from 127.0.0.1, which is exempt from the limits, so that all of them get in; other settings have
their defaults. The ordinary client connects from 127.0.0.2. Ten times per second, it downloads a 4 KB file over a new
connection, and another one over a kept connection.
"""

import multiprocessing
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time

PROGRAM = sys.argv[1]
SECONDS = 20
FILES = "/easemob-demo/chatdemoui/chatfiles/"
CONFIG = """
[limits]
exempt = ["127.0.0.1/32"]
[[tenant]]
org = "easemob-demo"
app = "chatdemoui"
download_auth = "secret" # slowhttptest sends no token
"""


def request(path):
    return ("GET %s HTTP/1.1\r\nHost: files.test\r\n\r\n" % path).encode()


def read_answer(connection):
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += receive(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(head[:40])
    left = int(re.search(rb"content-length: (\d+)", head).group(1)) - len(body)
    while left > 0:
        left -= len(receive(connection))


def receive(connection):
    piece = connection.recv(1 << 16)
    if not piece:
        raise ConnectionError("closed")
    return piece


class Ordinary:
    """The ordinary client: measures latencies over new connections and over a kept one. A failure counts as 10 s."""

    def __init__(self, address, path):
        self.address, self.path = address, path
        self.new, self.kept, self.failures = [], [], 0
        self.connection = self.connect()
        self.stop = threading.Event()

    def connect(self):
        return socket.create_connection(self.address, timeout=10, source_address=("127.0.0.2", 0))

    def time(self, latencies, call):
        begun = time.monotonic()
        try:
            call()
        except OSError:
            self.failures += 1
        latencies.append(time.monotonic() - begun)

    def once_new(self):
        with self.connect() as connection:
            connection.sendall(request(self.path))
            read_answer(connection)

    def once_kept(self):
        try:
            self.connection.sendall(request(self.path))
            read_answer(self.connection)
        except OSError:
            self.connection = self.connect()
            raise

    def run(self, seconds):
        self.new, self.kept, self.failures = [], [], 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.time(self.new, self.once_new)
            self.time(self.kept, self.once_kept)
            time.sleep(0.1)

    def told(self):
        def of(latencies):
            ordered = sorted(latencies)
            p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
            return "%.1f / %.1f / %.1f" % (p50 * 1e3, p99 * 1e3, ordered[-1] * 1e3)

        return of(self.new), of(self.kept), self.failures


def rss_mb(pid):
    with open("/proc/%d/status" % pid) as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024


def silent(address, count, ready):
    held = []
    for _ in range(count):
        held.append(socket.create_connection(address, timeout=30))
    ready.set()
    time.sleep(SECONDS + 30)


def readers(address, count, path, ready):
    held = []
    for _ in range(count):
        connection = socket.create_connection(address, timeout=30)
        connection.sendall(request(path))
        held.append(connection)
    ready.set()
    while True:
        begun = time.monotonic()
        for connection in held:
            connection.recv(1)
        time.sleep(max(0.0, 1 - (time.monotonic() - begun)))


class Server:
    def __init__(self, directory):
        store, config = os.path.join(directory, "store"), os.path.join(directory, "config.toml")
        with open(config, "w") as file:
            file.write(CONFIG)
        command = [PROGRAM, "--config", config, "--store-path", store, "--durability", "none",
                   "--free-space-min-bytes", "0"]
        self.process = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.address = ("127.0.0.1", int(self.process.stdout.readline().rsplit(":", 1)[1]))
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        token = subprocess.run([*command, "token", "--user", "alice"], capture_output=True, text=True, check=True)
        self.token = token.stdout.strip()

    def upload(self, size):
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + os.urandom(size)
        body += b"\r\n--b--\r\n"
        with socket.create_connection(self.address) as connection:
            connection.sendall((
                "POST %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nConnection: close\r\nContent-Length: %d\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\n\r\n" % (FILES[:-1], self.token, len(body))
            ).encode() + body)
            answer = b""
            while piece := connection.recv(1 << 16):
                answer += piece
        return FILES + re.search(rb'"uuid":"([^"]+)"', answer).group(1).decode()


def measure(crowd):
    """Runs one attack against a new server."""
    with tempfile.TemporaryDirectory() as directory:
        server = Server(directory)
        try:
            small, large = server.upload(4096), server.upload(9_000_000)
            ordinary = Ordinary(server.address, small)
            pid = server.process.pid
            ordinary.run(5)
            before, before_mb = ordinary.told(), rss_mb(pid)
            end = crowd(server.address, large)
            rss, stop = [rss_mb(pid)], threading.Event()

            def watch():
                while not stop.wait(0.5):
                    rss.append(rss_mb(pid))

            watcher = threading.Thread(target=watch)
            watcher.start()
            ordinary.run(SECONDS)
            during = ordinary.told()
            end()
            stop.set()
            watcher.join()
            time.sleep(5)
            ordinary.run(2)
            return before, during, (before_mb, max(rss), rss_mb(pid)), ordinary.failures
        finally:
            server.process.terminate()
            server.process.wait()


def slowhttptest(*arguments):
    def begin(address, large):
        url = "http://%s:%d%s" % (*address, FILES[:-1] if "-B" in arguments else large)
        process = subprocess.Popen(
            ["slowhttptest", "-c", "1000", "-r", "500", "-l", str(SECONDS), "-v", "0", "-u", url, *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(2)
        return lambda: process.wait(120)

    return begin


def crowd(target, *arguments):
    def begin(address, large):
        ready = multiprocessing.Event()
        extra = [large] if target is readers else []
        process = multiprocessing.Process(target=target, args=(address, *arguments, *extra, ready), daemon=True)
        process.start()
        if not ready.wait(60):
            print("not all attackers got in", file=sys.stderr)

        def end():
            process.kill()
            process.join()

        return end

    return begin


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("| crowd | ms before, new connection | during | ms before, kept connection | during | failed | VmRSS MB before, at most, after |")
    print("|---|---|---|---|---|---|---|")
    for name, begin in [
        ("slow heads: `slowhttptest -H -c 1000`", slowhttptest("-H", "-i", "5")),
        ("slow bodies: `-B`", slowhttptest("-B", "-i", "5", "-s", "8192")),
        ("many ranges: `-R`", slowhttptest("-R", "-a", "5", "-b", "2000")),
        ("slow reading: `-X`", slowhttptest("-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "1")),
        ("1,000 that read a byte a second of 9 MB", crowd(readers, 1000)),
        ("9,900 that send nothing", crowd(silent, 9900)),
        ("10,000 that send nothing: all places but one", crowd(silent, 10_000)),
    ]:
        if len(sys.argv) > 2 and sys.argv[2] not in name:
            continue
        before, during, (low, high, after), failed_after = measure(begin)
        failed = "%d" % during[2] + (", %d after" % failed_after if failed_after else "")
        print("| %s | %s | %s | %s | %s | %s | %.0f, %.0f, %.0f |" % (
            name, before[0], during[0], before[1], during[1], failed, low, high, after), flush=True)


main()
