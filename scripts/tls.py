"""Compares downloads over TLS from chatfiles and from nginx: the servers take turns on one core, h2load has another.

CPU per request is the CPU of the server's process from /proc/PID/stat. Prints the median of all rounds and the rounds.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

SIZES = {"4 KB": 4 << 10, "64 KB": 64 << 10, "1 MB": 1 << 20}
# Number of connections, and of concurrent requests on each.
PROTOCOLS = {"HTTP/1.1": (32, 1), "HTTP/2": (8, 10)}
ROUNDS, SECONDS = 5, 3
BASE = "/easemob-demo/chatdemoui/chatfiles"
NGINX = """
daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; open_file_cache max=1000;
    keepalive_requests 10000000; keepalive_timeout 300; ssl_protocols TLSv1.3;
    client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
    uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
    server {{
        listen 127.0.0.1:{port} ssl http2; root {dir}/www;
        ssl_certificate {dir}/chain.pem; ssl_certificate_key {dir}/key.pem;
    }}
}}
"""
CONFIG = """
[server]
listen = ["127.0.0.1:{clear}", "tls:127.0.0.1:{tls}"]
[tls]
certificates = [{{ chain = "{dir}/chain.pem", key = "{dir}/key.pem" }}]
[store]
path = "{dir}/data"
durability = "none"
[limits]
calls_per_second = 1000000
calls_burst = 1000000
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def await_port(port):
    for _ in range(1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    sys.exit(f"nothing listens at {port}")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(pid, url, headers, protocol):
    connections, at_once = PROTOCOLS[protocol]
    command = ["taskset", "-c", "1", "h2load", "-D", str(SECONDS), "-c", str(connections), "-m", str(at_once)]
    command += ["--h1"] if protocol == "HTTP/1.1" else []
    command += [part for header in headers for part in ("-H", header)]
    before = cpu_seconds(pid)
    said = subprocess.run(command + [url], capture_output=True, text=True, check=True).stdout
    took = cpu_seconds(pid) - before
    line = next(line for line in said.splitlines() if line.startswith("status codes:"))
    good, *others = [int(word) for word in line.replace(",", "").split() if word.isdigit()]
    if good == 0 or any(others):
        sys.exit(f"{url}: {line}")
    return good / SECONDS, took / good * 1e6


def main(program):
    with tempfile.TemporaryDirectory() as at:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
            + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
            + ["-keyout", f"{at}/key.pem", "-out", f"{at}/chain.pem"],
            check=True, stderr=subprocess.DEVNULL,
        )
        clear, tls, nginx_tls = free_port(), free_port(), free_port()
        os.mkdir(f"{at}/www")
        with open(f"{at}/chatfiles.toml", "w") as file:
            file.write(CONFIG.format(dir=at, clear=clear, tls=tls))
        with open(f"{at}/nginx.conf", "w") as file:
            file.write(NGINX.format(dir=at, port=nginx_tls))
        pinned = ["taskset", "-c", "0"]
        ours = subprocess.Popen(
            pinned + [program, "serve", "--config", f"{at}/chatfiles.toml"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        nginx = subprocess.Popen(pinned + ["nginx", "-p", at, "-e", f"{at}/error.log", "-c", f"{at}/nginx.conf"])
        try:
            for port in (clear, tls, nginx_tls):
                await_port(port)
            token = subprocess.check_output(
                [program, "token", "--config", f"{at}/chatfiles.toml", "--user", "alice"], text=True
            ).strip()
            header = f"Authorization: Bearer {token}"
            for size, length in SIZES.items():
                path = f"{at}/www/{length}"
                with open(path, "wb") as file:
                    file.write(os.urandom(length))
                answer = subprocess.check_output(
                    ["curl", "-sf", "-H", header, "-F", f"file=@{path}", f"http://127.0.0.1:{clear}{BASE}"]
                )
                uuid = json.loads(answer)["entities"][0]["uuid"]
                for protocol in PROTOCOLS:
                    servers = {
                        "chatfiles": (ours.pid, f"https://127.0.0.1:{tls}{BASE}/{uuid}", [header]),
                        "nginx": (nginx.pid, f"https://127.0.0.1:{nginx_tls}/{length}", []),
                    }
                    rounds = {name: [] for name in servers}
                    for _ in range(ROUNDS):
                        for name, server in servers.items():
                            rounds[name].append(load(*server, protocol))
                    show(size, protocol, rounds)
        finally:
            ours.terminate()
            nginx.terminate()
            ours.wait()
            nginx.wait()


def show(size, protocol, rounds):
    for name, figures in rounds.items():
        rates, costs = zip(*figures)
        spread = f"{min(costs):.1f}–{max(costs):.1f}"
        print(
            f"{size:>5}  {protocol:8}  {name:9}  {statistics.median(rates):8.0f} requests/s"
            f"  {statistics.median(costs):7.1f} ({spread}) µs of CPU a request"
        )
    ratios = [ours[1] / theirs[1] for ours, theirs in zip(rounds["chatfiles"], rounds["nginx"])]
    print(f"{size:>5}  {protocol:8}  CPU ÷ nginx {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")


main(sys.argv[1])
