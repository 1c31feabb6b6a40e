import operator

import pytest
from distributed import LocalCluster

from pipelines.workers import Work


@pytest.mark.slow
def test_an_existing_cluster_is_joined_and_left_running():
    work = Work(operator.neg, lambda task, error: None)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        for _ in range(2):  # a second run finds it still there
            found = dict(work.on_workers(range(1, 6), scheduler=cluster.scheduler_address))
            assert found == {1: -1, 2: -2, 3: -3, 4: -4, 5: -5}


@pytest.mark.slow
def test_a_task_that_fails_on_a_cluster_is_given_up_with_its_error():
    work = Work(operator.neg, lambda task, error: type(error).__name__)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        found = list(work.on_workers([7, "seven"], scheduler=cluster.scheduler_address))
    assert sorted(map(str, found)) == ["('seven', 'TypeError')", "(7, -7)"]
