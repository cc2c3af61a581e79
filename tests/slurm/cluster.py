"""A whole SLURM on this machine, for tests: munge, MariaDB, slurmdbd, slurmctld and two nodes.

The daemons run in the foreground as children of this process, from one folder, on free ports, as
whoever calls: neither root, /etc, systemd nor cgroups are needed, and they end with this process.
Nodes are called 127.0.0.2 and 127.0.0.3, so that a job can resolve the names it is given.

With slurmdbd, as on a real cluster, though nothing of ours asks sacct: it costs about two seconds.
"""

import contextlib
import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sacct")
NODES = ("127.0.0.2", "127.0.0.3")
UP_S = 60

SLURM = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={home}/munge.socket
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool/%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=5
FirstJobId={first_job}
MaxArraySize=4
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,bf_min_age_reserve=0
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={home}/munge.socket
NodeName=127.0.0.2 NodeHostname={host} NodeAddr=127.0.0.2 Port={ports[0]} CPUs=2 RealMemory=8000
NodeName=127.0.0.3 NodeHostname={host} NodeAddr=127.0.0.3 Port={ports[1]} CPUs=2 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
"""

SLURMDBD = """
AuthInfo=socket={home}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser={user}
PidFile={home}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""

MARIADB = """
[mariadbd]
datadir={home}/db
socket={home}/db.socket
pid-file={home}/mariadbd.pid
user={user}
skip-networking
skip-grant-tables
innodb_buffer_pool_size=32M
innodb_log_file_size=8M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
innodb_flush_method=nosync
"""


def program(name: str) -> str | None:
    """Return where a daemon or client is; daemons are often not on a user's PATH."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def missing() -> list[str]:
    """Return the programs that are not on this machine."""
    return [name for name in (*DAEMONS, *CLIENTS) if program(name) is None]


class Cluster:
    """Two nodes with two processors each, and the partitions `main` and, below it, `low`."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # sockets want short paths
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._requeued: dict[str, float] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to speak to this cluster and to no other."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        return {**clean, "SLURM_CONF": str(self.home / "slurm.conf")}

    def up(self) -> None:
        """Start everything; return when both nodes are idle."""
        self._configure()
        self._start("munged", "--foreground", *self._munge_files())
        self._until((self.home / "munge.socket").exists, "munged")
        self._start("mariadbd", f"--defaults-file={self.home}/my.cnf")
        self._until((self.home / "db.socket").exists, "mariadbd")
        self._start("slurmdbd", "-D")
        self._until(lambda: _listens(self.ports[1]), "slurmdbd")
        self.ctld_start()
        for node in NODES:
            self.node_start(node)

    def down(self) -> None:
        """End everything at once, and remove its folder."""
        for name in list(self.daemons):
            self._stop(name, signal.SIGKILL)
        for pid in self._processes():
            _kill(pid)
        shutil.rmtree(self.home, ignore_errors=True)

    def ask(self, *command: str) -> str:
        """Run a client and return what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def ctld_start(self) -> None:
        """Start the controller; return when it answers."""
        self._start("slurmctld", "-D")
        self._until(lambda: "UP" in self._try("scontrol", "ping"), "slurmctld")

    def ctld_stop(self) -> None:
        """Stop the controller in good order: it saves its state."""
        self._stop("slurmctld", signal.SIGTERM)

    def node_start(self, node: str) -> None:
        """Start a node; return when it can take jobs."""
        self._start("slurmd", "-D", "-N", node)
        self._until(lambda: self.node_state(node) in ("idle", "mix", "alloc"), f"slurmd {node}")

    def node_state(self, node: str) -> str:
        """Return a node's state, as in `idle` or `down*`."""
        return self._try("sinfo", "--noheader", "--format=%t", f"--nodes={node}").strip()

    def node_kill(self, node: str) -> None:
        """Kill everything on a node at once, as when its power fails."""
        self._stop(f"slurmd {node}", signal.SIGKILL)
        jobs = {env["SLURM_JOB_ID"] for _, env in self._jobs() if env["SLURMD_NODENAME"] == node}
        steps = [pid for pid in self._processes() if any(f"[{j}." in _title(pid) for j in jobs)]
        for pid in [*steps, *(pid for pid, env in self._jobs() if env["SLURM_JOB_ID"] in jobs)]:
            _kill(pid)

    def kick(self) -> None:
        """Have requeued jobs start now: SLURM lets them wait for two minutes.

        Not within a second of the requeue, and not while processes of the run before live.
        """
        now = time.monotonic()
        busy = {env["SLURM_JOB_ID"] for _, env in self._jobs()}
        listed = self._try("squeue", "--noheader", "--array", "--states=PD", "--format=%i %A %r")
        for job, raw, reason in (line.split(maxsplit=2) for line in listed.splitlines()):
            if reason not in ("BeginTime", "launch failed requeued held", "JobHeldUser"):
                self._requeued.pop(job, None)
            elif raw not in busy and now - self._requeued.setdefault(job, now) > 2:
                self._try("scontrol", "release", job) if "eld" in reason else None
                self._try("scontrol", "update", f"JobId={job}", "StartTime=now")
                self._requeued.pop(job)

    @contextlib.contextmanager
    def kicking(self) -> Iterator[None]:
        """Kick twice a second while the body runs."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(0.5):
                self.kick()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _configure(self) -> None:
        self.ports = _free_ports(4)
        values = {
            "home": self.home,
            "host": os.uname().nodename,
            "user": getpass.getuser(),
            "ctld_port": self.ports[0],
            "dbd_port": self.ports[1],
            "ports": self.ports[2:],
            "first_job": int(time.time()) % 60_000_000,  # never the ids of an older cluster
        }
        for name, text in (
            ("slurm.conf", SLURM),
            ("slurmdbd.conf", SLURMDBD),
            ("my.cnf", MARIADB),
            ("cgroup.conf", "CgroupPlugin=cgroup/v1\n"),
        ):
            (self.home / name).write_text(text.format(**values))
        (self.home / "slurmdbd.conf").chmod(0o600)
        (self.home / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.home / "munge.key").chmod(0o600)
        self.home.chmod(0o755)
        for folder in ("state", "db", *(f"spool/{node}" for node in NODES)):
            (self.home / folder).mkdir(parents=True)

    def _munge_files(self) -> list[str]:
        names = {"socket": "socket", "key": "key-file", "pid": "pid-file", "log": "log-file"}
        files = [f"--{option}={self.home}/munge.{name}" for name, option in names.items()]
        return [*files, f"--seed-file={self.home}/munge.seed"]

    def _start(self, name: str, *options: str) -> None:
        label = f"{name} {options[-1]}" if name == "slurmd" else name
        log = (self.home / f"{label.replace(' ', '.')}.log").open("ab")
        self.daemons[label] = subprocess.Popen(
            [program(name) or name, *options],
            env={**self.environment, "MYSQL_UNIX_PORT": str(self.home / "db.socket")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        log.close()

    def _stop(self, label: str, number: int) -> None:
        daemon = self.daemons.pop(label)
        daemon.send_signal(number)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _try(self, *command: str) -> str:
        try:
            return self.ask(*command)
        except subprocess.SubprocessError:
            return ""

    def _until(self, true, what: str) -> None:
        deadline = time.monotonic() + UP_S
        while not true():
            if time.monotonic() > deadline or self.daemons[what].poll() is not None:
                log = self.home / f"{what.replace(' ', '.')}.log"
                raise RuntimeError(f"{what} does not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _processes(self) -> list[int]:
        """Return the processes that belong to this cluster."""
        mark = f"SLURM_CONF={self.home}/".encode()
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if mark in _read(folder / "environ") and int(folder.name) != os.getpid()
        ]

    def _jobs(self) -> list[tuple[int, dict[str, str]]]:
        """Return the processes of jobs, each with its environment."""
        found = []
        for pid in self._processes():
            pairs = _read(Path(f"/proc/{pid}/environ")).decode(errors="replace").split("\0")
            env = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            if "SLURM_JOB_ID" in env and "SLURMD_NODENAME" in env:
                found.append((pid, env))
        return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _title(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline")).decode(errors="replace")


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
