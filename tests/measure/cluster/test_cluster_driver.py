"""Who measures what on a cluster, and what becomes of it when somebody dies."""

from __future__ import annotations

import io
import re
import socket
from collections import Counter
from contextlib import closing

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench.cli import app
from bench.measure import machine, runner
from bench.measure.cluster.driver import Driver, device_of
from bench.measure.cluster.nodes import Cluster, WorkerLostError, knock, node_of
from bench.measure.cluster.sweep_records import SweepRecords
from bench.predict.shares import families
from bench.study import records
from bench.study.errors import UsageError
from bench.study.records import Record, Samples
from bench.tables import frames, summary, tables
from codevar.progress import Progress
from tests.measure.cluster.nodes import RESULT, Pretended, node, tiny


def sweep_over(cluster, sweep, tmp_path, on=("any",), resume=False):
    """Runs it and returns the records by machine."""
    what = {**runner.describe_run(sweep), "on": list(on)}
    with closing(SweepRecords(sweep, str(tmp_path / "{machine}" / "run"), what, resume)) as kept:
        Driver(sweep, cluster, kept, on, Progress(quiet=True)).run()
    return read(tmp_path)


def read(tmp_path):
    found = {}
    for file in sorted(tmp_path.glob("*/run/records.jsonl")):
        lines, complaints = records.read_lines(file)
        assert complaints == []
        found[file.parent.parent.name] = lines
    return found


def together(found):
    return [record for lines in found.values() for record in lines]


def each_once(found, sweep):
    keys = Counter((r.key, r.round) for r in together(found))
    rounds = range(1, sweep.experiment.rounds + 1)
    return keys == Counter((case.key, i) for case in sweep.cases for i in rounds)


def test_a_baseline_and_what_is_compared_with_it_run_in_turn_in_one_place(tmp_path):
    sweep, cluster = tiny(tmp_path), Pretended(node("a"), node("b"))
    found = sweep_over(cluster, sweep, tmp_path)
    assert each_once(found, sweep)
    assert set(found) == {"a", "b"}
    for name, lines in found.items():
        assert len({r.batch_size for r in lines}) == 1
        assert [r.method[:4] for r in lines] == ["VAR-", "VARi", "VARi", "VAR-"]  # turned round
        assert {r.place for r in lines} == {name}
    run = frames.load(tmp_path / "a" / "run")
    assert run.env["machine"] == "a"
    log = tmp_path / "a" / "run" / "logs" / f"{found['a'][0].key}-1.log"
    assert log.read_text() == "what it said"


def test_the_largest_family_goes_first_and_a_pair_needs_no_family(tmp_path):
    sweep = tiny(tmp_path)
    assert [family.cases[0].batch_size for family in families(sweep, "any")] == [2, 1]
    sweep.experiment.paired = True
    assert [len(family.cases) for family in families(sweep, "any")] == [1, 1, 1, 1]


def test_every_case_on_every_machine_or_on_those_that_were_named(tmp_path):
    nodes = node("a", 2, 8, "h100"), node("b", 1, 8, "l20"), node("c", 1, 8, "l20"), node("head")
    sweep, cluster = tiny(tmp_path, device="cuda"), Pretended(*nodes)
    cluster.machines = {"b": "l20", "c": "l20"}
    found = sweep_over(cluster, sweep, tmp_path / "all", on=("all",))
    assert set(found) == {"a", "l20"}
    assert all(each_once({name: lines}, sweep) for name, lines in found.items())
    assert {r.place.split(" ")[0] for r in found["l20"]} == {"b", "c"}
    found = sweep_over(cluster, sweep, tmp_path / "l20", on=("l20",))
    assert set(found) == {"l20"}
    assert each_once(found, sweep)


def test_a_round_that_was_broken_off_begins_again_where_it_goes_on(tmp_path):
    """A node dies between baseline and case: their ratio must not be of two nodes."""
    sweep, cluster = tiny(tmp_path, "batch_size=1"), Pretended(node("a"), node("b"))
    cluster.machines = dict.fromkeys("ab", "same")
    died = []

    def event(name, case, round_):
        if case.method == "var" and round_ == 2 and not died:
            died.append(cluster.up.pop(name).name)

    cluster.event = event
    found = sweep_over(cluster, sweep, tmp_path)
    assert each_once(found, sweep)
    places = {i: {r.place for r in found["same"] if r.round == i} for i in (1, 2)}
    other = {"a": "b", "b": "a"}[died[0]]
    assert places == {1: {died[0]}, 2: {other}}  # round 1 is whole, and stays
    told = summary.speedup(
        *([r for r in found["same"] if r.key == case.key] for case in reversed(sweep.cases))
    )
    assert told["speedup_by"] == "interleaved"


def test_a_family_whose_machine_is_gone_moves_to_another_as_a_whole(tmp_path):
    sweep, cluster = tiny(tmp_path, "batch_size=1"), Pretended(node("a"), node("b"))
    cluster.event = lambda name, case, round_: round_ == 2 and cluster.up.pop("a", None) and None
    found = sweep_over(cluster, sweep, tmp_path)
    assert found["a"] == []
    assert each_once(found, sweep)


def test_a_round_of_two_places_gives_no_speed_up():
    assert summary.speedup([line(1, "b")], [line(1, "a")]) == {}
    assert summary.speedup([line(1, "a")], [line(1, "a", 3.0)])["speedup"] == 3.0


def line(round_, place, seconds=1.0):
    samples = Samples.model_construct(latency_s=[seconds], vqvae_latency_s=[])
    fields = {"key": place, "round": round_, "place": place, "samples": samples}
    return Record.model_construct(status="ok", **fields)


def test_a_sweep_goes_on_where_its_driver_died(tmp_path):
    sweep, cluster = tiny(tmp_path), Pretended(node("a"), node("b"))

    def event(name, case, round_):
        if len(cluster.ran) == 5:
            raise KeyboardInterrupt

    cluster.event = event
    with pytest.raises(KeyboardInterrupt):
        sweep_over(cluster, sweep, tmp_path)
    before = {name: (tmp_path / name / "run" / "records.jsonl").read_text() for name in "ab"}
    assert sum(text.count("\n") for text in before.values()) == 5
    again = Pretended(node("b"), node("a"))
    found = sweep_over(again, sweep, tmp_path, resume=True)
    assert each_once(found, sweep)
    assert len(again.ran) == 3
    for name, text in before.items():
        assert (tmp_path / name / "run" / "records.jsonl").read_text().startswith(text)
    third = Pretended(node("a"))
    assert sweep_over(third, sweep, tmp_path, resume=True) == found
    assert third.ran == []


def test_a_sweep_for_other_machines_is_another_sweep(tmp_path):
    sweep = tiny(tmp_path)
    sweep_over(Pretended(node("a")), sweep, tmp_path)
    with pytest.raises(UsageError, match="holds a run already; --resume it or choose --out"):
        sweep_over(Pretended(node("a")), sweep, tmp_path)
    with pytest.raises(UsageError, match=r"began with another experiment \(on\)"):
        sweep_over(Pretended(node("a")), sweep, tmp_path, on=("all",), resume=True)


def test_a_case_that_kills_its_workers_is_a_row_and_not_the_end(tmp_path):
    sweep, cluster = tiny(tmp_path, "batch_size=1"), Pretended(node("a"), node("b"), node("c"))
    cluster.machines = dict.fromkeys("abc", "same")
    tried = []

    def event(name, case, round_):
        if case.method == "variant":
            tried.append(name)
            raise WorkerLostError("its worker died")

    cluster.event = event
    (lines,) = sweep_over(cluster, sweep, tmp_path).values()
    assert sorted(tried) == ["a", "b", "c"]
    failed = [r for r in lines if r.status == "error"]
    assert len(failed) == 1  # what failed once is not tried in further rounds
    assert "its worker died 3 times" in failed[0].reason
    assert [r.round for r in lines if r.status == "ok"] == [1, 2]


def test_what_no_node_is_left_for_is_told_and_kept_for_later(tmp_path):
    sweep, cluster = tiny(tmp_path, "batch_size=1"), Pretended(node("a", kind="big"), node("b"))
    cluster.event = lambda name, case, round_: round_ == 2 and cluster.up.pop("a") and None
    with pytest.raises(UsageError) as e:
        sweep_over(cluster, sweep, tmp_path, on=("big",))
    assert "2 measurements are missing (a: the node is gone" in str(e.value)
    assert len(read(tmp_path)["a"]) == 2
    later = Pretended(node("a", kind="big"))
    assert each_once(sweep_over(later, sweep, tmp_path, on=("big",), resume=True), sweep)
    assert len(later.ran) == 2


def test_a_node_that_joins_is_used(tmp_path):
    sweep, cluster = tiny(tmp_path), Pretended(node("a"))
    cluster.event = lambda *_: cluster.up.setdefault("b", node("b")) and None
    found = sweep_over(cluster, sweep, tmp_path)
    assert each_once(found, sweep)
    assert set(found) == {"a", "b"}


def test_a_case_goes_where_it_fits_and_is_a_row_where_it_fits_nowhere(tmp_path):
    sweep = tiny(tmp_path, "batch_size=1,1024", device="cuda")
    cluster = Pretended(node("small", 1, 8), node("large", 1, 8))
    cluster.memory_gib = {"small": 2, "large": 80}
    found = sweep_over(cluster, sweep, tmp_path / "1")
    assert {r.batch_size for r in found["large"]} == {1024}
    sweep = tiny(tmp_path, "batch_size=1024", device="cuda")
    found = sweep_over(cluster, sweep, tmp_path / "one")
    assert set(found) == {"large"}
    alone = Pretended(node("small", 1, 8), memory_gib={"small": 2})
    alone.event = lambda name, case, _: {"status": "oom", "reason": "no"}
    assert {r.status for r in sweep_over(alone, sweep, tmp_path / "2")["small"]} == {"oom"}


def test_what_ran_on_the_same_host_is_in_the_record(tmp_path):
    sweep, cluster = tiny(tmp_path, device="cuda"), Pretended(node("a", 2, 8))
    found = sweep_over(cluster, sweep, tmp_path / "shared")["a"]
    assert len({r.place for r in found}) == 2
    small = [r for r in found if r.batch_size == 1]
    assert any(r.shared_with for r in small)
    assert {name[-2:] for r in small for name in r.shared_with} == {"b2"}
    printed = tables.measured(frames.load(tmp_path / "shared" / "a" / "run"))
    assert any("ran on the same host during: VAR-d2" in note for note in printed.notes)
    alone = sweep_over(Pretended(node("a", 1, 8)), sweep, tmp_path / "alone")["a"]
    assert all(r.shared_with == [] for r in alone)
    apart = Pretended(node("a"), node("b"))
    apart.hosts = dict.fromkeys("ab", "one host")  # two nodes in containers of one machine
    found = sweep_over(apart, tiny(tmp_path), tmp_path / "containers")
    assert any(r.shared_with for r in together(found))


@pytest.mark.parametrize("cards", [["x", "y"], []])
def test_a_slot_that_does_not_have_one_card_is_refused(tmp_path, cards):
    sweep, cluster = tiny(tmp_path, device="cuda"), Pretended(node("a", 2, 8))
    cluster.cards = {"a": cards}
    with pytest.raises(UsageError, match=f"one GPU, but torch sees {len(cards)}"):
        sweep_over(cluster, sweep, tmp_path)
    assert cluster.ran == []


def test_two_cases_never_share_a_card(tmp_path):
    sweep, cluster = tiny(tmp_path, device="cuda"), Pretended(node("a", 2, 8))
    cluster.cards = {"a": ["the only one"]}
    found = sweep_over(cluster, sweep, tmp_path)
    assert each_once(found, sweep)
    assert len({r.place for r in found["a"]}) == 1
    assert all(r.shared_with == [] for r in found["a"])


@pytest.mark.parametrize(
    ("nodes", "device", "on", "line"),
    [
        ([node("a")], "cuda", "any", "need a GPU, and no node"),
        ([node("a", cpus=0)], "cpu", "any", "need a CPU, and no node"),
        ([node("a", 1, 8, "l20")], "cuda", "h100", "--on h100: no node .* there are l20"),
        ([node("a", 1, 8)], "cuda", "h100", "there are none, only nodes without a name"),
    ],
)
def test_what_no_node_offers_is_one_line_before_anything_runs(tmp_path, nodes, device, on, line):
    sweep = tiny(tmp_path, device=device)
    with pytest.raises(UsageError, match=line) as e:
        sweep_over(Pretended(*nodes), sweep, tmp_path, on=(on,))
    assert "\n" not in str(e.value)
    assert read(tmp_path) == {}


def test_two_kinds_that_would_share_a_folder_are_refused(tmp_path):
    cluster = Pretended(node("a", kind="rack1"), node("b", kind="rack2"))
    cluster.machines = dict.fromkeys("ab", "same")
    with pytest.raises(UsageError, match=r"rack1 and rack2 are both same .* CODEVAR_MACHINE"):
        sweep_over(cluster, tiny(tmp_path), tmp_path, on=("rack1", "rack2"))


def test_a_card_of_ones_own_choice_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--device cuda, not cuda:1"):
        device_of(tiny(tmp_path, device="cuda:1"))


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("here", "must be local, auto or HOST:PORT"),
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("127.0.0.1:99999", "no Ray cluster answers there"),
        ("ray://127.0.0.1:1", "must be local, auto or HOST:PORT"),
    ],
)
def test_an_address_nobody_answers_is_one_line(address, line):
    with pytest.raises(UsageError, match=line) as e:
        knock(address)
    assert "\n" not in str(e.value)


def test_a_port_that_is_somebody_elses_is_one_line(monkeypatch):
    monkeypatch.setattr("bench.measure.cluster.nodes.HEALTH_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"{address}: no Ray cluster .* else has the port"):
            knock(address)


def test_without_ray_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[cluster\]'"):
        Cluster("local")


def test_what_a_node_is_called():
    told = {
        "NodeID": "1",
        "NodeName": "10.0.0.1",
        "NodeManagerAddress": "10.0.0.1",
        "NodeManagerHostname": "gpu-node",
        "Resources": {"CPU": 64.0, "GPU": 8.0, "accelerator_type:H100": 1.0, "Rack-A": 1.0}
        | {"node:10.0.0.1": 1.0, "memory": 1.0, "object_store_memory": 1.0},
    }
    found = node_of(told)
    assert (found.name, found.cpus, found.gpus) == ("gpu-node", 64, 8)
    assert found.kinds == {"h100", "rack-a"}
    assert node_of({**told, "NodeName": "mine"}).name == "mine"


def test_a_terminal_shows_how_far_the_sweep_is_and_what_runs(tmp_path):
    sweep, cluster = tiny(tmp_path), Pretended(node("alpha"), node("beta"))
    progress = Progress(Console(file=io.StringIO(), force_terminal=True, width=150))

    def event(name, case, round_):
        if len(cluster.ran) == 3:
            cluster.up.pop("alpha", None)
        progress._bars.refresh()

    cluster.event = event
    out, what = str(tmp_path / "runs"), {**runner.describe_run(sweep), "on": ["any"]}
    with closing(SweepRecords(sweep, out, what, False)) as kept:
        Driver(sweep, cluster, kept, ["any"], progress).run()
    shown = progress.console.file.getvalue()
    assert re.search(r"alpha VAR-d2 b\d, beta VAR-d2 b\d", shown)
    assert re.search(r"3/8.*0:00:\d\d left", shown)
    assert "the node is gone; once more, elsewhere" in shown
    assert re.search(r"\[8/8\] beta: .*1 s", shown)


def test_a_table_of_several_machines_has_a_case_where_it_was_measured(tmp_path):
    sweep_over(Pretended(node("a"), node("b")), tiny(tmp_path), tmp_path)
    printed = tables.measured(*(frames.load(tmp_path / name / "run") for name in "ab"))
    rows = printed.data.to_dict("records")
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert {(row["machine"], row["batch_size"]) for row in rows} == {("a", 2), ("b", 1)}


def test_a_machine_may_be_given_a_name(monkeypatch):
    monkeypatch.setenv("CODEVAR_MACHINE", "Rack 1, H100/../x")
    assert machine.environment()["machine"] == "rack-1-h100-x"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--on all", "--on goes with --cluster"),
        ("--cluster 127.0.0.1:1", "no Ray cluster answers there"),
        ("--cluster local --on all,h100", "all is all there are"),
        ("--cluster local --trace x", "no --cluster"),
        ("--cluster local --resume", "name its folder with --out"),
        ("--cluster local --set batch_size=0", "batch_size must be 1..1024"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, line):
    result = CliRunner().invoke(app.app, ["run", "quick", *words.split()])
    assert (result.exit_code, result.stdout) == (2, "")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1


def test_ok_records_are_what_a_reader_takes(tmp_path):
    found = sweep_over(Pretended(node("a")), tiny(tmp_path), tmp_path)
    assert found["a"][0].samples == Samples.model_validate(RESULT["samples"])
