"""Servers that begin with a configuration. `started.py KIND LEAF_PORT` starts one on a free port, prints the port, and ends
what it has started when it is told to. KIND is gunicorn: three processes accept; php: PHP's own server, the same; or fpm:
nginx in front of PHP's processes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
KIND, LEAF = sys.argv[1:]

NGINX = """
daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 512; }}
http {{
  access_log off; keepalive_requests 100000;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port} backlog=256;
    location / {{
      fastcgi_pass 127.0.0.1:{inner};
      fastcgi_param SCRIPT_FILENAME {here}/server.php;
      fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $request_uri;
      fastcgi_param QUERY_STRING $query_string; fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param CONTENT_TYPE $content_type;
    }}
  }}
}}
"""

FPM = """
[global]
error_log = {folder}/fpm.log
daemonize = no
[www]
{owner}
listen = 127.0.0.1:{inner}
pm = static
pm.max_children = 8
env[LEAF] = {leaf}
clear_env = no
"""


def free():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait(port):
    for _ in range(1000):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
    sys.exit("%s does not listen on %d" % (KIND, port))


def start(folder, port, inner):
    environment = dict(os.environ, LEAF=LEAF)
    if KIND == "gunicorn":
        at = ["--bind", "127.0.0.1:%d" % port, "--chdir", HERE, "--worker-tmp-dir", folder]
        quiet = ["--log-level", "error", "--workers", "3", "--timeout", "90"]
        commands = [["/usr/bin/python3", "-B", "-m", "gunicorn", *at, *quiet, "wsgi:app"]]
    elif KIND == "php":
        environment["PHP_CLI_SERVER_WORKERS"] = "3"
        commands = [["php", "-q", "-S", "127.0.0.1:%d" % port, os.path.join(HERE, "server.php")]]
    else:
        root = os.geteuid() == 0
        names = dict(folder=folder, port=port, inner=inner, here=HERE, leaf=LEAF)
        names.update(user="user root;" if root else "", owner="user = root\ngroup = root" if root else "")
        for name, text in (("nginx.conf", NGINX), ("fpm.conf", FPM)):
            with open(os.path.join(folder, name), "w") as file:
                file.write(text.format(**names))
        versions = sorted(name for name in os.listdir("/usr/sbin") if name.startswith("php-fpm"))
        commands = [
            ["/usr/sbin/" + versions[-1], "-n", "-F", "-y", folder + "/fpm.conf"] + ["-R"] * root,
            ["/usr/sbin/nginx", "-e", folder + "/error.log", "-c", folder + "/nginx.conf"],
        ]
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return [subprocess.Popen(command, env=environment, **silent) for command in commands]


def end(*_):
    raise SystemExit


signal.signal(signal.SIGTERM, end)
with tempfile.TemporaryDirectory() as folder:
    port, inner, started = free(), free(), []
    try:
        started = start(folder, port, inner)
        wait(port)
        if KIND == "fpm":
            wait(inner)
        print(port, flush=True)
        signal.pause()
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
