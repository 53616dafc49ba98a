"""Workers: everything runs once, nothing before what it needs, and the result is that of one thread to the last bit."""

import random

import numba
import numpy as np
import pytest
import torch
from helpers import flat, needs_two_threads, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_capture import sparse_agent

from sparse_offline_rl.engines.capture import executable as executable_module
from sparse_offline_rl.engines.capture.builder import Builder
from sparse_offline_rl.engines.capture.executable import Executable
from sparse_offline_rl.engines.capture.opcodes import Map
from sparse_offline_rl.engines.capture.schedule import schedule
from sparse_offline_rl.engines.capture.tasks import Task, dependencies
from sparse_offline_rl.engines.capture.update import CapturedUpdate
from sparse_offline_rl.engines.sparse import module as sparse_module


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 30))
    costs = [draw(st.floats(0, 1e5)) for _ in range(size)]
    before = [draw(st.sets(st.integers(0, i - 1), max_size=4)) if i else set() for i in range(size)]
    return costs, [{other: draw(st.integers(1, 10**6)) for other in others} for others in before]


@settings(deadline=None)
@given(graphs(), st.integers(1, 4))
def test_workers_run_every_task_once_and_none_too_early(graph, workers):
    costs, needs = graph
    steps, expected = schedule(costs, needs, workers)
    assert sorted(step.task for worker in steps for step in worker) == list(range(len(costs)))
    assert max(costs) <= expected + 1e-6
    done, next_step = set(), [0] * workers
    while len(done) < len(costs):
        able = [
            worker
            for worker in range(workers)
            if next_step[worker] < len(steps[worker])
            and all(next_step[other] >= count for other, count in steps[worker][next_step[worker]].waits.items())
        ]
        assert able, "every worker waits for another one"
        for worker in able[:1]:  # the others are as slow as can be
            task = steps[worker][next_step[worker]].task
            assert set(needs[task]) <= done
            done.add(task)
            next_step[worker] += 1


regions = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=3)


@settings(deadline=None)
@given(st.lists(st.tuples(regions, regions), max_size=12))
def test_dependencies_are_what_shares_memory_that_somebody_writes(effects):
    tasks = [Task(0, [], reads, writes, 1.0) for reads, writes in effects]

    def touches(left, right):
        return any(a < d + e and d < a + b for a, b in left for d, e in right)

    for i, found in enumerate(dependencies(tasks)):
        reads, writes = effects[i]
        expected = {
            j
            for j, (earlier_reads, earlier_writes) in enumerate(effects[:i])
            if touches(reads, earlier_writes) or touches(writes, earlier_writes) or touches(writes, earlier_reads)
        }
        assert set(found) == expected


def traced_tasks(monkeypatch, update, batch, draws):
    """The tasks of an update on two threads."""
    seen = []

    def remember(tasks):
        seen.append(tasks)
        return dependencies(tasks)

    monkeypatch.setattr(executable_module, "dependencies", remember)
    update(batch, draws)
    return seen[-1]


def large_agent(**options):
    return sparse_agent(sparsity=0.5, actor_hidden=(96, 96), critic_hidden=(96, 96), vae_hidden=(200, 200), **options)


@needs_two_threads
@pytest.mark.parametrize("name", ["bcq", "bc"])
def test_any_order_that_respects_the_dependencies_gives_the_same_bits(use_threads, monkeypatch, name):
    """So no access to memory has been overlooked, whatever the timing."""
    use_threads(2)
    agent, draws = large_agent(name=name), torch.Generator().manual_seed(1)
    update = CapturedUpdate(agent)
    tasks = traced_tasks(monkeypatch, update, random_batch(200), draws)
    needs = dependencies(tasks)
    assert len(tasks) > 60
    state = agent.state()
    noise = [draw.clone() for draw in update.programs[0]._draws]

    def run(order):
        agent.load_state(state)
        for place, value in zip(update.programs[0]._draws, noise, strict=True):
            place.copy_(value)
        program = Executable([tasks[i] for i in order], 1)
        program()
        return flat(agent.state())

    expected = run(range(len(tasks)))
    assert any(not torch.equal(value, flat(state)[key]) for key, value in expected.items())
    for seed in range(20):
        shuffle, waiting, order = random.Random(seed), [set(before) for before in needs], []
        while len(order) < len(tasks):
            ready = [i for i, before in enumerate(waiting) if before is not None and not before]
            # Mostly the last ones, which the traced order would do last.
            order.append(ready[-1] if seed == 0 else shuffle.choice(ready))
            waiting[order[-1]] = None
            for before in filter(None, waiting):
                before.discard(order[-1])
        found = run(order)
        assert all(torch.equal(value, found[key]) for key, value in expected.items())


def results(updates=20):
    agent, draws = large_agent(), torch.Generator().manual_seed(1)
    update = CapturedUpdate(agent)
    for i in range(updates):
        update(random_batch(200, seed=i), draws)
    return agent, update.programs[0], flat(agent.state())


@needs_two_threads
def test_workers_give_the_bits_of_one_thread_that_does_the_same(use_threads, monkeypatch):
    use_threads(2)
    _, program, expected = results()
    assert program.executable.workers == 2
    monkeypatch.setattr(executable_module, "_MAX_TIME_FOR_WORKERS", 0.0)
    _, program, found = results()
    assert program.executable.workers == 1
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


@needs_two_threads
def test_a_thread_pool_that_has_one_thread_only(use_threads):
    """Numba then runs the workers one after the other: the first would wait for ever."""
    use_threads(2)
    _, program, expected = results(3)
    agent, draws = large_agent(), torch.Generator().manual_seed(1)
    update = CapturedUpdate(agent)
    update(random_batch(200, seed=0), draws)
    numba.set_num_threads(1)
    for i in (1, 2):
        update(random_batch(200, seed=i), draws)
    assert update.programs[0].executable.workers == program.executable.workers == 2
    assert all(torch.equal(value, expected[key]) for key, value in flat(agent.state()).items())


def test_more_workers_than_cores(monkeypatch):
    """Whether Numba has threads for them or not, three workers add up what one thread adds up."""
    _, _, expected = results(3)
    monkeypatch.setattr(sparse_module, "_threads", 3)
    _, program, found = results(3)
    assert program.executable.workers == 3
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=2e-5)


@needs_two_threads
def test_other_threads_other_program(use_threads):
    agent, draws = large_agent(), torch.Generator().manual_seed(1)
    update, batch = CapturedUpdate(agent), random_batch(200)
    for threads in (1, 2, 1):
        use_threads(threads)
        update(batch, draws)
    assert [program.executable.workers for program in update.programs] == [1, 2]


def test_large_instructions_are_cut_into_chunks():
    builder = Builder(2)
    x, out = torch.randn(1000, 6), torch.empty(1000, 6)
    builder.map(Map.MUL, out, x, 2.0)
    ones = torch.ones(6)
    builder.map(Map.ADD, out[:3], x[:3], ones)  # too small
    assert len(builder.tasks) == 9
    ends = [task.writes[0][0] + task.writes[0][1] for task in builder.tasks[:8]]
    assert np.all(np.diff([out.data_ptr(), *ends]) > 0)
    assert ends[-1] == out.data_ptr() + 4 * out.numel()
    Executable(builder.tasks, 1)()
    torch.testing.assert_close(out, torch.cat([x[:3] + 1, 2 * x[3:]]))
