"""What MLflow shows of the last stage: the test of a study's winner, once it is all there."""

from statistics import fmean, stdev

from plans import EPOCHS, curve_to, facts_of, make_plan, make_record, run_trial
from shown_runs import history, no_files, run_of

from orchestrator.plan.final_protocol import FinalProtocol
from orchestrator.record.finals import FinalRecord
from orchestrator.tracking.reconcile import reconcile, reconcile_final

STUDY = "caltech101.vpt_deep"


def test_the_run_of_a_study_has_the_test_of_its_winner_when_all_seeds_are_done(tmp_path, uri):
    plan = make_plan(num_trials=2)
    record = make_record(plan, tmp_path)
    for accuracy in (0.5, 0.75):
        run_trial(record, STUDY, accuracy=accuracy)
    reconcile(plan, record, uri, best_files=no_files)
    finals = FinalRecord(plan, record, record.storage_url)
    rows = curve_to(0.5, EPOCHS)

    def test(seeds: dict[int, float]) -> None:
        """A round with one finalist, whose seeds have these accuracies on test."""
        protocol = FinalProtocol(num_finalists=1, num_folds=2, seeds=tuple(seeds))
        finals.begin(STUDY, protocol, "f")
        for fold in range(2):
            finals.fold_done(STUDY, 1, fold, curve=rows, facts=facts_of(rows))
        for seed, accuracy in seeds.items():
            reconcile_final(plan, record, finals, uri)
            finals.final_begun(STUDY, seed, {})
            facts = {**facts_of(rows), "test_accuracy": accuracy}
            finals.final_done(STUDY, seed, curve=rows, facts=facts)

    test({1: 0.5, 2: 0.75})
    assert "mean_test_accuracy" not in run_of(uri, STUDY).data.metrics, "one seed is left"
    reconcile_final(plan, record, finals, uri)
    run = run_of(uri, STUDY)
    assert run.data.metrics["mean_test_accuracy"] == fmean((0.5, 0.75))
    assert run.data.metrics["std_test_accuracy"] == round(stdev((0.5, 0.75)), 6)
    assert run.data.metrics["num_test_openings"] == 1
    assert run.data.tags["final.test"] == "62.5 ± 17.7 %"
    assert run.data.tags["final.openings"] == "The test split was opened once."
    assert run.data.tags["final.trial"] == "1"

    # A second round that is worse is what is shown, and the first stays in the history.
    test({1: 0.25})
    reconcile_final(plan, record, finals, uri)
    reconcile(plan, record, uri, best_files=no_files)  # as `resume` does, which knows no test
    run = run_of(uri, STUDY)
    assert run.data.metrics["mean_test_accuracy"] == 0.25
    assert run.data.tags["final.test"] == "25.0 %"
    assert "opened 2 times" in run.data.tags["final.openings"]
    rounds = history(uri, run, "mean_test_accuracy")
    assert [(step, value) for step, _, value in rounds] == [(1, 0.625), (2, 0.25)]
