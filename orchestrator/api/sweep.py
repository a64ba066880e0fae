"""`Sweep`: a search from its plan to its files, for programs, notebooks and the commands."""

import functools
import html
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.api.keywords import takes
from orchestrator.api.requests import (
    FinalizeRequest,
    ForecastRequest,
    PlanRequest,
    ResumeRequest,
    SetRequest,
)
from orchestrator.api.steering import Asked, as_texts, put, refuse_over, wish_of
from orchestrator.api.sweep_file import to_be_planned
from orchestrator.api.view import lines_or_bar, phases_shown, say
from orchestrator.plan.places import Places, at_places, find_places, keep_places
from orchestrator.plan.plan import PLAN_FILE, SweepPlan, save_plan
from orchestrator.record.database import ask_once, default_storage, with_driver
from orchestrator.record.owner import (
    claim_folder,
    default_folder,
    driver_of,
    leased,
    owned,
    unowned,
    would_see_driver,
)
from orchestrator.record.record import Record, TrialRecord, best_of
from orchestrator.record.requests import Wish, ask, requests
from orchestrator.record.steering import plan_now, steering_of
from orchestrator.record.stored_plan import find_plan
from orchestrator.run.request import RunRequest
from orchestrator.support.counted import counted
from orchestrator.support.did_you_mean import unknown
from orchestrator.support.near import typed
from orchestrator.support.options import from_environment
from orchestrator.support.phases import phase
from orchestrator.support.regular_file import refuse_links_within
from orchestrator.support.stopping import deliver_signal, ending_in_order, going_on_with
from orchestrator.tracking.snapshot import copied_databases, readable_databases
from orchestrator.tracking.trackers import tracker_at, tracking_uri

if TYPE_CHECKING:
    import pandas

    from orchestrator.api.report import Report
    from orchestrator.bundle.export import Exported
    from orchestrator.data.cache import ImageCache
    from orchestrator.data.suites import Suite
    from orchestrator.plan.request import FinalRequest
    from orchestrator.record.final_outcome import StudyOutcome
    from orchestrator.record.replay import Replayed
    from orchestrator.report.final import FinalResult
    from orchestrator.report.summary import StudySummary
    from orchestrator.report.sweep_state import SweepState
    from orchestrator.run.doctor import Examination
    from orchestrator.run.engine import Engine
    from orchestrator.run.forecast import Forecast
    from orchestrator.run.progress import Progress
    from orchestrator.run.search_queue import Observer
    from orchestrator.run.sweep import Outcome

    View = Callable[[Progress], AbstractContextManager[Observer]]


class Sweep:
    """A hyper-parameter search: one study for each search space on each task.

        sweep = Sweep.plan("quickstart", methods=["linear", "vpt_deep"], trials=8)
        sweep.run()
        sweep.table()            # a row for each trial, as a pandas frame
        sweep.best("digits")     # the best trial of a task

    `Sweep.plan` begins one, `Sweep.open` takes one up again: from its folder or, with the name of
    the sweep, from the database that holds its studies. What cannot be used is a `ValueError` that
    says what would work.
    """

    def __init__(
        self,
        frozen_plan: SweepPlan,
        folder: Path,
        *,
        storage: str | None = None,
        places: Places | None = None,
        data_is_named: bool = False,
        suite: "Suite | None" = None,
        cache: "ImageCache | None" = None,
    ) -> None:
        """See `plan` and `open`.

        `data_is_named`: the place of the images was given, not remembered by the folder. A `suite`
        that is given was opened as the plan has it just now.
        """
        self.folder = folder
        """Where its files are: table, bundles and, unless `storage` is given, its studies."""
        self.storage = storage
        """Address of the database with its studies; None: `studies.db` in the folder."""
        self.places = places or Places()
        self.frozen_plan = at_places(frozen_plan, self.places)
        """All that it was begun with, as in `sweep.yaml`; images and weights where they are now."""
        self.engine: Engine | None = None
        """That precision was chosen for, where it was planned in this process."""
        self._frozen = frozen_plan
        self._data_is_named = data_is_named
        self._suite = suite
        self._cache = cache
        self._is_checked = self._is_new = suite is not None

    @classmethod
    @takes(PlanRequest, before=to_be_planned)
    def plan(cls, request: PlanRequest) -> "Sweep":
        """Check everything that a search needs, and freeze what it will do. Starts nothing.

        `suite` may be a .yaml file with these keywords, or the plan of another sweep.
        Suite, spaces, backbone and every image are looked at; images are decoded into the cache.
        Nothing is written to the sweep's folder before `run`.
        """
        with phases_shown():
            return cls.planned(request, RunRequest(**from_environment(RunRequest, {})))

    @classmethod
    def planned(
        cls,
        request: PlanRequest,
        where: RunRequest,
        *,
        deadline: float | None = None,
        dry_run: bool = False,
        say: Callable[[str], None] = say,
    ) -> "Sweep":
        """Does what `plan` does, from a request; `where` are the machines that precision is
        measured on."""
        from orchestrator.api.warm_start import older_studies
        from orchestrator.data.cache import ImageCache
        from orchestrator.plan.asked import look_at

        folder = claim_folder(request.out or default_folder(request.suite))
        storage = request.storage and with_driver(request.storage)
        where.check()
        asked = look_at(request, name=folder.name, say=say)
        older = older_studies(request.warm_start or (), storage, open_sweep=cls)
        with phase("loading PyTorch"):
            from orchestrator.plan.described import plan_lines
            from orchestrator.plan.prepare import plan_sweep

        if storage and not dry_run:
            ask_once(storage)
        cache = ImageCache()
        with phase("looking for machines"):
            engine = where.chosen_engine()
        frozen, suite = plan_sweep(
            request,
            name=folder.name,
            asked=asked,
            older=older,
            cache=cache,
            say=say,
            device=engine.slots.device,
            cpu_threads=engine.slots.cpu_threads,
            choose=engine.precision_chooser(folder.name, deadline=deadline, dry_run=dry_run),
            share=where.gpu_share_chooser(engine.slots),
        )
        if frozen.gpu_share is not None:
            engine = where.chosen_engine(frozen.gpu_share)
        for line in plan_lines(frozen, suite, slots=str(engine.slots)):
            say(line)
        if request.again is not None:
            from orchestrator.api.plan_again import told_again

            for line in told_again(request.again, frozen):
                say(line)
        planned = cls(frozen, folder, storage=storage, suite=suite, cache=cache)
        planned.engine = engine
        return planned

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        storage: str | None = None,
        data: str | Path | None = None,
        weights: str | Path | None = None,
    ) -> "Sweep":
        """The sweep of a folder, or of this name in the database `storage`.

        `storage` is the address that the sweep was begun with ($ORCHESTRATOR_STORAGE if none is
        given). From the database alone everything works that needs no file: `run` goes on in a new
        folder. `data` and `weights` say where images and weights are now, if they were moved.
        """
        named = from_environment(PlanRequest, {"storage": storage}).get("storage")
        storage = named and with_driver(named)
        folder = Path(folder).expanduser()
        places = find_places(folder, _path(data), _path(weights))
        return cls(
            find_plan(folder, storage),
            folder,
            storage=storage,
            places=places,
            data_is_named=data is not None,
        )

    @property
    def name(self) -> str:
        return self.frozen_plan.name

    @property
    def has_folder(self) -> bool:
        """False: the storage alone is known, or nothing was run yet."""
        return not self._is_new and (self.folder / PLAN_FILE).exists()

    @property
    def storage_url(self) -> str:
        return self.storage or default_storage(self.folder)

    @property
    def tracking_uri(self) -> str:
        return tracking_uri(self.folder)

    @property
    def suite(self) -> "Suite":
        """Its tasks as they lie on the disk now; ValueError if they are not to be found."""
        if self._suite is None:
            from orchestrator.plan.prepare import planned_suite

            self._suite = planned_suite(self.frozen_plan)
        return self._suite

    @functools.cached_property
    def cache(self) -> "ImageCache":
        """Where decoded images are kept."""
        from orchestrator.data.cache import ImageCache

        return self._cache or ImageCache()

    @functools.cached_property
    def record(self) -> Record:
        """Its studies in the storage."""
        if not (self.storage or self.has_folder):
            raise ValueError(f"{self.folder}: was planned and not run yet; `run()` begins it")
        return Record(self.frozen_plan, self.storage_url)

    @contextmanager
    def reading(self) -> Iterator[Record]:
        """The record for whoever only looks: a copy of it where the folder may not be written."""
        if self.storage or not self.has_folder:
            yield self.record
            return
        with readable_databases(self.folder) as databases:
            if databases == self.folder:
                yield self.record
            else:
                yield Record(self.frozen_plan, default_storage(databases))

    def save(self) -> None:
        """Make the folder and write the plan there, if that is still to be done.

        ValueError if another sweep was begun there since this one was planned.
        """
        if not self.has_folder:
            claim_folder(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            save_plan(self._frozen, self.folder)
            self._is_new = False

    @takes(ForecastRequest)
    def forecast(self, request: ForecastRequest) -> "Forecast":
        """What the whole search will cost: epochs after pruning, hours with an interval, memory.

        Some steps of each search space are timed on this machine, half a minute for all. `print`
        shows it in a line; docs/python.md lists what it has.
        """
        with phases_shown():
            engine = request.chosen_engine(self.frozen_plan.gpu_share)
            return self.forecasted(engine, request, request.price_per_hour)

    def forecasted(
        self, engine: "Engine", where: RunRequest, price_per_hour: float | None
    ) -> "Forecast":
        """Does what `forecast` does, on an engine that was chosen."""
        from orchestrator.run.foreseen import foresee

        return foresee(
            *(self.frozen_plan, self.suite, engine),
            cache=self.cache,
            cluster=where.ray_address,
            price_per_hour=price_per_hour,
        )

    def forecasted_at_a_glance(
        self, engine: "Engine", where: RunRequest, price_per_hour: float | None
    ) -> "Forecast | None":
        """The same in a second where the sweep is short; None where it is hardly worth that."""
        from orchestrator.run.foreseen import foresee_at_a_glance

        return foresee_at_a_glance(
            *(self.frozen_plan, self.suite, engine),
            cache=self.cache,
            cluster=where.ray_address,
            price_per_hour=price_per_hour,
        )

    @takes(ResumeRequest)
    def run(self, request: ResumeRequest) -> "Outcome":
        """Run what is left of the search: begin it, or go on where it was stopped or killed.

        A progress bar in a notebook, a line for each trial elsewhere. Ctrl-C ends it in order: what
        trials reached is kept, the files are written, and then the interrupt comes through.
        """
        with phases_shown():
            engine = request.chosen_engine(self.frozen_plan.gpu_share)
            self.check(accept_versions=request.accept_versions)
            self.save()
            try:
                return self.start(request, engine, view=lines_or_bar)
            finally:
                deliver_signal()

    def check(self, *, accept_versions: bool = False) -> None:
        """ValueError if images, weights or software are not those that it was begun with."""
        if not self._is_checked:
            from orchestrator.plan.prepare import reopen_suite
            from orchestrator.record.changes import refuse_changes

            self.frozen_plan.check_spaces()
            self._suite = reopen_suite(self.frozen_plan, self.cache)
            with phase("checking the weights of the backbone, and versions"):
                refuse_changes(self.frozen_plan, self.record, accept_versions=accept_versions)
        self._is_checked = False  # what lies on a disk may change before the next time

    def start(
        self, request: RunRequest, engine: "Engine", *, view: "View | None" = None
    ) -> "Outcome":
        """Does what `run` does, with what was checked and saved; a stop signal is left to the
        caller."""
        from orchestrator.run.sweep import run_sweep

        with self._owned(self._resume), ending_in_order():
            keep_places(self.folder, self.places)
            self._keep_slots(request.slots)
            return run_sweep(
                self.frozen_plan,
                self.suite,
                self.folder,
                engine,
                cache=self.cache,
                storage_url=self.storage,
                max_seconds=request.max_seconds,
                view=view,
            )

    @takes(SetRequest, before=as_texts)
    def set(self, request: SetRequest) -> Asked:
        """Ask something of the search while another process runs it: it heeds it within seconds.

        If none runs, the next `run()` heeds it. What was asked is kept in the storage.
        """
        wish, record = wish_of(request, self.frozen_plan), self.record
        refuse_over(self.frozen_plan, record)
        driver = driver_of(self.folder, self.storage, self.name)
        return put(self.frozen_plan, record, wish, driver and driver.who)

    @takes(FinalizeRequest)
    def finalize(self, request: FinalizeRequest) -> "list[StudyOutcome]":
        """Compare the finalists on folds, retrain the winners on train and val, test them once.

        Called again it goes on; once done it returns the outcome, one for each study.
        """
        with phases_shown():
            try:
                return self.finalized(request, request, say=say)
            finally:
                deliver_signal()

    def finalized(
        self, request: "FinalRequest", where: RunRequest, *, say: Callable[[str], None]
    ) -> "list[StudyOutcome]":
        """Does what `finalize` does, from requests; a stop signal is left to the caller."""
        from orchestrator.run.finalize import finalize

        self.frozen_plan.check_spaces()
        if self._is_new:  # nor is its folder made
            raise ValueError(f"{self.folder}: was planned and not run yet; `run()` begins it")
        if not request.dry_run:
            self.save()
        again = f"orchestrator finalize {typed(self.folder)}"
        with self._owned(f"{again} --unfinished" if request.unfinished else again):
            found = finalize(
                self.frozen_plan,
                self.folder,
                request,
                functools.partial(where.chosen_engine, self.frozen_plan.gpu_share),
                cache=self.cache,
                storage_url=self.storage_url,
                say=say,
                max_seconds=where.max_seconds,
            )
            if not request.dry_run:
                keep_places(self.folder, self.places)
        return found

    def status(self) -> "pandas.DataFrame":
        """A row for each study: trials planned, complete, pruned and failed, and the best so far.

        Columns as in `orchestrator status --json`; accuracies are in [0, 1], `best_standard_error`
        and `best_interval` (95 %) are for the finite number of validation images.
        """
        import pandas

        return pandas.DataFrame(self.status_rows())

    def status_rows(self) -> "list[dict[str, Any]]":
        """The rows of `status`, each with what is said of the sweep as a whole."""
        whole = self.state().as_json()
        return [{**row.as_json(), **whole} for row in self.summaries()]

    def state(self) -> "SweepState":
        """Whether it is run now and by whom, how long it ran, and about how long it still takes."""
        from orchestrator.report.sweep_state import sweep_state

        driver = driver_of(self.folder, self.storage, self.name)
        with self.reading() as record:
            return sweep_state(
                self.plan_now(record),
                record.all_trials(),
                driver,
                sees_driver=would_see_driver(self.folder, self.storage),
                asked=requests(record),
            )

    def summaries(self) -> "list[StudySummary]":
        """The rows of `status`."""
        from orchestrator.report.summary import summary_table

        with self.reading() as record:
            return summary_table(self.plan_now(record), record)

    def table(self) -> "pandas.DataFrame":
        """A row for each trial, in the columns of `results.parquet`.

        `state` is running, frozen, complete, pruned or failed; `val_accuracy` is what `metric`
        says, on the validation images after the last epoch that ran, in [0, 1] (top1: the share
        that is right); `param.<name>` is the value of a hyper-parameter, null where the space of
        the trial has none; `curve` has a dictionary for each epoch. docs/python.md lists them all.
        """
        from orchestrator.report.results import results_table

        return results_table(self.frozen_plan, self.trials()).to_pandas()

    def trials(self) -> list[TrialRecord]:
        """All trials, study by study."""
        with self.reading() as record:
            return record.all_trials()

    def best(self, task: str | None = None) -> TrialRecord | None:
        """The complete trial of a task with the highest validation accuracy, or None.

        The task may be left out where there is only one.
        """
        tasks = [planned.name for planned in self.frozen_plan.tasks]
        if task is None and len(tasks) == 1:
            (task,) = tasks
        if task not in tasks:
            raise ValueError(f"sweep {self.name}: {unknown('task', str(task), tasks)}")
        studies = [study.name for study in self.frozen_plan.studies if study.task == task]
        with self.reading() as record:
            return best_of(trial for study in studies if (trial := record.best(study)))

    def pareto(self) -> "pandas.DataFrame":
        """A row for each trial on the Pareto front of its study, the cheapest first.

        Of a sweep with a second objective (`also`). `as_good_for_less` is the number of the
        cheapest trial of that front within one standard error; `param.<name>` are its values.
        """
        import pandas

        from orchestrator.report.pareto_frame import pareto_rows

        with self.reading() as record:
            frame = pandas.DataFrame(pareto_rows(self.frozen_plan, record))
        return frame if frame.empty else frame.astype({"as_good_for_less": "Int64"})

    def final_results(self) -> "list[FinalResult]":
        """What the last stage found, from final.json or else from the storage; none before it."""
        from orchestrator.report.final import final_results

        with self.reading() as record:
            return final_results(self.folder, self.plan_now(record), record)

    def report(self) -> "Report":
        """Tables beside published numbers, and a page with every figure; `.write()` keeps it."""
        from orchestrator.api.report import Report
        from orchestrator.report.collect import collect
        from orchestrator.report.final import final_results

        with self.reading() as record:
            plan = self.plan_now(record)
            found = collect(plan, record, final_results(self.folder, plan, record))
        return Report(found, folder=self.folder)

    def export(self, to: str | Path | None = None) -> "Exported":
        """Write the best trial of every task as files: configuration, prompts, card, checksums.

        To `best/` in the folder, unless `to` names another. What could not be written, as where
        the folder with the trained prompts is gone, is in `missing` of the answer.
        """
        from orchestrator.bundle.export import (
            BEST_FOLDER,
            TRIALS_FOLDER,
            export_best,
            without_weights,
        )

        plan, trials = self.frozen_plan, self.folder / TRIALS_FOLDER
        refuse_links_within(self.folder)
        with self.reading() as record:
            if not self.has_folder:
                return without_weights(plan, record, self.folder)
            target = Path(to) if to else self.folder / BEST_FOLDER
            return export_best(plan, record, self.suite, trials_folder=trials, folder=target)

    def replay(self) -> "list[Replayed]":
        """Each study decided again, from what its storage held at each moment; writes nothing.

        Where `differences` is empty for all, every suggestion and every decision of the pruner
        follows from those before it. ValueError if an older version kept no order of any study.
        """
        from orchestrator.record.changes import warn_of_other_software
        from orchestrator.record.replay import replayed

        with self.reading() as record:
            found = replayed(record)
            if any(study.differences for study in found):
                warn_of_other_software(self.frozen_plan, record)
        return found

    def doctor(self) -> "Examination":
        """Whether storage, table, bundles and MLflow agree and nothing is lost; writes nothing."""
        from orchestrator.record.finals import FinalRecord
        from orchestrator.run.doctor import examine

        folder, uri = self.folder, self.tracking_uri
        refuse_links_within(folder)
        with unowned(folder), leased(self.storage, self.name), copied_databases(folder) as copies:
            if self.has_folder:
                uri = tracker_at(uri).in_copy(uri, folder, copies)
            storage = self.storage or default_storage(copies)
            record = Record(self.frozen_plan, storage)
            plan = self.plan_now(record)
            finals = FinalRecord.begun(plan, record, storage)
            return examine(plan, record, folder, uri, finals, copies)

    def repair(self) -> "tuple[list[str], Examination]":
        """Make again what is made from the storage, remove what the dead left; what was done.

        With what `doctor` finds after it. Without the images of the tasks, which may be on another
        machine, bundles stay as they are.
        """
        from orchestrator.record.finals import FinalRecord
        from orchestrator.run.doctor import examine, repair

        self.save()
        done: list[str] = []
        with self._owned(self._resume):
            plan = self.plan_now(self.record)
            finals = FinalRecord.begun(plan, self.record, self.storage_url)
            try:
                suite = self.suite
            except ValueError as error:
                if self._data_is_named:
                    raise
                suite = None
                done.append(f"bundles stay as they are: {error}")
            sweep = plan, self.record
            done += repair(*sweep, suite, self.folder, self.tracking_uri, finals)
            return done, examine(*sweep, self.folder, self.tracking_uri, finals)

    def __repr__(self) -> str:
        num_studies = counted(len(self.frozen_plan.studies), "study")
        num_trials = counted(self.frozen_plan.num_trials, "trial")
        return f"<Sweep {self.name}: {num_studies}, {num_trials}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        head = f"<p>{html.escape(repr(self))}</p>"
        if not (self.storage or self.has_folder):
            return head
        return head + self.status().to_html(index=False)

    @contextmanager
    def _owned(self, command: str) -> Iterator[None]:
        """Hold the sweep, so that no other process runs it; `command` is what goes on later."""
        here = owned(self.folder) if self.folder.is_dir() else nullcontext()
        with here, leased(self.storage, self.name), going_on_with(command):
            yield

    def plan_now(self, record: Record) -> SweepPlan:
        """The plan with the trials that each study is to have now: people may have changed it."""
        return plan_now(self.frozen_plan, record)

    def _keep_slots(self, num_slots: int | None) -> None:
        """A number of slots that is given now goes before one that was asked for earlier."""
        if num_slots is not None:
            asked = steering_of(self.frozen_plan, requests(self.record)).slots
            if asked not in (None, num_slots):
                ask(self.record, Wish(slots=num_slots))

    @property
    def _resume(self) -> str:
        return f"orchestrator resume {typed(self.folder)}"


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
