"""A sweep over many machines, on Ray: who runs what, and what happens when somebody dies.

The driver holds one slot (`slot`) on every GPU, or on the whole CPU of every node, and gives each a
family of cases (`ledger`) at a time, measurement by measurement.  Only the driver writes; nodes
need neither its files nor each other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.measure import devices, machine, runner
from bench.measure.cluster.board import Board, short
from bench.measure.cluster.ledger import Ledger
from bench.measure.cluster.nodes import Cluster, Died, Node
from bench.measure.runner import GIB
from bench.predict.shares import Family, families
from bench.study import experiment
from bench.study.cases import Case
from bench.study.errors import UsageError
from bench.study.experiment import Sweep
from bench.study.storage import Record

# How often a measurement, or a node, may lose its worker before it is given up.
TRIES = 3
# Until the nodes have said what they are, nothing is given away that another may suit better.
SETTLE_S = 30.0
# What machines of one name have in common.
TRAITS = ("cpu", "cpu_threads", "gpus", "cuda", "cudnn", "packages")
ANY, ALL = "any", "all"


@dataclass(eq=False)
class Hired:
    """A slot, from the driver's side: starting (no env yet), idle, or measuring `doing`.

    kind: of machine that it serves, as in `Family.on`; None: not known yet.  host: of whoever
    shares its cores.  met: the cases that ran on the host while the present one did.
    """

    node: Node
    actor: Any
    asked: Any
    kind: str | None
    since: float
    env: dict[str, Any] = field(default_factory=dict)
    memory_bytes: float = 0
    place: str = ""
    host: str = ""
    card: str | None = None
    family: Family | None = None
    doing: tuple[int, Case] | None = None
    started_at: str = ""
    met: set[str] = field(default_factory=set)

    @property
    def machine(self) -> str:
        return self.env.get("machine", "")


class Driver:
    """Hands out the families of a sweep until none is left, or nobody who could take one.

    on: the kinds of machine that every case is asked for on: [ANY] of them, [ALL] that there are,
    or Ray's accelerator types and the custom resources of nodes, in lower case.
    """

    def __init__(
        self,
        sweep: Sweep,
        cluster: Cluster,
        ledger: Ledger,
        on: Sequence[str],
        console: Console,
        download: bool = False,
    ) -> None:
        self.sweep, self.cluster, self.ledger, self.on = sweep, cluster, ledger, list(on)
        self.device = device_of(sweep)
        self.download, self.source = download, machine.git()
        self.slots: list[Hired] = []
        self.waiting: list[Family] = []
        self.asked_for: set[str] = set()
        self.machines: dict[str, str] = {}  # node id -> its machine's name
        self.envs: dict[str, dict[str, Any]] = {}  # machine -> of the first such node
        self.serves: dict[str, str] = {}  # machine -> kind
        self.failures: Counter[str] = Counter()  # of a node, since it last did something
        self.refused: Counter[str] = Counter()  # slots of a node
        self.troubles: list[str] = []
        self.board = Board(console)
        self.began = time.monotonic()
        self.check()
        for kind in ledger.folders if self.on == [ALL] else self.on:
            self.ask_for(kind)

    def check(self) -> None:
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

    def ask_for(self, kind: str) -> None:
        """Every case on that kind of machine, but for what is done."""
        if kind not in self.asked_for:
            self.asked_for.add(kind)
            wanted = families(self.sweep, kind)
            self.waiting += [family for family in wanted if not self.ledger.is_done(family)]

    def run(self) -> None:
        """Raises UsageError if something could not be measured for want of a node."""
        try:
            with self.board:
                self.hire()
                while self.slots:
                    self.board.show(self)
                    asked = [slot.asked for slot in self.slots if slot.asked is not None]
                    for answered in self.cluster.wait(asked, 1.0):
                        self.hear(next(slot for slot in self.slots if slot.asked == answered))
                    self.assign()
                    self.dismiss()
                    self.hire()
        finally:
            for slot in self.slots:
                self.cluster.dismiss(slot.actor)
        if self.waiting:
            missing = sum(len(self.ledger.missing(family)) for family in self.waiting)
            why = self.troubles[-1] if self.troubles else "no node is left that could take them"
            raise UsageError(f"{missing} measurements are missing ({why}); --resume goes on")

    # Slots

    def kind_of(self, node: Node) -> str | None:
        """Which kind that is asked for it serves; one only, or a machine had a case twice."""
        if self.on == [ALL]:
            return self.machines.get(node.id)
        return next((kind for kind in self.on if kind in (ANY, *node.kinds)), None)

    def hire(self) -> None:
        """Slots for the families that wait, on nodes new and old: as many on each node as if it
        were the only one, so that there is a choice (`suits`); `dismiss` ends the others."""
        wanted = Counter(family.on for family in self.waiting)
        wanted.subtract(slot.kind for slot in self.slots if slot.family is None and slot.kind)
        for node in sorted(self.cluster.nodes(), key=lambda node: self.failures[node.id]):
            if self.failures[node.id] >= TRIES:
                break
            kind, room = self.kind_of(node), node.room(self.device) - self.refused[node.id]
            room -= sum(slot.node.id == node.id for slot in self.slots)
            if kind is None:  # one slot finds out
                seen = any(slot.node.id == node.id for slot in self.slots)
                count = int(self.on == [ALL] and room > 0 and not seen)
            else:
                count = max(0, min(room, wanted[kind]))
            for _ in range(count):
                arguments = (self.sweep, self.source, self.device, self.download)
                actor = self.cluster.hire(node, self.device, *arguments)
                asked = self.cluster.ask(actor, "about")
                self.slots.append(Hired(node, actor, asked, kind, time.monotonic()))

    def dismiss(self) -> None:
        """Slots for which nothing waits, so that others can have them."""
        wanted = {family.on for family in self.waiting}
        for slot in list(self.slots):
            if slot.family is None and slot.kind is not None and slot.kind not in wanted:
                self.leave(slot)

    def leave(self, slot: Hired) -> None:
        self.cluster.dismiss(slot.actor)
        self.slots.remove(slot)

    def hear(self, slot: Hired) -> None:
        """What became of what a slot was asked."""
        asked, slot.asked = slot.asked, None
        try:
            answer = self.cluster.answer(asked)
        except Died as e:
            self.lose(slot, str(e))
            return
        if slot.doing is None:
            self.welcome(slot, answer)
        else:
            self.take(slot, *answer)

    def welcome(self, slot: Hired, about: dict[str, Any]) -> None:
        """A slot that has said what it is; refused where it would not have a card of its own."""
        cards = about["cards"]
        if self.device == "cuda" and len(cards) != 1:
            self.refuse(slot, f"Ray gave it one GPU, but torch sees {len(cards)}")
            return
        slot.card = cards[0] if cards else None
        if slot.card and any(other.card == slot.card for other in self.slots if other is not slot):
            self.refuse(slot, f"another case has its GPU {about['gpu']}; ray start --num-gpus")
            return
        env = slot.env = about["env"]
        holder = env["gpus"][0] if slot.card else env
        slot.memory_bytes, slot.host = holder["memory_gib"] * GIB, about["host"]
        slot.place = f"{slot.node.name} GPU {about['gpu']}" if slot.card else slot.node.name
        self.machines[slot.node.id] = slot.machine
        slot.kind = slot.kind or slot.machine
        if self.on == [ALL]:
            self.ask_for(slot.kind)
        if (other := self.serves.setdefault(slot.machine, slot.kind)) != slot.kind:
            raise UsageError(
                f"--on: {other} and {slot.kind} are both {slot.machine} and would share a folder; "
                "set CODEVAR_MACHINE to a name of its own before ray start, or leave one out"
            )
        first = self.envs.setdefault(slot.machine, env)
        if differs := [trait for trait in TRAITS if first[trait] != env[trait]]:
            about["warnings"].append(
                f"not like other nodes that are {slot.machine} ({', '.join(differs)}): set "
                "CODEVAR_MACHINE to a name of its own before ray start"
            )
        for line in about["warnings"]:
            self.board.say(f"warning: {slot.place}: {line}", "yellow")

    def refuse(self, slot: Hired, why: str) -> None:
        self.refused[slot.node.id] += 1
        self.trouble(f"{slot.node.name}: a slot is left out: {why}")
        self.leave(slot)

    def trouble(self, line: str) -> None:
        self.troubles.append(line)
        self.board.say(line, "yellow")

    # Families

    def assign(self) -> None:
        """A family for each idle slot, the largest first."""
        for slot in list(self.slots):
            if slot.env and slot.family is None:
                slot.family = next((f for f in self.waiting if self.suits(f, slot)), None)
                if slot.family is not None:
                    self.waiting.remove(slot.family)
                    self.go_on(slot)

    def suits(self, family: Family, slot: Hired) -> bool:
        """Whether this slot, of those there are, is one for the family: it has not lost a worker
        there, it fits, and what it has already need not be measured again."""
        begun = self.ledger.of(family)
        settled = time.monotonic() - self.began > SETTLE_S or all(s.env for s in self.slots)
        if not settled and (begun or family.need_bytes > slot.memory_bytes):
            return False
        able = [other for other in self.slots if other.env and other.kind == family.on]
        for better in (
            [other for other in able if other.place not in family.shunned],
            [other for other in able if family.need_bytes <= other.memory_bytes],
            [other for other in able if other.machine in {r["machine"] for r in begun}],
            [other for other in able if other.place in {r.get("place") for r in begun}],
        ):
            able = [other for other in able if other in better] or able
        return slot in able

    def go_on(self, slot: Hired) -> None:
        """The next measurement of its family, or none."""
        assert slot.family is not None
        todo = self.ledger.left(slot.family, slot.machine, slot.place)
        slot.doing, slot.met = (todo[0] if todo else None), set()
        if slot.doing is None:
            slot.family = None
            return
        round_, case = slot.doing
        slot.since, slot.started_at = time.monotonic(), machine.now()
        for other in self.slots:
            if other is not slot and other.doing and other.host == slot.host:
                other.met.add(short(case))
                slot.met.add(short(other.doing[1]))
        slot.asked = self.cluster.ask(slot.actor, "measure", case, round_)

    def take(self, slot: Hired, record: Record, log: str) -> None:
        """A measurement that is made: on disk before anything else is begun."""
        assert slot.family is not None
        assert slot.doing is not None
        _, case = slot.doing
        self.failures[slot.node.id] = 0
        where = {"place": slot.place, "on": slot.family.on, "shared_with": sorted(slot.met)}
        self.ledger.add({**record, **where}, log, slot.env)
        slot.doing = None
        self.board.done(self, slot, case, record, time.monotonic() - slot.since)
        self.go_on(slot)

    def lose(self, slot: Hired, why: str) -> None:
        """A slot that died: its family goes elsewhere; a measurement that ends one slot after the
        other gets a record that says so."""
        self.leave(slot)
        self.failures[slot.node.id] += 1
        place = slot.place or slot.node.name
        if slot.node.id not in {node.id for node in self.cluster.nodes()}:
            why = "the node is gone"
        if slot.family is None or slot.doing is None:
            if self.failures[slot.node.id] >= TRIES:
                self.trouble(f"{place} is left out: {why}")
            return
        family, (round_, case) = slot.family, slot.doing
        family.shunned.add(place)
        family.deaths[case.key, round_] += 1
        self.waiting.insert(0, family)
        if family.deaths[case.key, round_] < TRIES:
            self.board.retried(slot)
            self.trouble(
                f"{place}: {why}; once more, elsewhere if possible: {runner.in_words(case)}"
            )
            return
        reason = f"its worker died {TRIES} times, the last time on {place}: {why}"
        failed = {"status": "error", "reason": reason}
        took = time.monotonic() - slot.since
        record = runner.as_record(
            case, self.sweep, slot.env, round_, failed, None, slot.started_at, round(took, 3)
        )
        where = {"place": slot.place, "on": family.on, "shared_with": sorted(slot.met)}
        self.ledger.add({**record, **where}, reason + "\n", slot.env)
        self.board.done(self, slot, case, record, took)
        if self.ledger.is_done(family):
            self.waiting.remove(family)


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

    out: of `Ledger`.  Raises UsageError.
    """
    experiment.load(name, changes)  # a mistake in it is told before anybody is asked
    kinds = [kind.strip().lower() for kind in (on or ANY).split(",")]
    if ALL in kinds and len(kinds) > 1:
        raise UsageError(f"--on {on}: all is all there are; leave out the others")
    cluster = Cluster(address)
    try:
        gpus = any(node.gpus for node in cluster.nodes())
        sweep = experiment.load(name, changes, device="cuda" if gpus else "cpu")
        devices.check_cpu_cases(sweep.cases)
        device_of(sweep)
        ledger = Ledger(sweep, out, {**runner.described(sweep), "on": kinds}, resume)
        try:
            Driver(sweep, cluster, ledger, kinds, console, download).run()
            return [folder.path for folder in ledger.folders.values()]
        except KeyboardInterrupt:
            console.print(
                f"stopped; {len(ledger.records)} records are in {ledger.out}; "
                f"--out '{ledger.out}' --resume goes on from there",
                markup=False,
                soft_wrap=True,
            )
            raise
        finally:
            ledger.close()
    finally:
        cluster.close()
