"""A RabbitMQ node of one's own, on free ports, in a folder of its own, with an epmd of its own."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.support.certificates import Certificates
from tests.support.leftovers import LASTING
from tests.support.waiting import wait_until

BIN = Path("/usr/lib/rabbitmq/bin")
"""Where Debian keeps the true scripts; those in /usr/sbin switch to the user rabbitmq."""

INSTALL = ("install", "--yes", "--no-install-recommends", "rabbitmq-server")
HOST = "127.0.0.1"
BOOT = 60.0
STOP = 30.0
# Without the management plugin, virtual hosts come from RabbitMQ's own functions: many cost as little as one.
TLS = """
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/server.pem
ssl_options.keyfile = {folder}/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_cert_login_from = common_name
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
auth_mechanisms.3 = EXTERNAL
"""
ADD_VHOSTS = """[begin
    rabbit_vhost:add(Name, <<"tests">>),
    rabbit_auth_backend_internal:set_permissions(<<"guest">>, Name, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)
end || Name <- [{names}]]."""
ADD_USER = """
    rabbit_auth_backend_internal:add_user({name}, {password}, <<"tests">>),
    rabbit_auth_backend_internal:set_permissions({name}, {vhost}, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)."""


class Missing(Exception):
    """RabbitMQ isn't installed, and can't be."""


def ensure_installed() -> None:
    """Installs RabbitMQ where it is missing, if this process may.

    Raises:
        Missing: it isn't there.
    """
    if (BIN / "rabbitmq-server").exists():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"no {BIN}/rabbitmq-server and no right to install it: apt-get install rabbitmq-server")
    if not _apt(*INSTALL):
        _apt("update")
        _apt(*INSTALL)
    if not (BIN / "rabbitmq-server").exists():
        raise Missing("apt-get install rabbitmq-server failed")


class Epmd:
    """The daemon by which nodes find each other, on a port of its own."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers; starting it again does nothing."""
        if self._process is None:
            env = {"PATH": os.environ["PATH"], "ERL_EPMD_ADDRESS": HOST}
            self._process = _run(["epmd", "-port", str(self.port)], env, Path(os.devnull))
            wait_until(lambda: _answers(self.port), BOOT, "epmd answers")

    def close(self) -> None:
        """Kills it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Node:
    """One node. It keeps its data and its ports over `stop` or `kill` and `start`, until `close`.

    Args:
        folder: where it keeps everything; made if absent.
        certificates: with them it listens for TLS too. A client must show a certificate there, which may also say
            who it is (SASL EXTERNAL).
        epmd: shared with other nodes, and closed by whoever has made it; None for one of its own.
        cookie: the folder of the Erlang cookie, which nodes of a cluster share; None for `folder`.
        lasting: it serves several tests, which may stop and start it.
    """

    def __init__(
        self,
        folder: Path,
        certificates: Certificates | None = None,
        *,
        epmd: Epmd | None = None,
        cookie: Path | None = None,
        lasting: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificates = certificates
        self._cookie = cookie or folder
        self.port, self.tls_port, self._dist_port = free_ports(3)
        self.name = f"bw{self.port}@localhost"
        self._epmd = epmd or Epmd()
        self._own_epmd = epmd is None
        self._lasting = lasting
        self._server: subprocess.Popen[bytes] | None = None
        plugins = "rabbitmq_auth_mechanism_ssl" if certificates else ""
        (folder / "enabled_plugins").write_text(f"[{plugins}].\n")
        self.configure()

    def configure(self, *lines: str) -> None:
        """Writes the node's rabbitmq.conf, read when it starts."""
        tls = TLS.format(port=self.tls_port, folder=self.certificates.folder) if self.certificates else ""
        text = "\n".join(["disk_free_limit.absolute = 1MB", tls, *lines])
        (self.folder / "rabbitmq.conf").write_text(f"{text}\n")

    def url(self, vhost: str = "") -> str:
        """For kombu: `amqp://…`, of the virtual host, or of the default one."""
        return f"amqp://guest:guest@{HOST}:{self.port}/{vhost}"

    def tls_url(self, vhost: str = "") -> str:
        """For busworker: `amqps://…`, with the authority and the client's certificate; kombu knows no such options."""
        assert self.certificates is not None, "the node has no certificates"
        ca, certificate, key = self.certificates.client
        options = f"cacertfile={ca}&certfile={certificate}&keyfile={key}"
        return f"amqps://guest:guest@localhost:{self.tls_port}/{vhost}?{options}"

    @property
    def pid(self) -> int:
        """The Erlang VM's."""
        assert self._server is not None, "the node doesn't run"
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether it has been started and neither stopped nor killed since."""
        return self._server is not None

    @property
    def log(self) -> str:
        """All that the node has logged."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.rglob("*.log")))

    def start(self) -> None:
        """Returns once it takes connections."""
        self.launch()
        self.wait_booted()

    def launch(self) -> None:
        """Starts it, and doesn't wait."""
        self._epmd.start()
        self._server = _run([str(BIN / "rabbitmq-server")], self._env(), self._output)
        if self._lasting:
            LASTING.add(self._server.pid)

    def wait_booted(self) -> None:
        """Returns once it takes connections."""
        wait_until(self._booted, BOOT, lambda: f"RabbitMQ boots\n{self._output.read_text()}")

    def stop(self) -> None:
        """An orderly stop: TERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill -9."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stops its clock: connections stay, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """The end of `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def add_vhosts(self, *names: str) -> None:
        """Makes virtual hosts, all open to guest. About 0.7 s, however many."""
        self.ctl("eval", ADD_VHOSTS.format(names=", ".join(map(_binary, names))))

    def add_user(self, name: str, password: str, vhost: str) -> None:
        """Makes a user who may do everything in a virtual host. About 0.7 s."""
        names = {"name": _binary(name), "password": _binary(password), "vhost": _binary(vhost)}
        self.ctl("eval", ADD_USER.format(**names))

    def ctl(self, *args: str) -> str:
        """What `rabbitmqctl` says. About 0.5 s."""
        command = [str(BIN / "rabbitmqctl"), "--node", self.name, "--quiet", *args]
        done = subprocess.run(command, env=self._env(), capture_output=True, text=True, timeout=BOOT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        """Nothing of it runs afterwards; the folder stays."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
            self.stop()
        if self._own_epmd:
            self._epmd.close()

    def _end(self, number: signal.Signals) -> None:
        assert self._server is not None, "the node doesn't run"
        self._server.send_signal(number)
        try:
            self._server.wait(STOP)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def _booted(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, f"RabbitMQ ended while booting:\n{self._output.read_text()}"
        return _speaks_amqp(self.port)

    @property
    def _output(self) -> Path:
        return self.folder / "output"

    def _env(self) -> dict[str, str]:
        foreign = ("RABBITMQ_", "ERL_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return kept | {
            "HOME": str(self._cookie),  # the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            # The script then becomes the Erlang VM instead of waiting for it: our signals reach the node.
            "RUNNING_UNDER_SYSTEMD": "true",
        }


def _run(command: list[str], env: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("ab") as told:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],  # even a killed test run leaves no node
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            start_new_session=True,
        )


def free_ports(number: int) -> list[int]:
    """Ports nobody listens on, from below the range that Linux gives to outgoing connections."""
    found: list[int] = []
    while len(found) < number:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
    return found


def _binary(text: str) -> str:
    """A text as an Erlang binary of its UTF-8 bytes."""
    return f"<<{','.join(map(str, text.encode()))}>>"


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _speaks_amqp(port: int) -> bool:
    """Whether the protocol header is answered by Connection.Start (AMQP 0-9-1, 2.2.4)."""
    with socket.socket() as probe:
        probe.settimeout(5)
        try:
            probe.connect((HOST, port))
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return probe.recv(1) == b"\x01"
        except OSError:
            return False


def _apt(*command: str) -> bool:
    # RUNLEVEL: as in single-user mode, the package then starts no service of its own.
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    done = subprocess.run(["apt-get", "--quiet", *command], env=env, stdin=subprocess.DEVNULL, check=False)
    return done.returncode == 0
