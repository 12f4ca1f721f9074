"""Serving on a simulated clock: queues as theory has them, and rankings that capacity hides."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from bench.cli.app import app
from bench.study.errors import UsageError
from bench.study.folders import SHIPPED
from bench.tables import frames, serving
from bench.tables.serving import Policy

ONE = Policy(max_batch=1, wait_s=0, limit_s=10)


@pytest.fixture(scope="module")
def run():
    return frames.load(SHIPPED / "amd-epyc-2-threads/scaling_cpu")


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_at_a_time_waits_as_pollaczek_and_khinchine_say(load):
    """Mean time of M/D/1: s + load s / (2 (1 - load))."""
    served = serving.serve({1: [0.1]}, load / 0.1, ONE, 60_000, seed=0)
    assert served.mean_s == pytest.approx(0.1 + load * 0.1 / (2 * (1 - load)), rel=0.04)
    assert served.goodput == pytest.approx(load / 0.1, rel=0.03)
    assert served.within == 1


def test_an_empty_queue_takes_the_batch_alone_and_its_wait():
    policy = Policy(max_batch=8, wait_s=0.2, limit_s=1)
    served = serving.serve({1: [0.1], 8: [0.5]}, 0.01, policy, 5_000, seed=0)
    assert served.p50_s == pytest.approx(0.3)
    assert served.batch == pytest.approx(1, abs=0.01)


def test_full_batches_start_at_once_and_padding_is_paid():
    policy = Policy(max_batch=8, wait_s=100, limit_s=1000)
    served = serving.serve({8: [0.5]}, 1000, policy, 8_000, seed=0)
    assert served.batch == 8
    alone = serving.serve({8: [0.5]}, 0.001, Policy(8, 0, 10), 500, seed=0)
    assert alone.p50_s == 0.5  # one request at the only size that was measured


def test_more_than_can_be_served_has_little_goodput():
    served = serving.serve({1: [0.1]}, 20, Policy(1, 0, 1.0), 20_000, seed=0)
    assert served.within < 0.1


def test_a_seed_gives_the_same_table_and_another_another(run):
    policy = Policy(64, 0.05, 1.0)
    tables = [serving.table(run, [5.0], policy, 2_000, seed).data for seed in (0, 0, 1)]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_it_says_where_goodput_ranks_otherwise_than_throughput(run):
    printed = serving.table(run, [], Policy(64, 0.05, 2.0), 2_000)
    differ = (printed.data["goodput_rank"] != printed.data["capacity_rank"]).any()
    assert ("differ for" in printed.notes[-1]) == differ
    assert set(printed.data["method"]) == {r.method for r in run.records if r.ok}


def test_what_was_not_measured_is_one_line():
    with pytest.raises(UsageError, match="no batch of at most 4 was measured"):
        serving.serve({8: [0.5]}, 1.0, Policy(4, 0, 1), 100, seed=0)
    result = CliRunner().invoke(app, ["serve", "--rate", "fast"])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


def test_the_command_serves_a_shipped_run():
    words = ["serve", "results/shipped/amd-epyc-2-threads/scaling_cpu", "--requests", "500"]
    result = CliRunner().invoke(app, [*words, "--format", "json"])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {"p50_s", "p90_s", "p99_s", "goodput"} <= rows[0].keys()
