"""The other servers that the main job is measured beside, from Debian's packages, with private configurations."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile

from harness import DYNAMIC_POOL, WORKERS, Failed, Server, cclient, floor, ours, wait_for


def install(*packages):
    """Installs packages without starting any service."""
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    ours_alone = not policy.exists()
    if ours_alone:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, **quiet)
    finally:
        if ours_alone:
            policy.unlink()


def need(path, *packages):
    """Whether a file of these packages is there, installing them if that is possible."""
    if not pathlib.Path(path).exists() and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(packages)}", flush=True)
        install(*packages)
    return pathlib.Path(path).exists()


def version(*command):
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return (done.stdout.strip().splitlines() or ["?"])[0]


# ---- a server that says nothing when it is ready -----------------------------------------------


class Quiet(Server):
    """A server that is ready when it accepts on a port that we chose and has so many children called `comm`."""

    def __init__(self, command, port, comm, children):
        self.port_wanted, self.comm, self.children_wanted = port, comm, children
        super().__init__(command, r"(?P<port>\d+)")
        self.line = " ".join(map(str, command))

    def _first_line(self, timeout):
        wait_for(f"{self.comm} to have {self.children_wanted} processes",
                 lambda: self.process.poll() is not None or self.is_ready(), seconds=timeout)
        return f"{self.port_wanted}\n"

    def is_ready(self):
        if len(self.children(self.comm)) < self.children_wanted:
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port_wanted)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def place():
    """A directory that a server which gives up root can read."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def serving(server):
    try:
        yield server
    finally:
        server.stop()


# ---- the servers -------------------------------------------------------------------------------


APACHE_MODULES = pathlib.Path("/usr/lib/apache2/modules")


@contextlib.contextmanager
def apache(keep_alive=False, workers=WORKERS, prefix=()):
    """Apache's prefork with mod_echo, which answers each line with itself until the client goes."""
    with place() as where:
        port = free_port()
        (where / "conf").write_text(f"""
ServerRoot {where}
LoadModule mpm_prefork_module {APACHE_MODULES}/mod_mpm_prefork.so
LoadModule authz_core_module {APACHE_MODULES}/mod_authz_core.so
LoadModule echo_module {APACHE_MODULES}/mod_echo.so
ServerName localhost
Listen 127.0.0.1:{port}
ListenBacklog 65535
PidFile {where}/pid
DefaultRuntimeDir {where}
ErrorLog {where}/error.log
DocumentRoot {where}
User www-data
Group www-data
ProtocolEcho On
Timeout 60
StartServers {workers}
MinSpareServers {workers}
MaxSpareServers {workers}
ServerLimit {workers}
MaxRequestWorkers {workers}
MaxConnectionsPerChild 0
""")
        with serving(Quiet([*prefix, "/usr/sbin/apache2", "-f", where / "conf", "-DFOREGROUND"], port, "apache2",
                           workers)) as server:
            yield server


PERL = r"""
package Lines;
use base qw(Net::Server::PreFork);

sub process_request {
    my $self = shift;
    while (my $line = <STDIN>) {
        my ($user, $message) = $line =~ /^([^:\n]+):(.*)\n/ or return;
        print qq(server $$ recvd message "$message" from user $user\n);
        return unless KEEP;
    }
}

$0 = "perl-lines";
Lines->run(host => "127.0.0.1", port => PORT, proto => "tcp", listen => 65535, log_level => 0, ipv => 4,
           min_servers => WORKERS, max_servers => WORKERS + 1, min_spare_servers => 0, max_spare_servers => WORKERS,
           max_requests => 1_000_000_000, serialize => "none", no_client_stdout => 0);
"""


@contextlib.contextmanager
def perl(keep_alive=False, workers=WORKERS, prefix=()):
    """Perl's Net::Server::PreFork, with the same reply."""
    with place() as where:
        port = free_port()
        text = PERL
        for word, value in (("KEEP", int(keep_alive)), ("PORT", port), ("WORKERS", workers)):
            text = re.sub(rf"\b{word}\b", str(value), text)
        (where / "lines.pl").write_text(text)
        with serving(Quiet([*prefix, "/usr/bin/perl", where / "lines.pl"], port, "perl-lines", workers)) as server:
            yield server


NGINX_JS = """
let text = '';
function read(s) {
    text = '';
    s.on('upload', function (data, flags) {
        text += data;
        if (text.includes('\\n') || flags.last)
            s.done();
    });
}
function reply(s) {
    const line = text.slice(0, text.indexOf('\\n')), colon = line.indexOf(':');
    return 'server ' + s.variables.pid + ' recvd message "' + line.slice(colon + 1) + '" from user '
        + line.slice(0, colon) + '\\n';
}
export default { read, reply };
"""


@contextlib.contextmanager
def nginx(keep_alive=False, workers=os.cpu_count(), prefix=()):
    """nginx's stream module: a process for each processor, each with all its connections in one loop. A few lines of
    njs make the same reply; it closes after it."""
    with place() as where:
        port = free_port()
        (where / "lines.js").write_text(NGINX_JS)
        (where / "conf").write_text(f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
load_module /usr/lib/nginx/modules/ngx_stream_js_module.so;
user www-data;
worker_processes {workers};
worker_rlimit_nofile 16384;
daemon off;
pid {where}/pid;
error_log {where}/error.log error;
events {{ worker_connections 8192; }}
stream {{
    js_import lines from {where}/lines.js;
    js_set $reply lines.reply;
    server {{
        listen 127.0.0.1:{port} backlog=65535;
        js_preread lines.read;
        preread_buffer_size 64k;
        return $reply;
    }}
}}
""")
        command = [*prefix, "/usr/sbin/nginx", "-e", where / "error.log", "-p", where, "-c", where / "conf"]
        with serving(Quiet(command, port, "nginx", workers)) as server:
            yield server


class Peer:
    """A server by name: how it is started, and how it has to be asked."""

    def __init__(self, name, start, comm, options=(), keeps=True, respawns=True):
        self.name, self.start, self.comm, self.options = name, start, comm, options
        self.keeps, self.respawns = keeps, respawns

    def ask(self, server, connections, *options):
        report = cclient(server.port, connections, *self.options, *options)
        if report["errors"]:
            raise Failed(f"{self.name}: {report['errors']} errors: {report['errors_by_kind']}")
        return report


OURS = Peer("Holdfast", lambda keep_alive=False, **options: ours(**options), "worker")
DYNAMIC = Peer("Holdfast, 5 to 1000", lambda **options: ours(pool=DYNAMIC_POOL, **options), "worker")
FLOOR = Peer("bare floor", floor, "floor", respawns=False)
APACHE = Peer("Apache prefork, mod_echo", apache, "apache2", options=("--echo",))
NET_SERVER = Peer("Perl Net::Server::PreFork", perl, "perl-lines")
NGINX = Peer("nginx stream, njs", nginx, "nginx", keeps=False)


def peers():
    """The floor, and of the others those that can be had here."""
    found = [FLOOR]
    if os.geteuid() != 0:
        print("Apache and nginx cannot be had: it takes root to run them as www-data", flush=True)
    elif need(APACHE_MODULES / "mod_echo.so", "apache2-bin"):
        found.append(APACHE)
    if need("/usr/share/perl5/Net/Server/PreFork.pm", "libnet-server-perl"):
        found.append(NET_SERVER)
    if os.geteuid() == 0 and need("/usr/lib/nginx/modules/ngx_stream_js_module.so", "nginx-light", "libnginx-mod-stream",
                                  "libnginx-mod-stream-js"):
        found.append(NGINX)
    return found
