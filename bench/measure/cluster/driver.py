"""A sweep over many machines, on Ray: who measures what, and what happens when somebody dies.

A family of cases (`shares.Family`) is one Ray task on one GPU, or on the whole CPU of a node, that
yields each record as it is made (`on_node.measure`).  A first task of each node, without a family,
says what the node has.  Only the driver writes; what is left to do follows from the records.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.measure import devices, machine, runner
from bench.measure.cluster.nodes import Cluster, Node, WorkerLostError
from bench.measure.cluster.on_node import Job
from bench.measure.cluster.sweep_records import SweepRecords, Todo, left, of_family
from bench.predict.shares import Family, families, work
from bench.study import experiment
from bench.study.cases import Case
from bench.study.errors import UsageError
from bench.study.experiment import Sweep
from bench.study.records import Record
from bench.study.units import GIB
from codevar.progress import Progress

# How often a measurement, or a node, may lose its worker before it is given up.
TRIES = 3
# How long the first nodes have to say what they have, before families are handed out.
SETTLE_S = 30.0
# What machines of one name have in common.
TRAITS = ("cpu", "cpu_threads", "gpus", "cuda", "cudnn", "packages")
ANY, ALL = "any", "all"


@dataclass(eq=False)
class Task:
    """A Ray task: it measures a family, or only says what its node has (family None).

    stream: its answers, for `Cluster.answer`.  about: the first of them, empty until it is there.
    todo: what it has yet to measure; the first since `since`, which is `started_at`.  beside:
    cases that ran on the same host meanwhile.
    """

    node: Node
    family: Family | None
    stream: Any
    about: dict[str, Any] = field(default_factory=dict)
    todo: Todo = field(default_factory=list)
    since: float = 0.0
    started_at: str = ""
    beside: set[str] = field(default_factory=set)


class Driver:
    """Hands out the families of a sweep until none is left, or no node that could take one.

    on: the kinds of machine that every case is asked for on: [ANY] of them, [ALL] that there are,
    or Ray's accelerator types and the custom resources of nodes, in lower case.
    """

    def __init__(
        self,
        sweep: Sweep,
        cluster: Cluster,
        records: SweepRecords,
        on: Sequence[str],
        progress: Progress,
        download: bool = False,
    ) -> None:
        self.sweep, self.cluster, self.records, self.on = sweep, cluster, records, list(on)
        self.device, self.progress = device_of(sweep), progress
        self.job = Job(sweep, machine.git(), self.device, download, node="")
        self.tasks: list[Task] = []
        self.waiting: list[Family] = []
        self.asked_for: set[str] = set()  # kinds
        self.surveyed: dict[str, dict[str, Any]] = {}  # node id -> env
        self.machines: dict[str, tuple[dict[str, Any], str | None]] = {}  # its first env, and kind
        self.failures: Counter[str] = Counter()  # of a node, since its last record
        self.left_out: Counter[str] = Counter()  # GPUs of a node that cannot be used
        self.work_done = 0.0
        self.last_trouble = "no node is left that could take them"
        self.began = time.monotonic()
        self._check_nodes()
        for kind in records.folders if self.on == [ALL] else self.on:
            self._ask_for(kind)

    def _check_nodes(self) -> None:
        """Refuses what no node of the cluster could take."""
        nodes = [node for node in self.cluster.nodes() if node.room(self.device)]
        if not nodes:
            need = "a GPU" if self.device == "cuda" else "a CPU"
            raise UsageError(
                f"the cases need {need}, and no node of the cluster offers one to Ray; "
                + ("use --device cpu" if self.device == "cuda" else "ray start --num-cpus")
            )
        there = sorted(set().union(*(node.kinds for node in nodes)))
        for kind in self.on:
            if kind not in (ANY, ALL, *there):
                names = ", ".join(there) or "none, only nodes without a name for their kind"
                raise UsageError(f"--on {kind}: no node of the cluster is one; there are {names}")

    def _ask_for(self, kind: str) -> None:
        """Every case on that kind of machine, but for what is done."""
        if kind not in self.asked_for:
            self.asked_for.add(kind)
            wanted = families(self.sweep, kind)
            self.waiting += [family for family in wanted if self.records.missing(family)]

    def run(self) -> None:
        """Raises UsageError if something could not be measured for want of a node."""
        with self.progress:
            while self._start():
                self._show()
                for stream in self.cluster.wait([task.stream for task in self.tasks], 1.0):
                    self._answered(next(task for task in self.tasks if task.stream == stream))
        if missing := len(self._missing()):
            raise UsageError(
                f"{missing} measurements are missing ({self.last_trouble}); --resume goes on"
            )

    # Who takes what

    def _kind_of(self, node: Node) -> str | None:
        """Which kind that is asked for a node serves; one only, or a machine had a case twice.

        With --on all that is its machine's name, and ALL until it has said so.
        """
        if self.on == [ALL]:
            return self.surveyed.get(node.id, {}).get("machine", ALL)
        return next((kind for kind in self.on if kind in (ANY, *node.kinds)), None)

    def _usable(self, node: Node) -> int:
        """How many tasks at a time a node can take."""
        return node.room(self.device) - self.left_out[node.id]

    def _free(self, node: Node) -> int:
        """How many more tasks it can take now."""
        return self._usable(node) - sum(task.node.id == node.id for task in self.tasks)

    def _start(self) -> bool:
        """A first task on each new node; once the nodes are known, families, the largest first.

        Whether there is anything to wait for.
        """
        nodes = [node for node in self.cluster.nodes() if self._kind_of(node) is not None]
        for node in nodes if self.waiting or self.on == [ALL] else []:
            asked = node.id in self.surveyed or any(t.node.id == node.id for t in self.tasks)
            if not asked and self._free(node) > 0:
                self._start_task(node, None)
        settled = time.monotonic() - self.began > SETTLE_S or all(t.family for t in self.tasks)
        for family in list(self.waiting) if settled else []:
            best = max(self._best(family, nodes), key=self._free, default=None)
            if best and self._free(best) > 0:
                self.waiting.remove(family)
                self._start_task(best, family)
        return any(task.family or self.waiting or self.on == [ALL] for task in self.tasks)

    def _start_task(self, node: Node, family: Family | None) -> None:
        known = of_family(self.records.all(), family) if family else []
        job = replace(self.job, node=node.name, family=family, records=tuple(known))
        self.tasks.append(Task(node, family, self.cluster.start(node, job)))

    def _best(self, family: Family, nodes: list[Node]) -> list[Node]:
        """The nodes to wait for, busy or not: not where it lost a worker, where it fits, and where
        what it has need not be measured again; as far as there is one."""
        begun = of_family(self.records.all(), family)
        machines = {record.machine for record in begun}
        places = {str(record.place).partition(" GPU ")[0] for record in begun}
        wishes: tuple[Callable[[Node], bool], ...] = (
            lambda node: node.id not in family.shunned,
            lambda node: family.need_bytes <= self._memory_bytes(node),
            lambda node: self.surveyed[node.id]["machine"] in machines,
            lambda node: node.name in places,
        )
        able = [n for n in nodes if n.id in self.surveyed and self._kind_of(n) == family.on]
        able = [node for node in able if self._usable(node) > 0]
        for wish in wishes:
            able = list(filter(wish, able)) or able
        return able

    def _memory_bytes(self, node: Node) -> float:
        env = self.surveyed[node.id]
        return (env["gpus"][0] if self.device == "cuda" else env)["memory_gib"] * GIB

    # What tasks say

    def _answered(self, task: Task) -> None:
        try:
            answer = self.cluster.answer(task.stream)
        except WorkerLostError as e:
            self._lost(task, str(e))
            return
        if answer is None and task.todo:
            self._lost(task, "it ended early")
        elif answer is None:
            self.tasks.remove(task)
        elif task.about:
            self._measured(task, *answer)
        elif why := self._why_not_its_own(task, answer):
            self.cluster.cancel(task.stream)
            self.left_out[task.node.id] += 1
            self._end(task)
            self._trouble(f"{task.node.name}: a GPU is left out: {why}")
        else:
            task.about = answer
            self._survey(task) if task.family is None else self._next_measurement(task)

    def _why_not_its_own(self, task: Task, about: dict[str, Any]) -> str:
        """Why a task has not got a GPU of its own, or ""."""
        cards = about["cards"]
        if self.device == "cuda" and len(cards) != 1:
            return f"Ray gave it one GPU, but torch sees {len(cards)}"
        others = [other for other in self.tasks if other.family and other.about]
        if cards and any(other.about["cards"] == cards for other in others):
            return f"another case has its GPU {about['gpu']}; ray start --num-gpus"
        return ""

    def _survey(self, task: Task) -> None:
        """Keeps what a node has; warns of what would spoil a measurement, or two of them."""
        env, kind, warnings = task.about["env"], self._kind_of(task.node), task.about["warnings"]
        name = env["machine"]
        first, its_kind = self.machines.setdefault(name, (env, kind))
        if its_kind != kind:
            raise UsageError(
                f"--on: {its_kind} and {kind} are both {name} and would share a folder; "
                "set CODEVAR_MACHINE to a name of its own before ray start, or leave one out"
            )
        if differs := [trait for trait in TRAITS if first[trait] != env[trait]]:
            warnings.append(
                f"not like other nodes that are {name} ({', '.join(differs)}): set "
                "CODEVAR_MACHINE to a name of its own before ray start"
            )
        for line in warnings:
            self.progress.say(f"warning: {task.about['place']}: {line}", "yellow")
        self.surveyed[task.node.id] = env
        if self.on == [ALL]:
            self._ask_for(name)

    def _next_measurement(self, task: Task) -> None:
        """Notes what a task measures next, since when, and beside which others."""
        assert task.family is not None
        name, place = task.about["env"]["machine"], task.about["place"]
        task.todo = left(self.sweep, task.family, self.records.all(), name, place)
        task.since, task.started_at, task.beside = time.monotonic(), machine.now(), set()
        for other in self.tasks:
            same_host = other.about.get("host") == task.about["host"]
            if other is not task and same_host and task.todo and other.todo:
                task.beside.add(short(other.todo[0][1]))
                other.beside.add(short(task.todo[0][1]))

    def _measured(self, task: Task, record: Record, log: str) -> None:
        """Puts a measurement on disk."""
        self.failures[task.node.id] = 0
        _, case = task.todo[0]
        record.shared_with = sorted(task.beside)
        self.records.add(record, log, task.about["env"])
        self.work_done += work(case)
        self._next_measurement(task)
        done = len(self.records.all())
        where, what = task.about["place"], runner.describe_outcome(record)
        said = f"{where}: {runner.describe_case(case)}: {what}"
        self.progress.say(f"[{done}/{done + len(self._missing())}] {said}")

    def _lost(self, task: Task, why: str) -> None:
        """A task that died: its family goes elsewhere; a measurement that ends one after the other
        gets a record that says so."""
        self._end(task)
        self.failures[task.node.id] += 1
        place = task.about.get("place", task.node.name)
        if task.node.id not in {node.id for node in self.cluster.nodes()}:
            why = "the node is gone"
        if self.failures[task.node.id] == TRIES:
            self.left_out[task.node.id] = task.node.room(self.device)
            self._trouble(f"{place} is left out: {why}")
        if task.family is None or not task.todo:
            return
        family, (round_, case) = task.family, task.todo[0]
        family.shunned.add(task.node.id)
        family.deaths[case.key, round_] += 1
        if family.deaths[case.key, round_] < TRIES:
            words = runner.describe_case(case)
            self._trouble(f"{place}: {why}; once more, elsewhere if possible: {words}")
            return
        reason = f"its worker died {TRIES} times, the last time on {place}: {why}"
        failed, took = {"status": "error", "reason": reason}, time.monotonic() - task.since
        record = runner.make_record(
            *(case, self.sweep, task.about["env"], round_, failed, None, task.started_at),
            round(took, 3),
        )
        record.place, record.on = place, family.on
        self._measured(task, record, reason + "\n")
        if not self.records.missing(family):
            self.waiting.remove(family)

    def _end(self, task: Task) -> None:
        """Forgets a task; its family waits again."""
        self.tasks.remove(task)
        if task.family is not None:
            self.waiting.insert(0, task.family)

    def _trouble(self, line: str) -> None:
        self.last_trouble = line
        self.progress.say(line, "yellow")

    # Progress

    def _missing(self) -> list[Case]:
        """What is left to measure."""
        todos = [self.records.missing(family) for family in self.waiting]
        for task in self.tasks:
            if task.family:
                todos.append(task.todo if task.about else self.records.missing(task.family))
        return [case for todo in todos for _, case in todo]

    def _show(self) -> None:
        """The bar: how far the sweep is, and what each node does."""
        done, missing = len(self.records.all()), self._missing()
        runs = [f"{t.about['place']} {short(t.todo[0][1])}" for t in self.tasks if t.todo]
        text = f"{done}/{done + len(missing)}: {', '.join(runs) or 'waiting for nodes'}"
        work_left = sum(map(work, missing))
        self.progress.show(self.sweep.name, self.work_done, self.work_done + work_left, text)


def short(case: Case) -> str:
    """A case's name in a record's `shared_with`."""
    return f"{case.label} b{case.batch_size}"


def device_of(sweep: Sweep) -> str:
    """What all cases run on.  Raises UsageError."""
    found = sorted({case.device for case in sweep.cases})
    if found not in (["cpu"], ["cuda"]):
        raise UsageError(
            f"over a cluster all cases run on the CPU, or each on the GPU that Ray gives it: "
            f"--device cpu or --device cuda, not {' and '.join(found)}"
        )
    return found[0]


def run(
    name: str,
    changes: Sequence[str],
    address: str,
    on: str | None,
    out: str,
    console: Console,
    resume: bool = False,
    download: bool = False,
) -> list[Path]:
    """Measures an experiment on a cluster; the folders of its runs.

    out: of `SweepRecords`.  Raises UsageError.
    """
    experiment.load(name, changes)  # a mistake in it is told before anybody is asked
    kinds = [kind.strip().lower() for kind in (on or ANY).split(",")]
    if ALL in kinds and len(kinds) > 1:
        raise UsageError(f"--on {on}: all is all there are; leave out the others")
    with closing(Cluster(address)) as cluster:
        gpus = any(node.gpus for node in cluster.nodes())
        sweep = experiment.load(name, changes, device="cuda" if gpus else "cpu")
        devices.check_cpu_cases(sweep.cases)
        device_of(sweep)
        progress, what = Progress(console), {**runner.describe_run(sweep), "on": kinds}
        with closing(SweepRecords(sweep, out, what, resume)) as records:
            try:
                Driver(sweep, cluster, records, kinds, progress, download).run()
            except KeyboardInterrupt:
                progress.say(
                    f"stopped; {len(records.all())} records are in {records.out}; "
                    f"--out '{records.out}' --resume goes on from there"
                )
                raise
            return [folder.path for folder in records.folders.values()]
