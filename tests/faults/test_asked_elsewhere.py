"""What is asked of a sweep whose storage is a server, from several machines at once."""

import threading

import pytest
from plans import make_plan
from postgres import PostgreSQL

from orchestrator.record.record import Record
from orchestrator.record.requests import Wish, ask, requests
from orchestrator.run.steering_watch import SteeringWatch


@pytest.mark.postgres
def test_a_driver_heeds_all_that_machines_ask_at_once_of_its_sweep_alone(postgres: PostgreSQL):
    plans = [make_plan(name=name) for name in ("asked-a", "asked-b")]
    (study,) = plans[0].studies
    driver = Record(plans[0], postgres.url())
    watch = SteeringWatch(driver, num_slots=1)
    machines = [Record(plan, postgres.url()) for plan in (*plans, *plans)]
    together = threading.Barrier(len(machines))

    def type_in(record: Record) -> None:
        together.wait()
        for _ in range(3):
            ask(record, Wish(more_trials=1))

    terminals = [threading.Thread(target=type_in, args=(record,)) for record in machines]
    for terminal in terminals:
        terminal.start()
    for terminal in terminals:
        terminal.join()
    watch.look()
    assert watch.steering.trials == {study.name: study.num_trials + 6}
    assert all(request.heeded_at for request in requests(machines[0]))
    assert not any(request.heeded_at for request in requests(machines[1]))
