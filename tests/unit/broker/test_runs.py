"""The table of runs against a plain list of them, and what a run in memory says of itself."""

import sys
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from queue_house import QueueHouse

from leveret.broker.durability.blobs import Blobs, StoredBlob
from leveret.broker.queues.lane import Lane
from leveret.broker.queues.runs import NEVER, Row, Run, RunTable, mask_of


@pytest.fixture
def lane() -> Lane:
    return Lane(QueueHouse().queue(), 0)


def blob_with(copies: int) -> StoredBlob:
    blob = StoredBlob(Blobs(), 7)
    blob.add(copies)
    return blob


def test_a_run_knows_which_of_its_copies_live(lane: Lane) -> None:
    blob = blob_with(4)
    run = Run(lane, blob, 10, 16, 4)
    run.settle([16])
    run.settle([11, 12])
    assert (run.live, blob.live_copies) == (1, 1)
    assert [sequence for sequence in (9, 10, 11, 12, 16, 17) if run.holds(sequence)] == [10]
    assert run.row() == Row(10, 16, 7, 1, 0b1000110, NEVER)


def test_a_run_without_live_copies_needs_no_mask(lane: Lane) -> None:
    run = Run(lane, blob_with(1000), 10, 1009, 1000)
    run.settle(list(range(10, 1010)))
    assert (run.live, run.gone) == (0, 0)


@pytest.mark.parametrize(
    "sequences", [[5], [5, 6], [6, 5], [5, 7], [5, 6, 7], [5, 7, 6, 8], [9, 5, 7], [5, 5, 7]]
)
def test_a_mask_has_the_bits_of_its_sequences(sequences: list[int]) -> None:
    assert mask_of(sequences, 5) == sum(1 << (sequence - 5) for sequence in set(sequences))


def table_of(*rows: Row) -> RunTable:
    table = RunTable()
    for row in rows:
        table.add(row)
    return table


def test_an_empty_table_begins_nowhere() -> None:
    table = RunTable()
    assert (len(table), table.first, table.last, table.copies, list(table)) == (0, NEVER, 0, 0, [])
    assert table.head(5) == []
    assert table.get(1) is table.take(1) is table.position_of(1) is None


def test_a_stretch_that_begins_with_an_ended_copy_is_purged() -> None:
    """A run's first sequence stays its first when that copy is settled."""
    table = table_of(Row(1, 10, 3, 9, 1, NEVER))
    table.purge(1, 10, 9)
    assert (list(table), table.copies) == ([], 0)


def test_a_purged_part_leaves_the_rest() -> None:
    """Memory had cut the run in two; the log never heard of it."""
    table = table_of(Row(1, 10, 3, 9, 1 << 5, NEVER))
    table.purge(6, 10, 4)
    assert list(table) == [Row(1, 10, 3, 5, 0b1111100000, NEVER)]
    assert [sequence for sequence in range(12) if table.position_of(sequence)] == [1, 2, 3, 4, 5]


def test_what_comes_behind_rows_that_were_taken_is_a_row_of_its_own() -> None:
    table = RunTable()
    table.publish(1, 9, NEVER)
    table.take(1)
    table.publish(2, 9, NEVER)
    assert list(table) == [Row(2, 2, 9, 1, 0, NEVER)]


def test_many_taken_from_the_front_give_their_memory_back() -> None:
    table = RunTable()
    for first in range(1, 10_001):
        table.publish(first, first, NEVER)
    for first in range(1, 9_951):
        assert table.take(first) == Row(first, first, first, 1, 0, NEVER)
    assert sum(map(sys.getsizeof, (table._firsts, table._lasts, table._positions, table._lives))) < 60_000
    assert [row.first for row in table] == list(range(9_951, 10_001))


def test_columns_of_different_lengths_are_refused() -> None:
    columns = list(table_of(Row(1, 1, 1, 1, 0, NEVER)).columns())
    columns[3] *= 2
    with pytest.raises(ValueError, match="different lengths"):
        RunTable.from_columns(columns, {}, {})


@dataclass
class ModelRun:
    first: int
    last: int
    position: int
    alive: set[int]
    expires_at: int = NEVER
    ended: set[int] = field(default_factory=set)

    def row(self) -> Row:
        gone = sum(1 << (sequence - self.first) for sequence in self.ended)
        return Row(self.first, self.last, self.position, len(self.alive), gone, self.expires_at)

    def end(self, sequences: set[int]) -> None:
        self.ended |= self.alive & sequences
        self.alive -= sequences


class TableMachine(RuleBasedStateMachine):
    """The table and a list of runs live the same life."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RunTable()
        self.runs: list[ModelRun] = []
        self.out: list[ModelRun] = []  # taken, and not put back yet
        self.last_sequence = 0
        self.published: set[int] = set()  # nobody asks for others: they are of other queues
        self.last_position = 0
        self.is_open = False  # the last blob: in one, publishes come before everything else

    def forget_empty(self) -> None:
        self.runs = [run for run in self.runs if run.alive]

    def draw_run(self, data: st.DataObject) -> ModelRun:
        return data.draw(st.sampled_from(self.runs))

    @rule(gap=st.integers(1, 3), is_new_blob=st.booleans(), expires_at=st.just(NEVER) | st.integers(0, 9))
    def publish(self, gap: int, is_new_blob: bool, expires_at: int) -> None:
        self.last_sequence += gap
        self.published.add(self.last_sequence)
        self.last_position += is_new_blob or not self.is_open
        self.is_open = True
        self.table.publish(self.last_sequence, self.last_position, expires_at)
        last = max(self.runs, key=lambda run: run.first, default=None)
        if last is None or last.position != self.last_position:
            last = ModelRun(self.last_sequence, 0, self.last_position, set())
            self.runs.append(last)
        last.last = self.last_sequence
        last.alive.add(self.last_sequence)
        last.expires_at = min(last.expires_at, expires_at)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), from_head=st.booleans())
    def take(self, data: st.DataObject, from_head: bool) -> None:
        run = min(self.runs, key=lambda run: run.first) if from_head else self.draw_run(data)
        assert self.table.take(run.first) == run.row()
        self.is_open = False
        self.runs.remove(run)
        if run.last < self.last_sequence:  # else what is published next would belong in between
            self.out.append(run)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), is_cut=st.booleans())
    def put_back(self, data: st.DataObject, is_cut: bool) -> None:
        run = data.draw(st.sampled_from(self.out))
        self.is_open = False
        self.out.remove(run)
        if is_cut and len(run.alive) > 1:
            at = data.draw(st.sampled_from(sorted(run.alive)[1:]))
            first = ModelRun(
                run.first, at - 1, run.position, {s for s in run.alive if s < at}, run.expires_at
            )
            first.ended = {sequence for sequence in run.ended if sequence < at}
            self.out.append(first)
            run = replace(run, first=at, alive=run.alive - first.alive, ended=run.ended - first.ended)
        self.table.add(run.row())
        self.runs.append(run)

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.published)))
        self.is_open = False
        self.table.settle(sequence)
        for run in self.runs:
            run.end({sequence})
        self.forget_empty()

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), is_whole=st.booleans())
    def purge(self, data: st.DataObject, is_whole: bool) -> None:
        """A whole run, or the end of one, or its beginning: memory had cut it there."""
        self.is_open = False
        run = self.draw_run(data)
        first, last = run.first, run.last
        if not is_whole:
            at = data.draw(st.integers(first, last))
            first, last = data.draw(st.sampled_from([(first, at), (at, last)]))
        purged = {sequence for sequence in run.alive if first <= sequence <= last}
        if purged:
            self.table.purge(first, last, len(purged))
            if purged == run.alive:
                self.runs.remove(run)
            else:
                run.alive -= purged
                run.ended |= set(range(first, last + 1))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        run = self.draw_run(data)
        self.is_open = False
        self.last_position += 1
        run.position = self.last_position
        self.table.move(data.draw(st.sampled_from(sorted(run.alive))), run.position)

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.runs.clear()

    @rule(data=st.data(), seed=st.integers(0, 9))
    def store_and_load(self, data: st.DataObject, seed: int) -> None:
        """A checkpoint's columns; those of runs in memory stand before the others, so they are not sorted."""
        columns = self.table.columns()
        order = list(range(len(self.runs)))
        Random(seed).shuffle(order)
        width = (8, 8, 8, 4)
        shuffled = [
            b"".join(column[at * w : at * w + w] for at in order)
            for column, w in zip(columns, width, strict=True)
        ]
        self.table = RunTable.from_columns(shuffled, dict(self.table.gone), dict(self.table.expires))

    @invariant()
    def same(self) -> None:
        rows = sorted(run.row() for run in self.runs)
        table = self.table
        assert list(table) == rows
        assert len(table) == len(rows)
        assert table.head(2) == rows[:2]
        assert table.copies == sum(len(run.alive) for run in self.runs)
        assert table.first == (rows[0].first if rows else NEVER)
        assert table.last == (rows[-1].last if rows else 0)
        assert list(table.live_by_position()) == [(row.position, row.live) for row in rows]
        assert table.gone == {row.first: row.gone for row in rows if row.gone}
        assert table.expires == {row.first: row.expires_at for row in rows if row.expires_at != NEVER}
        where = {sequence: run.position for run in self.runs for sequence in run.alive}
        for sequence in self.published:
            assert table.position_of(sequence) == where.get(sequence)
        for sequence in range(self.last_sequence + 2):
            found = next((row for row in rows if row.first == sequence), None)
            assert table.get(sequence) == found


def test_the_table_does_what_a_list_of_runs_does() -> None:
    run_state_machine_as_test(
        TableMachine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


def test_a_table_knows_what_it_takes() -> None:
    table = table_of(Row(1, 8000, 1, 8000, 0, NEVER), Row(8001, 16000, 2, 8000, 0, 5))
    plain = table.memory_bytes
    table.settle(4000)
    assert table.memory_bytes - plain > 500  # a mask of 4000 bits
    table.purge(8001, 15000, 7000)
    rows = list(table)
    again = RunTable.from_columns(table.columns(), dict(table.gone), dict(table.expires))
    assert again.memory_bytes == table.memory_bytes == table_of(*rows).memory_bytes > plain + 500 + 875
    for row in rows:
        table.take(row.first)
    assert table.memory_bytes < plain
    again.clear()
    assert again.memory_bytes == 0
