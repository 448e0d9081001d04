"""Seats of workers in sets of pods: each has one of its own, and what is written down is read back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helix_df.pods.seats import Seats

WORKERS = st.sampled_from(["a", "b", "c", "a.2", "rack-1"])
SETS = st.sampled_from(["job-l4", "job-t4-1"])
TAKES = st.tuples(st.just("take"), WORKERS, SETS, st.booleans())
LEAVES = st.tuples(st.just("leave"), WORKERS, SETS, st.booleans())


def arguments(worker: str, *, gives_way: bool = False) -> list[str]:
    return ["worker", "--node", worker, "--listen", "curve://auto:*", *(["--give-way"] if gives_way else [])]


@given(st.lists(TAKES | LEAVES, max_size=30))
def test_each_worker_has_a_pod_of_its_own_in_the_set_it_asked_for(steps: list[tuple[str, str, str, bool]]) -> None:
    seats = Seats()
    model: dict[str, str] = {}
    for what, worker, of, gives_way in steps:
        if what == "take":
            before = seats.pod_of(worker) if model.get(worker) == of else None
            free = {pod for other, pod in ((other, seats.pod_of(other)) for other in model) if other != worker}
            seat = seats.take(worker, of, arguments(worker, gives_way=gives_way))
            assert seat.of == of
            assert before in (None, seat.pod), "who has a seat keeps it"
            assert before is not None or all(f"{of}-{number}" in free for number in range(seat.number)), (
                "the first free"
            )
            model[worker] = of
        else:
            seats.leave(worker)
            model.pop(worker, None)
        pods = [seats.pod_of(worker) for worker in model]
        assert None not in pods
        assert len(set(pods)) == len(pods) == len(seats.files)
        assert seats.sets.keys() == set(model.values())
        for of, count in seats.sets.items():
            numbers = [int(str(pod).rpartition("-")[2]) for pod in pods if str(pod).rpartition("-")[0] == of]
            assert count == max(numbers) + 1
        again = Seats.read(seats.files)
        assert (again.files, again.sets) == (seats.files, seats.sets)
        assert [again.pod_of(worker) for worker in model] == pods


def test_a_worker_that_no_longer_gives_way_is_the_same_worker() -> None:
    seats = Seats()
    seats.take("a", "job-l4", arguments("a", gives_way=True))
    before = seats.files
    seats.take("a", "job-l4", arguments("a"))
    assert seats.files == before
    seats.take("a", "job-l4", [*arguments("a"), "--frame-limit", "9"])
    assert seats.files != before


def test_files_that_name_no_worker_are_left_out_and_others_can_be_sent_away() -> None:
    seats = Seats.read(
        {"job-l4-0": "worker --node a\n", "notes": "hello", "job-l4-x": "--node b", "job-l4-2": "--node"}
    )
    assert seats.files == {"job-l4-0": "worker --node a\n"}
    seats.take("b", "job-l4", arguments("b"))
    seats.keep(["b"])
    assert list(seats.files) == ["job-l4-1"]
    assert seats.sets == {"job-l4": 2}
